"""The prostate: its shape, its zones, and its cancers (where, how large, which grade)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.terms import SIGNIFICANT_GRADE, Label
from ..core.volume import ML_PER_MM3, Triple
from . import tissues
from .canvas import Blob, Box, Canvas, Tube, ridges, rotation, smooth_union

VOLUME_RANGE_ML = (24.0, 130.0)  # leaves room for what the deformation changes within 20..150 ml
_MEDIAN_ML, _LOG_SD = 48.0, 0.55
_POSTERIOR_MM, _APEX_MM = 16.0, -22.0


@dataclass(frozen=True)
class Gland:
    """A prostate's half axes, middle and rotation (x, y, z), and the size of the transition zone's lobes against it."""

    half_mm: Triple
    center_mm: Triple
    turn_deg: Triple
    lobe_scale: float

    def own(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Body coordinates → the gland's own, in units of its half axes."""
        turn = rotation(*self.turn_deg).T.astype(np.float32)
        p = [v - np.float32(c) for v, c in zip((x, y, z), self.center_mm, strict=True)]
        u, v, w = (
            (row[0] * p[0] + row[1] * p[1] + row[2] * p[2]) * np.float32(1 / h)
            for row, h in zip(turn, self.half_mm, strict=True)
        )
        return u, v, w

    def distance_mm(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Signed distance to the capsule: a chestnut, narrower at apex and front, hollow behind at the midline."""
        apex = np.clip(-w, 0, 1.2)
        narrow = (1 - np.float32(0.26) * apex * apex) * (1 + np.float32(0.10) * np.clip(v, -1, 1))
        groove = np.float32(0.11) * np.exp(-((u / np.float32(0.4)) ** 2)) * np.clip(v, 0, 1)
        return self.ellipsoid_distance_mm(u / narrow, v * np.float32(0.97) + groove, w)

    def lobes_distance_mm(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Signed distance to the transition zone's lobes, which meet at the urethra."""
        s = self.lobe_scale
        half = (0.60 * s, 0.78 * s, 0.86 * s)
        right, left = (
            self.ellipsoid_distance_mm(u - np.float32(side * 0.30 * s), v + 0.20, w - 0.14, half) for side in (-1, 1)
        )
        return smooth_union(right, left, 6.0)

    def ellipsoid_distance_mm(
        self, u: np.ndarray, v: np.ndarray, w: np.ndarray, half: Triple = (1.0, 1.0, 1.0)
    ) -> np.ndarray:
        """Signed distance, to first order, to an ellipsoid with half axes in those of the gland."""
        u2, v2, w2 = ((x / h) ** 2 for x, h in zip((u, v, w), half, strict=True))
        a, b, c = (np.float32(1 / (h * g) ** 2) for h, g in zip(half, self.half_mm, strict=True))
        level = np.sqrt(u2 + v2 + w2)
        return (level - 1) * level / np.sqrt(u2 * a + v2 * b + w2 * c + np.float32(1e-9))

    def box(self, canvas: Canvas, margin_mm: float = 6.0) -> Box:
        """The canvas's points in and around the gland."""
        reach = np.abs(rotation(*self.turn_deg)) @ np.asarray(self.half_mm)
        box = canvas.box(np.asarray(self.center_mm), reach + margin_mm)
        if box is None:
            raise ValueError("The field of view must show the gland.")
        return box

    def surface_point(self, u: float, v: float, w: float, outward_mm: float = 0.0) -> np.ndarray:
        """Body coordinates of the surface in direction (u, v, w), in half axes; `outward_mm` beyond it."""
        direction = np.array([u, v, w]) / np.linalg.norm([u, v, w])
        own = direction * np.asarray(self.half_mm)
        own = own * (1 + outward_mm / np.linalg.norm(own))
        return rotation(*self.turn_deg) @ own + np.asarray(self.center_mm)


def draw_gland(rng: np.random.Generator, volume_ml: float | None = None) -> Gland:
    """A prostate of log-normal volume, or about the stated one; the larger, the more of it is transition zone
    (hyperplasia).
    """
    usual_ml = float(np.clip(_MEDIAN_ML * np.exp(rng.normal(0, _LOG_SD)), *VOLUME_RANGE_ML))
    volume_ml = usual_ml if volume_ml is None else volume_ml
    ratio = np.array([1.24, 0.92, 1.0]) * np.exp(rng.normal(0, 0.08, 3))
    share = float(np.clip(0.30 + 0.45 * (1 - np.exp(-(volume_ml - 20) / 45)) + rng.normal(0, 0.07), 0.22, 0.82))
    turn = (float(rng.uniform(-2, 22)), float(rng.normal(0, 3)), float(rng.normal(0, 4)))
    unit = Gland(tuple(ratio), (0.0, 0.0, 0.0), turn, 1.0)  # type: ignore[arg-type]
    u, v, w = np.meshgrid(*[np.linspace(-1.3, 1.3, 40, dtype=np.float32)] * 3, indexing="ij")
    inside = unit.distance_mm(u, v, w) < 0
    cells = inside.sum() * (2.6 / 39) ** 3 * np.prod(ratio)
    half = tuple(ratio * (volume_ml * 1000 / cells) ** (1 / 3))
    center = (float(rng.normal(0, 2)), _POSTERIOR_MM + float(rng.normal(0, 2)) - half[1], _APEX_MM + half[2])
    low, high = 0.3, 1.6
    for _ in range(12):  # the lobes' size at which they fill `share` of the gland
        middle = (low + high) / 2
        lobes = Gland(half, center, turn, middle).lobes_distance_mm(u, v, w) < 0
        low, high = (middle, high) if (lobes & inside).sum() < share * inside.sum() else (low, middle)
    return Gland(half, center, turn, (low + high) / 2)


@dataclass(frozen=True)
class PaintedGland:
    """The gland's box of a canvas, and over it signed distances to the capsule and to the tissue of the transition
    zone, which here includes central zone and anterior stroma and may reach beyond the capsule.
    """

    box: Box
    gland_mm: np.ndarray
    transition_mm: np.ndarray

    @property
    def peripheral_mm(self) -> np.ndarray:
        """Signed distance to the peripheral zone."""
        return np.maximum(self.gland_mm, -self.transition_mm)

    @property
    def peripheral(self) -> np.ndarray:
        """The points of the peripheral zone."""
        return self.peripheral_mm < 0


def paint_gland(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> PaintedGland:
    """Paint capsule, zones, nodules and urethra, without lesions."""
    box = gland.box(canvas)
    u, v, w = gland.own(*canvas.coordinates(box))
    outer = gland.distance_mm(u, v, w)
    lobes = gland.lobes_distance_mm(u, v, w)
    central = gland.ellipsoid_distance_mm(u, v - 0.48, w - 0.66, (0.42, 0.26, 0.42))  # cone around the ducts
    stroma = gland.ellipsoid_distance_mm(u, v + 0.92, w - 0.05, (0.50, 0.20, 0.85))  # apron in front
    whole = canvas.coverage(outer)
    # The peripheral zone: bright glands between dark septa, some of it hazy from inflammation or atrophy.
    brightness = float(np.clip(np.exp(rng.normal(-0.10, 0.28)), 0.52, 1.35))
    canvas.paint(tissues.PERIPHERAL_ZONE.scaled(brightness, brightness**0.3), whole, box)
    haze, amount = canvas.field(rng, 18.0, box), np.float32(rng.uniform(0.1, 0.6))
    canvas.paint(tissues.CENTRAL_ZONE, whole * np.clip(haze * 0.5 - 0.15, 0, 1) * amount, box)
    septa = ridges(canvas.field(rng, (14.0, 7.0, 7.0), box), 0.2)
    canvas.paint(tissues.CAPSULE, whole * septa * np.float32(rng.uniform(0.15, 0.5)), box)
    canvas.paint(tissues.CENTRAL_ZONE, whole * canvas.coverage(central) * 0.9, box)
    transition = whole * canvas.coverage(lobes)
    canvas.paint(tissues.TRANSITION_ZONE.scaled(*np.exp(rng.normal(0, 0.12, 2))), transition, box)
    _paint_nodules(canvas, gland, box, transition, rng)
    rim_mm = rng.uniform(0.5, 1.1)
    canvas.paint(tissues.CAPSULE, whole * _band(lobes, rim_mm) * rng.uniform(0.4, 0.9), box)
    canvas.paint(tissues.FIBROMUSCULAR, whole * np.clip(0.5 - stroma / 2.5, 0, 1) * 0.9, box)
    _paint_urethra(canvas, gland, whole, box, rng)
    canvas.paint(tissues.CAPSULE, _band(outer, rng.uniform(0.4, 0.8)) * rng.uniform(0.5, 0.9), box)
    return PaintedGland(box, outer, np.minimum(np.minimum(lobes, central), stroma))


def _band(distance_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """Coverage of a thin sheet around a surface."""
    return np.clip(1.2 - np.abs(distance_mm) / np.float32(width_mm), 0, 1)


def _paint_nodules(canvas: Canvas, gland: Gland, box: Box, zone: np.ndarray, rng: np.random.Generator) -> None:
    """Hyperplastic nodules: bright glandular, dark stromal, mixed; most with a dark rim."""
    lobe_ml = float(np.prod(np.asarray(gland.half_mm) * gland.lobe_scale * 0.78)) * 4.19e-3
    for _ in range(rng.poisson(3 + lobe_ml / 2.2)):
        side = rng.choice([-1, 1])
        spread = rng.normal(0, 1, 3) * (0.26, 0.34, 0.38)
        own = gland.lobe_scale * (spread + np.array([side * 0.32, 0, 0])) + np.array([0, -0.2, 0.14])
        center = rotation(*gland.turn_deg) @ (own * gland.half_mm) + gland.center_mm
        radius = float(np.clip(rng.lognormal(np.log(3.4), 0.5), 1.8, 0.42 * min(gland.half_mm)))
        half = radius * np.exp(rng.normal(0, 0.18, 3))
        nodule = Blob(tuple(center), tuple(half), tuple(rng.uniform(-40, 40, 3)))
        reach = nodule.box(canvas)
        if reach is None:
            continue
        inner: Any = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(reach, box, strict=True))
        if any(s.start >= s.stop for s in inner):
            continue
        inside = zone[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, box, strict=True))]
        distance = nodule.distance_of(*canvas.coordinates(inner))
        glandular = rng.random() < 0.5
        kind = tissues.GLANDULAR_NODULE if glandular else tissues.STROMAL_NODULE
        kind = kind.scaled(*np.exp(rng.normal(-0.15 if glandular else 0, 0.22, 2)))
        if rng.random() < 0.75:
            canvas.paint(tissues.CAPSULE, inside * canvas.coverage(distance) * np.float32(rng.uniform(0.5, 0.9)), inner)
            distance = distance + np.float32(rng.uniform(0.4, 0.9))
        canvas.paint(kind, inside * np.clip(0.5 - distance, 0, 1) * np.float32(rng.uniform(0.5, 0.95)), inner)


def _paint_urethra(canvas: Canvas, gland: Gland, whole: np.ndarray, box: Box, rng: np.random.Generator) -> None:
    """Muscular tube from bladder neck to apex, bright at the verumontanum, bent in its middle."""
    points = [(0, -0.45, 0.95), (0, 0.12, -0.1), (0, -0.02, -1.0)]
    path = [rotation(*gland.turn_deg) @ (np.array(p) * gland.half_mm) + gland.center_mm for p in points]
    radius = rng.uniform(2.4, 3.8)
    for start, end in pairwise(path):
        tube = Tube(tuple(start), tuple(end), (radius, radius))
        distance = tube.distance_of(*canvas.coordinates(box))
        canvas.paint(tissues.FIBROMUSCULAR, whole * canvas.coverage(distance) * 0.6, box)
        canvas.paint(tissues.SLOW_BLOOD, whole * canvas.coverage(distance + np.float32(radius * 0.7)) * 0.5, box)
    canvas.paint_shape(Blob(tuple(path[1]), (2.4, 1.8, 4.5)), ((0.0, tissues.GLANDULAR_NODULE),))


def paint_hemorrhage(canvas: Canvas, gland: PaintedGland, share: float, rng: np.random.Generator) -> None:
    """Paint blood of a biopsy into `share` of the peripheral zone: patches that fade, and tracks of the needle."""
    zone = gland.peripheral
    if share <= 0 or not zone.any():
        return
    field = canvas.field(rng, (16.0, 13.0, 13.0), gland.box) + canvas.field(rng, 6.0, gland.box) * np.float32(0.35)
    patch = np.clip((field - np.float32(np.quantile(field[zone], 1 - share))) * 2 + 0.5, 0, 1)
    tracks = ridges(canvas.field(rng, (9.0, 30.0, 9.0), gland.box), 0.12)  # the needle runs from back to front
    coverage = np.maximum(patch, tracks * patch.astype(bool)) * zone * np.float32(rng.uniform(0.65, 0.95))
    canvas.paint(tissues.HEMORRHAGE, coverage, gland.box)


_LARGE_MM = 15.0
LESION_MM, LESION_RANGE_MM = 12.0, (6.0, 40.0)  # median of the lesions' longest axis, and what it may be
LESIONS_IN_TRANSITION = 0.3  # as a probability
_SHORTEST_MM, _LONGEST_MM = 6.0, 28.0
_LONGEST_BY_MEDIAN = 1.5  # where that is more than `_LONGEST_MM`


@dataclass(frozen=True)
class Lesion:
    """One cancer of an ISUP grade group 1..5 within the peripheral or transition zone, with its longest axis."""

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
    canvas: Canvas,
    gland: PaintedGland,
    count: int | None,
    rng: np.random.Generator,
    median_mm: float = LESION_MM,
    in_transition: float = LESIONS_IN_TRANSITION,
) -> list[tuple[Lesion, np.ndarray]]:
    """Paint `count` lesions, by default a random number, as far as there is room. Each comes with the signed distance
    to it over the gland's box (D, H, W); of two that meet the former has the common part. `median_mm` is of their
    longest axis, `in_transition` the probability of that zone.
    """
    count = int(rng.choice([0, 1, 2, 3], p=[0.4, 0.38, 0.16, 0.06])) if count is None else count
    free = np.ones(gland.gland_mm.shape, bool)
    drawn = [_paint_lesion(canvas, gland, free, rng, median_mm, in_transition) for _ in range(count)]
    return [lesion for lesion in drawn if lesion is not None]


def _paint_lesion(
    canvas: Canvas,
    gland: PaintedGland,
    free: np.ndarray,
    rng: np.random.Generator,
    median_mm: float,
    in_transition: float,
) -> tuple[Lesion, np.ndarray] | None:
    """A lesion where `free` is true, which is false in it afterwards; None if there is no room."""
    peripheral = rng.random() < 1 - in_transition
    zone_mm = gland.peripheral_mm if peripheral else np.maximum(gland.gland_mm, gland.transition_mm)
    zone = zone_mm < 0
    longest_mm = max(_LONGEST_MM, _LONGEST_BY_MEDIAN * median_mm)
    diameter = float(np.clip(rng.lognormal(np.log(median_mm), 0.35), _SHORTEST_MM, longest_mm))
    grade = int(rng.choice([1, 2, 3, 4, 5], p=[0.25, 0.32, 0.2, 0.12, 0.11]))
    turn = rng.uniform(-40, 40, 3)
    slender = rng.uniform(0.55, 1.0, 2)
    candidates = np.flatnonzero(zone & free & (gland.gland_mm < -2))
    if candidates.size == 0:
        return None
    at = np.unravel_index(int(candidates[rng.integers(candidates.size)]), zone.shape)
    x, y, z = canvas.coordinates(gland.box)
    half = diameter / 2 * np.array([1.0, *slender])
    blob = Blob((float(x[at]), float(y[at]), float(z[at])), tuple(half), tuple(turn))
    distance = blob.distance_of(x, y, z) + canvas.field(rng, 6.0, gland.box) * np.float32(0.10 * diameter / 2)
    inside = (distance < 0) & zone & free
    free[inside] = False
    blur_mm = np.float32(rng.uniform(1.0, 2.5))
    coverage = np.clip(0.5 - distance / blur_mm, 0, 1) * zone * np.float32(rng.uniform(0.75, 1.0))
    canvas.paint(tissues.cancer(grade), coverage, gland.box)
    volume = float(inside.sum() * np.prod(canvas.lattice.spacing_mm) * ML_PER_MM3)
    label = Label.PERIPHERAL_ZONE if peripheral else Label.TRANSITION_ZONE
    return Lesion(label, grade, diameter, volume), np.maximum(distance, zone_mm)
