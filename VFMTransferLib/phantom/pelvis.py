"""The frame around the pelvic organs: fat, muscles, bones, large vessels, skin. Painted first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import tissues
from .canvas import EVERYWHERE, Canvas, ridges, smooth_field
from .shapes import Blob, Layers, Shape, Tube, Union, paint_layers

_BONE: Layers = ((0.0, tissues.CORTEX), (1.1, tissues.RED_MARROW))
_FATTY_BONE: Layers = ((0.0, tissues.CORTEX), (1.1, tissues.MARROW))
_HEAD: Layers = ((-1.9, tissues.CORTEX), (-1.0, tissues.SYNOVIA), (0.0, tissues.CORTEX), (1.0, tissues.MARROW))
_MUSCLE: Layers = ((-0.5, tissues.FASCIA), (0.0, tissues.MUSCLE))
_ARTERY: Layers = ((-0.8, tissues.FASCIA), (0.9, tissues.FLOWING_BLOOD))
_VEIN: Layers = ((-0.6, tissues.FASCIA), (0.5, tissues.VENOUS_BLOOD))
_CORD: Layers = ((0.0, tissues.FASCIA), (0.7, tissues.FAT))

# Left side of the body, mirrored for the right; in painting order.
_PAIRED: tuple[tuple[Shape, Layers], ...] = (
    (Blob((54, -56, -26), (34, 12, 30), (0, 0, 22)), _MUSCLE),  # pectineus
    (Blob((50, -24, -38), (46, 19, 27), (0, 12, 40)), _MUSCLE),  # obturator externus, adductors
    (Blob((92, 28, -34), (20, 34, 24), (0, 0, 12)), _MUSCLE),  # quadratus femoris, hamstrings
    (Blob((82, -50, 14), (19, 18, 70), (0, 0, 15)), _MUSCLE),  # iliopsoas
    (Blob((101, -68, 0), (20, 13, 70)), _MUSCLE),  # sartorius, rectus femoris
    (Blob((64, -74, 14), (9, 5, 40)), _MUSCLE),  # oblique muscles' lower end
    (
        Union(
            (
                Blob((73, -2, 14), (27, 40, 40), (0, 8, -3)),  # acetabulum
                Blob((60, 36, -14), (14, 18, 36), (8, 0, 12)),  # ischium
                Tube((16, -44, -12), (60, -32, 12), (12.5, 12.0)),  # superior ramus
                Tube((12, -40, -28), (52, 18, -48), (8.0, 7.5)),  # inferior ramus
                Blob((17.2, -47, -15), (15.5, 18, 20), (0, 0, -14), square=True),  # pubic body
            )
        ),
        _BONE,
    ),
    (Blob((86, -2, 10), (25.5, 25.5, 25.5)), _HEAD),  # femoral head
    (Blob((41, 2, 8), (9.0, 42, 46), (0, 6, -6), square=True), _MUSCLE),  # obturator internus, at the hip
    (Blob((40, 12, -27), (11.0, 46, 24), (0, 4, -24)), _MUSCLE),  # and below it
    (Tube((48, 46, 6), (90, 52, 16), (6.0, 7.0)), _MUSCLE),  # its tendon around the ischium
    (Blob((65, 87, -6), (51, 30, 90), (0, 0, 14), square=True), _MUSCLE),  # gluteus maximus
    (Tube((62, -60, -45), (57, -52, 55), (5.0, 6.0)), _ARTERY),  # femoral artery
    (Tube((50, -54, -45), (45, -46, 55), (6.0, 7.0)), _VEIN),  # femoral vein
    (Tube((68, -56, -45), (72, -60, -5), (3.0, 2.0)), _ARTERY),  # deep femoral artery
    (Blob((38, -80, -20), (10, 6, 34), (30, 0, 0)), _CORD),  # spermatic cord
)


@dataclass(frozen=True)
class Habitus:
    """How this body differs from the book's.

    Attributes:
        scale: Pelvis against the book's, along (x, y, z).
        fat_mm: Fat between rectus muscle and skin.
        bladder_half_mm: Half axes of the bladder.
        rectum_radius_mm: Outer radius in its ampulla.
        rectum_content: What fills it: `empty`, `gas`, `stool` or `gel`.
    """

    scale: tuple[float, float, float]
    fat_mm: float
    bladder_half_mm: tuple[float, float, float]
    rectum_radius_mm: float
    rectum_content: str


def draw_habitus(rng: np.random.Generator) -> Habitus:
    """A body at random."""
    fill = rng.uniform(0.6, 1.2)
    return Habitus(
        scale=tuple(np.exp(rng.normal(0, (0.05, 0.05, 0.06)))),
        fat_mm=float(rng.uniform(14, 42)),
        bladder_half_mm=tuple(np.minimum(np.array([37, 28, 32]) * fill * np.exp(rng.normal(0, 0.1, 3)), (37, 38, 50))),
        rectum_radius_mm=float(np.clip(rng.lognormal(np.log(16), 0.25), 10, 27)),
        rectum_content=str(rng.choice(["empty", "gas", "stool", "gel"], p=[0.3, 0.25, 0.4, 0.05])),
    )


def paint_pelvis(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """Paint fat, muscles and bones, back to front."""
    _paint_fat(canvas, rng)
    _paint_pairs(canvas, habitus, rng)
    _paint_muscle_fat(canvas, rng)
    _paint_midline(canvas, habitus, rng)


def _paint_fat(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fat is duller in places, and broken septa run through it, more in some bodies than in others."""
    shade = smooth_field(canvas.lattice, rng, 45.0) + smooth_field(canvas.lattice, rng, 16.0) * np.float32(0.6)
    canvas.maps[2] *= 1 + np.float32(rng.uniform(0.04, 0.11)) * shade
    for period_mm, width, most in (((20.0, 14.0, 9.0), 0.13, 0.6), ((10.0, 8.0, 5.0), 0.2, 0.35)):
        septa = ridges(smooth_field(canvas.lattice, rng, period_mm), width)
        septa *= np.clip(smooth_field(canvas.lattice, rng, (20.0, 11.0, 11.0)) * 1.2, 0, 1)
        canvas.paint(tissues.FASCIA, septa * np.float32(rng.uniform(0.2, 1) * most))


def _paint_pairs(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    for shape, layers in _PAIRED:
        common = _fitted(shape, habitus, rng)
        for side in (common, common.mirrored()):
            paint_layers(canvas, _asymmetric(side, rng), layers)


def _asymmetric(shape: Shape, rng: np.random.Generator) -> Shape:
    """One side's own deviation from the other."""
    return shape.jittered(rng, 1.0, 0.04, 2.0) if isinstance(shape, Blob) else shape


def _fitted(shape: Shape, habitus: Habitus, rng: np.random.Generator) -> Shape:
    """The shape in this body."""
    scale = np.asarray(habitus.scale)
    if isinstance(shape, Union):
        return Union(tuple(_fitted(part, habitus, rng) for part in shape.parts), shape.blend_mm)  # type: ignore[misc]
    if isinstance(shape, Blob):
        fitted = Blob(tuple(scale * shape.center), tuple(scale * shape.half), shape.turn_deg, shape.square)
        return fitted.jittered(rng, 1.5, 0.06, 3.0)
    start, end = (tuple(scale * point + rng.normal(0, 1.5, 3)) for point in (shape.start, shape.end))
    return Tube(start, end, shape.radii_mm)


def _paint_muscle_fat(canvas: Canvas, rng: np.random.Generator) -> None:
    """Streaks of fat along the fibers of whatever muscle there is, slanting away from the midline."""
    field = _slanted(canvas, smooth_field(canvas.lattice, rng, (12.0, 2.4, 10.0)), rng.uniform(0.2, 0.6))
    patchy = np.clip(smooth_field(canvas.lattice, rng, 25.0) * 0.5 + 0.6, 0.1, 1)
    t2 = canvas.variant(tissues.MUSCLE).t2_ms
    muscle = np.clip(1.5 - np.abs(canvas.maps[2] - t2) / 4, 0, 1)
    streaks = np.clip(field * 0.5 - 0.25, 0, 1) * patchy * muscle
    canvas.paint(tissues.FAT, streaks * np.float32(rng.uniform(0.15, 0.6)))


def _slanted(canvas: Canvas, field: np.ndarray, slope: float) -> np.ndarray:
    """A field sheared along y by `slope` times the distance from the midline."""
    away = np.abs(canvas.lattice.axis_mm(2)) * np.float32(slope / canvas.lattice.spacing_mm[1])
    rows, columns = np.arange(field.shape[1])[:, None], np.arange(field.shape[2])[None, :]
    whole = np.floor(away).astype(int)
    share = (away - whole).astype(np.float32)
    near, far = (field[:, (rows - whole - step) % field.shape[1], columns] for step in (0, 1))
    return near + share * (far - near)


def _paint_midline(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """Symphysis, rectus abdominis, coccyx, natal cleft."""
    sx, sy, sz = habitus.scale
    symphysis = Blob((0, -48 * sy, -16 * sz), (rng.uniform(2.2, 3.8), 16 * sy, 18 * sz))
    paint_layers(canvas, symphysis, ((-0.5, tissues.CORTEX), (1.2, tissues.CARTILAGE)))
    for side in (-1, 1):
        rectus = Blob((side * 17 * sx, -69 * sy, 28), (15.5 * sx, rng.uniform(4, 7), 38), (0, 0, side * 5), square=True)
        paint_layers(canvas, rectus.jittered(rng, 0.8, 0.05, 2), _MUSCLE)
    paint_layers(canvas, Blob((0, 78 * sy, 16), (8, 5, 24), (20, 0, 0)), _FATTY_BONE)
    paint_layers(canvas, Blob((0, 88 * sy, -18), (rng.uniform(1.2, 2.6), 26, 26)), ((0.0, tissues.SKIN),))


def paint_skin(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """The body's front: skin, a fascia in the fat, and air beyond. Painted last."""
    x, y, _ = canvas.coordinates(EVERYWHERE)
    sides = np.float32(rng.uniform(0.0008, 0.0024))
    depth = y + np.float32(72 * habitus.scale[1] + habitus.fat_mm) - sides * x * x
    scarpa = np.abs(depth - np.float32(habitus.fat_mm * rng.uniform(0.4, 0.6)))
    canvas.paint(tissues.FASCIA, np.clip(1 - scarpa / 0.7, 0, 1) * np.float32(rng.uniform(0.3, 0.8)))
    canvas.paint(tissues.SKIN, canvas.coverage(depth - 2))
    canvas.paint(tissues.AIR, canvas.coverage(depth))
