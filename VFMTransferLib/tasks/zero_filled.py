"""Twice the in-plane matrix: the grid that super-resolution fills, and the image that it starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.fft import dctn, idctn

from ..core.volume import Geometry, Volume

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


def zero_filled(volume: Volume) -> Volume:
    """The volume on `doubled_in_plane`, its spectrum filled up with zeros: sinc interpolation, as scanners do.

    Where the acquisition truncated k-space, this is the image that holds what was measured, and nothing else. The
    spectrum is that of the image mirrored at its edges (cosine transform), since the field of view of a prostate scan
    cuts through the body: repeated as it is, its left edge would ring into the right one.
    """
    grid = doubled_in_plane(volume.geometry)
    axes = [2 - axis for axis in range(3) if axis != slice_axis(volume.geometry)]
    # Cosine transforms sample half a voxel off the edge, which is where both grids lie.
    filled = np.zeros(grid.shape, np.float32)
    spectrum = dctn(volume.array.astype(np.float32, copy=False), axes=axes, norm="ortho")
    filled[tuple(slice(n) for n in volume.geometry.shape)] = spectrum
    array = 2 * idctn(filled, axes=axes, norm="ortho")
    return Volume(np.ascontiguousarray(array, np.float32), grid, volume.name)
