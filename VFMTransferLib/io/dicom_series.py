"""Headers of DICOM slices, and what their series is (T2w, ADC, diffusion): by its tags, then by its description."""

from __future__ import annotations

import filecmp
import hashlib
import logging
import re
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..core.errors import ImageError
from ..core.files import open_regular
from .guarded import start_reader
from .headers import MAX_IMAGE_VARIABLE, limits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"  # class of single-frame MR images
_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT_LITTLE, _EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_META_GROUP = 2
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate")
_GRAY = ("MONOCHROME1", "MONOCHROME2", "")
_BITS_ALLOCATED = (8, 16, 32)
_SCALED_OTHERWISE = ("ModalityLUTSequence", "RealWorldValueMappingSequence")
_SAME_UNIT = 1e-3  # of a decimal logarithm
_PIXEL_HEADER_BYTES = 8  # before the pixels, at least: their tag and length
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
class PlainPixels:
    """Where a slice's pixels lie that are not compressed (after tag and length), and how a value follows from them."""

    offset: int
    start_bytes: int
    dtype: np.dtype
    bits: int
    slope: float
    intercept: float


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
        pixels: None where they are compressed, or stored in a way that only the toolkit reads.
        pixel_problem: What makes the pixels' values unknown, in words; empty where they are known.
        is_gray: One value a pixel.
        is_inverted: The lowest value is white (MONOCHROME1).
        is_mapped_otherwise: Its Real World Value Mapping states other values than its rescale.
        damage: Why its series is not whole, in a sentence; empty where no slice is known to be damaged.
    """

    path: Path
    study_uid: str
    series_uid: str
    instance_uid: str
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
    pixels: PlainPixels | None
    pixel_problem: str
    is_gray: bool
    is_inverted: bool
    is_mapped_otherwise: bool
    damage: str = ""

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of the series description, in lower case, split at anything that is no letter or digit."""
        return frozenset(re.split(r"[^a-z0-9]+", self.description.lower())) - {""}

    @cached_property
    def normal(self) -> np.ndarray:
        """Direction in which slices follow each other, LPS."""
        return np.cross(self.orientation[:3], self.orientation[3:])


@dataclass(frozen=True)
class _LostSlice:
    """A slice of MR without a usable header.

    Attributes:
        series_uid: Of its series.
        damage: What is wrong with it, in a sentence.
        is_image: Whether it is one in space for sure; what states no place may be a screenshot.
    """

    series_uid: str
    damage: str
    is_image: bool


def read_headers(paths: Iterable[Path]) -> list[Header]:
    """Headers of the files that are images in space; reports, presentation states and the like stay out.

    Of files with equal bytes, as where an exam was copied into a folder twice, the first one counts.
    What lacks a slice of MR, or has one that is truncated or damaged, bears that as `damage`: only who stacks it cares.

    Raises:
        ImageError: A file is damaged, and which series it belongs to is not known, or nothing else is left of that.
    """
    import pydicom  # not above: files of other kinds are read without it

    # What pydicom remarks on odd values would come before our sentence.
    logging.getLogger("pydicom").addHandler(logging.NullHandler())
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers, lost = [], []
        for path in paths:
            header = _read_header(path)
            if isinstance(header, _LostSlice):
                lost.append(header)
            elif header is not None:
                if header.pixels is None:
                    start_reader()  # ready when all headers are read
                headers.append(header)
    headers = _without_copies(headers)
    damages = {header.series_uid: header.damage for header in headers if header.damage}
    known = {header.series_uid for header in headers}
    for slice_ in lost:
        if slice_.is_image and slice_.series_uid not in known:
            raise ImageError(slice_.damage)
        damages.setdefault(slice_.series_uid, slice_.damage)
    return [replace(h, damage=damages[h.series_uid]) if h.series_uid in damages else h for h in headers]


def _without_copies(headers: Sequence[Header]) -> list[Header]:
    """The first of files with equal bytes; only files of one instance at one place are compared."""
    kept: list[Header] = []
    alike: dict[object, list[Path]] = {}
    for header in headers:
        others = alike.setdefault((header.series_uid, header.instance_uid, header.position_mm), [])
        if not any(filecmp.cmp(header.path, other, shallow=False) for other in others):
            kept.append(header)
            others.append(header.path)
    return kept


def count_without_place(paths: Iterable[Path]) -> int:
    """How many MR slices state no orientation or no position, so that they are no images in space."""
    import pydicom

    count = 0
    for path in paths:
        with suppress(Exception), open_regular(path) as file, pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            stated = (dataset.get("ImageOrientationPatient"), dataset.get("ImagePositionPatient"))
            count += _text(dataset, "SOPClassUID") == _MR_STORAGE and not all(stated)
    return count


def _read_header(path: Path) -> Header | _LostSlice | None:
    """The header; what is known of a slice that has no usable one; None of what is no image."""
    import pydicom

    with open_regular(path) as file:
        meta = _file_meta(file)
        is_deflated = _text(meta, "TransferSyntaxUID") == _DEFLATED
        if path.stat().st_size > limits().image_bytes or (is_deflated and _inflates_too_far(file)):
            raise ImageError(
                f"'{path.name}' must take at most {limits().image_bytes >> 20} MB, but takes more. Remove it, or raise "
                f"{MAX_IMAGE_VARIABLE}."
            )
        file.seek(0)
        dataset = None
        with suppress(Exception):  # pydicom raises errors of many kinds where a file is something else
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        stated = {_text(meta, "MediaStorageSOPClassUID"), "" if dataset is None else _text(dataset, "SOPClassUID")}
        is_mr = _MR_STORAGE in stated
        if dataset is None:
            if is_mr or stated == {""}:
                raise unreadable(path)
            return None
        try:
            has_pixels = _has_pixels(dataset, path.stat().st_size - file.tell())
        except Exception:  # and where a value is no such thing
            has_pixels = False
        if not has_pixels and stated == {""}:
            raise unreadable(path)
        if not has_pixels and not is_mr:
            return None
        # Without a slice of MR its series would be shorter unnoticed.
        damage = (
            f"'{path.name}' must be a whole DICOM slice, but is truncated or damaged. Export it again."
            if not has_pixels
            else ""
        )
        try:
            header = _header(path, dataset, file.tell())
        except Exception:  # a value that is none of its kind
            if not is_mr:
                return None
            damage = damage or (
                f"'{path.name}' must be a DICOM slice whose header can be read, but a value in it cannot. "
                "Export it again."
            )
            return _LostSlice(_text(dataset, "SeriesInstanceUID"), damage, is_image=True)
        if header is not None:
            return replace(header, damage=damage)
        without_place = (
            f"'{path.name}' must state where its slice lies (ImagePositionPatient and ImageOrientationPatient), as the "
            "other slices of its series do, but does not. Export the series again."
        )
        return _LostSlice(_text(dataset, "SeriesInstanceUID"), damage or without_place, is_image=bool(damage))


def unreadable(path: Path) -> ImageError:
    return ImageError(
        f"'{path.name}' must be a DICOM file that can be read, but is empty or damaged, so that a slice may be "
        "missing. Export it again, or remove it."
    )


def _file_meta(file: BinaryIO) -> Dataset:
    """The elements before the dataset, which is left as it is: pydicom would inflate all of it where it is deflated."""
    from pydicom.dataset import Dataset
    from pydicom.filereader import read_dataset, read_preamble

    with suppress(Exception):
        read_preamble(file, force=True)  # type: ignore[arg-type]
        return read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != _META_GROUP)
    return Dataset()


def _inflates_too_far(file: BinaryIO) -> bool:
    """Whether what follows inflates beyond the limit."""
    inflater, left = zlib.decompressobj(-zlib.MAX_WBITS), limits().image_bytes
    with suppress(zlib.error):
        while left > 0:
            packed = inflater.unconsumed_tail or file.read(1 << 16)
            content = inflater.decompress(packed, 1 << 20)
            left -= len(content)
            if not content and not packed:
                break
    return left <= 0


def _has_pixels(dataset: Dataset, remaining_bytes: int) -> bool:
    """Whether pixels follow the header, all of them where they are not compressed."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is not None and syntax.is_deflated:  # the header is compressed too; its end is not known
        return True
    if syntax is not None and syntax.is_compressed:
        return remaining_bytes > _PIXEL_HEADER_BYTES
    counts = (_number(dataset, name) for name in ("Rows", "Columns", "BitsAllocated"))
    bits = float(np.prod([count or 0 for count in counts])) * (_number(dataset, "NumberOfFrames") or 1)
    return bits > 0 and remaining_bytes >= bits / 8 + _PIXEL_HEADER_BYTES


def _header(path: Path, dataset: Dataset, offset: int) -> Header | None:
    """The header; None where no place is stated.

    Raises:
        ValueError: A value cannot be what it must be; others may be raised too.
    """
    frames = int(_number(dataset, "NumberOfFrames") or 1)
    orientation = _numbers(dataset, "ImageOrientationPatient")
    position = _numbers(dataset, "ImagePositionPatient")
    if frames == 1 and (len(orientation) != 6 or len(position) != 3):
        stated = (dataset.get_item(name) for name in ("ImageOrientationPatient", "ImagePositionPatient"))
        if all(element is not None and element.value for element in stated):
            raise ValueError("The place of the slice is stated, but not by numbers.")
        return None
    spacing_mm = _numbers(dataset, "PixelSpacing")
    description = _text(dataset, "SeriesDescription")
    photometric = _text(dataset, "PhotometricInterpretation").upper()
    direction = _text(dataset, "DiffusionDirectionality") or str(_private(dataset, *_PHILIPS_DIRECTION) or "")
    return Header(
        path=path,
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        instance_uid=_text(dataset, "SOPInstanceUID"),
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
        pixels=_plain_pixels(dataset, offset),
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


def _plain_pixels(dataset: Dataset, offset: int) -> PlainPixels | None:
    """How to decode the usual form of a slice: whole numbers of 8 or 16 bits, not compressed, scaled or not."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    prefix = {_IMPLICIT_LITTLE: 8, _EXPLICIT_LITTLE: 12}.get(str(syntax))
    numbers = [_number(dataset, name) for name in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")]
    bits_allocated, bits, high_bit, is_signed = numbers
    is_usual = bits_allocated in (8, 16) and bits is not None and 1 <= bits <= bits_allocated and high_bit == bits - 1
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if prefix is None or not is_usual or is_signed not in (0, 1) or any(tag in dataset for tag in _SCALED_OTHERWISE):
        return None
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        return None
    dtype = np.dtype(f"<{'i' if is_signed else 'u'}{int(bits_allocated or 8) // 8}")
    return PlainPixels(offset, prefix, dtype, int(bits or 0), slope, intercept)


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
