"""MetaImage files (https://itk.org/Wiki/ITK/MetaIO/Documentation): lines of text, then the voxels or a file's name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..core.errors import ImageError
from ..core.volume import Geometry
from .grids import (
    AXES_TOLERANCE,
    ImageArray,
    damaged,
    detached_file,
    grid_of,
    inflated,
    misplaced,
    require_size,
    several_values,
    truncated,
)

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_SYNONYMS = {
    "Position": "Offset", "Origin": "Offset", "Orientation": "TransformMatrix", "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip
_MAX_LINE = 1 << 16
_MAX_LINES = 1000
_MILLIMETERS = ("mm", "millimeter", "millimeters", "?", "none", "")


def read_metaimage(path: Path) -> ImageArray:
    """Read a MetaImage file, whose voxels may lie in one file beside it; errors as `images.read_image`."""
    file = path.name
    with path.open("rb") as stream:
        fields = _fields(file, stream)
        content = stream.read() if fields["ElementDataFile"].upper() == "LOCAL" else None
    size = tuple(map(int, _numbers(file, fields, "DimSize")))
    (axes,) = _numbers(file, fields, "NDims", 1)
    (components,) = _numbers(file, {"ElementNumberOfChannels": "1", **fields}, "ElementNumberOfChannels", 1)
    kind = _TYPES.get(fields["ElementType"].removesuffix("_ARRAY"))
    if kind is None:
        raise ImageError(f"'{file}' holds {fields['ElementType']:.40}, no whole or floating-point numbers. Convert it.")
    if components != 1:
        raise several_values(file, int(components))
    if len(size) != axes:
        raise damaged(file, f"it states {axes:g} dimensions and {len(size)} sizes")
    scale = {"ElementToIntensityFunctionSlope": "1", "ElementToIntensityFunctionOffset": "0", **fields}
    if [_numbers(file, scale, key, 1)[0] for key in list(scale)[:2]] != [1.0, 0.0]:
        raise ImageError(f"'{file}' states a scale for its values (ElementToIntensityFunction). Save it without.")
    dtype = np.dtype(kind).newbyteorder(">" if _is_true(fields, "BinaryDataByteOrderMSB") else "<")
    require_size(file, size, dtype.itemsize)
    geometry = _grid(file, fields, size)
    if content is None:
        content = detached_file(path, fields["ElementDataFile"]).read_bytes()
        header_bytes = int(_numbers(file, {"HeaderSize": "0", **fields}, "HeaderSize", 1)[0])
        content = content[header_bytes:] if header_bytes >= 0 else content[-int(np.prod(size)) * dtype.itemsize :]
    if _is_true(fields, "CompressedData"):
        content = inflated(file, content)
    elif not _is_true({"BinaryData": "True", **fields}, "BinaryData"):
        raise ImageError(f"'{file}' holds its voxels as text. Save it as binary.")
    count = int(np.prod(size))
    if len(content) < count * dtype.itemsize:
        raise truncated(file)
    voxels = np.frombuffer(content, dtype, count).reshape(size[::-1])
    return ImageArray(voxels.astype(dtype.newbyteorder("=")), geometry)


def _fields(file: str, stream: BinaryIO) -> dict[str, str]:
    """The lines of a header, after which the stream is at the voxels that lie in the same file."""
    fields: dict[str, str] = {}
    for _ in range(_MAX_LINES):
        line = stream.readline(_MAX_LINE)
        key, equals, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not equals or not re.fullmatch(r"[ -~]{1,80}", key):
            break
        key = _SYNONYMS.get(key, key)
        if key in fields:
            raise damaged(file, f"'{key:.40}' is stated twice")
        fields[key] = value
        if key == "ElementDataFile":
            if lacking := [key for key in ("NDims", "DimSize", "ElementType") if key not in fields]:
                raise damaged(file, f"it lacks {', '.join(lacking)}")
            return fields
    raise damaged(file, "it has no valid MetaImage header, or is truncated")


def _is_true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "False").lower() in ("true", "1")


def _numbers(file: str, fields: dict[str, str], key: str, count: int | None = None) -> list[float]:
    """The numbers of a field; GeometryError where it lacks, or has others or not so many."""
    words = fields.get(key, "").split()
    if not words or len(words) != (count or len(words)):
        raise misplaced(file, f"states no {count or ''} numbers as '{key}'", "Save it again")
    try:
        return [float(word) for word in words]
    except ValueError:
        raise damaged(file, f"'{key}' is '{fields[key]:.60}'") from None


def _grid(file: str, fields: dict[str, str], size: tuple[int, ...]) -> Geometry:
    """The grid that a header states; GeometryError where a part of it is missing."""
    count = len(size)
    if (unit := fields.get("DistanceUnits", "mm")).lower() not in _MILLIMETERS:
        raise misplaced(file, f"has spacings in '{unit:.40}', not in mm (DistanceUnits)")
    if "ElementSize" in fields:  # how large elements are, which older programs write instead of how far apart
        fields.setdefault("ElementSpacing", fields["ElementSize"])
    spacing = np.array(_numbers(file, fields, "ElementSpacing", count)[:3])
    origin = np.array(_numbers(file, fields, "Offset", count)[:3])
    matrix = np.reshape(_numbers(file, fields, "TransformMatrix", count**2), (count, count))[:3, :3].T
    unit_grid = grid_of(file, size, matrix, origin)
    if np.abs(np.array(unit_grid.spacing_mm) - 1).max() > AXES_TOLERANCE:
        raise misplaced(file, "has a TransformMatrix whose axes are not of length 1")
    grid_of(file, size, matrix * spacing, origin)  # whose spacings must be such
    x_mm, y_mm, z_mm = spacing.tolist()
    return replace(unit_grid, spacing_mm=(x_mm, y_mm, z_mm), direction=tuple(matrix.ravel().tolist()))
