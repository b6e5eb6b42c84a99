"""Headers of DICOM slices, and what their series is (T2w, ADC, diffusion): by its tags, then by its description."""

from __future__ import annotations

import hashlib
import logging
import re
import struct
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import ImageError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"  # class of single-frame MR images
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate")
_GRAY = ("MONOCHROME1", "MONOCHROME2", "")
_BITS_ALLOCATED = (8, 16, 32)
_SAME_UNIT = 1e-3  # of a decimal logarithm
# Where each make keeps the b value: group, private creator, element.
_SIEMENS_B = (0x0019, "SIEMENS MR HEADER", 0x0C)
_PHILIPS_B = (0x2001, "Philips Imaging DD 001", 0x03)
_GE_B = (0x0043, "GEMS_PARM_01", 0x39)
_PHILIPS_DIRECTION = (0x2001, "Philips Imaging DD 001", 0x04)
_PHILIPS_SCALE_SLOPE = (0x2005, "Philips MR Imaging DD 001", 0x0E)
_GE_B_OFFSET = 1e9  # GE adds it to mark values of its newer software
_B_IN_SEQUENCE_NAME = re.compile(r"_b(\d+)(?:[a-z]|#\d+)*$")  # Siemens: *ep_b800t, *ep_b50#1; not *ep_b50_800
_B_IN_DESCRIPTION = re.compile(r"(?<![a-z0-9])b(?:[ _=-]?val(?:ue)?)?[ _=-]?(\d{1,4})(?!\d|[ _,/-]\d)")
MAX_B = 5000.0  # s/mm²
MIN_T2W_ECHO_MS = 60.0
MAX_T2W_ECHO_MS = 250.0  # above lie the heavily weighted series of urography
MIN_COS_AXIAL = 0.7  # nearer to axial than to any other plane
T2_WORDS = frozenset({"t2", "t2w", "t2wi"})
_NOT_T2_WORDS = frozenset(
    {"t1", "t1w", "pd", "ref", "dwi", "adc", "diff", "dce", "sag", "cor", "loc", "localizer", "scout", "survey", "map"}
)
_DIFFUSION_WORDS = frozenset({"dwi", "diff", "diffusion", "trace", "tracew", "hbv", "bval"})
_EXPONENTIAL_WORDS = frozenset({"eadc", "exp", "exponential"})
_RECONSTRUCTED = frozenset(
    {"LOCALIZER", "PROJECTION IMAGE", "MPR", "SUBTRACT", "SUBTRACTION", "MIP", "COMPOSITE"}
    | {"UNCORRECTED"}  # as `dicom_out` marks copies of the exam's own images
)
_SYNTHETIC = "SYNTHETIC"  # as `dicom_out` and synthetic MRI mark what an algorithm made


@dataclass(frozen=True)
class Exam:
    """What tells exams apart; of the patient's identity, a checksum that is never shown."""

    patient: str
    study: str
    frame_of_reference: str

    def difference(self, other: Exam) -> str:
        """What of both is stated and differs; empty where nothing does."""
        words = {"patient": "patients", "study": "studies", "frame_of_reference": "frames of reference"}
        for name, several in words.items():
            mine, others = getattr(self, name), getattr(other, name)
            if mine and others and mine != others:
                return several
        return ""


@dataclass(frozen=True)
class Header:
    """The fields of one slice that reading needs; of the patient, nothing.

    Attributes:
        image_type: Words of Image Type.
        scanning_sequence: Words of Scanning Sequence, as `SE`, `EP`, `GR`.
        orientation: Direction cosines of the rows, then of the columns, LPS.
        position_mm: Center of the first pixel, LPS.
        size: Pixels along (x, y).
        b_value: s/mm², or None.
        is_trace: Not one of several diffusion directions, as far as the tags state.
        signal_scale: What a value is divided by to be the signal that images of Philips share; None where not stated.
        exam: Whose it is.
        spacing_mm: Between pixels along (x, y); empty where it is not stated.
        slope, intercept: Value = slope * stored + intercept.
        is_compressed: Decoded by SimpleITK.
        pixel_problem: What makes the pixels' values unknown, in words; empty where they are known.
        is_gray: One value a pixel.
        is_inverted: The lowest value is white (MONOCHROME1).
        is_mapped_otherwise: Its Real World Value Mapping states other values than its rescale.
    """

    path: Path
    study_uid: str
    series_uid: str
    number: str
    description: str
    modality: str
    frames: int
    image_type: frozenset[str]
    scanning_sequence: frozenset[str]
    echo_time_ms: float | None
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    size: tuple[int, int]
    b_value: float | None
    is_trace: bool
    signal_scale: float | None
    exam: Exam
    slope: float
    intercept: float
    is_compressed: bool
    pixel_problem: str
    is_gray: bool
    is_inverted: bool
    is_mapped_otherwise: bool

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of the series description, in lower case, split at anything that is no letter or digit."""
        return frozenset(re.split(r"[^a-z0-9]+", self.description.lower())) - {""}

    @cached_property
    def normal(self) -> np.ndarray:
        """Direction in which slices follow each other, LPS."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def read_headers(paths: Iterable[Path]) -> list[Header]:
    """Headers of the files that are images in space; reports, presentation states and the like stay out.

    Raises:
        ImageError: A file is damaged, so that a slice may be missing.
    """
    import pydicom  # not above: files of other kinds are read without it

    # What pydicom remarks on odd values would come before our sentence.
    logging.getLogger("pydicom").addHandler(logging.NullHandler())
    headers = []
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
                has_pixels = bool(_number(dataset, "Rows"))
                if not has_pixels and not _text(dataset, "SOPClassUID"):
                    raise ValueError("nothing that an image has")
                header = _header(path, dataset) if has_pixels else None
            except Exception as error:  # pydicom raises errors of many kinds
                raise ImageError(
                    f"'{path.name}' is no whole DICOM file, so that a slice may be missing. Export it again, or remove "
                    "it."
                ) from error
            if header is not None:
                headers.append(header)
    return headers


def _header(path: Path, dataset: Dataset) -> Header | None:
    """The header; None where no place is stated."""
    frames = int(_number(dataset, "NumberOfFrames") or 1)
    orientation = _numbers(dataset, "ImageOrientationPatient")
    position = _numbers(dataset, "ImagePositionPatient")
    if frames == 1 and (len(orientation) != 6 or len(position) != 3):
        return None
    spacing_mm, slope = _numbers(dataset, "PixelSpacing"), _number(dataset, "RescaleSlope")
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    description = _text(dataset, "SeriesDescription")
    photometric = _text(dataset, "PhotometricInterpretation").upper()
    direction = _text(dataset, "DiffusionDirectionality") or str(_private(dataset, *_PHILIPS_DIRECTION) or "")
    return Header(
        path=path,
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        number=_text(dataset, "SeriesNumber"),
        description=description,
        modality=_text(dataset, "Modality"),
        frames=frames,
        image_type=_words(dataset, "ImageType"),
        scanning_sequence=_words(dataset, "ScanningSequence"),
        echo_time_ms=_number(dataset, "EchoTime"),
        orientation=orientation if len(orientation) == 6 else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        position_mm=position if len(position) == 3 else (0.0, 0.0, 0.0),
        spacing_mm=spacing_mm[::-1] if len(spacing_mm) == 2 else (),  # DICOM: between rows, between columns
        size=(int(dataset.Columns), int(dataset.Rows)),
        b_value=_b_value(dataset, description),
        is_trace=not direction or direction.upper().startswith(("I", "N")),  # isotropic, or none at b 0
        signal_scale=_signal_scale(dataset),
        exam=_exam(dataset),
        slope=1.0 if slope is None else slope,
        intercept=_number(dataset, "RescaleIntercept") or 0.0,
        is_compressed=syntax is not None and syntax.is_compressed,
        pixel_problem=_pixel_problem(dataset),
        is_gray=photometric in _GRAY and (_number(dataset, "SamplesPerPixel") or 1) == 1,
        is_inverted=photometric == "MONOCHROME1",
        is_mapped_otherwise=not _is_mapped_as_rescaled(dataset),
    )


def _exam(dataset: Dataset) -> Exam:
    stated = "\0".join(_text(dataset, keyword) for keyword in _PATIENT)
    patient = hashlib.sha256(stated.encode("utf-8", "replace")).hexdigest() if stated.strip("\0") else ""
    return Exam(patient, _text(dataset, "StudyInstanceUID"), _text(dataset, "FrameOfReferenceUID"))


def _pixel_problem(dataset: Dataset) -> str:
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        element, number = dataset.get_item(keyword), _number(dataset, keyword)
        if element is None or element.value in (None, b"", ""):
            continue
        if number is None or not np.isfinite(number) or (number == 0 and keyword == "RescaleSlope"):
            return f"a {keyword} that is no usable number"
    bits, stored, high = (_number(dataset, name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if bits not in _BITS_ALLOCATED:
        return f"{bits:g} bits a pixel"
    # What follows is read by nobody here, nor by the toolkit, which would return the stored numbers.
    if stored is not None and high is not None and high != stored - 1:
        return f"{stored:g} bits of which the highest is number {high:g} (HighBit)"
    if "ModalityLUTSequence" in dataset:
        return "a table for them (Modality LUT Sequence), which is not supported"
    if _number(dataset, "RescaleSlope") is None and not _is_mapped_as_rescaled(dataset):
        return "them in a Real World Value Mapping alone, which is not supported, and no RescaleSlope"
    return ""


def _is_mapped_as_rescaled(dataset: Dataset) -> bool:
    """Whether real-world values, where stated, are the rescaled ones, but for a power of ten, which a unit makes."""
    mappings = _value(dataset, "RealWorldValueMappingSequence") or ()
    slope, intercept = _number(dataset, "RescaleSlope") or 1.0, _number(dataset, "RescaleIntercept") or 0.0
    for mapping in mappings:
        other, offset = _number(mapping, "RealWorldValueSlope"), _number(mapping, "RealWorldValueIntercept") or 0.0
        if other is None or other * slope <= 0:
            continue
        power = float(np.log10(other / slope))
        if abs(power - round(power)) < _SAME_UNIT and np.isclose(offset * slope, intercept * other):
            return True
    return not mappings


def _b_value(dataset: Dataset, description: str) -> float | None:
    """b value by the standard tag, the vendors' private ones, the sequence's name, the description."""
    for value in (
        _number(dataset, "DiffusionBValue"),
        _first_number(_private(dataset, *_SIEMENS_B)),
        _first_number(_private(dataset, *_PHILIPS_B)),
    ):
        if value is not None and value >= 0:
            return value
    value = _first_number(_private(dataset, *_GE_B))
    if value is not None and value >= 0:
        return value % _GE_B_OFFSET
    by_name = _B_IN_SEQUENCE_NAME.search(_text(dataset, "SequenceName").lower())
    if by_name:
        return float(by_name.group(1))
    by_description = _B_IN_DESCRIPTION.findall(description.lower())
    return float(by_description[0]) if len(by_description) == 1 else None


def _signal_scale(dataset: Dataset) -> float | None:
    """Philips scales each scan for display: the signal is the stored number divided by the private scale slope."""
    scale, slope = _first_number(_private(dataset, *_PHILIPS_SCALE_SLOPE)), _number(dataset, "RescaleSlope")
    if scale is None or not np.isfinite(scale) or scale <= 0:
        return None
    return scale * (1.0 if slope is None else slope)


def _value(dataset: Dataset, keyword: str) -> Any:
    """The value of a standard element; None where it is missing, empty, or not of its type."""
    with suppress(Exception):  # pydicom raises errors of many kinds
        return dataset.get(keyword)
    return None


def _private(dataset: Dataset, group: int, creator: str, element: int) -> Any:
    """The value of a private element, by its creator, or at its usual place where an anonymizer took the creator."""
    with suppress(Exception):
        return dataset.private_block(group, creator)[element].value
    with suppress(Exception):
        return dataset[group, 0x1000 + element].value
    return None


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    return "" if value is None else str(value).strip(" \0")


def _number(dataset: Dataset, keyword: str) -> float | None:
    return _first_number(_value(dataset, keyword))


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    with suppress(ValueError, TypeError):
        return tuple(float(number) for number in _value(dataset, keyword) or ())
    return ()


def _words(dataset: Dataset, keyword: str) -> frozenset[str]:
    value = _value(dataset, keyword)
    words = [value] if isinstance(value, str) else value or ()
    return frozenset(str(word).strip().upper() for word in words) - {""}


def _first_number(value: Any) -> float | None:
    """The first number of an element; an anonymizer may have changed its type to OB or UN, which leaves bytes."""
    if isinstance(value, bytes):
        # The text of the number (Siemens, GE), else a little-endian float (Philips).
        with suppress(ValueError):
            return float(value.decode("ascii").strip(" \0").split("\\")[0])
        return float(struct.unpack("<f", value)[0]) if len(value) == 4 else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    with suppress(ValueError, TypeError):
        return float(value)
    return None


@dataclass(frozen=True)
class Series:
    """The slices of one series, at least one, in no order."""

    headers: tuple[Header, ...]

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def label(self) -> str:
        """What to call the series in errors, by which a user finds it: number, description, count; no identifiers."""
        name = self.first.description or "no description"
        return f"series {self.first.number or '?'} '{name}' ({len(self.headers)} images)"

    @property
    def shown(self) -> str:
        """What to call the series in notes, which go into results: without its description, where names may stand."""
        count = len(self.headers)
        return f"series {self.first.number or '?'} ({count} image{'s' if count != 1 else ''})"

    @property
    def exams(self) -> frozenset[Exam]:
        return frozenset(h.exam for h in self.headers)

    @property
    def oddity(self) -> str:
        """Sentences on what the headers state and cannot be, each after a space; empty for a good series."""
        odd = ""
        if any(h.is_inverted for h in self.headers):
            odd += " It is stored with inverted gray values (MONOCHROME1), which are read as they are; check them."
        if self.is_adc and any(h.is_mapped_otherwise for h in self.headers):
            odd += (
                " Its Real World Value Mapping states other values than its RescaleSlope, by which it is read; check "
                "the ADC."
            )
        if self.highest_b > MAX_B:
            odd += f" Its b value of {self.highest_b:g} s/mm² is beyond what scanners measure; check it."
        if self.is_synthetic:
            odd += " It is synthetic by its Image Type, made by an algorithm and not measured; check results on it."
        return odd

    @property
    def b_values(self) -> set[float]:
        return {h.b_value for h in self.headers if h.b_value is not None}

    @property
    def highest_b(self) -> float:
        """Highest b value in s/mm²; 0 where none is stated."""
        return max(self.b_values, default=0.0)

    @property
    def is_axial_mr(self) -> bool:
        return self.first.modality == "MR" and abs(self.first.normal[2]) >= MIN_COS_AXIAL and self.first.frames == 1

    @property
    def is_reconstructed(self) -> bool:
        return bool(self.first.image_type & _RECONSTRUCTED) or self.is_synthetic

    @property
    def is_synthetic(self) -> bool:
        """Whether an algorithm made it, as results of image-to-image networks, and nothing measured it."""
        return _SYNTHETIC in self.first.image_type

    @property
    def is_adc(self) -> bool:
        first = self.first
        if first.words & _EXPONENTIAL_WORDS or "EADC" in first.image_type:
            return False
        if "ADC" in first.image_type:
            return True
        # A map is derived, of one b value at most; a protocol's name may promise one to the images it is made from.
        is_original = "ORIGINAL" in first.image_type and self.highest_b > 0
        if "TRACEW" in first.image_type or is_original or len(self.b_values) > 1:
            return False
        return any(w.endswith("adc") for w in first.words) or {"apparent", "diffusion"} <= first.words

    @property
    def is_calculated(self) -> bool:
        """A high-b image that the scanner computed."""
        return "CALC_BVALUE" in self.first.image_type or "calc" in self.first.description.lower()

    @property
    def is_diffusion(self) -> bool:
        first = self.first
        by_tags = "DIFFUSION" in first.image_type or "EP" in first.scanning_sequence
        by_name = bool(first.words & _DIFFUSION_WORDS)
        is_weighted = self.highest_b > 0  # some scanners write a b of 0 into every series
        return not self.is_adc and not first.words & _EXPONENTIAL_WORDS and (by_tags or by_name or is_weighted)

    @property
    def is_t2w(self) -> bool:
        first = self.first
        if self.is_diffusion or self.is_adc or first.words & _NOT_T2_WORDS:
            return False
        if first.scanning_sequence & {"GR", "EP"}:
            return False
        if "SE" in first.scanning_sequence and first.echo_time_ms is not None:
            return MIN_T2W_ECHO_MS <= first.echo_time_ms <= MAX_T2W_ECHO_MS
        return bool(first.words & T2_WORDS)


_STUDY_ID = re.compile(r"study-[0-9a-f]{8}")


def study_id(study_uid: str) -> str:
    """The neutral id of a study, from which its UID cannot be read."""
    return f"study-{hashlib.sha256(study_uid.encode()).hexdigest()[:8]}"


def is_study_id(case_id: str) -> bool:
    """Whether a case's id is that of a DICOM study; one whose series were named one by one has none."""
    return _STUDY_ID.fullmatch(case_id) is not None


def mixed_exams(exams: Mapping[Any, Iterable[Exam]]) -> str:
    """Which images of a case do not belong to one exam, and by what, in words; empty where all do."""
    named = [(name, exam) for name, several in exams.items() for exam in several]
    for (name, exam), (other_name, other) in combinations(named, 2):
        if difference := exam.difference(other):
            return f"{name if name == other_name else f'{name} and {other_name}'} are of two {difference}"
    return ""


def grouped(headers: Iterable[Header]) -> list[Series]:
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid].append(header)
    return [Series(tuple(group)) for group in groups.values()]


def listed(series: Iterable[Series]) -> str:
    """Series as a message lists them, each with a file by which a user can name it."""
    return "; ".join(f"{s.label[:-1]}, such as {s.first.path.name})" for s in series)
