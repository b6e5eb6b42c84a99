"""DICOM slices to one volume, in the order of their positions, with every gap checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, ImageError
from ..volume import Geometry, Volume, itk_warnings_silenced
from .headers import Header

ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
SAME_POSITION_MM = 0.01
GAP_TOLERANCE = 0.02  # of the gap; positions are written with rounding
SHEAR_TOLERANCE_MM = 0.1


def stack_slices(headers: Sequence[Header], name: str, label: str) -> Volume:
    """Read slices as a volume that runs along their normal.

    Args:
        headers: The slices, in any order.
        name: The volume's name.
        label: What to call the series in messages.

    Returns:
        float32, rescaled as the header says.

    Raises:
        GeometryError: One slice, mixed sizes, spacings or orientations, two slices at one position,
            missing slices, uneven gaps, slices that shift sideways.
        ImageError: A slice's pixels cannot be read.
    """
    _require_one_grid(headers, label)
    normal = headers[0].normal
    ordered = sorted(headers, key=lambda h: float(np.dot(h.position_mm, normal)))
    gap = _even_gap_mm(ordered, label)
    first = ordered[0]
    columns = np.column_stack([first.orientation[:3], first.orientation[3:], normal])
    x, y = first.size
    geometry = Geometry(
        size=(x, y, len(ordered)),
        spacing_mm=(*map(float, first.spacing_mm), gap),  # type: ignore[arg-type]
        origin_mm=tuple(map(float, first.position_mm)),  # type: ignore[arg-type]
        direction=tuple(map(float, columns.ravel())),
    )
    return Volume(_read_pixels(ordered, label), geometry, name)


def _require_one_grid(headers: Sequence[Header], label: str) -> None:
    first = headers[0]
    if len(headers) < 2:
        raise GeometryError(f"{label} must be a volume, but has a single slice. Select the whole series.")
    for header in headers[1:]:
        same = (
            header.size == first.size
            and np.allclose(header.spacing_mm, first.spacing_mm, atol=SPACING_TOLERANCE_MM)
            and np.allclose(header.orientation, first.orientation, atol=ORIENTATION_TOLERANCE)
        )
        if not same:
            raise GeometryError(
                f"{label} must have slices of one size, spacing and orientation, but mixes several. "
                "Split the series, or select another one."
            )


def _even_gap_mm(ordered: Sequence[Header], label: str) -> float:
    """Distance between neighboring slices.

    Raises:
        GeometryError: It is not the same everywhere.
    """
    positions = np.array([h.position_mm for h in ordered])
    along = positions @ ordered[0].normal
    gaps = np.diff(along)
    if gaps.min() < SAME_POSITION_MM:
        count = int((gaps < SAME_POSITION_MM).sum())
        raise GeometryError(
            f"{label} must have one slice at each position, but positions repeat: {count} (acquisitions, echoes or "
            "directions). Split the series, or select another one."
        )
    gap = float(np.median(gaps))
    uneven = np.abs(gaps - gap) > GAP_TOLERANCE * gap
    if uneven.any():
        missing = int((np.round(gaps[uneven] / gap) - 1).sum())
        found = f"slices are missing: {missing}" if missing > 0 else f"gaps are {gaps.min():.2f}..{gaps.max():.2f} mm"
        raise GeometryError(f"{label} must have even gaps between slices, but {found}. Export the whole series again.")
    sideways = positions - positions[0] - np.outer(along - along[0], ordered[0].normal)
    if np.abs(sideways).max() > SHEAR_TOLERANCE_MM:
        raise GeometryError(f"{label} must have slices above each other, but they shift sideways. Resample it first.")
    return float((along[-1] - along[0]) / (len(ordered) - 1))


def _read_pixels(ordered: Sequence[Header], label: str) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(h.path) for h in ordered])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # rescale slopes may differ from slice to slice
    try:
        with itk_warnings_silenced():
            return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        raise ImageError(f"{label} cannot be read: a slice is damaged or compressed in an unknown way.") from None
