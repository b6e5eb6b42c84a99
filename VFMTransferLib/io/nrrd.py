"""Headers of NRRD files (https://teem.sourceforge.net/nrrd/format.html), read strictly."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..core.errors import ImageError
from ..core.files import open_regular
from .headers import (
    Encoding,
    Grid,
    ImageHeader,
    axis_lengths,
    damaged,
    detached_file,
    finite_numbers,
    grid_of_space,
    limits,
    misplaced,
    text_lines,
    truncated,
    whole_numbers,
    within_limits,
)

_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_NRRD_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw", "gz": "gzip", "gzip": "gzip", "txt": "text", "text": "text", "ascii": "text", "hex": "hex",
}  # fmt: skip
# Space → signs that bring it to LPS.
_NRRD_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_NRRD_DOMAINS = frozenset({"domain", "space", "time", "???", "none"})
_NRRD_SYNONYMS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_MAX_NRRD_AXES = 4


def read_nrrd(path: Path) -> ImageHeader:
    """The checked header of an NRRD file; errors as `images.read_header`."""
    name = path.name
    with open_regular(path) as stream:
        fields, offset = _nrrd_fields(name, stream)
    (axes,) = whole_numbers(name, "dimension", fields.get("dimension", ""), 1)
    size = whole_numbers(name, "sizes", fields.get("sizes", ""))
    if len(size) != axes:
        raise damaged(name, f"it states {axes} dimensions and {len(size)} sizes")
    kind = fields.get("type", "").lower()
    if kind not in _NRRD_TYPES:
        raise ImageError(
            f"'{name}' must hold whole or floating-point numbers, but its type is '{kind:.40}'. Convert it."
        )
    encoding = _NRRD_ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise ImageError(
            f"'{name}' must be encoded raw, gzip, text or hex, but is '{fields.get('encoding', ''):.40}'. "
            "Save it again."
        )
    dtype = np.dtype(_NRRD_TYPES[kind])
    if dtype.itemsize > 1 and encoding != "text":
        if fields.get("endian", "").lower() not in ("little", "big"):
            raise damaged(name, "its byte order ('endian') is missing")
        dtype = dtype.newbyteorder("<" if fields["endian"].lower() == "little" else ">")
    kinds = fields.get("kinds", "").lower().split()
    ranges = [i for i, word in enumerate(kinds[:axes]) if word not in _NRRD_DOMAINS]
    components = math.prod(size[i] for i in ranges)
    voxels = path
    if named := fields.get("data file"):
        voxels, offset = detached_file(path, named), 0
    offset = _nrrd_skipped(name, fields, voxels, offset, encoding)
    header = ImageHeader(
        file=name,
        size=tuple(n for i, n in enumerate(size) if i not in ranges) if components > 1 else size,
        components=max(components, 1),
        dtype=dtype,
        voxels=voxels,
        offset=offset,
        encoding="zlib" if encoding == "gzip" else encoding,
    )
    header = within_limits(header)
    return header if header.components > 1 else replace(header, grid=_nrrd_grid(name, fields, size))


def _nrrd_fields(file: str, stream: BinaryIO) -> tuple[dict[str, str], int]:
    """Fields, and the byte at which voxels would follow. Keys with `:=`, which are a program's own, stay out."""
    fields: dict[str, str] = {}
    lines = iter(text_lines(stream, file))
    if not re.fullmatch(rb"NRRD000[1-5]", next(lines, b"")):
        raise ImageError(f"'{file}' must be an NRRD file, but its content is of no known type. Export it again.")
    for line in lines:
        text = line.decode("utf-8", "replace")
        if not text.strip():
            return fields, stream.tell()
        key, colon, value = text.partition(":")
        if text.startswith("#") or value.startswith("="):
            continue
        key = key.strip().lower()
        key = _NRRD_SYNONYMS.get(key, key)
        if not colon or key in fields:
            raise damaged(file, f"'{key:.40}' is stated twice" if colon else f"'{text:.40}' is no field")
        fields[key] = value.strip()
    if "data file" in fields:
        return fields, 0
    raise truncated(file)


def _nrrd_skipped(file: str, fields: dict[str, str], voxels: Path, offset: int, encoding: Encoding) -> int:
    """Where voxels begin after the lines and bytes that a header skips."""
    lines, skipped = (whole_numbers(file, key, fields.get(key, "0"), 1)[0] for key in ("line skip", "byte skip"))
    if skipped == -1 and encoding == "raw":
        return -1
    if (skipped and encoding != "raw") or not 0 <= skipped + lines <= limits().header_bytes or min(lines, skipped) < 0:
        raise damaged(file, f"'byte skip' is {skipped} and 'line skip' {lines}")
    if lines:
        with open_regular(voxels) as stream:
            stream.seek(offset)
            for _ in range(lines):
                if not stream.readline(limits().header_bytes).endswith(b"\n"):
                    raise truncated(file)
            offset = stream.tell()
    return offset + skipped


def _nrrd_grid(file: str, fields: dict[str, str], size: tuple[int, ...]) -> Grid:
    space = fields.get("space", "").lower()
    if not space:
        raise misplaced(file, "state its orientation", "its header names no space")
    if space not in _NRRD_SPACES:
        known = "left-posterior-superior, right-anterior-superior or left-anterior-superior"
        raise misplaced(file, f"lie in the space {known}", f"lies in '{space:.40}'")
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if any(unit.lower() not in ("mm", "millimeter", "millimeters", "") for unit in units):
        raise misplaced(file, "have spacings in mm", f"has them in {', '.join(units):.40}")
    signs = np.array(_NRRD_SPACES[space], dtype=np.float64)
    vectors = re.findall(r"none|\([^()]*\)", fields.get("space directions", ""))
    if len(vectors) != len(size):
        found = "states none" if not vectors else f"states {len(vectors)} for {len(size)} axes"
        raise misplaced(file, "state its space directions", found)
    if "none" in vectors[:3] or any(vector != "none" for vector in vectors[3:]):
        raise misplaced(file, "state its space directions", "leaves out one of the first three axes")
    columns = np.column_stack([_nrrd_vector(file, "space directions", vector) for vector in vectors[:3]])
    axis_lengths(file, columns)
    if "space origin" not in fields:
        raise misplaced(file, "state its position", "its header has no space origin")
    origin = np.array(_nrrd_vector(file, "space origin", fields["space origin"])) * signs
    # As teem computes them, so that not a bit differs: the root of the sum, then times its inverse.
    spacing = [math.sqrt(x * x + y * y + z * z) for x, y, z in columns.T]
    direction = np.column_stack([columns[:, k] * (1.0 / spacing[k]) * signs for k in range(3)])
    return grid_of_space(size, spacing, origin.tolist(), direction)


def _nrrd_vector(file: str, key: str, text: str) -> tuple[float, ...]:
    return finite_numbers(file, key, [word.strip() for word in text.strip("() ").split(",")], 3)
