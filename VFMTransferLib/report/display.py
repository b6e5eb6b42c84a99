"""The grid that a report shows: in-plane as fine as the results, cropped so that the page stays small."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..study.comparison import Comparison
from ..terms import Sequence
from ..volume import Geometry, IntTriple, Volume

MAX_VOXELS = 4_500_000
"""Voxels of all images on a page together: 4 to 6 MB as text, by how noisy they are."""
MIN_SIDE_PX = 64
MARGIN_MM = 10.0
"""Shown around what is marked, however many voxels that takes: a thin-sliced scan must not lose the gland's edge."""
FIRST_FIELD_MM = 110.0
"""Field of view that the page starts with; the whole window is a zoom away."""


@dataclass(frozen=True)
class Display:
    """A window of a grid; everything on the page lies on it.

    Attributes:
        base: The whole grid, axes nearest L, P, S.
        start: First voxel (x, y, z) of the window on `base`.
        geometry: The window as a grid.
        center: Voxel (x, y, z) of the window in the middle of what matters.
    """

    base: Geometry
    start: IntTriple
    geometry: Geometry
    center: IntTriple

    @property
    def is_cropped(self) -> bool:
        return self.geometry.size != self.base.size

    def image(self, volume: Volume) -> np.ndarray:
        """An image's voxels (D, H, W), interpolated linearly where it lies on another grid."""
        return self._voxels(volume, "linear")

    def labels(self, volume: Volume) -> np.ndarray:
        """A label map's voxels (D, H, W), nearest."""
        return self._voxels(volume, "nearest")

    def index_of(self, point_mm: tuple[float, ...] | np.ndarray) -> IntTriple:
        """Voxel (x, y, z) of the window that is nearest to a point (LPS)."""
        rounded = np.rint(self.geometry.to_index(point_mm)).astype(int)
        x, y, z = np.clip(rounded, 0, np.asarray(self.geometry.size) - 1)
        return (int(x), int(y), int(z))

    def _voxels(self, volume: Volume, interpolation: str) -> np.ndarray:
        volume = volume.to_nearest_lps()
        if volume.geometry.equals(self.base):  # cut, so that voxels stay what they are to the last bit
            x, y, z = (slice(s, s + n) for s, n in zip(self.start, self.geometry.size, strict=True))
            return volume.array[z, y, x]
        return volume.resample_to(self.geometry, interpolation).array


def display_of(comparison: Comparison, images: int) -> Display:
    """Choose the grid: T2w's, or the results' where they are finer in plane.

    Args:
        comparison: What is shown.
        images: Number of images on the page, which share `MAX_VOXELS`.
    """
    base = comparison.geometry
    if Sequence.T2W in comparison.case:
        t2w = comparison.case[Sequence.T2W].to_nearest_lps().geometry
        if np.prod(t2w.spacing_mm[:2]) < np.prod(base.spacing_mm[:2]) * 0.999:
            base = t2w
    low, high = _box_of_interest(comparison, base)
    center = (low + high) / 2
    shown_mm = np.minimum((high - low + 1) * base.spacing_mm + 2 * MARGIN_MM, FIRST_FIELD_MM)
    least = np.ceil(shown_mm / base.spacing_mm).astype(int)
    side = max(int(np.sqrt(MAX_VOXELS / max(images, 1) / base.size[2])), MIN_SIDE_PX)
    size = (min(base.size[0], max(side, int(least[0]))), min(base.size[1], max(side, int(least[1]))), base.size[2])
    x, y = (
        int(np.clip(round(c - n / 2), 0, whole - n)) for c, n, whole in zip(center, size, base.size[:2], strict=False)
    )
    middle = (round(center[0]) - x, round(center[1]) - y, round(center[2]))
    return Display(base, (x, y, 0), base.crop((x, y, 0), size), middle)


def _box_of_interest(comparison: Comparison, base: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """First and last index (x, y, z) on a grid of what A or B marks, or of the gland, or twice its middle."""
    marked = [result.labels for result in (comparison.a, comparison.b)]
    for volumes in (marked, [comparison.case.gland]):
        boxes = [_box(volume, base) for volume in volumes if volume is not None and volume.array.any()]
        if boxes:
            return np.min([low for low, _ in boxes], axis=0), np.max([high for _, high in boxes], axis=0)
    middle = base.to_index(comparison.geometry.center_mm)
    return middle, middle


def _box(volume: Volume, base: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """First and last index on a grid of a volume's non-zero voxels."""
    found = np.argwhere(volume.array)[:, ::-1]
    corners = np.array(list(product(*zip(found.min(axis=0), found.max(axis=0), strict=True))))
    indices = base.to_index(volume.geometry.to_world(corners))
    return indices.min(axis=0), indices.max(axis=0)
