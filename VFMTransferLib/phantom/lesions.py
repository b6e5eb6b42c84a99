"""Cancer in the phantom: where, how large, which grade."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..terms import Label
from ..volume import ML_PER_MM3
from . import tissues
from .canvas import Canvas
from .gland import PaintedGland
from .shapes import Blob

SIGNIFICANT_GRADE = 2
_LARGE_MM = 15.0


@dataclass(frozen=True)
class Lesion:
    """One cancer.

    Attributes:
        zone: `Label.PERIPHERAL_ZONE` or `Label.TRANSITION_ZONE`; the lesion lies in it alone.
        isup_grade: ISUP grade group, 1..5.
        diameter_mm: Its longest axis.
        volume_ml: Its volume within the zone.
    """

    zone: Label
    isup_grade: int
    diameter_mm: float
    volume_ml: float

    @property
    def pirads(self) -> int:
        """The PI-RADS class a reader would give: 3 to 5 by grade, 5 from 15 mm."""
        if self.isup_grade < SIGNIFICANT_GRADE:
            return 3
        return 5 if self.diameter_mm >= _LARGE_MM else 4


def paint_lesions(
    canvas: Canvas, gland: PaintedGland, count: int, rng: np.random.Generator
) -> tuple[tuple[Lesion, ...], np.ndarray]:
    """Paint `count` lesions and say what they are.

    Returns:
        The lesions, and their grades over the gland's box (D, H, W), uint8.
    """
    grades = np.zeros(gland.gland_mm.shape, np.uint8)
    found = []
    for _ in range(count):
        lesion = _paint_lesion(canvas, gland, grades, rng)
        if lesion is not None:
            found.append(lesion)
    return tuple(found), grades


def draw_count(rng: np.random.Generator) -> int:
    """How many lesions a case has; many have none."""
    return int(rng.choice([0, 1, 2, 3], p=[0.4, 0.38, 0.16, 0.06]))


def _paint_lesion(canvas: Canvas, gland: PaintedGland, grades: np.ndarray, rng: np.random.Generator) -> Lesion | None:
    peripheral = rng.random() < 0.7
    zone = gland.peripheral if peripheral else gland.transition
    diameter = float(np.clip(rng.lognormal(np.log(12), 0.35), 6, 28))
    grade = int(rng.choice([1, 2, 3, 4, 5], p=[0.25, 0.32, 0.2, 0.12, 0.11]))
    turn = rng.uniform(-40, 40, 3)
    slender = rng.uniform(0.55, 1.0, 2)
    candidates = np.flatnonzero(zone & (grades == 0) & (gland.gland_mm < -2))
    if candidates.size == 0:
        return None
    at = np.unravel_index(int(candidates[rng.integers(candidates.size)]), zone.shape)
    x, y, z = canvas.coordinates(gland.box)
    half = diameter / 2 * np.array([1.0, *slender])
    blob = Blob((float(x[at]), float(y[at]), float(z[at])), tuple(half), tuple(turn))
    distance = blob.distance_of(x, y, z) + canvas.field(rng, 6.0, gland.box) * np.float32(0.10 * diameter / 2)
    inside = (distance < 0) & zone & (grades == 0)
    grades[inside] = grade
    blur_mm = np.float32(rng.uniform(1.0, 2.5))
    coverage = np.clip(0.5 - distance / blur_mm, 0, 1) * zone * np.float32(rng.uniform(0.75, 1.0))
    canvas.paint(tissues.cancer(grade), coverage, gland.box)
    volume = float(inside.sum() * np.prod(canvas.lattice.spacing_mm) * ML_PER_MM3)
    return Lesion(Label.PERIPHERAL_ZONE if peripheral else Label.TRANSITION_ZONE, grade, diameter, volume)
