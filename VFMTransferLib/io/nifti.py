"""Headers of NIfTI-1 and NIfTI-2 files (https://nifti.nimh.nih.gov), read strictly."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from ..core.errors import GeometryError, ImageError
from ..core.files import open_regular, temporary_folder, writing
from ..core.volume import itk_warnings_silenced
from .headers import (
    FORMS_TOLERANCE_MM,
    GZIP,
    GZIP_MAGIC,
    QUATERNION_TOLERANCE,
    SPACING_TOLERANCE,
    Grid,
    ImageHeader,
    axis_lengths,
    damaged,
    is_spacing,
    limits,
    misplaced,
    require_position,
    truncated,
    within_limits,
)
from .voxels import inflated_blocks


@dataclass(frozen=True)
class _NiftiLayout:
    """Field → (offset, format) in a header of some bytes."""

    length: int
    fields: dict[str, tuple[int, str]]
    magic: tuple[int, bytes]


_NIFTI_LAYOUTS = (
    _NiftiLayout(
        348,
        {
            "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"),
            "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"),
            "xyzt_units": (123, "B"), "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "6f"),
            "srow": (280, "12f"),
        },
        (344, b"n+1\0"),
    ),
    _NiftiLayout(
        540,
        {
            "sizeof_hdr": (0, "i"), "dim": (16, "8q"), "datatype": (12, "h"), "bitpix": (14, "h"),
            "pixdim": (104, "8d"), "vox_offset": (168, "q"), "scl_slope": (176, "d"), "scl_inter": (184, "d"),
            "xyzt_units": (500, "i"), "qform_code": (344, "i"), "sform_code": (348, "i"), "quatern": (352, "6d"),
            "srow": (400, "12d"),
        },
        (4, b"n+2\0\r\n\x1a\n"),
    ),
)  # fmt: skip
_NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
# Types of several numbers a voxel: numbers, and the type of each.
_NIFTI_COMPOUNDS = {32: (2, "f4"), 1792: (2, "f8"), 128: (3, "u1"), 2304: (4, "u1")}
_NIFTI_EXTENSION_BYTES = 4
_NOTHING = 1e-30
_MAX_CODE = 32767  # of a form; NIfTI-2 has more room than NIfTI-1
_UNITS_MM = {1: 1e3, 3: 1e-3}  # meters and micrometers; all else is millimeters


def read_nifti(path: Path) -> ImageHeader:
    """The checked header of a NIfTI file, compressed or not; errors as `images.read_header`."""
    name, longest = path.name, max(layout.length for layout in _NIFTI_LAYOUTS)
    with open_regular(path) as stream:
        is_compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        content = _first_inflated(stream, longest, name) if is_compressed else stream.read(longest)
    order, layout = _nifti_layout(name, content)
    fields: dict[str, tuple] = {
        field: struct.unpack_from(order + code, content, at) for field, (at, code) in layout.fields.items()
    }
    dim = fields["dim"]
    if not 1 <= dim[0] <= 7:
        raise damaged(name, f"its number of dimensions is {dim[0]}")
    size = list(dim[1 : dim[0] + 1])
    components = 1
    if len(size) == 5 and size[3] == 1 and size[4] > 1:  # NIfTI's way to store vectors
        components, size = size[4], size[:3]
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    (datatype,), (bits,) = fields["datatype"], fields["bitpix"]
    count, code = _NIFTI_COMPOUNDS.get(datatype, (1, _NIFTI_TYPES.get(datatype, "")))
    if not code:
        raise ImageError(
            f"'{name}' must hold whole or floating-point numbers, but its data type is {datatype}. Convert it."
        )
    dtype = np.dtype(order + code)
    if bits != 8 * dtype.itemsize * count:
        raise damaged(name, f"its data type takes {8 * dtype.itemsize * count} bits, and it states {bits}")
    (offset,) = fields["vox_offset"]
    first = layout.length + _NIFTI_EXTENSION_BYTES
    if not (math.isfinite(offset) and offset == int(offset) and first <= offset <= first + limits().header_bytes):
        raise damaged(name, f"its voxels begin at byte {offset:g}, where {first} is the first possible")
    slope, intercept = _nifti_scale(name, fields)
    header = ImageHeader(
        file=name,
        size=tuple(size),
        components=components * count,
        dtype=dtype,
        voxels=path,
        offset=int(offset),
        encoding="gzip" if is_compressed else "raw",
        slope=slope,
        intercept=intercept,
    )
    header = within_limits(header)
    if header.components > 1:
        return header
    _require_nifti_space(name, fields, header.size)
    (has_q,), (has_s,), (units,) = fields["qform_code"], fields["sform_code"], fields["xyzt_units"]
    fields |= {"scl_slope": (1,), "scl_inter": (0,), "xyzt_units": (units & 0xFF,)}
    fields |= {"qform_code": (min(max(has_q, 0), _MAX_CODE),), "sform_code": (min(max(has_s, 0), _MAX_CODE),)}
    for field, is_used in (("quatern", has_q > 0), ("srow", has_s > 0)):
        # Numbers that are next to nothing keep ITK's decomposition of the matrix from ending well.
        fields[field] = tuple(n if is_used and abs(n) > _NOTHING else 0.0 for n in fields[field])
    used = dim[0] + 1  # what lies beyond may be anything
    fields["dim"] = (*dim[:used], *[1] * (8 - used))
    fields["pixdim"] = (
        -1 if fields["pixdim"][0] < 0 else 1,
        *(p if i < 4 or is_spacing(p) else 1 for i, p in enumerate(fields["pixdim"][1:], 1)),
    )
    return replace(header, grid=_nifti_grid(name, fields, header.size))


def _nifti_layout(file: str, content: bytes) -> tuple[str, _NiftiLayout]:
    """Byte order and layout of a header."""
    for layout in _NIFTI_LAYOUTS:
        at, magic = layout.magic
        for order in "<>":
            if content[:4] == struct.pack(order + "i", layout.length) and len(content) >= layout.length:
                if content[at : at + len(magic)] == magic:
                    return order, layout
                if content[at : at + 3] in (b"ni1", b"ni2"):
                    raise ImageError(
                        f"'{file}' must hold its voxels itself, but they lie in an .img file. Convert it to one file."
                    )
    if len(content) < _NIFTI_LAYOUTS[0].length:
        raise truncated(file)
    raise ImageError(f"'{file}' must be a NIfTI file, but its content is of no known type. Export it again.")


def _nifti_scale(file: str, fields: dict[str, tuple]) -> tuple[float, float]:
    """Slope and intercept; NaN is none, and a slope of 0 is 1, as ITK has it."""
    (slope,), (intercept,) = fields["scl_slope"], fields["scl_inter"]
    if math.isinf(slope) or math.isinf(intercept):
        raise damaged(file, f"its scale is {slope:g} and {intercept:g}")
    slope, intercept = (0.0 if math.isnan(value) else float(value) for value in (slope, intercept))
    return slope or 1.0, intercept


def _require_nifti_space(file: str, fields: dict[str, tuple], size: Sequence[int]) -> None:
    """Raise GeometryError unless spacing and orientation are stated, possible, and one wherever they are stated."""
    (has_q,), (has_s,) = fields["qform_code"], fields["sform_code"]
    if has_q <= 0 and has_s <= 0:
        raise misplaced(file, "state its orientation", "qform and sform are both unset")
    pixdim = np.array(fields["pixdim"][1:4], dtype=np.float64)
    if not all(is_spacing(p) for p in pixdim):
        words = " x ".join(f"{p:g}" for p in pixdim)
        raise GeometryError(f"'{file}' must have a spacing along each axis, but has {words} mm. Fix its header.")
    affines = []
    if has_q > 0:
        b, c, d, *shift = map(float, fields["quatern"])
        require_position(file, np.array(shift))
        norm = b * b + c * c + d * d
        if not norm <= 1 + QUATERNION_TOLERANCE:
            raise misplaced(file, "state its orientation", "its quaternion is none")
        affines.append(_quaternion_affine(b, c, d, shift, pixdim, fields["pixdim"][0] < 0))
    if has_s > 0:
        affine = np.reshape(np.array(fields["srow"], dtype=np.float64), (3, 4))
        lengths = axis_lengths(file, affine[:, :3])
        require_position(file, affine[:, 3])
        if np.abs(lengths / pixdim - 1).max() > SPACING_TOLERANCE:
            found, other = (" x ".join(f"{v:.4g}" for v in some) for some in (pixdim, lengths))
            raise misplaced(file, "have one spacing", f"pixdim states {found} and its sform {other} mm")
        affines.append(affine)
    if len(affines) == 2:
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in size[:3]], [1], indexing="ij"), -1).reshape(-1, 4)
        unit = _UNITS_MM.get(fields["xyzt_units"][0] & 7, 1.0)
        apart_mm = np.linalg.norm(corners @ (affines[0] - affines[1]).T, axis=1).max() * unit
        if apart_mm > FORMS_TOLERANCE_MM:
            found = f"its qform and its sform lie {apart_mm:.1f} mm apart"
            raise misplaced(file, "have one position in space", found, "Set both alike, or convert it from DICOM again")


def _quaternion_affine(
    b: float, c: float, d: float, shift: Sequence[float], pixdim: np.ndarray, is_left_handed: bool
) -> np.ndarray:
    """The (3, 4) affine of NIfTI's method 2."""
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    length = math.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = a / length, b / length, c / length, d / length
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    return np.column_stack([rotation * pixdim * (1, 1, -1 if is_left_handed else 1), shift])


def _nifti_grid(file: str, fields: dict[str, tuple], size: tuple[int, ...]) -> Grid:
    """ITK's reading of checked fields, which alone are put into a NIfTI-1 header of our own making.

    ITK has its own rules on which of both forms counts and how it is rounded; results must not depend on ours.
    """
    layout = _NIFTI_LAYOUTS[0]
    fields |= {"sizeof_hdr": (layout.length,), "vox_offset": (layout.length + _NIFTI_EXTENSION_BYTES,)}
    clean = bytearray(layout.length + _NIFTI_EXTENSION_BYTES)
    for field, (at, code) in layout.fields.items():
        struct.pack_into("<" + code, clean, at, *fields[field])
    at, magic = layout.magic
    clean[at : at + len(magic)] = magic
    with temporary_folder() as folder:
        copy = folder / "header.nii"
        with writing(copy):
            copy.write_bytes(clean)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(copy))
        try:
            with itk_warnings_silenced():
                reader.ReadImageInformation()
        except RuntimeError:
            raise misplaced(file, "have perpendicular axes", "its are sheared or missing", "Resample it") from None
    count = len(size)
    direction = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)[:count, :count]
    return Grid(size, reader.GetSpacing()[:count], reader.GetOrigin()[:count], tuple(map(float, direction.ravel())))


def _first_inflated(stream: BinaryIO, length: int, file: str) -> bytes:
    """The first bytes of a gzip stream, of which no more is inflated."""
    content = b""
    for block in inflated_blocks(stream, GZIP, file, length):
        content += block
        if len(content) >= length:
            break
    return content[:length]
