"""What reading an image file gives, and the checks that all formats share."""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import GeometryError, ImageError
from ..core.files import plain_text
from ..core.volume import Geometry

AXES_TOLERANCE = 1e-2
MAX_MM = 1e6  # of any position or spacing
MAX_IMAGE_VARIABLE = "VFM_TRANSFER_MAX_IMAGE_MB"
_MAX_IMAGE_MB = 2048
_GZIP_MAGIC = b"\x1f\x8b"
_ZLIB_OR_GZIP = 47  # zlib's name of both containers
_MAX_HEADER_BYTES = 1 << 22


@dataclass(frozen=True)
class ImageArray:
    """Voxels (D, H, W), or (T, D, H, W) of several images in one file, and where they lie."""

    array: np.ndarray
    geometry: Geometry


def max_image_bytes() -> int:
    """The largest image that is read; the environment variable VFM_TRANSFER_MAX_IMAGE_MB sets it."""
    stated = os.environ.get(MAX_IMAGE_VARIABLE, "").strip()
    if stated and not (stated.isascii() and stated.isdigit()):
        raise ImageError(f"{MAX_IMAGE_VARIABLE} is no whole number of megabytes. Set it to one, e.g. 4096.")
    return (int(stated) if stated else _MAX_IMAGE_MB) << 20


def require_size(file: str, size: tuple[int, ...], item_bytes: int) -> None:
    """Raise ImageError unless the voxels that a header states, x first, are a volume that fits in memory."""
    shown = "x".join(map(str, size))
    if min(size, default=0) < 1:
        raise ImageError(f"'{file}' has no voxels ({shown:.80}). Export it again.")
    if not 3 <= len(size) <= 4:
        raise ImageError(f"'{file}' is {len(size)}D ({shown:.80}), not a 3D volume. Select or split out one.")
    if (bytes_ := math.prod(size) * item_bytes) > max_image_bytes():
        raise ImageError(
            f"'{file}' takes {bytes_ >> 20} MB, more than the {max_image_bytes() >> 20} MB that an image may. Crop it, "
            f"or raise {MAX_IMAGE_VARIABLE}."
        )


def grid_of(file: str, size: tuple[int, ...], columns: np.ndarray, origin_mm: np.ndarray) -> Geometry:
    """The grid whose three axes are the columns (3, 3) of a matrix in millimeters, LPS.

    Raises:
        GeometryError: A number is infinite or huge, an axis has no length, or axes are sheared.
    """
    numbers = np.concatenate([columns.ravel(), origin_mm])
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > MAX_MM:
        raise misplaced(file, "states axes or a position that are infinite or huge")
    spacing = np.sqrt((columns**2).sum(axis=0))
    if spacing.min() < 1 / MAX_MM:
        raise misplaced(file, "has no spacing along one of its axes")
    direction = columns * (1.0 / spacing)
    if not np.allclose(direction.T @ direction, np.eye(3), atol=AXES_TOLERANCE):
        raise misplaced(file, "has sheared axes", "Resample it")
    x, y, z = size[:3]
    return Geometry((x, y, z), tuple(spacing.tolist()), tuple(origin_mm.tolist()), tuple(direction.ravel().tolist()))


def inflated(file: str, content: bytes) -> bytes:
    """What a gzip or zlib stream holds, read to its checksum; other content as it is.

    Raises:
        ImageError: It ends early, is damaged, or holds more than an image may.
    """
    blocks, left = [], max_image_bytes() + _MAX_HEADER_BYTES
    while content:
        inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
        try:
            blocks.append(inflater.decompress(content, left))
        except zlib.error:
            raise truncated(file) from None
        left -= len(blocks[-1])
        if left <= 0:
            raise ImageError(f"'{file}' holds more than an image may. Crop it, or raise {MAX_IMAGE_VARIABLE}.")
        if not inflater.eof:
            raise truncated(file)
        content = inflater.unused_data if inflater.unused_data.startswith(_GZIP_MAGIC) else b""
    return b"".join(blocks)


def read_whole(path: Path) -> bytes:
    """The content of a file, decompressed where it is gzip; errors as `inflated`."""
    if path.stat().st_size > max_image_bytes() + _MAX_HEADER_BYTES:
        raise ImageError(f"'{path.name}' is larger than an image may be. Crop it, or raise {MAX_IMAGE_VARIABLE}.")
    content = path.read_bytes()
    return inflated(path.name, content) if content.startswith(_GZIP_MAGIC) else content


def detached_file(path: Path, name: str) -> Path:
    """The file of voxels that a header names, in the header's own folder; ImageError where it is elsewhere."""
    beside = path.parent / name
    if Path(name).name != name or not beside.is_file():
        raise ImageError(
            f"'{path.name}' has no file of voxels '{plain_text(name):.60}' in its folder. Copy both, or save it as "
            "one file."
        )
    return beside


def damaged(file: str, why: str) -> ImageError:
    return ImageError(f"'{file}' is damaged: {plain_text(why):.160}. Export it again.")


def truncated(file: str) -> ImageError:
    return ImageError(f"'{file}' is truncated or damaged. Copy or export it again.")


def several_values(file: str, count: int) -> ImageError:
    if file.lower().endswith(".seg.nrrd"):
        return ImageError(f"'{file}' has overlapping segments. Export the one wanted as a label map.")
    return ImageError(
        f"'{file}' has {count} values a voxel (color, vectors or complex numbers), not one gray value. Select the "
        "original image."
    )


def misplaced(file: str, why: str, remedy: str = "Convert it from DICOM again") -> GeometryError:
    return GeometryError(f"'{file}' {plain_text(why):.200}. {remedy}.")
