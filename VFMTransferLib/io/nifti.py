"""NIfTI files by nibabel. Its header is believed only where its spacings and its two orientations agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging import Logger
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.imageglobals import logger as nibabel_log

from ..core.errors import GeometryError, ImageError
from ..core.volume import Geometry
from .grids import ImageArray, damaged, grid_of, misplaced, read_whole, require_size, several_values, truncated

SPACING_TOLERANCE = 0.01  # of the spacing, between two fields that state it
FORMS_TOLERANCE_MM = 0.5  # between the positions that qform and sform give to one voxel
_UNITS_MM = {1: 1e3, 3: 1e-3}  # meters and micrometers; all else is millimeters
_NIFTI2_LENGTHS = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def read_nifti(path: Path) -> ImageArray:
    """Read a NIfTI-1 or NIfTI-2 file, compressed or not; errors as `images.read_image`."""
    file, content = path.name, read_whole(path)
    kind = nibabel.Nifti2Image if content[:4] in _NIFTI2_LENGTHS else nibabel.Nifti1Image
    with _silenced(nibabel_log):
        try:
            image = kind.from_bytes(content)
            header = image.header
            size, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
            slope, intercept = image.dataobj.slope, image.dataobj.inter
        except Exception as error:  # nibabel raises errors of many kinds
            raise damaged(file, "it has no valid NIfTI header, or is truncated") from error
        if len(size) == 5 and size[3] == 1 and size[4] > 1:  # NIfTI's way to store vectors
            raise several_values(file, size[4])
        while len(size) > 3 and size[-1] == 1:
            size = size[:-1]
        if dtype.names or dtype.kind == "c":
            raise several_values(file, len(dtype.names or "ab"))
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise ImageError(f"'{file}' holds {dtype}, no whole or floating-point numbers. Convert it.")
        require_size(file, size, dtype.itemsize)
        geometry = _grid(file, header, size)
        try:
            stored = np.asarray(image.dataobj.get_unscaled()).reshape(size, order="F").T
        except (OSError, ValueError, EOFError) as error:
            raise truncated(file) from error
    return ImageArray(_scaled(stored, slope, intercept), geometry)


@contextmanager
def _silenced(logger: Logger) -> Iterator[None]:
    """Without the lines that a library writes about a damaged header, which the error here describes."""
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def _scaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Values in the machine's byte order; scaled ones in single precision unless doubles were stored."""
    values = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
    if (slope, intercept) == (1.0, 0.0):
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        scaled = values * np.float64(slope) + np.float64(intercept)
        return scaled if values.dtype == np.float64 else scaled.astype(np.float32)


def _grid(file: str, header: Any, size: tuple[int, ...]) -> Geometry:
    """The grid; GeometryError unless spacing and orientation are stated, and one wherever they are stated."""
    has_q, has_s = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    if not has_q and not has_s:
        raise misplaced(file, "states no orientation (qform and sform are both unset)")
    pixdim = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))
    if not (np.isfinite(pixdim).all() and pixdim.min() > 0):
        raise misplaced(file, f"has no spacing along each axis ({' x '.join(f'{p:g}' for p in pixdim)} mm)")
    try:
        q_affine = header.get_qform() if has_q else header.get_sform()
    except Exception as error:  # a quaternion that is none
        raise misplaced(file, "states no orientation (its quaternion is none)") from error
    affine = header.get_sform() if has_s else q_affine
    unit = _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    geometry = grid_of(file, size, affine[:3, :3] * _RAS_TO_LPS[:, None] * unit, affine[:3, 3] * _RAS_TO_LPS * unit)
    if np.abs(np.array(geometry.spacing_mm) / (pixdim * unit) - 1).max() > SPACING_TOLERANCE:
        raise misplaced(file, "states two spacings, by pixdim and by its sform")
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in size[:3]], [1], indexing="ij"), -1).reshape(-1, 4)
    apart_mm = np.linalg.norm(corners @ (q_affine - affine)[:3].T, axis=1).max() * unit
    if not apart_mm <= FORMS_TOLERANCE_MM:
        raise GeometryError(
            f"'{file}' states two positions: its qform and its sform lie {apart_mm:.1f} mm apart. Set both alike, or "
            "convert it from DICOM again."
        )
    x_mm, y_mm, z_mm = (pixdim * unit).tolist()  # which are not rounded as the lengths of the axes are
    return replace(geometry, spacing_mm=(x_mm, y_mm, z_mm))
