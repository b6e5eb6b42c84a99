"""T2w with twice its in-plane matrix: detail is added to what zero-filled k-space interpolation gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import dctn, idctn

from ...core.case import Case
from ...core.errors import DatasetError
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, IntTriple, Triple, Volume
from ...phantom import truncate_k_space
from ..base import LabeledCase, cut_volume, slice_axis, square_around
from ..image_to_image import ImageTask

if TYPE_CHECKING:
    from ...phantom import Phantom

SUPER_RESOLVED = "t2w-super-resolved"
_HALF = 0.5


class SuperResolution(ImageTask):
    """Truth: the T2w itself; the network sees it with half its matrix, by truncated k-space."""

    id = "super-resolution"
    title = "Super-resolution"
    short_title = "super-resolution"
    network_title = "super-resolution of T2w"
    sequences = (MRSequence.T2W,)
    outputs = (SUPER_RESOLVED,)
    baseline = "zero-filled"
    decoded_note = "The network adds detail to the T2w interpolated by zero-filled k-space."
    works_within_slices = True
    grid_words = "doubled in plane"

    def network_grid(self, seen: Geometry, spacing_mm: Triple) -> Geometry:
        """The T2w's own matrix doubled in plane, whatever its spacing is."""
        doubled = doubled_in_plane(seen)
        return doubled.with_spacing((*doubled.spacing_mm[:2], spacing_mm[2]))

    def place(self, volume: Volume, grid: Geometry) -> Volume:
        """By zero-filled k-space within the slices, then linearly from slice to slice."""
        return zero_filled(volume.to_nearest_lps()).resample_to(grid)

    def phantom_options(self) -> dict[str, Any]:
        return {**super().phantom_options(), "full_resolution": True}

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        if phantom.t2w_full_resolution is None:
            raise DatasetError("A phantom for super-resolution must be made with full_resolution=True.")
        # The pair is made as a scan's is, so that both are one task.
        return self._halved(self.labeled(phantom.case, gland=phantom.gland), phantom.t2w_full_resolution)

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        return self._halved(self.labeled(case, gland=gland, is_phantom=False), case[MRSequence.T2W])

    def _halved(self, labeled: LabeledCase, t2w: Volume) -> LabeledCase:
        coarse, fine = halved_in_plane(t2w)
        seen = replace(labeled.case, volumes={MRSequence.T2W: coarse})
        return replace(labeled, case=seen, images={SUPER_RESOLVED: fine})

    def cut_image(self, image: Volume, seen: Geometry, center_mm: np.ndarray, width_mm: float) -> Volume:
        """Two fine voxels for each coarse one in plane, whatever the rounding of the square."""
        factors = _in_plane_factors(image.geometry)
        start, size = (np.multiply(part, factors) for part in square_around(seen, center_mm, width_mm))
        return cut_volume(image, tuple(start.tolist()), tuple(size.tolist()))

    def plain_image(self, image: Volume, grid: Geometry) -> Volume:
        if grid.equals(doubled_in_plane(image.geometry)):
            return zero_filled(image)
        return super().plain_image(image, grid)

    def start_image(self, case: Case) -> Volume:
        return zero_filled(case[MRSequence.T2W])


def _in_plane_factors(geometry: Geometry) -> IntTriple:
    x, y, z = (1 if axis == slice_axis(geometry) else 2 for axis in range(3))
    return x, y, z


def doubled_in_plane(geometry: Geometry) -> Geometry:
    """The same field of view and slices with twice the voxels in plane, each half as wide.

    Each old voxel is cut in four, so that its center lies between theirs, whichever way the axes run.
    """
    return geometry.refined(_in_plane_factors(geometry))


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

    Axes are nearest to L, P, S. Both cover the same field of view, without an odd row or column: `doubled_in_plane` of
    the coarse grid is the fine grid.
    """
    turned = t2w.to_nearest_lps()
    nx, ny, nz = (n - n % 2 if axis < 2 else n for axis, n in enumerate(turned.geometry.size))
    grid = turned.geometry.crop((0, 0, 0), (nx, ny, nz))
    fine = Volume(np.ascontiguousarray(turned.array[:, :ny, :nx], np.float32), grid, "t2w")
    coarse = np.maximum(truncate_k_space(fine.array, _HALF, crop=True).real, 0).astype(np.float32)
    sx, sy, sz = grid.spacing_mm
    origin = tuple(grid.to_world((0.5, 0.5, 0.0)).tolist())
    halved = Geometry((nx // 2, ny // 2, nz), (2 * sx, 2 * sy, sz), origin, grid.direction)
    assert doubled_in_plane(halved).equals(grid)
    return Volume(coarse, halved, "t2w"), fine


TASK = SuperResolution()
