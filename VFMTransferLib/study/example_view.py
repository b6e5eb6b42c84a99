"""Which slice of a case is shown as an example, and its pixels: decided by the truth alone, so that arms share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from ..study_cases import StudyCase
from ..terms import Label, Sequence
from ..volume import Geometry, Volume

FIELD_MM = 80.0
MM_PER_PIXEL = 0.5
GRAYS = 40
"""Levels of a picture; fewer would show as steps, more would only keep a file's noise."""
_HALF = 0.5
_WINDOW_PERCENTILES = (1.0, 99.5)
_DIGITS = 3

Window = tuple[float, float]


@dataclass(frozen=True)
class View:
    """One slice around the prostate: columns run to the patient's left, rows to posterior.

    Attributes:
        geometry: The slice as a grid of the truth's own voxels.
        slice_number: Counted from 1 at the inferior end.
        slices: How many the truth has.
    """

    geometry: Geometry
    slice_number: int
    slices: int

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of pictures; their pixels are square, whatever the voxels are."""
        width_mm, height_mm, _ = self.geometry.extent_mm
        return round(width_mm / MM_PER_PIXEL), round(height_mm / MM_PER_PIXEL)

    def voxels(self, volume: Volume, interpolation: str = "linear") -> np.ndarray:
        """A volume's values in the slice (H, W), float32; those of the truth's own grid stay what they are."""
        placed = volume.to_nearest_lps().resample_to(self.geometry, interpolation)
        return placed.array[0].astype(np.float32)

    def grays(self, values: np.ndarray, window: Window) -> np.ndarray:
        """Values (H, W) as numbers of `GRAYS` gray levels, in a picture's pixels."""
        low, high = window
        share = np.clip((values - low) / (high - low), 0, 1)
        return np.rint(np.clip(self._enlarged(share), 0, 1) * (GRAYS - 1)).astype(np.uint8)

    def outline(self, mask: Volume, width_px: int) -> np.ndarray:
        """Border of a mask, inside of it, in a picture's pixels."""
        share = self.voxels(mask.with_array((mask.array > 0).astype(np.float32)))
        inside = self._enlarged(share, Image.Resampling.BILINEAR) > _HALF
        return np.asarray(inside & ~ndimage.binary_erosion(inside, iterations=width_px))

    def _enlarged(self, values: np.ndarray, how: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(values, np.float32))
        return np.asarray(image.resize(self.size_px, how))


def view_of(study: StudyCase) -> View:
    """The slice that holds most of what the task is about: csPCa where it is marked, else the prostate.

    Without either the middle one. Its center is the prostate's, so that it can be made out where a lesion lies.
    """
    base = _base(study).to_nearest_lps().geometry
    gland = _on(study.gland, base)
    lesion = _on(study.masks.get(Label.CSPCA), base)
    shown = next((mask for mask in (lesion, gland) if mask.any()), None)
    z = len(gland) // 2 if shown is None else int(shown.sum(axis=(1, 2)).argmax())
    around = next((mask[z] for mask in (gland, lesion) if mask[z].any()), np.ones(gland.shape[1:], bool))
    rows, columns = np.nonzero(around)
    x, nx = _cut((columns.min() + columns.max()) / 2, base.size[0], base.spacing_mm[0])
    y, ny = _cut((rows.min() + rows.max()) / 2, base.size[1], base.spacing_mm[1])
    return View(base.crop((x, y, z), (nx, ny, 1)), z + 1, base.size[2])


def window_of(values: np.ndarray) -> Window:
    """Values shown as black and white: nearly all of an image that is not empty lies between them."""
    shown = values[values != 0]
    low, high = (float(v) for v in np.percentile(shown if shown.size else values, _WINDOW_PERCENTILES))
    if not high > low:
        return low, low + 1.0
    digits = _DIGITS - 1 - math.floor(math.log10(high - low))  # so that the numbers below a picture are short
    return round(low, digits) + 0.0, round(high, digits)


def has_finding(study: StudyCase) -> bool:
    """Whether a case shows csPCa, where that is what its task is about."""
    return bool(study.is_significant) or study.category in ("PI-RADS 4", "PI-RADS 5")


def _base(study: StudyCase) -> Volume:
    """Whose voxels are shown: the true image's, or the T2w's."""
    return next(iter(study.images.values()), None) or study.case[Sequence.T2W]


def _on(mask: Volume | None, grid: Geometry) -> np.ndarray:
    if mask is None:
        return np.zeros(grid.shape, bool)
    return mask.to_nearest_lps().resample_to(grid, "nearest").array > 0


def _cut(center: float, count: int, spacing_mm: float) -> tuple[int, int]:
    """First index and number of voxels that show `FIELD_MM` around a center, inside of the image."""
    wanted = min(round(FIELD_MM / spacing_mm), count)
    return int(np.clip(round(center - (wanted - 1) / 2), 0, count - wanted)), wanted
