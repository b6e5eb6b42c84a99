"""What was done to a case to make it a network's input, and the way back to the grid it was scanned on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .volume import Geometry, IntTriple, Volume
from .windows import covered_box


@dataclass(frozen=True)
class ZScore:
    """Mean and standard deviation that a channel was normalized by."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, voxels: np.ndarray) -> ZScore:
        """Of the given voxels (population standard deviation); of a constant, deviation 1."""
        values = np.asarray(voxels, np.float64)
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def apply(self, array: np.ndarray) -> np.ndarray:
        return ((np.asarray(array, np.float64) - self.mean) / self.std).astype(np.float32)

    def undo(self, array: np.ndarray) -> np.ndarray:
        return (np.asarray(array, np.float64) * self.std + self.mean).astype(np.float32)


@dataclass(frozen=True)
class Prepared:
    """A network's input and the record of where it lies.

    Attributes:
        array: Channels on the whole network grid (C, D, H, W), float32, normalized.
        geometry: The network grid.
        reference: Grid of the reference sequence as it was scanned; results come back here.
        starts: First voxel (z, y, x) of each window; may lie outside the grid, where padding is.
        patch: Voxels (D, H, W) of a window.
        scales: How each channel was normalized.
        centered_on: `gland`, `region of interest`, `image`, or `whole volume`.
    """

    array: np.ndarray
    geometry: Geometry
    reference: Geometry
    starts: tuple[IntTriple, ...]
    patch: IntTriple
    scales: tuple[ZScore, ...]
    centered_on: str

    @property
    def box(self) -> tuple[IntTriple, IntTriple]:
        """First voxel (z, y, x) and size (D, H, W) of what the windows cover of the grid."""
        return covered_box(self.geometry.shape, self.starts, self.patch)

    @property
    def region(self) -> Geometry:
        """The grid that the network's output lies on: the windows' box."""
        (z, y, x), (depth, height, width) = self.box
        return self.geometry.crop((x, y, z), (width, height, depth))


def to_reference(
    array: np.ndarray, prepared: Prepared, name: str, *, fill: float = 0.0, target: Geometry | None = None
) -> Volume:
    """An output of the network (D, H, W) on the grid of the reference sequence, linearly.

    Args:
        array: Values on `prepared.region`.
        prepared: The record of where that lies.
        name: What to call the volume.
        fill: Value outside of what the network saw.
        target: Another grid to come back to.
    """
    target = prepared.reference if target is None else target
    region = prepared.region
    if not region.equals(target):
        array, region = _continued(array, prepared)
    return Volume(array.astype(np.float32, copy=False), region, name).resample_to(target, fill=fill)


def is_cut(marked: Volume, prepared: Prepared) -> bool:
    """Whether what is marked reaches a face of the network's window behind which the field of view goes on.

    Args:
        marked: Non-zero where something is marked, any grid.
        prepared: The record of the window.
    """
    voxels = np.argwhere(marked.array > 0)
    if len(voxels) == 0:
        return False
    index = prepared.region.to_index(marked.geometry.to_world(voxels[:, ::-1]))[:, ::-1]  # (N, 3) in (z, y, x)
    start, size = (np.asarray(part) for part in prepared.box)
    goes_on_before, goes_on_after = start > 0, start + size < prepared.geometry.shape
    first, last = index.min(axis=0) < 1, index.max(axis=0) > size - 2
    return bool((goes_on_before & first).any() or (goes_on_after & last).any())


def _continued(array: np.ndarray, prepared: Prepared) -> tuple[np.ndarray, Geometry]:
    """The values and their grid, one voxel larger where the field of view ends.

    The reference's outermost voxels may lie up to half a network voxel beyond the network's; they belong to
    the field of view and must not become background. Inside the field of view nothing is added.
    """
    start, size = prepared.box
    before = [int(s == 0) for s in start]
    after = [int(s + n == whole) for s, n, whole in zip(start, size, prepared.geometry.shape, strict=True)]
    padded = np.pad(array, list(zip(before, after, strict=True)), mode="edge")
    z, y, x = (s - b for s, b in zip(start, before, strict=True))
    depth, height, width = padded.shape
    return padded, prepared.geometry.crop((x, y, z), (width, height, depth))
