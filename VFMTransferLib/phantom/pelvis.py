"""What surrounds the prostate: fat, muscles, bones, bladder, rectum, vessels. Painted before the gland."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import tissues
from .canvas import EVERYWHERE, Box, Canvas, smooth_field
from .gland import Gland, ridges
from .shapes import Blob, Layers, Shape, Tube, paint_layers

_BONE: Layers = ((0.0, tissues.CORTEX), (1.6, tissues.RED_MARROW))
_FATTY_BONE: Layers = ((0.0, tissues.CORTEX), (1.3, tissues.MARROW))
_JOINT: Layers = ((0.0, tissues.CORTEX), (1.6, tissues.FLUID), (2.6, tissues.CARTILAGE), (4.0, tissues.MARROW))
_MUSCLE: Layers = ((0.0, tissues.MUSCLE),)
_ARTERY: Layers = ((0.0, tissues.FASCIA), (1.2, tissues.FLOWING_BLOOD))
_VEIN: Layers = ((0.0, tissues.FASCIA), (0.7, tissues.SLOW_BLOOD))

# Left side of the body, mirrored for the right; in painting order.
_PAIRED: tuple[tuple[Shape, Layers], ...] = (
    (Blob((52, -58, -22), (30, 11, 26), (0, 0, 22)), _MUSCLE),  # pectineus
    (Blob((48, -20, -34), (42, 15, 21), (0, 10, 42)), _MUSCLE),  # obturator externus, adductors
    (Blob((84, -52, 14), (17, 17, 60)), _MUSCLE),  # iliopsoas
    (Blob((100, -70, 0), (18, 12, 60)), _MUSCLE),  # sartorius, rectus femoris
    (Blob((72, 2, 12), (25, 44, 34), (0, 6, -4)), _BONE),  # acetabulum
    (Blob((62, 38, -10), (15, 17, 34), (8, 0, 0)), _FATTY_BONE),  # ischium
    (Tube((14, -46, -16), (60, -32, 10), (12.0, 11.0)), _BONE),  # superior ramus
    (Tube((12, -40, -26), (50, 14, -46), (8.0, 7.5)), _BONE),  # inferior ramus
    (Blob((17, -47, -15), (14.5, 14, 19), (0, 0, -28), square=True), _BONE),  # pubic body
    (Blob((92, -2, 10), (25.5, 25.5, 25.5)), _JOINT),  # femoral head
    (Blob((43, 6, 4), (6.0, 40, 34), (0, -6, -6)), _MUSCLE),  # obturator internus, at the hip
    (Blob((45, 14, -26), (7.0, 42, 20), (0, -10, -24)), _MUSCLE),  # and below it
    (Tube((47, 44, 4), (88, 52, 14), (6.0, 7.0)), _MUSCLE),  # its tendon around the ischium
    (Blob((66, 86, -6), (48, 27, 80), (0, 0, 14), square=True), _MUSCLE),  # gluteus maximus
    (Tube((60, -58, -40), (57, -52, 45), (5.5, 6.5)), _ARTERY),  # femoral artery
    (Tube((49, -52, -40), (46, -47, 45), (6.0, 6.5)), _VEIN),  # femoral vein
    (Blob((40, -82, -22), (11, 7, 30), (30, 0, 0)), ((0.0, tissues.FASCIA), (0.9, tissues.FAT))),  # spermatic cord
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
    fill = rng.uniform(0.55, 1.15)
    return Habitus(
        scale=tuple(np.exp(rng.normal(0, (0.05, 0.05, 0.06)))),
        fat_mm=float(rng.uniform(12, 38)),
        bladder_half_mm=tuple(np.array([36, 27, 30]) * fill * np.exp(rng.normal(0, 0.1, 3))),
        rectum_radius_mm=float(np.clip(rng.lognormal(np.log(16), 0.25), 10, 27)),
        rectum_content=str(rng.choice(["empty", "gas", "stool", "gel"], p=[0.3, 0.25, 0.4, 0.05])),
    )


def paint_pelvis(canvas: Canvas, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> None:
    """Paint all but the gland itself, back to front."""
    _paint_fat(canvas, rng)
    _paint_pairs(canvas, habitus, rng)
    _paint_muscle_fat(canvas, rng)
    _paint_midline(canvas, habitus, rng)
    _paint_pelvic_floor(canvas, gland, rng)
    _paint_bladder(canvas, gland, habitus, rng)
    _paint_seminal_vesicles(canvas, gland, rng)
    _paint_rectum(canvas, gland, habitus, rng)
    _paint_vessels(canvas, gland, rng)
    _paint_skin(canvas, habitus, rng)


def _paint_fat(canvas: Canvas, rng: np.random.Generator) -> None:
    """Septa through the fat, strong in some bodies and hardly there in others."""
    shade = smooth_field(canvas.lattice, rng, 45.0)
    canvas.maps[2] *= 1 + np.float32(0.07) * shade
    septa = ridges(smooth_field(canvas.lattice, rng, (22.0, 18.0, 14.0)), 0.05)
    canvas.paint(tissues.FASCIA, septa * np.float32(rng.uniform(0.2, 0.7)))


def _paint_pairs(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    for shape, layers in _PAIRED:
        common = _fitted(shape, habitus, rng)
        for side in (common, common.mirrored()):
            if isinstance(side, Blob):
                side = side.jittered(rng, 1.0, 0.04, 2.0)
            paint_layers(canvas, side, layers)


def _fitted(shape: Shape, habitus: Habitus, rng: np.random.Generator) -> Shape:
    """The shape in this body."""
    scale = np.asarray(habitus.scale)
    if isinstance(shape, Blob):
        fitted = Blob(tuple(scale * shape.center), tuple(scale * shape.half), shape.turn_deg, shape.square)
        return fitted.jittered(rng, 1.5, 0.06, 3.0)
    return Tube(
        tuple(scale * shape.start + rng.normal(0, 1.5, 3)),
        tuple(scale * shape.end + rng.normal(0, 1.5, 3)),
        shape.radii_mm,
    )


def _paint_muscle_fat(canvas: Canvas, rng: np.random.Generator) -> None:
    """Streaks of fat along the fibers of whatever muscle there is."""
    streaks = ridges(smooth_field(canvas.lattice, rng, (30.0, 5.0, 34.0)), 0.22)
    t2 = canvas.variant(tissues.MUSCLE).t2_ms
    muscle = np.clip(1.5 - np.abs(canvas.maps[2] - t2) / 4, 0, 1)
    canvas.paint(tissues.FAT, streaks * muscle * np.float32(rng.uniform(0.05, 0.5)))


def _paint_midline(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """Symphysis, rectus abdominis, coccyx, natal cleft."""
    sx, sy, sz = habitus.scale
    symphysis = Blob((0, -48 * sy, -15 * sz), (rng.uniform(1.8, 3.2), 15 * sy, 19 * sz))
    paint_layers(canvas, symphysis, ((0.0, tissues.CORTEX),))
    for side in (-1, 1):
        rectus = Blob((side * 17 * sx, -67 * sy, 24), (15.5 * sx, rng.uniform(4, 7), 34), (0, 0, side * 4), square=True)
        paint_layers(canvas, rectus.jittered(rng, 0.8, 0.05, 2), _MUSCLE)
    paint_layers(canvas, Blob((0, 78 * sy, 16), (6, 5, 24), (20, 0, 0)), ((0.0, tissues.CORTEX), (1.2, tissues.MARROW)))
    paint_layers(canvas, Blob((0, 88 * sy, -18), (rng.uniform(1.2, 2.6), 26, 26)), ((0.0, tissues.SKIN),))


def _paint_pelvic_floor(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Levator ani as a sling around apex and anorectum, the sphincters below."""
    wide = gland.half_mm[0] * rng.uniform(0.72, 0.9) + 5
    sling = Blob((0, 14 + rng.normal(0, 2), -14), (wide, rng.uniform(30, 36), 30), (0, 0, 0))
    box = sling.box(canvas)
    if box is not None:
        x, y, z = canvas.coordinates(box)
        fade = np.clip(1 - (z - 2) / 16, 0, 1) * np.clip((y + 26) / 12, 0, 1)
        shell = np.clip(rng.uniform(1.4, 2.3) + 0.5 - np.abs(sling.distance_of(x, y, z)), 0, 1)
        canvas.paint(tissues.MUSCLE, shell * fade, box)
    floor = Blob((0, 22, -36), (rng.uniform(15, 19), 25, 17), (-15, 0, 0))
    paint_layers(canvas, floor, ((0.0, tissues.MUSCLE), (3.5, tissues.SMOOTH_MUSCLE)))
    apex = gland.surface_point(0, 0, -1)
    below = (apex[0], apex[1] - 3, apex[2] - 22)
    urethra = Tube(tuple(apex + (0, 0, 3)), below, (7.5, 8.5))
    layers = ((0.0, tissues.MUSCLE), (3.0, tissues.STROMAL_NODULE), (5.6, tissues.SMOOTH_MUSCLE))
    paint_layers(canvas, urethra, layers)
    bulb = Blob((0, apex[1] - 4, apex[2] - 30), (13, 11, 9))
    paint_layers(canvas, bulb, ((0.0, tissues.FASCIA), (1.0, tissues.SLOW_BLOOD)))


def _paint_bladder(canvas: Canvas, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> None:
    """Urine within a muscular wall, resting on the base of the gland and in front of it."""
    half = np.asarray(habitus.bladder_half_mm)
    base = gland.center_mm[2] + gland.half_mm[2]
    center = (rng.normal(0, 3), gland.center_mm[1] - rng.uniform(8, 16), base + half[2] * rng.uniform(0.55, 0.85))
    bladder = Blob(center, tuple(half), (rng.uniform(-5, 25), 0, 0))
    wall_mm = rng.uniform(2.5, 6.0)
    layers = ((-wall_mm - 1.0, tissues.FASCIA), (-wall_mm, tissues.SMOOTH_MUSCLE), (0.0, tissues.URINE))
    reach = Blob(bladder.center, tuple(half + wall_mm + 1), bladder.turn_deg).box(canvas)
    if reach is None:
        return
    distance = bladder.distance_of(*canvas.coordinates(reach))
    ripple = canvas.field(rng, 9.0, reach) * np.float32(rng.uniform(0.2, 1.2))
    for depth, tissue in layers:
        rough = distance + ripple if tissue is tissues.URINE else distance
        canvas.paint(tissue, canvas.coverage(rough + np.float32(depth)), reach)


def _paint_seminal_vesicles(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Convoluted bright tubules with dark walls, on both sides behind the bladder."""
    root = gland.surface_point(0, 0.55, 0.9)
    size = rng.uniform(0.75, 1.2)
    filling = rng.uniform(-0.5, 0.5)
    for side in (-1, 1):
        center = tuple(root + np.array([side * 20, 3, 7]) * size)
        vesicle = Blob(center, (21 * size, 7.5 * size, 8 * size), (0, -side * 12, side * rng.uniform(5, 22)))
        box = vesicle.box(canvas)
        if box is None:
            continue
        inside = np.clip(0.5 - vesicle.distance_of(*canvas.coordinates(box)) / 1.5, 0, 1)
        tubules = np.abs(canvas.field(rng, 6.5, box)) * 1.6 + np.float32(filling)
        canvas.paint(tissues.SEMINAL_WALL, inside, box)
        canvas.paint(tissues.SEMINAL_FLUID, inside * np.clip(tubules, 0, 1), box)


def _paint_rectum(canvas: Canvas, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> None:
    """Anal canal, then the ampulla behind the gland, filled or empty."""
    radius = habitus.rectum_radius_mm
    behind = gland.surface_point(0, 1, 0)[1] + radius + rng.uniform(0.5, 4)
    drift = rng.normal(0, 4)
    path = [(0, 34, -46), (0, behind * 0.4 + 20, -22), (drift * 0.5, behind, 2), (drift, behind + 6, 40)]
    radii = [9.0, min(12.0, radius), radius, radius * rng.uniform(0.8, 1.2)]
    tubes = [Tube(*path[i : i + 2], (radii[i], radii[i + 1])) for i in range(3)]
    box = Tube(path[0], path[-1], (max(radii) + 8, max(radii) + 8)).box(canvas)
    if box is None:
        return
    squash = np.float32(rng.uniform(0.85, 1.2))
    x, y, z = canvas.coordinates(box)
    distance = np.minimum.reduce([t.distance_of(x * squash, y, z) for t in tubes])
    wall_mm = rng.uniform(2.5, 4.5)
    for depth, tissue in ((-1.5, tissues.FAT), (0.0, tissues.SMOOTH_MUSCLE), (wall_mm * 0.5, tissues.STROMAL_NODULE)):
        canvas.paint(tissue, canvas.coverage(distance + np.float32(depth)), box)
    _fill_rectum(canvas, box, distance + np.float32(wall_mm), habitus.rectum_content, rng)


def _fill_rectum(canvas: Canvas, box: Box, lumen_mm: np.ndarray, content: str, rng: np.random.Generator) -> None:
    """Gas above stool, gel, or nothing but folds of mucosa."""
    inside = canvas.coverage(lumen_mm)
    clumps = canvas.field(rng, 7.0, box)
    if content == "empty":
        folds = ridges(canvas.field(rng, (24.0, 9.0, 9.0), box), 0.25)
        canvas.paint(tissues.SMOOTH_MUSCLE, inside * 0.8, box)
        canvas.paint(tissues.SEMINAL_FLUID, inside * folds * 0.4, box)
        return
    base = {"gas": tissues.AIR, "stool": tissues.STOOL, "gel": tissues.GEL}[content]
    canvas.paint(base, inside, box)
    if content == "stool":
        canvas.paint(tissues.AIR, inside * np.clip(clumps * 2 + 0.4, 0, 1) * 0.85, box)
        canvas.paint(tissues.GEL, inside * np.clip(canvas.field(rng, 6.0, box) * 2 - 3, 0, 1) * 0.9, box)
    if content == "gas":
        canvas.paint(tissues.STOOL, inside * np.clip(clumps * 2 - 2, 0, 1), box)


def _paint_vessels(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Neurovascular bundles, the plexus in front of the gland, and vessels along the pelvic wall and in fat."""
    plexus = Blob(
        tuple(gland.surface_point(0, -1, -0.2, outward_mm=4)), (gland.half_mm[0] * 0.8, 6, gland.half_mm[2] * 0.7)
    )
    box = plexus.box(canvas)
    if box is not None:
        inside = np.clip(0.5 - plexus.distance_of(*canvas.coordinates(box)) / 3, 0, 1)
        field = canvas.field(rng, (9.0, 5.0, 9.0), box)
        canvas.paint(tissues.SMOOTH_MUSCLE, inside * np.clip(-field * 1.5, 0, 1) * 0.8, box)
        canvas.paint(tissues.SLOW_BLOOD, inside * np.clip(field * 1.5, 0, 1), box)
    for side in (-1, 1):
        for _ in range(rng.integers(14, 26)):  # neurovascular bundle and its veins
            height = rng.uniform(-0.6, 0.8)
            angle = rng.normal(0.62, 0.35)
            point = gland.surface_point(side * np.cos(angle), np.sin(angle), height, outward_mm=rng.uniform(1.5, 7))
            _paint_vessel(canvas, point, rng.uniform(0.6, 1.7), rng)
        for _ in range(rng.integers(10, 24)):  # pelvic wall
            point = np.array([side * rng.normal(36, 3), rng.uniform(-30, 45), rng.uniform(-25, 35)])
            _paint_vessel(canvas, point, rng.uniform(0.7, 2.4), rng)
    for _ in range(rng.integers(20, 70)):
        point = np.array(
            [rng.uniform(-85, 85), rng.choice([rng.uniform(-95, -62), rng.uniform(30, 75)]), rng.uniform(-35, 35)]
        )
        _paint_vessel(canvas, point, rng.uniform(0.5, 1.6), rng)


def _paint_vessel(canvas: Canvas, point: np.ndarray, radius_mm: float, rng: np.random.Generator) -> None:
    direction = rng.normal(0, (3, 3, 7))
    blood = tissues.SLOW_BLOOD if rng.random() < 0.5 else tissues.FLOWING_BLOOD
    tube = Tube(tuple(point - direction), tuple(point + direction), (radius_mm, radius_mm))
    paint_layers(canvas, tube, ((-0.4, tissues.FASCIA), (0.2, blood)))


def _paint_skin(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """The body's front: skin, a fascia in the fat, and air beyond."""
    x, y, z = canvas.coordinates(EVERYWHERE)
    sides = np.float32(rng.uniform(0.002, 0.0035))
    surface = -(72 * habitus.scale[1] + habitus.fat_mm) + sides * x * x
    depth = y - surface
    scarpa = np.abs(depth - np.float32(habitus.fat_mm * rng.uniform(0.4, 0.6)))
    canvas.paint(tissues.FASCIA, np.clip(1 - scarpa / 0.7, 0, 1) * np.float32(rng.uniform(0.3, 0.8)))
    canvas.paint(tissues.SKIN, canvas.coverage(depth - 2))
    canvas.paint(tissues.AIR, canvas.coverage(depth))
