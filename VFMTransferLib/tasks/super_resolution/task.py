"""T2w with twice its in-plane matrix: detail is added to what zero-filled k-space interpolation gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.case import Case
from ...core.errors import DatasetError
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, IntTriple, Triple, Volume
from ..base import LabeledCase, cut_volume, slice_axis, square_around
from ..image_to_image import ImageTask
from .zero_filled import doubled_in_plane, halved_in_plane, zero_filled

if TYPE_CHECKING:
    from ...phantom import Phantom

SUPER_RESOLVED = "t2w-super-resolved"


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
        return replace(
            labeled, case=replace(labeled.case, volumes={MRSequence.T2W: coarse}), images={SUPER_RESOLVED: fine}
        )

    def cut_image(self, image: Volume, seen: Geometry, center_mm: np.ndarray, width_mm: float) -> Volume:
        """Two fine voxels for each coarse one in plane, whatever the rounding of the square."""
        start, size = square_around(seen, center_mm, width_mm)
        return cut_volume(image, _doubled(image, start), _doubled(image, size))

    def plain_image(self, image: Volume, grid: Geometry) -> Volume:
        if grid.equals(doubled_in_plane(image.geometry)):
            return zero_filled(image)
        return super().plain_image(image, grid)

    def start_image(self, case: Case) -> Volume:
        return zero_filled(case[MRSequence.T2W])


def _doubled(fine: Volume, counted: IntTriple) -> IntTriple:
    x, y, z = (n if axis == slice_axis(fine.geometry) else 2 * n for axis, n in enumerate(counted))
    return (x, y, z)


TASK = SuperResolution()
