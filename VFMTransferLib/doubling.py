"""Twice the in-plane matrix: the grid that super-resolution fills, and the image on it before any network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from .volume import Geometry, Volume

_SUPERIOR = 2


def slice_axis(geometry: Geometry) -> int:
    """The index axis (0, 1 or 2 for x, y, z) that runs nearest to Superior: from slice to slice of an axial image."""
    return int(np.abs(np.reshape(geometry.direction, (3, 3))[_SUPERIOR]).argmax())


def doubled_in_plane(geometry: Geometry) -> Geometry:
    """The same origin and slices with twice the voxels in plane, each half as wide.

    The old voxel centers are voxel centers again, as where k-space is filled with zeros to twice its width.
    """
    through = slice_axis(geometry)
    fx, fy, fz = (1 if axis == through else 2 for axis in range(3))
    (nx, ny, nz), (sx, sy, sz) = geometry.size, geometry.spacing_mm
    return replace(geometry, size=(nx * fx, ny * fy, nz * fz), spacing_mm=(sx / fx, sy / fy, sz / fz))


def interpolated(volume: Volume, geometry: Geometry) -> Volume:
    """An image on a finer grid by cubic B-splines, as a network gets it; it keeps sharper edges than linear does.

    Voxels up to half a voxel beyond the last center, which ITK would count as outside, continue the last one.
    """
    continued = sitk.ZeroFluxNeumannPad(sitk.Cast(volume.to_sitk(), sitk.sitkFloat32), [1] * 3, [1] * 3)
    image = sitk.Resample(continued, geometry.image(), sitk.Transform(), sitk.sitkBSpline, 0.0, sitk.sitkFloat32)
    return Volume(sitk.GetArrayFromImage(image), geometry, volume.name)
