"""What the header of an image file states, the checks that all formats share, and limits on what a file may ask for.

`nifti.py` and `text_headers.py` read headers strictly: a header is believed only where it is complete and its
numbers lie within `limits()`, and what it does not state (spacing, orientation, position) is never made up. `voxels.py`
reads what follows. No image toolkit sees a file that somebody else wrote.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.errors import GeometryError, ImageError
from ..core.files import plain_text

GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB_OR_GZIP = 31, 47  # zlib's names of the two containers
AXES_TOLERANCE = 1e-2
MAX_MM = 1e6  # of any position or spacing; beyond, arithmetic in single precision overflows
SPACING_TOLERANCE = 0.01  # of the spacing, between two fields that state it
FORMS_TOLERANCE_MM = 0.5  # between the positions that qform and sform give to one voxel
QUATERNION_TOLERANCE = 1e-2
MAX_NAME = 255
MAX_IMAGE_VARIABLE = "VFM_TRANSFER_MAX_IMAGE_MB"

Encoding = Literal["raw", "gzip", "zlib", "text", "hex"]


@dataclass(frozen=True)
class ReadLimits:
    """What an image file may ask for; all lie far beyond any exam of a prostate.

    Attributes:
        axis: Voxels along one axis.
        image_bytes: All voxels in memory; the environment variable VFM_TRANSFER_MAX_IMAGE_MB sets it.
        header_bytes: A header of text, or what lies between a NIfTI header and its voxels.
        trailing_bytes: What may follow the voxels.
    """

    axis: int = 1 << 14
    image_bytes: int = 2 << 30
    header_bytes: int = 1 << 22
    trailing_bytes: int = 1 << 20


def limits() -> ReadLimits:
    """The limits that hold for this process."""
    megabytes = os.environ.get(MAX_IMAGE_VARIABLE, "").strip()
    if not megabytes:
        return ReadLimits()
    if not re.fullmatch(r"[0-9]{1,9}", megabytes):
        raise ImageError(
            f"{MAX_IMAGE_VARIABLE} must be a whole number of megabytes, e.g. 4096, but is "
            f"'{plain_text(megabytes):.20}'. Set it so, or remove it."
        )
    return ReadLimits(image_bytes=int(megabytes) << 20)


@dataclass(frozen=True)
class Grid:
    """Where voxels lie, in SimpleITK's terms; axes after the third are no space.

    Attributes:
        size, spacing_mm, origin_mm: Along each axis, x first.
        direction: Row by row.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class ImageHeader:
    """What a header states of the voxels, checked.

    Attributes:
        file: Name of the file, for messages.
        size: Voxels along each axis, x first.
        components: Values a voxel.
        dtype: Of the values as they are stored, byte order included.
        voxels: The file that holds them: the same, or one beside it.
        offset: Bytes before them; counted after decompression, except where `encoding` is `zlib`. -1 if they lie at the
            end of the file.
        encoding: `gzip` is a whole stream, `zlib` the rest of the file after `offset`.
        slope, intercept: Value = slope * stored + intercept.
        grid: None where a voxel has several values.
    """

    file: str
    size: tuple[int, ...]
    components: int
    dtype: np.dtype
    voxels: Path
    offset: int
    encoding: Encoding
    slope: float = 1.0
    intercept: float = 0.0
    grid: Grid | None = None

    @property
    def voxel_bytes(self) -> int:
        return math.prod(self.size) * self.components * self.dtype.itemsize


def damaged(file: str, found: str) -> ImageError:
    """The error for a header that is broken: `found` states how."""
    return ImageError(f"'{file}' must have a whole and valid header, but {plain_text(found):.160}. Export it again.")


def truncated(file: str) -> ImageError:
    return ImageError(f"'{file}' must be a whole file, but is truncated or damaged. Copy or export it again.")


def misplaced(file: str, must: str, found: str, remedy: str = "Convert it from DICOM again") -> GeometryError:
    return GeometryError(f"'{file}' must {must}, but {plain_text(found):.160}. {remedy}.")


def within_limits(header: ImageHeader) -> ImageHeader:
    """The header, once its sizes lie within the limits."""
    most, shown = limits(), "x".join(map(str, header.size))
    if min(header.size, default=0) < 1:
        raise ImageError(f"'{header.file}' must have voxels along each axis, but states {shown:.80}. Export it again.")
    if max(header.size) > most.axis:
        raise ImageError(
            f"'{header.file}' must have at most {most.axis} voxels along an axis, but states {shown:.80}. Crop it."
        )
    if header.voxel_bytes > most.image_bytes:
        raise ImageError(
            f"'{header.file}' must take at most {most.image_bytes >> 20} MB of memory, but its header asks for "
            f"{header.voxel_bytes >> 20} MB ({shown:.80}). Crop it, or raise {MAX_IMAGE_VARIABLE}."
        )
    if header.components == 1 and not 3 <= len(header.size) <= 4:
        raise ImageError(
            f"'{header.file}' must be a 3D volume, but is {len(header.size)}D ({shown:.80}). Select or split out one."
        )
    return header


def axis_lengths(file: str, columns: np.ndarray) -> np.ndarray:
    """Lengths of three axes, the columns of a matrix; GeometryError unless they are finite and perpendicular."""
    if not np.isfinite(columns).all() or np.abs(columns).max() > MAX_MM:
        raise misplaced(file, "state axes in millimeters", "its header has values that are infinite or huge")
    lengths = np.linalg.norm(columns, axis=0)
    if lengths.min() < 1 / MAX_MM:
        raise misplaced(file, "have a spacing above 0 along each axis", "one of its axes has length 0")
    unit = columns / lengths
    if not np.allclose(unit.T @ unit, np.eye(3), atol=AXES_TOLERANCE):
        raise misplaced(file, "have perpendicular axes", "its are sheared or missing", "Resample it")
    return lengths


def require_position(file: str, position: np.ndarray) -> None:
    if not np.isfinite(position).all() or np.abs(position).max() > MAX_MM:
        raise misplaced(file, "have a position in space", "its header has values that are infinite or huge")


def is_spacing(value: float) -> bool:
    return math.isfinite(value) and 1 / MAX_MM <= value <= MAX_MM
