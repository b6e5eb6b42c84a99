"""Where a network's input lies in a case: normalization, windows, a region of interest, and the way back.

Windows are counted in voxels in array order (z, y, x). A start may be negative and a window may reach past the end:
that part is padding, zeros on the way in and dropped on the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy import ndimage

from .case import Case
from .errors import ImageError
from .notes import Note
from .terms import Label
from .volume import Geometry, IntTriple, Triple, Volume, marked_voxels

GAUSSIAN_SIGMA = 0.125
SMALLEST_WEIGHT = 1e-3
REFERENCE_NOTE = Note("roi-reference", "The reference counts inside the region of interest only.")
RESTORED_NOTE = Note(
    "roi-unused", "The region of interest changes nothing here, since this network restores the whole image."
)
RIM_NOTE = Note("roi-rim", "The region of interest is larger than what the network sees; look at its rim yourself.")


@dataclass(frozen=True)
class ZScore:
    """Mean and (population) standard deviation that a channel was normalized by; of a constant, deviation 1."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, voxels: np.ndarray) -> ZScore:
        values = np.asarray(voxels, np.float64)
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def apply(self, array: np.ndarray) -> np.ndarray:
        return ((np.asarray(array, np.float64) - self.mean) / self.std).astype(np.float32)

    def undo(self, array: np.ndarray) -> np.ndarray:
        return (np.asarray(array, np.float64) * self.std + self.mean).astype(np.float32)


@dataclass(frozen=True)
class NetworkInput:
    """A network's input and the record of where it lies.

    Attributes:
        array: Channels on the whole network grid (C, D, H, W), float32, normalized by `scales`.
        geometry: The network grid.
        reference: Grid of the reference sequence as it was scanned; results come back here.
        starts: First voxel (z, y, x) of each window of `patch` (D, H, W); may lie outside the grid, where padding is.
        centered_on: `gland`, `region of interest`, `image`, or `whole volume`.
        limit: The voxels of the grid that are asked for; None for all that the windows cover.
        notes: On how the windows were chosen.
    """

    array: np.ndarray
    geometry: Geometry
    reference: Geometry
    starts: tuple[IntTriple, ...]
    patch: IntTriple
    scales: tuple[ZScore, ...]
    centered_on: str
    limit: Bounds | None = None
    notes: tuple[Note, ...] = ()

    @property
    def box(self) -> tuple[IntTriple, IntTriple]:
        """First voxel (z, y, x) and size (D, H, W) of what the output covers of the grid."""
        start, size = covered_box(self.geometry.shape, self.starts, self.patch)
        return (start, size) if self.limit is None else self.limit.within(start, size)

    @property
    def region(self) -> Geometry:
        """The grid that the network's output lies on: the windows' box."""
        (z, y, x), (depth, height, width) = self.box
        return self.geometry.crop((x, y, z), (width, height, depth))

    def center_mm(self, start: IntTriple) -> Triple:
        """Center of the window from `start`, LPS."""
        x, y, z = self.geometry.to_world(np.add(start, np.subtract(self.patch, 1) / 2)[::-1]).tolist()
        return (x, y, z)


def to_reference(
    array: np.ndarray, prepared: NetworkInput, name: str, *, fill: float = 0.0, target: Geometry | None = None
) -> Volume:
    """An output (D, H, W) on `prepared.region`, linearly on the grid of the reference sequence or of `target`.

    Outside of what the network saw is `fill`. The grid's outermost voxels may lie up to half a network voxel beyond the
    network's: they belong to the field of view, so that where it ends the output is continued by one voxel.
    """
    target = prepared.reference if target is None else target
    region = prepared.region
    if not region.equals(target):
        start, size = prepared.box
        before = [int(s == 0) for s in start]
        after = [int(s + n == whole) for s, n, whole in zip(start, size, prepared.geometry.shape, strict=True)]
        array = np.pad(array, list(zip(before, after, strict=True)), mode="edge")
        z, y, x = (s - b for s, b in zip(start, before, strict=True))
        depth, height, width = array.shape
        region = prepared.geometry.crop((x, y, z), (width, height, depth))
    return Volume(array.astype(np.float32, copy=False), region, name).resample_to(target, fill=fill)


def is_cut(marked: Volume, prepared: NetworkInput) -> bool:
    """Whether what is marked, on any grid, reaches a face of the network's window behind which the image goes on."""
    voxels = marked_voxels(marked.array > 0)
    if len(voxels) == 0:
        return False
    index = prepared.region.to_index(marked.geometry.to_world(voxels[:, ::-1]))[:, ::-1]  # (N, 3) in (z, y, x)
    start, size = (np.asarray(part) for part in prepared.box)
    goes_on_before, goes_on_after = start > 0, start + size < prepared.geometry.shape
    first, last = index.min(axis=0) < 1, index.max(axis=0) > size - 2
    return bool((goes_on_before & first).any() or (goes_on_after & last).any())


def centered_start(size: IntTriple, patch: IntTriple, center: tuple[float, float, float] | None = None) -> IntTriple:
    """First voxel of one window of `patch` voxels, around `center`, a continuous index, but inside where it fits.

    Without `center` this is the published crop: size // 2 - patch // 2. Along an axis shorter than the patch half of
    the padding comes before.
    """
    middle = [n // 2 for n in size] if center is None else [round(c) for c in center]
    start = [
        min(max(m - p // 2, 0), n - p) if n >= p else -((p - n) // 2)
        for n, p, m in zip(size, patch, middle, strict=True)
    ]
    return (start[0], start[1], start[2])


def shifted_starts(start: IntTriple, shift: int) -> tuple[IntTriple, ...]:
    """First voxels of four windows around one, moved along the in-plane diagonals; of that one alone without shift."""
    z, y, x = start
    return tuple((z, y + dy, x + dx) for dy, dx in product((-shift, shift), repeat=2)) if shift else (start,)


def window_starts(size: IntTriple, patch: IntTriple, overlap: float) -> tuple[IntTriple, ...]:
    """First voxels of the windows that together cover the volume, z slowest.

    Neighbors overlap by at least `overlap` of the patch; the last window ends where the volume ends.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"Overlap must be at least 0 and below 1, got {overlap}.")
    axes = []
    for n, p in zip(size, patch, strict=True):
        step = max(int(p * (1 - overlap)), 1)
        axes.append([*range(0, n - p, step), n - p] if n > p else [-((p - n) // 2)])
    return tuple(product(*axes))  # type: ignore[arg-type]


def cut(array: np.ndarray, start: IntTriple, patch: IntTriple) -> np.ndarray:
    """One window (C, *patch) of an array (C, D, H, W), zero where it reaches outside."""
    in_volume, in_window = _overlap(array.shape[1:], start, patch)
    if all(s.stop - s.start == p for s, p in zip(in_volume, patch, strict=True)):
        return np.ascontiguousarray(array[:, *in_volume])
    window = np.zeros((array.shape[0], *patch), array.dtype)
    window[:, *in_window] = array[:, *in_volume]
    return window


def gaussian_weight(patch: IntTriple) -> np.ndarray:
    """Weight of a window's voxels (*patch), largest in the middle, so that seams between windows fade."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (GAUSSIAN_SIGMA * n)) ** 2) for n in patch]
    weight = np.einsum("i,j,k->ijk", *axes)
    return np.maximum(weight, SMALLEST_WEIGHT).astype(np.float32)


def most_severe(logits: np.ndarray) -> int:
    """Of a classifier's windows the one with the highest expected class; logits (N, C), classes in order of severity.

    Ours: a cancer lies in few slices of a prostate, whose mean says little about it.
    """
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials @ np.arange(logits.shape[1]) / exponentials.sum(axis=1)
    return int(expected.argmax())


class Blend:
    """The mean of overlapping windows' outputs over the box of `size` voxels from `start`, by `weight` (*patch)."""

    def __init__(self, start: IntTriple, size: IntTriple, weight: np.ndarray) -> None:
        self.start = start
        self.weight = weight
        self.total = np.zeros(size, np.float32)
        self.sum: np.ndarray | None = None

    def add(self, window: np.ndarray, start: IntTriple) -> None:
        """Add a window's output (C, *patch) whose first voxel is `start` in the volume."""
        if self.sum is None:
            self.sum = np.zeros((window.shape[0], *self.total.shape), np.float32)
        relative = (start[0] - self.start[0], start[1] - self.start[1], start[2] - self.start[2])
        in_volume, in_window = _overlap(self.total.shape, relative, self.weight.shape)
        weight = self.weight[in_window]
        self.sum[:, *in_volume] += window[:, *in_window] * weight
        self.total[in_volume] += weight

    def mean(self) -> np.ndarray:
        """The outputs (C, *size); zero where no window was."""
        if self.sum is None:
            raise ValueError("At least one window must be added before its mean is asked for.")
        return self.sum / np.where(self.total > 0, self.total, 1)


def covered_box(size: IntTriple, starts: tuple[IntTriple, ...], patch: IntTriple) -> tuple[IntTriple, IntTriple]:
    """First voxel and size of the box of the volume that the windows cover, padding left out."""
    first = np.maximum(np.min(starts, axis=0), 0)
    end = np.minimum(np.max(starts, axis=0) + np.asarray(patch), size)
    z, y, x = (int(v) for v in first)
    depth, height, width = (int(v) for v in end - first)
    return (z, y, x), (depth, height, width)


def _overlap(
    size: tuple[int, ...], start: tuple[int, ...], patch: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the volume where a window meets it, and the same voxels' slices of the window."""
    first = [max(s, 0) for s in start]
    end = [max(min(s + p, n), f) for s, p, n, f in zip(start, patch, size, first, strict=True)]
    in_volume = tuple(slice(f, e) for f, e in zip(first, end, strict=True))
    in_window = tuple(slice(f - s, e - s) for f, e, s in zip(first, end, start, strict=True))
    return in_volume, in_window


@dataclass(frozen=True)
class Bounds:
    """The box of a grid's voxels that a region of interest reaches: first and last (z, y, x), both inside."""

    first: np.ndarray
    last: np.ndarray

    @classmethod
    def from_mask(cls, roi: Volume, grid: Geometry) -> Bounds:
        """Of a mask on any grid, as far as it lies inside `grid`; ImageError where it is empty or outside."""
        voxels = marked_voxels(roi.array > 0)
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

    def widened(self, voxels: Sequence[float], shape: IntTriple) -> Bounds:
        """Larger by so many voxels (z, y, x) on each side, rounded up, within a grid of `shape`."""
        more = np.ceil(np.asarray(voxels)).astype(int)
        return Bounds(np.maximum(self.first - more, 0), np.minimum(self.last + more, np.asarray(shape) - 1))

    def within(self, start: IntTriple, size: IntTriple) -> tuple[IntTriple, IntTriple]:
        """What it shares with a box: first voxel and size; of no voxels where they do not meet."""
        first = np.maximum(self.first, start)
        end = np.maximum(np.minimum(self.last + 1, np.add(start, size)), first)
        (z, y, x), (depth, height, width) = (map(int, first)), (map(int, end - first))
        return (z, y, x), (depth, height, width)

    def meets(self, start: IntTriple, size: IntTriple) -> bool:
        """Whether it shares voxels with a box, given by its first voxel and its size."""
        return 0 not in self.within(start, size)[1]

    def exceeds(self, box: tuple[IntTriple, IntTriple]) -> bool:
        """Whether part of it lies outside a box, given by its first voxel and its size."""
        start, size = (np.asarray(part) for part in box)
        return bool((self.first < start).any() or (self.last >= start + size).any())


def confine(probabilities: dict[str, Volume], roi: Volume) -> dict[str, Volume]:
    """Label name → probability, all on one grid, with nothing but background outside the region."""
    inside = _inside(roi, next(iter(probabilities.values())).geometry)
    return {
        name: volume.with_array(np.where(inside, volume.array, np.float32(name == Label.BACKGROUND)))
        for name, volume in probabilities.items()
    }


def within_roi(case: Case, reference: Volume) -> tuple[Case, Volume]:
    """A case, whose notes state it, and its truth with 0 outside its region of interest, where nothing is marked."""
    if case.roi is None:
        return case, reference
    inside = _inside(case.roi, reference.geometry)
    confined = reference.with_array(np.where(inside, reference.array, reference.array.dtype.type(0)))
    return replace(case, notes=(*case.notes, REFERENCE_NOTE)), confined


def confined_note(roi: Volume) -> Note:
    return Note("roi-confined", f"Nothing was marked outside the region of interest ({roi.volume_ml:.1f} ml).")


def _inside(roi: Volume, grid: Geometry) -> np.ndarray:
    """The voxels of a grid (D, H, W) in the region; of a part too thin to hold any, those nearest to its own."""
    parts, count = ndimage.label(roi.array > 0, structure=np.ones((3, 3, 3)))
    placed = roi.with_array(parts.astype(np.int32)).resample_to(grid, "nearest").array
    inside = placed > 0
    is_lost = np.bincount(placed[inside], minlength=count + 1) == 0
    is_lost[0] = False
    if is_lost.any():
        voxels = marked_voxels(is_lost[parts])[:, ::-1]  # (N, 3) in (x, y, z)
        corner, *axes = grid.to_index(roi.geometry.to_world(np.eye(4, 3, -1)))
        half = np.abs(np.subtract(axes, corner)).sum(axis=0) / 2  # of a voxel of the region, along the grid's axes
        index = grid.to_index(roi.geometry.to_world(voxels))
        nearest = np.clip(np.rint(index).astype(int), 0, np.subtract(grid.size, 1))
        reached = (np.abs(index - nearest) <= half + 0.5).all(axis=1)  # not of a region that lies beside the grid
        inside[tuple(nearest[reached].T[::-1])] = True
    return inside
