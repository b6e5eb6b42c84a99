"""What a network wrote, as nodes in the scene of its inputs. Needs MRML, but no Qt.

Images are read beside the main thread, since Slicer's own readers would hold up the window: decompressing releases
Python's lock. The layout is that of NIfTI-1 (nifti1.h, R. W. Cox, 2003): a header of 348 bytes, then voxels, x running
fastest. Nodes are filled before they come into the scene, where each change redraws views and lists.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVolume, arrayFromVolumeModified, vtkMatrixFromArray
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk

from VFMTransferLib.core.errors import ImageError, JobError
from VFMTransferLib.core.files import writing
from VFMTransferLib.core.terms import LABEL_TERMS, Label, Sequence

from ..runs import ArmInScene

CONTEXT = "Segmentation category and type - VFM Transfer"
TERMS = Path(__file__).resolve().parents[2] / "Resources" / "Terminologies" / "VFMTransfer.term.json"


def loadTerminology(logic: slicer.vtkSlicerTerminologiesModuleLogic) -> None:
    """Let Slicer find the zones by their codes, with the colors that the networks' segments have.

    Args:
        logic: Of Slicer's module for terminologies; there once the application has started.

    Raises:
        FileNotFoundError: The list was not installed with the module.
    """
    if not logic.IsTerminologyContextLoaded(CONTEXT) and not logic.LoadTerminologyFromFile(str(TERMS)):
        raise FileNotFoundError(f"{TERMS.name} must be in the module's resources. Install VFM Transfer again.")


VECTOR = 1007  # intent of vectors that stand as they were given, here in LPS; 1006 would be displacements in RAS
_HEADER_BYTES = 348
_VOXELS_BEGIN = 352  # four bytes after the header state that it is not extended
_MILLIMETERS, _ALIGNED = 2, 2  # as NIfTI counts units, and coordinates aligned to another image
_PIECE_BYTES = 1 << 20
_MAGIC = b"n+1\0"
_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4"}


@dataclass(frozen=True)
class NiftiImage:
    """One file.

    Attributes:
        frames: Voxels (N, D, H, W): one frame, or one for each volume of a series or component of a vector.
        ijkToRas: 4x4, voxel index (x, y, z) to RAS millimeters.
        intent: What the voxels are, as NIfTI counts it; 0 where the file states nothing.
    """

    frames: np.ndarray
    ijkToRas: np.ndarray
    intent: int


def readNifti(path: Path) -> NiftiImage:
    """Read a `.nii.gz` of the worker.

    Raises:
        ImageError: It is missing or damaged, or is none that the worker writes.
    """
    try:
        with gzip.open(path) as stream:
            return _read(stream)
    except (OSError, EOFError, zlib.error, struct.error, ValueError, KeyError) as error:
        raise ImageError(f"Result '{path.name}' must be an image file, but cannot be read. Run again.") from error


def _read(stream: BinaryIO) -> NiftiImage:
    header = stream.read(_HEADER_BYTES)
    size, magic = struct.unpack_from("<i", header, 0)[0], header[-len(_MAGIC) :]
    dimensions = struct.unpack_from("<8h", header, 40)
    intent, kind = struct.unpack_from("<2h", header, 68)
    offset, slope, inter = struct.unpack_from("<3f", header, 108)
    oriented = struct.unpack_from("<h", header, 254)[0]
    if (size, magic) != (_HEADER_BYTES, _MAGIC) or oriented <= 0 or slope not in (0, 1) or inter != 0:
        raise ValueError("no oriented, unscaled NIfTI-1 file of this byte order")
    width, height, depth, *more = (max(n, 1) for n in dimensions[1 : dimensions[0] + 1])
    voxels = np.empty((math.prod(more), depth, height, width), _TYPES[kind])
    stream.read(int(offset) - _HEADER_BYTES)
    _fill(voxels, stream)
    affine = np.eye(4)
    affine[:3] = np.reshape(struct.unpack_from("<12f", header, 280), (3, 4))
    return NiftiImage(voxels, affine, intent)


def writeNifti(path: Path, voxels: np.ndarray, ijkToRas: np.ndarray) -> None:
    """Write one image as `.nii.gz`, as the worker does.

    Args:
        path: Of the file.
        voxels: (D, H, W), of a type that the worker writes.
        ijkToRas: 4x4, voxel index (x, y, z) to RAS millimeters.

    Raises:
        OutputError: It cannot be written.
    """
    codes = {np.dtype(kind): code for code, kind in _TYPES.items()}
    header = bytearray(_HEADER_BYTES)
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *reversed(voxels.shape), 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, codes[voxels.dtype], 8 * voxels.itemsize)
    struct.pack_into("<8f", header, 76, 1, *np.linalg.norm(ijkToRas[:3, :3], axis=0), 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, _VOXELS_BEGIN, 1, 0)  # unscaled
    header[123] = _MILLIMETERS
    struct.pack_into("<2h", header, 252, 0, _ALIGNED)
    struct.pack_into("<12f", header, 280, *ijkToRas[:3].ravel())
    header[-len(_MAGIC) :] = _MAGIC
    with writing(path), gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(bytes(header) + bytes(_VOXELS_BEGIN - _HEADER_BYTES))
        stream.write(memoryview(np.ascontiguousarray(voxels)).cast("B"))


def _fill(voxels: np.ndarray, stream: BinaryIO) -> None:
    """Read the voxels in pieces: a copy of all of them at once would hold Python's lock, and with it the window."""
    room = memoryview(voxels).cast("B")
    while len(room):
        piece = stream.read(min(_PIECE_BYTES, len(room)))
        if not piece:
            raise EOFError("the file ends before its voxels do")
        room[: len(piece)] = piece
        room = room[len(piece) :]
    if stream.read(1):  # which also compares the checksum at the file's end
        raise ValueError("the file goes on after its voxels")


_OUR_WINDOW = "VFMTransfer.Window"
_WINDOW_PERCENTILES = (0.5, 99.5)
_WINDOW_SAMPLES = 100_000  # of the voxels; more would not move the percentiles, but take time
_VOXELS_A_STEP = 4_000_000
_LONGEST_DICOM_TEXT = 64  # of a Long String (DICOM PS3.5, 6.2)
_LPS_TO_RAS = (-1.0, -1.0, 1.0)

Window = tuple[float, float]  # the values shown black and white


def newNode(kind: str, name: str, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLNode:
    """An empty node in the scene, whose name no other one has."""
    return scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))


def addNode(node: slicer.vtkMRMLNode, scene: slicer.vtkMRMLScene, window: Window | None = None) -> None:
    """Bring a node into the scene under a name that no other one has, and show it the usual way.

    Args:
        node: Filled.
        scene: Where it goes; nothing in it is overwritten.
        window: How a volume is shown. Slicer would go through all voxels to find one.
    """
    node.SetName(scene.GenerateUniqueName(node.GetName()))
    if node.IsA("vtkMRMLScalarVolumeNode"):
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*window)
        display.SetAttribute(_OUR_WINDOW, _windowWords(display))
        scene.AddNode(display)
        display.SetDefaultColorMap()
        node.SetAndObserveDisplayNodeID(display.GetID())
        scene.AddNode(node)
    else:
        scene.AddNode(node)
        node.CreateDefaultDisplayNodes()


def _windowWords(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> str:
    return f"{display.GetWindow():g} {display.GetLevel():g}"


def isWindowChosen(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> bool:
    """Whether the user set a volume's window: Slicer follows the voxels no more, and it is not the one set here."""
    return not display.GetAutoWindowLevel() and display.GetAttribute(_OUR_WINDOW) != _windowWords(display)


def removeNode(node: slicer.vtkMRMLDisplayableNode) -> None:
    """Take a node out of its scene, with what shows it, which would stay otherwise."""
    for display in [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]:
        node.GetScene().RemoveNode(display)
    node.GetScene().RemoveNode(node)


def segmentationNode(
    path: Path, name: str, reference: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation with the file's names, colors and terminology.

    Args:
        path: Named `*.seg.nrrd`. It will soon be gone, so that the node keeps no way to it.
        name: What to call it.
        reference: The volume whose grid the segmentation is drawn on, and is exported with.

    Raises:
        ImageError: The file cannot be read.
    """
    aside = slicer.vtkMRMLScene()  # reading needs a scene to show the node in
    read = aside.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(read):
        raise ImageError(f"Result '{path.name}' must be an image file, but cannot be read. Run again.")
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(name)
    node.SetAndObserveSegmentation(read.GetSegmentation())
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node


def signSegments(node: slicer.vtkMRMLSegmentationNode, bundle: str) -> None:
    """Say in each segment that a network drew it; without that DICOM SEG would call it drawn by hand."""
    segmentation = node.GetSegmentation()
    for name in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(name)
        segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
        segment.SetTag("DICOM.SegmentAlgorithmName", bundle[:_LONGEST_DICOM_TEXT])


def volumeNode(
    voxels: np.ndarray, ijkToRas: np.ndarray, name: str, window: Window, scene: slicer.vtkMRMLScene
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume in the scene, in shades of gray; see `blankVolume`, `fillVolume` and `addNode`."""
    node = blankVolume(voxels, ijkToRas, name)
    for _ in fillVolume(node, voxels):
        pass
    addNode(node, scene, window)
    return node


def blankVolume(voxels: np.ndarray, ijkToRas: np.ndarray, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume with room for voxels (D, H, W); what it holds is not defined before `fillVolume`.

    Args:
        voxels: Of this shape and type.
        ijkToRas: 4x4, voxel index to RAS millimeters.
        name: What to call it.
    """
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.AllocateScalars(get_vtk_array_type(voxels.dtype), 1)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtkMatrixFromArray(ijkToRas))
    return node


def fillVolume(node: slicer.vtkMRMLScalarVolumeNode, voxels: np.ndarray) -> Iterator[None]:
    """Copy voxels into a blank volume, some slices a step: all of a super-resolved T2w take too long for one."""
    array = arrayFromVolume(node)
    slices = max(1, _VOXELS_A_STEP // voxels[0].size)
    for first in range(0, len(voxels), slices):
        array[first : first + slices] = voxels[first : first + slices]
        yield
    arrayFromVolumeModified(node)


def gridTransformNode(image: NiftiImage, name: str) -> slicer.vtkMRMLGridTransformNode:
    """A transform that takes the distorted image to the corrected one.

    A point p of the corrected image shows what lay at p + d(p) in the distorted one (`Result.displacement_mm`): d
    leads from the corrected image, the parent's side in Slicer's words, to the distorted one. Interpolated linearly,
    as the library does.

    Args:
        image: Vectors (3, D, H, W), LPS millimeters.
        name: What to call it.

    Raises:
        ImageError: The file holds no vectors in LPS.
    """
    if image.intent != VECTOR or len(image.frames) != 3:
        raise ImageError("The displacement must be a field of vectors in LPS, but is none. Run again.")
    spacing = np.linalg.norm(image.ijkToRas[:3, :3], axis=0)
    direction = np.eye(4)
    direction[:3, :3] = image.ijkToRas[:3, :3] / spacing
    vectors = image.frames.transpose(1, 2, 3, 0) * np.array(_LPS_TO_RAS)  # (D, H, W, 3), RAS
    grid = vtk.vtkImageData()
    grid.SetDimensions(*reversed(vectors.shape[:3]))
    grid.SetSpacing(*spacing)
    grid.SetOrigin(*image.ijkToRas[:3, 3])
    grid.GetPointData().SetScalars(numpy_to_vtk(vectors.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetInterpolationModeToLinear()
    transform.SetGridDirectionMatrix(vtkMatrixFromArray(direction))
    transform.SetDisplacementGridData(grid)
    node = slicer.vtkMRMLGridTransformNode()
    node.SetName(name)
    node.SetAndObserveTransformFromParent(transform)
    return node


def windowOf(volume: slicer.vtkMRMLScalarVolumeNode) -> Window | None:
    """How a volume is shown; None if it is not."""
    display = volume.GetDisplayNode()
    return (display.GetWindowLevelMin(), display.GetWindowLevelMax()) if display is not None else None


def windowFor(voxels: np.ndarray) -> Window:
    """Values between which nearly all voxels lie."""
    some = voxels.ravel()[:: max(1, voxels.size // _WINDOW_SAMPLES)]
    low, high = (float(value) for value in np.percentile(some, _WINDOW_PERCENTILES))
    return low, high if high > low else low + 1.0


ATTRIBUTE = "VFMTransfer."
RESULT = "result.json"
SEGMENTATION = "segmentation.seg.nrrd"
PROBABILITIES = "probabilities"
DISPLACEMENT = "displacement"
IMAGE_SUFFIX = ".nii.gz"
LABELS = "labels"  # the segmentation holds the same, and more
_WAIT_S = 0.02  # how long a step waits for a file, which lets the thread that reads it have Python's lock
_LABEL_TITLES = {str(label): term.title for label, term in LABEL_TERMS.items()}
# Output → the input it is named after, and what it is of it.
_IMAGE_TITLES = {
    "t2w-super-resolved": (Sequence.T2W, "SR"),
    "hbv-corrected": (Sequence.HBV, "corrected"),
    "adc-corrected": (Sequence.ADC, "corrected"),
    "adc-synthetic": (Sequence.T2W, "ADC"),
}
_PROBABILITY_WINDOW = (0.0, 1.0)
_INVALID_ITEM = 0

Volumes = Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode]
Steps = Generator[None, None, None]


def loadArm(folder: Path, inputs: Volumes, reference: Sequence) -> ArmInScene:
    """Load what a network wrote, all at once; see `loadArmInSteps`."""
    steps = loadArmInSteps(folder, inputs, reference)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def loadArmInSteps(
    folder: Path, inputs: Volumes, reference: Sequence, title: str = ""
) -> Generator[None, None, ArmInScene]:
    """Load what a network wrote as new nodes beside its inputs, a little with each step; nothing is overwritten.

    Files are read in a thread, nodes are made in the caller's: one step takes less than 100 ms for a prostate case.
    The folder must stay until the last step. Closed before that, or on an error, it leaves no node behind.

    Args:
        folder: The arm's folder, with its `result.json`.
        inputs: The volumes that the network saw.
        reference: The one on whose grid the result lies.
        title: What its nodes are called instead of where its weights started; they are not shown then.

    Returns:
        The arm, as the generator's value.

    Raises:
        ImageError: A file cannot be read.
        JobError: The scene was closed meanwhile.
    """
    numbers = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    loading = _Loading(folder, numbers, dict(inputs), inputs[reference], title)
    try:
        for step in loading.steps():
            yield step
            if any(node.GetScene() is None for node in inputs.values()):
                raise JobError("The volumes of this run are no longer in the scene, so its results were not loaded.")
    except BaseException:
        for node in loading.arm.nodes:
            removeNode(node)
        raise
    return loading.arm


GLAND_FILE = "gland.nii.gz"  # of `VFMTransferLib.worker.jobs`
_GLAND_COLOR = (1.0, 0.85, 0.2)  # seen on gray, and no color of A or B


def loadGland(path: Path, about: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """The prostate that the worker found, as a segmentation beside a volume, hidden in the user's own views.

    Raises:
        ImageError: The file cannot be read.
    """
    read = readNifti(path)
    voxels = (read.frames[0] > 0).astype(np.uint8)
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
    image.SetImageToWorldMatrix(vtkMatrixFromArray(read.ijkToRas))
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(f"{about.GetName()} prostate (for orientation)")
    node.SetAttribute(ATTRIBUTE + "Role", "gland")
    node.AddSegmentFromBinaryLabelmapRepresentation(image, str(Label.PROSTATE), _GLAND_COLOR, str(Label.PROSTATE))
    addNode(node, about.GetScene())
    node.GetDisplayNode().SetVisibility(False)
    placeBeside(node, about)
    return node


class _Loading:
    """One arm on its way into the scene.

    Args:
        folder: Its files.
        numbers: Its `result.json`.
        inputs: What the network saw.
        about: The input on whose grid the result lies.
        title: As for `loadArmInSteps`.
    """

    def __init__(
        self,
        folder: Path,
        numbers: dict[str, Any],
        inputs: Volumes,
        about: slicer.vtkMRMLScalarVolumeNode,
        title: str,
    ) -> None:
        self.arm = ArmInScene(numbers["model"]["bundle"], numbers, title=title)
        self._folder = folder
        self._inputs = inputs
        self._about = about
        self._armTitle = title or self.arm.ownTitle

    def steps(self) -> Steps:
        files = [file.removesuffix(IMAGE_SUFFIX) for file in self.arm.numbers["files"] if file.endswith(IMAGE_SUFFIX)]
        pool = ThreadPoolExecutor(1, "VFMTransfer reading")
        try:
            read = {
                name: pool.submit(_readWithWindows, self._folder / (name + IMAGE_SUFFIX))
                for name in files
                if name != LABELS
            }
            if SEGMENTATION in self.arm.numbers["files"]:
                yield from self._addSegmentation()
            for name, future in read.items():
                while not wait([future], _WAIT_S).done:
                    yield
                yield from self._add(name, *future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _add(self, name: str, image: NiftiImage, windows: list[Window]) -> Steps:
        if name == DISPLACEMENT:
            self.arm.transform = gridTransformNode(image, self._titled("distortion correction"))
            yield from self._place(self.arm.transform)
        elif name == PROBABILITIES:
            for label, voxels in zip(self.arm.numbers["probabilities"], image.frames, strict=True):
                title = self._titled(f"{_LABEL_TITLES.get(label, label)} probability")
                self.arm.probabilities[label] = node = blankVolume(voxels, image.ijkToRas, title)
                yield from fillVolume(node, voxels)
                yield from self._place(node, _PROBABILITY_WINDOW)
        else:
            yield from self._addImage(name, image, windows[0])

    def _addSegmentation(self) -> Steps:
        self.arm.segmentation = segmentationNode(self._folder / SEGMENTATION, self._titled("segmentation"), self._about)
        signSegments(self.arm.segmentation, self.arm.bundle)
        yield from self._place(self.arm.segmentation)

    def _addImage(self, name: str, image: NiftiImage, window: Window) -> Steps:
        """Show an output as the input of its sequence is shown, so that the two can be compared."""
        of, title = _IMAGE_TITLES.get(name, (None, name))
        source = self._inputs.get(of, self._about)
        alike = self._inputs.get(Sequence(name.split("-")[0])) if of is not None else None
        title = f"{source.GetName()} {title} ({self._armTitle}, synthetic)"
        self.arm.images[name] = node = blankVolume(image.frames[0], image.ijkToRas, title)
        yield from fillVolume(node, image.frames[0])
        yield from self._place(node, (windowOf(alike) if alike is not None else None) or window)

    def _place(self, node: slicer.vtkMRMLNode, window: Window | None = None) -> Steps:
        """Describe a node that is filled, and bring it into the scene."""
        describe(node, self.arm.numbers, self._inputs)
        yield
        addNode(node, self._about.GetScene(), window)
        if self.arm.title and node.IsA("vtkMRMLSegmentationNode"):
            node.GetDisplayNode().SetVisibility(False)
        placeBeside(node, self._about)
        yield

    def _titled(self, what: str) -> str:
        return f"{self._about.GetName()} {what} ({self._armTitle})"


def placeBeside(node: slicer.vtkMRMLNode, neighbor: slicer.vtkMRMLNode) -> None:
    """Put a node into the DICOM study, or folder, of its neighbor in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    beside = hierarchy.GetItemByDataNode(neighbor)
    parent = hierarchy.GetSceneItemID() if beside == _INVALID_ITEM else hierarchy.GetItemParent(beside)
    item = hierarchy.GetItemByDataNode(node)
    if item == _INVALID_ITEM:  # the application makes an item for each new node; without it nobody does
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(item, parent)


def describe(node: slicer.vtkMRMLNode, numbers: Mapping[str, Any], inputs: Volumes) -> None:
    """Write into a node where it came from; attributes and references are saved with the scene."""
    facts = {key.title(): value for key, value in numbers["model"].items()}
    facts |= {"Task": numbers["task"], "ResearchUse": numbers["research_use"]}
    facts["Versions"] = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    facts["Seconds"] = f"{sum(numbers['seconds'].values()):.2f}"
    facts["Options"] = ", ".join(f"{name} {value}" for name, value in numbers["options"].items() if value is not None)
    facts["Inputs"] = ", ".join(f"{sequence}: {volume.GetName()}" for sequence, volume in inputs.items())
    for name, value in facts.items():
        node.SetAttribute(ATTRIBUTE + name, str(value))
    for sequence, volume in inputs.items():
        node.SetNodeReferenceID(ATTRIBUTE + sequence, volume.GetID())


def _readWithWindows(path: Path) -> tuple[NiftiImage, list[Window]]:
    """A file, and how each of its frames is best shown."""
    image = readNifti(path)
    return image, [windowFor(frame) for frame in image.frames]
