"""Headers of NRRD and MetaImage files, which are lines of text, read strictly.

Formats: https://teem.sourceforge.net/nrrd/format.html, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..core.errors import GeometryError, ImageError
from ..core.files import open_regular, plain_text
from .headers import (
    AXES_TOLERANCE,
    MAX_MM,
    MAX_NAME,
    Encoding,
    Grid,
    ImageHeader,
    axis_lengths,
    damaged,
    is_spacing,
    limits,
    misplaced,
    truncated,
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
_NRRD_VECTOR = r"none|\([^()]*\)"
_NRRD_OTHER_GRID = ("spacings", "axis mins", "axis maxs", "units")  # of a grid without orientation
_MILLIMETERS = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "")
_NRRD_DOMAINS = frozenset({"domain", "space", "time", "???", "none"})
_NRRD_SYNONYMS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}


def read_nrrd(path: Path) -> ImageHeader:
    """The checked header of an NRRD file; errors as `images.read_header`."""
    name = path.name
    with open_regular(path) as stream:
        fields, offset = _nrrd_fields(name, stream)
    (axes,) = _whole_numbers(name, "dimension", fields.get("dimension", ""), 1)
    size = _whole_numbers(name, "sizes", fields.get("sizes", ""))
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
        voxels, offset = _detached_file(path, named), 0
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
    lines = iter(_text_lines(stream))
    if not re.fullmatch(rb"NRRD000[1-5]", next(lines, b"")):
        raise ImageError(f"'{file}' must be an NRRD file, but its content is of no known type. Export it again.")
    for line in lines:
        if line.startswith(b"#"):
            continue
        text = line.decode("utf-8", "replace")
        if not text.strip():
            return fields, stream.tell()
        key, colon, value = text.partition(":")
        if value.startswith("="):
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
    lines, skipped = (_whole_numbers(file, key, fields.get(key, "0"), 1)[0] for key in ("line skip", "byte skip"))
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
    stated = fields.get("space units", "")
    units = re.findall(r'"([^"]*)"', stated) if re.fullmatch(r'(\s*"[^"]*")*\s*', stated) else [stated]
    if any(unit.lower() not in _MILLIMETERS for unit in units):
        raise misplaced(file, "have spacings in mm", f"has them in {', '.join(units):.40}")
    for key in _NRRD_OTHER_GRID:
        if any(word.lower() not in ("nan", '""', "???") for word in fields.get(key, "").split()):
            raise misplaced(file, "state its grid by space directions alone", f"also states '{key}'", "Save it again")
    signs = np.array(_NRRD_SPACES[space], dtype=np.float64)
    stated = fields.get("space directions", "")
    vectors = re.findall(_NRRD_VECTOR, stated)
    if not re.fullmatch(rf"(\s*({_NRRD_VECTOR}))*\s*", stated):
        raise misplaced(file, "state its space directions as '(x,y,z)' for each axis", f"has '{stated:.60}'")
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
    return _grid_of_space(size, spacing, origin.tolist(), direction)


def _nrrd_vector(file: str, key: str, text: str) -> tuple[float, ...]:
    inner = text.strip().removeprefix("(").removesuffix(")")
    words = [word.strip() for word in inner.split(",")] if text.strip() == f"({inner})" else [text]
    return _finite_numbers(file, key, words, 3)


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
    axes = _whole_numbers(name, "NDims", fields["NDims"], 1)[0]
    size = _whole_numbers(name, "DimSize", fields["DimSize"])
    if len(size) != axes:
        raise damaged(name, f"it states {axes!s:.20} dimensions and {len(size)} sizes")
    components = _whole_numbers(name, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"), 1)[0]
    kind = fields["ElementType"].removesuffix("_ARRAY")
    if kind not in _META_TYPES or not 1 <= components <= limits().axis:
        raise ImageError(
            f"'{name}' must hold whole or floating-point numbers, but its type is '{kind:.40}' with {components} "
            "values a voxel. Convert it."
        )
    scale = [
        fields.get(f"ElementToIntensityFunction{part}", usual) for part, usual in (("Slope", "1"), ("Offset", "0"))
    ]
    if _finite_numbers(name, "ElementToIntensityFunction", scale, 2) != (1.0, 0.0):
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
    voxels = path if is_local else _detached_file(path, data)
    skipped = 0 if is_local else _whole_numbers(name, "HeaderSize", fields.get("HeaderSize", "0"), 1)[0]
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
    for line in _text_lines(stream):
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
    if (unit := fields.get("DistanceUnits", "mm")).lower() not in (*_MILLIMETERS, "?", "none"):
        raise misplaced(file, "have spacings in mm (DistanceUnits)", f"has them in '{unit:.40}'")
    if "ElementSize" in fields:  # how large elements are, which older programs write instead of how far apart
        fields.setdefault("ElementSpacing", fields["ElementSize"])
    for key, what in (
        ("ElementSpacing", "a spacing along each axis"),
        ("TransformMatrix", "its orientation (TransformMatrix)"),
        ("Offset", "its position (Offset)"),
    ):
        if key not in fields:
            raise misplaced(file, f"state {what}", "states none")
    spacing = _finite_numbers(file, "ElementSpacing", fields["ElementSpacing"].split(), count)
    origin = _finite_numbers(file, "Offset", fields["Offset"].split(), count)
    matrix = np.reshape(
        _finite_numbers(file, "TransformMatrix", fields["TransformMatrix"].split(), count**2), (count,) * 2
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
    return _grid_of_space(size, spacing[:3], origin[:3], direction)


def _text_lines(stream: BinaryIO) -> Iterable[bytes]:
    """Lines without their ends, up to the limit of a header; one that lacks its end, as the last may, is truncated.

    Not the name of the file of voxels, after which nothing follows.
    """
    left = limits().header_bytes
    while line := stream.readline(left + 1):
        left -= len(line)
        if left < 0 or not (line.endswith(b"\n") or line.startswith(b"ElementDataFile")):
            return
        yield line.rstrip(b"\r\n")


def _whole_numbers(file: str, key: str, text: str, count: int | None = None) -> tuple[int, ...]:
    words = text.split()
    if (
        not words
        or len(words) != (count or len(words))
        or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in words)
    ):
        raise damaged(file, f"'{key}' must be whole numbers and is '{text:.60}'")
    return tuple(map(int, words))


def _finite_numbers(file: str, key: str, words: Sequence[str], count: int) -> tuple[float, ...]:
    try:
        # Python takes 1_0 and digits of other scripts as numbers too.
        numbers = tuple(float(word) for word in words if word.isascii() and "_" not in word)
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(n) and abs(n) <= MAX_MM for n in numbers):
        raise misplaced(
            file, f"state {count} finite numbers as '{key}'", f"has '{' '.join(words):.60}'", "Fix its header"
        )
    return numbers


def _detached_file(path: Path, name: str) -> Path:
    """The file of voxels that a header names: a regular one in the same folder.

    Raises:
        ImageError: The name leads elsewhere, to several files, or to none.
    """
    beside = path.parent / name
    if (
        not name
        or Path(name).name != name
        or re.search(r"[\\/:%\0\r\n]", name)
        or name in (".", "..")
        or len(name) > MAX_NAME
        or name == "LIST"
        or name.startswith("LIST ")
    ):
        raise ImageError(
            f"'{path.name}' must name one file of voxels in its own folder, but names "
            f"'{plain_text(name):.60}'. Save both as one."
        )
    if not beside.is_file() or beside.resolve().parent != path.parent.resolve():
        raise ImageError(
            f"'{path.name}' must have its voxels in '{plain_text(name):.60}' beside it, but has no such file "
            "of its own there. Copy both, or save it as one file."
        )
    return beside


def _grid_of_space(
    size: tuple[int, ...], spacing: Sequence[float], origin: Sequence[float], direction: np.ndarray
) -> Grid:
    """A grid of three axes, with a fourth that is no space where the image has one."""
    count = len(size)
    whole = np.eye(count)
    whole[:3, :3] = direction
    more = count - 3
    return Grid(size, (*spacing, *[1.0] * more), (*origin, *[0.0] * more), tuple(map(float, whole.ravel())))
