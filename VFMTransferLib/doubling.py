"""Twice the in-plane matrix: the grid that super-resolution fills."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .volume import Geometry

_SUPERIOR = 2


def slice_axis(geometry: Geometry) -> int:
    """The index axis (0, 1 or 2 for x, y, z) that runs nearest to Superior: from slice to slice of an axial image."""
    return int(np.abs(np.reshape(geometry.direction, (3, 3))[_SUPERIOR]).argmax())


def doubled_in_plane(geometry: Geometry) -> Geometry:
    """The same field of view and slices with twice the voxels in plane, each half as wide.

    Each old voxel is cut in four, so that its center lies between theirs, whichever way the axes run.
    """
    through = slice_axis(geometry)
    fx, fy, fz = (1 if axis == through else 2 for axis in range(3))
    (nx, ny, nz), (sx, sy, sz) = geometry.size, geometry.spacing_mm
    first = np.array([-0.25 if f == 2 else 0.0 for f in (fx, fy, fz)])
    x, y, z = (float(v) for v in geometry.to_world(first))
    return replace(
        geometry, size=(nx * fx, ny * fy, nz * fz), spacing_mm=(sx / fx, sy / fy, sz / fz), origin_mm=(x, y, z)
    )
