"""Half and twice the in-plane matrix by k-space: the pair that super-resolution learns from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.fft import dctn, idctn

from ...core.volume import Geometry, Volume
from ...phantom import truncate_k_space
from ..base import slice_axis

_HALF = 0.5


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


def halved_in_plane(t2w: Volume) -> tuple[Volume, Volume]:
    """The T2w with half its matrix by truncated k-space, and the T2w that it should become again.

    The two cover the same field of view: an odd row or column is left out.

    Returns:
        Coarse and fine, axes nearest to L, P, S; `doubled_in_plane` of the coarse grid is the fine grid.
    """
    turned = t2w.to_nearest_lps()
    nx, ny, nz = (n - n % 2 if axis < 2 else n for axis, n in enumerate(turned.geometry.size))
    grid = turned.geometry.crop((0, 0, 0), (nx, ny, nz))
    fine = Volume(np.ascontiguousarray(turned.array[:, :ny, :nx], np.float32), grid, "t2w")
    coarse = np.maximum(truncate_k_space(fine.array, _HALF, crop=True).real, 0).astype(np.float32)
    sx, sy, sz = grid.spacing_mm
    x, y, z = (float(v) for v in grid.to_world((0.5, 0.5, 0.0)))
    halved = Geometry((nx // 2, ny // 2, nz), (2 * sx, 2 * sy, sz), (x, y, z), grid.direction)
    assert doubled_in_plane(halved).equals(grid)
    return Volume(coarse, halved, "t2w"), fine
