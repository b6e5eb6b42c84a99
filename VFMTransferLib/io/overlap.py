"""Whether the images of one study lie in one space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import GeometryError
from ..terms import Sequence
from ..volume import Geometry, Volume

MIN_OVERLAP = 0.1
_SAMPLES = 12


def require_one_space(volumes: Mapping[Sequence, Volume], gland: Volume | None) -> None:
    """Raise unless the fields of view overlap, and the gland lies in the first image's.

    Raises:
        GeometryError: They do not; the message names the pair.
    """
    images = list(volumes.items())
    reference_name, reference = images[0]
    for name, volume in images[1:]:
        shared = max(
            share_inside(volume.geometry, reference.geometry), share_inside(reference.geometry, volume.geometry)
        )
        if shared < MIN_OVERLAP:
            raise GeometryError(
                f"{name} must show the same region as {reference_name}, but their fields of view share "
                f"{100 * shared:.0f} % (centers {_distance_mm(volume, reference):.0f} mm apart). "
                "Select images of one study."
            )
    if gland is not None and not _mask_reaches(gland, reference.geometry):
        raise GeometryError(
            f"The gland mask must lie within {reference_name}, but lies outside. Select this study's mask."
        )


def share_inside(inner: Geometry, outer: Geometry) -> float:
    """Fraction of a field of view that lies within another, by a coarse grid of points."""
    steps = [(np.arange(_SAMPLES) + 0.5) / _SAMPLES * n - 0.5 for n in inner.size]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
    return float(_is_inside(outer, inner.to_world(points)).mean())


def _mask_reaches(mask: Volume, geometry: Geometry) -> bool:
    """Whether the middle of the mask's voxels lies in a field of view."""
    z, y, x = (np.median(indices) for indices in np.nonzero(mask.array))
    return bool(_is_inside(geometry, mask.geometry.to_world((x, y, z))))


def _is_inside(geometry: Geometry, points_mm: np.ndarray) -> np.ndarray:
    index = geometry.to_index(points_mm)
    return np.all((index >= -0.5) & (index <= np.asarray(geometry.size) - 0.5), axis=-1)


def _distance_mm(a: Volume, b: Volume) -> float:
    return float(np.linalg.norm(a.geometry.center_mm - b.geometry.center_mm))
