"""Headers of MetaImage files (https://itk.org/Wiki/ITK/MetaIO/Documentation), read strictly."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..core.errors import GeometryError, ImageError
from ..core.files import open_regular
from .headers import (
    AXES_TOLERANCE,
    Encoding,
    Grid,
    ImageHeader,
    axis_lengths,
    damaged,
    detached_file,
    finite_numbers,
    grid_of_space,
    is_spacing,
    limits,
    misplaced,
    text_lines,
    truncated,
    whole_numbers,
    within_limits,
)

_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_META_SYNONYMS = {
    "Position": "Offset", "Origin": "Offset", "Orientation": "TransformMatrix", "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip
_META_NEEDED = ("NDims", "DimSize", "ElementType", "ElementDataFile")


def read_metaimage(path: Path) -> ImageHeader:
    """The checked header of a MetaImage file; errors as `images.read_header`."""
    name = path.name
    with open_regular(path) as stream:
        fields, local = _meta_fields(name, stream)
    if fields.get("ObjectType", "Image").lower() != "image":
        raise ImageError(f"'{name}' must be an image, but is of type '{fields['ObjectType']:.40}'. Select an image.")
    axes = whole_numbers(name, "NDims", fields["NDims"], 1)[0]
    size = whole_numbers(name, "DimSize", fields["DimSize"])
    if len(size) != axes:
        raise damaged(name, f"it states {axes!s:.20} dimensions and {len(size)} sizes")
    components = whole_numbers(name, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"), 1)[0]
    kind = fields["ElementType"].removesuffix("_ARRAY")
    if kind not in _META_TYPES or not 1 <= components <= limits().axis:
        raise ImageError(
            f"'{name}' must hold whole or floating-point numbers, but its type is '{kind:.40}' with {components} "
            "values a voxel. Convert it."
        )
    scale = [
        fields.get(f"ElementToIntensityFunction{part}", usual) for part, usual in (("Slope", "1"), ("Offset", "0"))
    ]
    if finite_numbers(name, "ElementToIntensityFunction", scale, 2) != (1.0, 0.0):
        raise ImageError(
            f"'{name}' must hold values as they are, but they are to be scaled ({' and '.join(scale):.40}). "
            "Save it again."
        )
    is_compressed = _is_true(name, fields, "CompressedData")
    is_big = _is_true(name, fields, "BinaryDataByteOrderMSB")
    is_binary = _is_true(name, fields, "BinaryData", "True")
    encoding: Encoding = "zlib" if is_compressed else "raw" if is_binary else "text"
    data = fields["ElementDataFile"]
    is_local = data.upper() == "LOCAL"
    voxels = path if is_local else detached_file(path, data)
    skipped = 0 if is_local else whole_numbers(name, "HeaderSize", fields.get("HeaderSize", "0"), 1)[0]
    if skipped < -1 or skipped > limits().header_bytes or (skipped == -1 and encoding != "raw"):
        raise damaged(name, f"'HeaderSize' is {skipped}")
    header = ImageHeader(
        file=name,
        size=size,
        components=components,
        dtype=np.dtype(_META_TYPES[kind]).newbyteorder(">" if is_big else "<"),
        voxels=voxels,
        offset=local if is_local else skipped,
        encoding=encoding,
    )
    header = within_limits(header)
    return header if components > 1 else replace(header, grid=_meta_grid(name, fields, size))


def _meta_fields(file: str, stream: BinaryIO) -> tuple[dict[str, str], int]:
    """Fields, and the byte at which voxels follow that lie in the same file."""
    fields: dict[str, str] = {}
    for line in text_lines(stream, file):
        key, equals, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not equals and not key:
            continue
        if not equals or not re.fullmatch(r"[ -~]{1,80}", key):
            break
        key = _META_SYNONYMS.get(key, key)
        if key in fields:
            raise damaged(file, f"'{key:.40}' is stated twice")
        fields[key] = value
        if key == "ElementDataFile":
            if lacking := [key for key in _META_NEEDED if key not in fields]:
                raise damaged(file, f"it lacks {', '.join(lacking)}")
            return fields, stream.tell()
    if not fields.keys() & {"ObjectType", "NDims", "DimSize"}:
        raise ImageError(f"'{file}' must be a MetaImage file, but its content is of no known type. Export it again.")
    raise truncated(file)


def _is_true(file: str, fields: dict[str, str], key: str, usual: str = "False") -> bool:
    word = fields.get(key, usual).lower()
    if word not in ("true", "false", "1", "0"):
        raise damaged(file, f"'{key}' must be True or False and is '{word:.40}'")
    return word in ("true", "1")


def _meta_grid(file: str, fields: dict[str, str], size: tuple[int, ...]) -> Grid:
    count = len(size)
    if "ElementSize" in fields:  # how large elements are, which older programs write instead of how far apart
        fields.setdefault("ElementSpacing", fields["ElementSize"])
    for key, what in (
        ("ElementSpacing", "a spacing along each axis"),
        ("TransformMatrix", "its orientation (TransformMatrix)"),
        ("Offset", "its position (Offset)"),
    ):
        if key not in fields:
            raise misplaced(file, f"state {what}", "states none")
    spacing = finite_numbers(file, "ElementSpacing", fields["ElementSpacing"].split(), count)
    origin = finite_numbers(file, "Offset", fields["Offset"].split(), count)
    matrix = np.reshape(
        finite_numbers(file, "TransformMatrix", fields["TransformMatrix"].split(), count**2), (count,) * 2
    )
    if not all(is_spacing(s) for s in spacing[:3]):
        words = " x ".join(f"{s:g}" for s in spacing)
        raise GeometryError(
            f"'{file}' must have a spacing above 0 along each axis, but has {words} mm. Fix its header."
        )
    lengths = axis_lengths(file, matrix[:3, :3].T)
    if np.abs(lengths - 1).max() > AXES_TOLERANCE:
        raise misplaced(file, "have a TransformMatrix of length 1 along each axis", "its axes have other lengths")
    direction = matrix.T if count == 3 else matrix[:3, :3].T
    return grid_of_space(size, spacing[:3], origin[:3], direction)
