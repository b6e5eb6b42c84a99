"""What an image in the scene shows: by its DICOM tags, else by its name, and by how it lies. Needs MRML, but no Qt.

A b-value comes from the standard tag, the vendors' private ones, the sequence's or the image's name. Words, tags and
limits are those of the library's `io`, which reads files with SimpleITK; Slicer's process does without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVTKMatrix

# DICOM instance UID, tag as "GGGG,EEEE" → value as text, empty where there is none; `slicer.dicomDatabase` in Slicer.
TagOf = Callable[[str, str], str]

HIGH_B = 1400.0  # s/mm²; from here on a measured image is taken before a calculated one
LOWEST_HIGH_B = 800.0  # below, an image is no high-b image
_B_TAGS = ("0018,9087", "0019,100C", "2001,1003", "0043,1039")  # standard, Siemens, Philips, GE
_GE_B_OFFSET = 1e9  # GE adds it to mark values of its newer software
# An anonymizer may turn private elements into plain bytes. Of those the database gives the first alone, in hexadecimal:
# 31 begins the text 1400, and 00 is the first byte of a float. Neither is a b-value.
_FIRST_BYTE = re.compile(r"3\d|00")
_B_IN_SEQUENCE_NAME = re.compile(r"_b(\d+)(?:[a-z]|#\d+)*$")  # Siemens: *ep_b800t, *ep_b50#1
# b1400, b=1400, bval_1400, dwi 1500; several where a name lists them, as b50_500_800.
_B_IN_NAME = re.compile(
    r"(?<![a-z0-9])b(?:[ _=-]?val(?:ue)?)?[ _=-]*(\d{1,4}(?:[ _,/-]+b?\d{2,4})*)(?!\d)"
    r"|(?<![a-z0-9])(?:dwi|hb|highb|hbv)[ _=-]?([1-9]\d{2,3})(?!\d)"
)


def taggedB(instances: list[str], tagOf: TagOf | None) -> set[float]:
    """All b-values that the slices of a series state, in s/mm²."""
    if tagOf is None:
        return set()
    return {b for instance in _some(instances) if (b := _taggedB(instance, tagOf)) is not None}


def namedB(text: str) -> set[float]:
    """The b-value that a name states; nothing where it lists those of a whole acquisition."""
    found = [first or second for first, second in _B_IN_NAME.findall(text)]
    values = {float(number) for group in found for number in re.findall(r"\d+", group)}
    return values if len(values) == 1 else set()


def firstNumber(text: str | None) -> float | None:
    """The first number of an element that may hold several."""
    try:
        return float((text or "").split("\\")[0].strip(" \0"))
    except ValueError:
        return None


def _some(instances: list[str]) -> list[str]:
    """Enough of a series to see whether it mixes b-values: neighbors, for they may alternate, and both ends."""
    middle = len(instances) // 2
    places = {0, 1, middle, middle + 1, len(instances) - 1}
    return [instances[place] for place in sorted(places) if 0 <= place < len(instances)]


def _taggedB(instance: str, tagOf: TagOf) -> float | None:
    for key in _B_TAGS:
        text = tagOf(instance, key)
        value = firstNumber(text)
        if value is not None and value >= 0 and not _FIRST_BYTE.fullmatch(text.strip()):
            return value % _GE_B_OFFSET
    match = _B_IN_SEQUENCE_NAME.search((tagOf(instance, "0018,0024") or "").strip().lower())
    return float(match.group(1)) if match else None


ATTRIBUTE = "VFMTransfer."  # begins the names of attributes of results
FIT_OF = "VFMTransferFitOf"  # node reference from a fitted volume to the series that was fitted
PLANES = ("sagittal", "coronal", "axial")
_T2W_ECHO_MS = (60.0, 250.0)
LAST_AXIS = 2
_THICK = 1.5  # an axis whose spacing is so many times the others' is that of the slices, however they are stored


def wordSet(text: str) -> frozenset[str]:
    """The words of a text, which is easier to read than a list of them."""
    return frozenset(text.split())


_T2_WORD = re.compile(
    r"[set]?t2(w|wi)?(tse|fse|frfse|space|cube|vista|propeller|blade)?(tra|ax|axial|sag|sagittal|cor|coronal)?"
)
_ADC_WORD = re.compile(r"(?!.*(eadc|expadc))(.*adc|adc.*)")
_NOT_T2 = wordSet("t1 t1w pd ref dwi adc diff dce perf loc localizer scout survey map mapping star flair gre fl2d fl3d")
_DIFFUSION = wordSet("dwi edwi diff diffusion trace tracew hbv bval resolve")
_EXPONENTIAL = wordSet("eadc exp exponential")
_HIGH_B = wordSet("hbv highb hb")
_CALCULATED = wordSet("computed syn")
# Words by which results, truths and masks, made from a scan, are distinguished from it.
_NO_SCAN = wordSet(
    "super resolved sr corrected distorted undistorted displacement probability probabilities difference true "
    "mask masks label labels seg segmentation gland zones lesion lesions"
)
_SYNTHETIC, _PHANTOM = "synthetic", "phantom"  # a phantom is synthetic, but a study
_RECONSTRUCTED = frozenset({"LOCALIZER", "PROJECTION IMAGE", "MPR", "SUBTRACT", "SUBTRACTION", "MIP", "COMPOSITE"})
_PLANE_WORDS = {"sag": "sagittal", "sagittal": "sagittal", "cor": "coronal", "coronal": "coronal"}


@dataclass(frozen=True)
class Series:
    """One volume of the scene.

    Attributes:
        node: The volume.
        text: Its description and name, in lower case.
        words: The same, split at anything that is no letter or digit.
        imageType, scanningSequence: Words of these DICOM tags; empty without tags.
        modality: DICOM's, or empty.
        echoTimeMs: Or None.
        bValues: s/mm², all that its slices have.
        plane: Of its slices: `axial`, `sagittal` or `coronal`.
        place: Its place in the scene; what was loaded later has a higher one.
    """

    node: slicer.vtkMRMLScalarVolumeNode
    text: str
    words: frozenset[str]
    imageType: frozenset[str]
    scanningSequence: frozenset[str]
    modality: str
    echoTimeMs: float | None
    bValues: frozenset[float]
    plane: str
    place: int

    @property
    def name(self) -> str:
        return self.node.GetName()

    @property
    def isImage(self) -> bool:
        """Whether it can be a scan at all: no result, mask, reconstruction or other modality."""
        if self.modality not in ("", "MR") or self.imageType & _RECONSTRUCTED:
            return False
        isResult = any(name.startswith(ATTRIBUTE) for name in self.node.GetAttributeNames())
        isMade = _SYNTHETIC in self.words and _PHANTOM not in self.words
        isNamedSo = not self.modality and bool(self.words & _NO_SCAN)  # scanners correct and resolve, too
        return not (isResult or isMade or isNamedSo)

    @property
    def isAdc(self) -> bool:
        if self.words & _EXPONENTIAL or "EADC" in self.imageType:
            return False
        byName = any(_ADC_WORD.fullmatch(word) for word in self.words) or {"apparent", "diffusion"} <= self.words
        return "ADC" in self.imageType or byName

    @property
    def isDiffusion(self) -> bool:
        """Whether it is diffusion-weighted; no map made from such images."""
        byTags = "DIFFUSION" in self.imageType or "EP" in self.scanningSequence
        byName = bool(self.words & _DIFFUSION) or self.isNamedHigh or self.isCalculated
        isWeighted = max(self.bValues, default=0.0) > 0  # some scanners write a b of 0 into every series
        return not self.isAdc and not self.words & _EXPONENTIAL and (byTags or byName or isWeighted)

    @property
    def isT2wByTags(self) -> bool:
        return (
            "SE" in self.scanningSequence
            and self.echoTimeMs is not None
            and _T2W_ECHO_MS[0] <= self.echoTimeMs <= _T2W_ECHO_MS[1]
        )

    @property
    def isT2w(self) -> bool:
        if self.isDiffusion or self.isAdc or self.words & _NOT_T2 or self.scanningSequence & {"GR", "EP"}:
            return False
        if "SE" in self.scanningSequence and self.echoTimeMs is not None:
            return self.isT2wByTags
        return any(_T2_WORD.fullmatch(word) for word in self.words)

    @property
    def isCalculated(self) -> bool:
        """A high-b image that the scanner computed."""
        return "CALC_BVALUE" in self.imageType or "calc" in self.text or bool(self.words & _CALCULATED)

    @property
    def isNamedHigh(self) -> bool:
        return bool(self.words & _HIGH_B) or re.search(r"high[ _-]?b(?![a-z])", self.text) is not None

    @property
    def mixesBValues(self) -> bool:
        return len(self.bValues) > 1

    @property
    def bValue(self) -> float | None:
        """s/mm², or None where it is not stated or there are several."""
        return next(iter(self.bValues)) if len(self.bValues) == 1 else None

    @property
    def isHighB(self) -> bool:
        """Whether it can be the high-b image; one that does not state its b-value can."""
        isLow = self.bValue is not None and self.bValue < LOWEST_HIGH_B
        return self.isDiffusion and not self.mixesBValues and not isLow

    @property
    def fieldOfViewMm(self) -> float:
        """The longer edge of a slice."""
        lengths = np.multiply(self.node.GetSpacing(), self.node.GetImageData().GetDimensions())
        axis = sliceAxis(self.node)
        return float(max(length for index, length in enumerate(lengths) if index != axis))


def seriesOf(node: slicer.vtkMRMLScalarVolumeNode, place: int, tagOf: TagOf | None = None) -> Series:
    """What a volume with voxels shows.

    Args:
        node: The volume.
        place: Its place in the scene.
        tagOf: Returns the tags of volumes that were loaded from DICOM; without it names must do.
    """
    instances = (node.GetAttribute("DICOM.instanceUIDs") or "").split() if tagOf else []

    def tag(key: str) -> str:
        return (tagOf(instances[0], key) or "").strip() if instances else ""

    description, name = tag("0008,103E").lower(), node.GetName().lower()
    text = name if description in name else f"{description} {name}"
    words = frozenset(re.split(r"[^a-z0-9]+", text)) - {""}
    imageType, scanningSequence = _upperWords(tag("0008,0008")), _upperWords(tag("0018,0020"))
    # Each tag of each slice costs a look into the database, and others than echo-planar images have no b-value.
    mayBeDiffusion = not scanningSequence or "EP" in scanningSequence or "DIFFUSION" in imageType
    return Series(
        node=node,
        text=text,
        words=words,
        imageType=imageType,
        scanningSequence=scanningSequence,
        modality=tag("0008,0060"),
        echoTimeMs=firstNumber(tag("0018,0081")),
        bValues=frozenset((taggedB(instances, tagOf) if mayBeDiffusion else ()) or namedB(text)),
        plane=planeOf(node, words),
        place=place,
    )


def planeOf(node: slicer.vtkMRMLScalarVolumeNode, words: frozenset[str] = frozenset()) -> str:
    """The plane of a volume's slices where it lies in the world; for cubes of equal voxels its name may state it."""
    axis = sliceAxis(node)
    if axis is None:
        named = [plane for word, plane in _PLANE_WORDS.items() if word in words]
        if named:
            return named[0]
        axis = LAST_AXIS
    matrix, parent = vtk.vtkMatrix4x4(), node.GetParentTransformNode()
    node.GetIJKToRASMatrix(matrix)
    if parent is not None and parent.IsTransformToWorldLinear():
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    normal = np.cross(*(column for index, column in enumerate(arrayFromVTKMatrix(matrix)[:3, :3].T) if index != axis))
    return PLANES[int(np.argmax(np.abs(normal)))]


def sliceAxis(node: slicer.vtkMRMLScalarVolumeNode) -> int | None:
    """The index axis along which slices follow each other; None where voxels are nearly cubes."""
    spacing = node.GetSpacing()
    thickest = int(np.argmax(spacing))
    return thickest if spacing[thickest] >= _THICK * sorted(spacing)[1] else None


def _upperWords(text: str) -> frozenset[str]:
    return frozenset(word.strip().upper() for word in text.split("\\")) - {""}
