"""A region of interest: the crop lies around it, and nothing outside of it is marked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from .case import Case
from .errors import ImageError
from .terms import Label
from .volume import Geometry, IntTriple, Volume

REFERENCE_NOTE = "The reference counts inside the region of interest only."
RESTORED_NOTE = "The region of interest changes nothing here, since this network restores the whole image."
RIM_NOTE = "The region of interest is larger than what the network sees; look at its rim yourself."


@dataclass(frozen=True)
class Bounds:
    """The box of a grid's voxels that a region of interest reaches.

    Attributes:
        first: Its first voxel (z, y, x).
        last: Its last voxel, inside too.
    """

    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, roi: Volume, grid: Geometry) -> Bounds:
        """Of a mask on any grid, as far as it lies inside `grid`.

        Raises:
            ImageError: The mask is empty, or lies outside.
        """
        voxels = np.argwhere(roi.array > 0)
        if len(voxels) == 0:
            raise ImageError("The region of interest must hold at least one voxel, but is empty. Draw it again.")
        # By the faces of its own voxels, so that a region thinner than the grid's spacing reaches a voxel too.
        faces = zip(voxels.min(axis=0)[::-1] - 0.5, voxels.max(axis=0)[::-1] + 0.5, strict=True)
        corners = np.array(list(product(*faces)))
        index = grid.to_index(roi.geometry.to_world(corners))[:, ::-1]
        first, last = np.ceil(index.min(axis=0) - 0.5), np.floor(index.max(axis=0) + 0.5)
        end = np.asarray(grid.shape) - 1
        if (last < 0).any() or (first > end).any():
            raise ImageError(
                "The region of interest must lie inside the images, but lies outside of them. Draw it on this case."
            )
        return cls(np.maximum(first, 0).astype(int), np.minimum(last, end).astype(int))

    @property
    def center(self) -> tuple[float, float, float]:
        """Its middle as a continuous index (z, y, x)."""
        z, y, x = (float(v) for v in (self.first + self.last) / 2)
        return (z, y, x)

    def touching(self, starts: tuple[IntTriple, ...], patch: IntTriple) -> tuple[IntTriple, ...]:
        """The windows that contribute inside the box, or one voxel beyond, from where results are interpolated."""
        low, high = self.first - 1, self.last + 1
        return tuple(s for s in starts if (np.add(s, patch) > low).all() and (np.asarray(s) <= high).all())

    def exceeds(self, box: tuple[IntTriple, IntTriple]) -> bool:
        """Whether part of it lies outside a box, given by its first voxel and its size."""
        start, size = (np.asarray(part) for part in box)
        return bool((self.first < start).any() or (self.last >= start + size).any())


def confine(probabilities: dict[str, Volume], roi: Volume) -> dict[str, Volume]:
    """Label name → probability, with nothing but background outside the region.

    Args:
        probabilities: On one grid.
        roi: Mask of the region, any grid.
    """
    inside = _inside(roi, next(iter(probabilities.values())).geometry)
    return {
        name: volume.with_array(np.where(inside, volume.array, np.float32(name == Label.BACKGROUND)))
        for name, volume in probabilities.items()
    }


def within_roi(case: Case, reference: Volume, roi: Volume) -> tuple[Case, Volume]:
    """A case and its truth within the region alone, so that no network is measured where it was not to mark.

    Args:
        case: The case.
        reference: A label map, any grid.
        roi: Mask of the region, any grid.

    Returns:
        The case, whose notes state so, and the label map with 0 outside the region.
    """
    inside = _inside(roi, reference.geometry)
    confined = reference.with_array(np.where(inside, reference.array, reference.array.dtype.type(0)))
    return replace(case, notes=(*case.notes, REFERENCE_NOTE)), confined


def confined_note(roi: Volume) -> str:
    return f"Nothing was marked outside the region of interest ({roi.volume_ml:.1f} ml)."


def _inside(roi: Volume, grid: Geometry) -> np.ndarray:
    return roi.resample_to(grid, "nearest").array > 0
