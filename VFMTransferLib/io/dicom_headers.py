"""What the header of one DICOM slice says of its series, its place and its b value."""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import ImageError
from ..core.volume import itk_warnings_silenced

_MR_STORAGE = b"1.2.840.10008.5.1.4.1.1.4\0"  # class of single-frame MR images, in the file's first bytes
_META_BYTES = 1024
_SIEMENS_B = "0019|100c"
_GE_B = "0043|1039"
_PHILIPS_B = "2001|1003"
_PHILIPS_DIRECTION = "2001|1004"
_STANDARD_B = "0018|9087"
_STANDARD_DIRECTION = "0018|9075"
_GE_B_OFFSET = 1e9  # GE adds it to mark values of its newer software
_B_IN_SEQUENCE_NAME = re.compile(r"_b(\d+)(?:[a-z]|#\d+)*$")  # Siemens: *ep_b800t, *ep_b50#1; not *ep_b50_800
_B_IN_DESCRIPTION = re.compile(r"(?<![a-z0-9])b(?:[ _=-]?val(?:ue)?)?[ _=-]?(\d{1,4})(?!\d|[ _,/-]\d)")


@dataclass(frozen=True)
class Header:
    """The fields of one slice that reading needs; of the patient, nothing.

    Attributes:
        image_type: Words of Image Type.
        scanning_sequence: Words of Scanning Sequence, as `SE`, `EP`, `GR`.
        orientation: Direction cosines of the rows, then of the columns, LPS.
        position_mm: Center of the first pixel, LPS.
        spacing_mm: Between pixels along (x, y).
        size: Pixels along (x, y).
        b_value: s/mm², or None.
        is_trace: Not one of several diffusion directions, as far as the tags say.
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
        ImageError: A slice of an MR series is truncated or damaged.
    """
    headers = []
    with itk_warnings_silenced():
        for path in paths:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.LoadPrivateTagsOn()
            try:
                reader.ReadImageInformation()
            except RuntimeError:
                _require_no_mr_slice(path)
                continue
            if (header := _header(path, reader)) is not None:
                headers.append(header)
    return headers


def _require_no_mr_slice(path: Path) -> None:
    """Raise if a file that cannot be read was a slice; left out, it would shorten its series unseen."""
    with path.open("rb") as file:
        if _MR_STORAGE in file.read(_META_BYTES):
            raise ImageError(
                f"'{path.name}' must be a whole DICOM slice, but is truncated or damaged. Export it again."
            )


def _header(path: Path, reader: sitk.ImageFileReader) -> Header | None:
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
    frames = int(_number(tags.get("0028|0008")) or 1)
    orientation = _numbers(tags.get("0020|0037"))
    position = _numbers(tags.get("0020|0032"))
    if frames == 1 and (len(orientation) != 6 or len(position) != 3):
        return None
    description = tags.get("0008|103e", "")
    return Header(
        path=path,
        study_uid=tags.get("0020|000d", ""),
        series_uid=tags.get("0020|000e", ""),
        number=tags.get("0020|0011", ""),
        description=description,
        modality=tags.get("0008|0060", ""),
        frames=frames,
        image_type=_words(tags.get("0008|0008")),
        scanning_sequence=_words(tags.get("0018|0020")),
        echo_time_ms=_number(tags.get("0018|0081")),
        orientation=orientation if len(orientation) == 6 else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        position_mm=position if len(position) == 3 else (0.0, 0.0, 0.0),
        spacing_mm=reader.GetSpacing()[:2],
        size=reader.GetSize()[:2],
        b_value=_b_value(path, tags, description),
        is_trace=_is_trace(tags),
    )


def _b_value(path: Path, tags: dict[str, str], description: str) -> float | None:
    """b value by the standard tag, the vendors' private ones, the sequence's name, the description."""
    for key in (_STANDARD_B, _SIEMENS_B, _PHILIPS_B, _GE_B):
        if key not in tags:
            continue
        value = _number(tags[key]) if tags[key] else _private_number(path, key)
        if value is not None and value >= 0:
            return value % _GE_B_OFFSET if key == _GE_B else value
    by_name = _B_IN_SEQUENCE_NAME.search(tags.get("0018|0024", "").lower())
    if by_name:
        return float(by_name.group(1))
    by_description = _B_IN_DESCRIPTION.findall(description.lower())
    return float(by_description[0]) if len(by_description) == 1 else None


def _private_number(path: Path, key: str) -> float | None:
    """The number in a private element whose type an anonymizer changed to OB or UN.

    GDCM gives no text for such elements. Their bytes are the text of the number (Siemens, GE) or a
    little-endian float (Philips).
    """
    group, element = (int(part, 16) for part in key.split("|"))
    content = path.read_bytes()
    tag = re.escape(struct.pack("<HH", group, element))
    match = re.search(tag + rb"(?:(?:OB|UN)\0\0)(.)\0\0\0", content, re.DOTALL)
    if match is None:
        return None
    value = content[match.end() : match.end() + match.group(1)[0]]
    if key == _PHILIPS_B and len(value) == 4:
        return float(struct.unpack("<f", value)[0])
    return _number(value.decode("latin-1"))


def _is_trace(tags: dict[str, str]) -> bool:
    direction = tags.get(_STANDARD_DIRECTION, "").upper() or tags.get(_PHILIPS_DIRECTION, "").upper()
    return not direction or direction.startswith(("I", "N"))  # isotropic, or none at b 0


def _words(text: str | None) -> frozenset[str]:
    return frozenset(word.strip().upper() for word in (text or "").split("\\")) - {""}


def _number(text: str | None) -> float | None:
    """The first number of a multi-valued element."""
    values = _numbers((text or "").split("\\")[0])
    return values[0] if values else None


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in (text or "").strip(" \0").split("\\"))
    except ValueError:
        return ()


# What a DICOM series is: by its tags first, then by the words of its description.

MIN_T2W_ECHO_MS = 60.0
MAX_T2W_ECHO_MS = 250.0  # above lie the heavily weighted series of urography
MIN_COS_AXIAL = 0.7  # nearer to axial than to any other plane
T2_WORDS = frozenset({"t2", "t2w", "t2wi"})
_NOT_T2_WORDS = frozenset(
    {"t1", "t1w", "pd", "ref", "dwi", "adc", "diff", "dce", "sag", "cor", "loc", "localizer", "scout", "survey", "map"}
)
_DIFFUSION_WORDS = frozenset({"dwi", "diff", "diffusion", "trace", "tracew", "hbv", "bval"})
_EXPONENTIAL_WORDS = frozenset({"eadc", "exp", "exponential"})
_RECONSTRUCTED = frozenset({"LOCALIZER", "PROJECTION IMAGE", "MPR", "SUBTRACT", "SUBTRACTION", "MIP", "COMPOSITE"})


@dataclass(frozen=True)
class Series:
    """The slices of one series, in no order.

    Attributes:
        headers: One a slice, at least one.
    """

    headers: tuple[Header, ...]

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def label(self) -> str:
        """What to call the series in messages: number, description, count; no identifiers."""
        name = self.first.description or "no description"
        return f"series {self.first.number or '?'} '{name}' ({len(self.headers)} images)"

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
        return bool(self.first.image_type & _RECONSTRUCTED)

    @property
    def is_adc(self) -> bool:
        first = self.first
        if first.words & _EXPONENTIAL_WORDS or "EADC" in first.image_type:
            return False
        by_name = any(w.endswith("adc") for w in first.words) or {"apparent", "diffusion"} <= first.words
        return "ADC" in first.image_type or by_name

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


def grouped(headers: Iterable[Header]) -> list[Series]:
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid].append(header)
    return [Series(tuple(group)) for group in groups.values()]


def listed(series: Iterable[Series]) -> str:
    """Series as a message lists them, each with a file by which a user can name it."""
    return "; ".join(f"{s.label[:-1]}, such as {s.first.path.name})" for s in series)
