"""The pelvis around the prostate: fat, muscles, bones, vessels and skin, and the organs that touch it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..core.volume import Triple
from . import tissues
from .canvas import Blob, Canvas, Layers, Shape, Tube, Union, ridges, smooth_field, smooth_union
from .gland import Gland

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
    """How this body differs from the book: scale of the pelvis (x, y, z), fat between rectus muscle and skin, bladder.

    The rectum's radius is outer, in its ampulla; it holds `empty`, `gas`, `stool`, `gel`, or the `balloon` of a coil.
    """

    scale: Triple
    fat_mm: float
    bladder_half_mm: Triple
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
    # Fat is duller in places, and broken septa run through it, more in some bodies than in others.
    shade = smooth_field(canvas.lattice, rng, 45.0) + smooth_field(canvas.lattice, rng, 16.0) * np.float32(0.6)
    canvas.maps[2] *= 1 + np.float32(rng.uniform(0.04, 0.11)) * shade
    for period_mm, width, most in (((20.0, 14.0, 9.0), 0.13, 0.6), ((10.0, 8.0, 5.0), 0.2, 0.35)):
        septa = ridges(smooth_field(canvas.lattice, rng, period_mm), width)
        septa *= np.clip(smooth_field(canvas.lattice, rng, (20.0, 11.0, 11.0)) * 1.2, 0, 1)
        canvas.paint(tissues.FASCIA, septa * np.float32(rng.uniform(0.2, 1) * most))
    for shape, layers in _PAIRED:
        common = _fitted(shape, habitus, rng)
        for side in (common, common.mirrored()):  # each deviates from the other
            own = side.jittered(rng, 1.0, 0.04, 2.0) if isinstance(side, Blob) else side
            canvas.paint_shape(own, layers)
    _paint_muscle_fat(canvas, rng)
    _paint_midline(canvas, habitus, rng)


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
    field = smooth_field(canvas.lattice, rng, (12.0, 2.4, 10.0))
    rows, columns = np.arange(field.shape[1])[:, None], np.arange(field.shape[2])[None, :]
    away = np.abs(canvas.lattice.axis_mm(2)) * np.float32(rng.uniform(0.2, 0.6) / canvas.lattice.spacing_mm[1])
    whole = np.floor(away).astype(int)
    near, far = (field[:, (rows - whole - step) % field.shape[1], columns] for step in (0, 1))
    field = near + (away - whole).astype(np.float32) * (far - near)
    patchy = np.clip(smooth_field(canvas.lattice, rng, 25.0) * 0.5 + 0.6, 0.1, 1)
    t2 = canvas.variant(tissues.MUSCLE).t2_ms
    muscle = np.clip(1.5 - np.abs(canvas.maps[2] - t2) / 4, 0, 1)
    streaks = np.clip(field * 0.5 - 0.25, 0, 1) * patchy * muscle
    canvas.paint(tissues.FAT, streaks * np.float32(rng.uniform(0.15, 0.6)))


def _paint_midline(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """Symphysis, rectus abdominis, coccyx, natal cleft."""
    sx, sy, sz = habitus.scale
    symphysis = Blob((0, -48 * sy, -16 * sz), (rng.uniform(2.2, 3.8), 16 * sy, 18 * sz))
    canvas.paint_shape(symphysis, ((-0.5, tissues.CORTEX), (1.2, tissues.CARTILAGE)))
    for side in (-1, 1):
        rectus = Blob((side * 17 * sx, -69 * sy, 28), (15.5 * sx, rng.uniform(4, 7), 38), (0, 0, side * 5), square=True)
        canvas.paint_shape(rectus.jittered(rng, 0.8, 0.05, 2), _MUSCLE)
    canvas.paint_shape(Blob((0, 78 * sy, 16), (8, 5, 24), (20, 0, 0)), _FATTY_BONE)
    canvas.paint_shape(Blob((0, 88 * sy, -18), (rng.uniform(1.2, 2.6), 26, 26)), ((0.0, tissues.SKIN),))


def paint_skin(canvas: Canvas, habitus: Habitus, rng: np.random.Generator) -> None:
    """The body's front: skin, a fascia in the fat, and air beyond. Painted last."""
    sides = np.float32(rng.uniform(0.0008, 0.0024))
    depth = canvas.y + np.float32(72 * habitus.scale[1] + habitus.fat_mm) - sides * canvas.x * canvas.x
    scarpa = np.abs(depth - np.float32(habitus.fat_mm * rng.uniform(0.4, 0.6)))
    canvas.paint(tissues.FASCIA, np.clip(1 - scarpa / 0.7, 0, 1) * np.float32(rng.uniform(0.3, 0.8)))
    canvas.paint(tissues.SKIN, canvas.coverage(depth - 2))
    canvas.paint(tissues.AIR, canvas.coverage(depth))


@dataclass(frozen=True)
class Rectum:
    """The course of anal canal and rectum: straight pieces from below, and depth against width."""

    tubes: tuple[Tube, ...]
    squash: float

    def distance_of(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance to the outer wall, mm."""
        return np.minimum.reduce([tube.distance_of(x * np.float32(self.squash), y, z) for tube in self.tubes])


def paint_organs(canvas: Canvas, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> Rectum:
    """Paint what touches the gland, back to front; returns the rectum's course."""
    # The rectum runs up behind the gland.
    radius = habitus.rectum_radius_mm
    behind = gland.surface_point(0, 1, 0)[1] + radius + rng.uniform(0.5, 3)
    drift = rng.normal(0, 4)
    path = [(0.0, 30.0, -50.0), (0.0, behind * 0.4 + 15, -26.0), (drift * 0.5, behind, 0.0), (drift, behind + 6, 45.0)]
    radii = [11.0, min(13.0, radius), radius, radius * rng.uniform(0.8, 1.2)]
    tubes = (Tube(*ends, ends_mm) for ends, ends_mm in zip(pairwise(path), pairwise(radii), strict=True))
    rectum = Rectum(tuple(tubes), float(rng.uniform(0.8, 1.15)))
    _paint_loose_tissue(canvas, gland, rng)
    _paint_wall_vessels(canvas, rng)
    _paint_pelvic_floor(canvas, gland, rectum, rng)
    _paint_bladder(canvas, gland, habitus, rng)
    _paint_seminal_vesicles(canvas, gland, rng)
    _paint_rectum(canvas, rectum, habitus.rectum_content, rng)
    _paint_plexus(canvas, gland, rng)
    for side in (-1, 1):  # neurovascular bundles at five and seven o'clock
        for _ in range(rng.integers(12, 24)):
            height, angle = rng.uniform(-0.6, 0.8), rng.normal(0.62, 0.35)
            away = rng.uniform(1.5, 6)
            point = gland.surface_point(side * np.cos(angle), np.sin(angle), height, outward_mm=away)
            _paint_vessel(canvas, point, rng.uniform(0.5, 1.4), rng)
    return rectum


def _paint_loose_tissue(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Fat of the pelvic cavity, threaded with fascia, veins and nerves, denser toward the organs."""
    cavity = Blob((0, gland.center_mm[1] + 10, 6), (36, 52, 48))
    box = cavity.box(canvas)
    if box is None:
        return
    x, y, z = canvas.coordinates(box)
    inside = np.clip(0.5 - cavity.distance_of(x, y, z) / 14, 0, 1)
    near = np.clip(1.2 - gland.distance_mm(*gland.own(x, y, z)) / 22, 0.25, 1)
    dull = np.clip(canvas.field(rng, 14.0, box) * 0.5 + 0.4, 0, 1) * np.float32(rng.uniform(0.1, 0.6))
    canvas.paint(tissues.LOOSE, inside * dull, box)
    busy = rng.uniform(0.3, 1.0)
    for tissue in (tissues.SLOW_BLOOD, tissues.FASCIA, tissues.SMOOTH_MUSCLE):
        strands = ridges(canvas.field(rng, (9.0, 4.5, 5.5), box), 0.45)
        strands *= np.clip(canvas.field(rng, 9.0, box) * 1.4, 0, 1)
        canvas.paint(tissue, inside * near * strands * np.float32(busy), box)


def _paint_pelvic_floor(canvas: Canvas, gland: Gland, rectum: Rectum, rng: np.random.Generator) -> None:
    """Levator ani, a sling close around gland and rectum that thins out upward; sphincters below the apex."""
    apex = gland.surface_point(0, 0, -1)
    half = np.array([gland.half_mm[0] + 16, 60, 55])
    box = canvas.box(np.array([0, 18, -18]), half)
    if box is None:
        return
    x, y, z = canvas.coordinates(box)
    outlet = Tube(tuple(apex), (apex[0], apex[1] - 3, apex[2] - 26), (7.5, 9.0))
    front = smooth_union(gland.distance_mm(*gland.own(x, y, z)), outlet.distance_of(x, y, z), 8.0)
    both = smooth_union(front, rectum.distance_of(x, y, z), 18.0)
    height = z - np.float32(apex[2])  # above the apex
    gap = np.float32(rng.uniform(1.2, 4.0)) + np.clip(height, 0, 30) * np.float32(rng.uniform(0.02, 0.12))
    thick = np.float32(rng.uniform(2.2, 4.0))
    fade = np.clip(1 - (height - np.float32(rng.uniform(10, 26))) / 14, 0, 1) * np.clip((y + 26) / 12, 0, 1)
    canvas.paint(tissues.SMOOTH_MUSCLE, canvas.coverage(both - gap) * np.clip(0.6 - height / 8, 0, 0.9), box)
    canvas.paint(tissues.MUSCLE, np.clip(thick / 2 + 0.5 - np.abs(both - gap - thick / 2), 0, 1) * fade, box)
    layers = ((0.0, tissues.MUSCLE), (2.4, tissues.STROMAL_NODULE), (5.2, tissues.SMOOTH_MUSCLE))
    canvas.paint_shape(outlet, layers)
    bulb = Blob((0, apex[1] - 4, apex[2] - 32), (13, 11, 9))
    canvas.paint_shape(bulb, ((0.0, tissues.FASCIA), (1.0, tissues.SLOW_BLOOD)))


def _paint_bladder(canvas: Canvas, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> None:
    """Urine within a muscular wall, resting on the base of the gland and in front of it."""
    half = np.asarray(habitus.bladder_half_mm)
    base = gland.surface_point(0, 0.55, 0.9)
    back = min(gland.center_mm[1] - rng.uniform(2, 14), base[1] - 4 - half[1])
    low = max(base[2] + half[2] * rng.uniform(0.35, 0.75), gland.center_mm[2] + 0.9 * half[2])
    turn = (float(rng.uniform(-5, 20)), 0.0, 0.0)
    wall_mm = rng.uniform(2.5, 6.0)
    bladder = Blob((rng.normal(0, 3), back, low), tuple(half), turn)
    box = canvas.box(np.asarray(bladder.center), half + wall_mm + 3)
    if box is None:
        return
    x, y, z = canvas.coordinates(box)
    distance = bladder.distance_of(x, y, z) + canvas.field(rng, 45.0, box) * np.float32(2.0)
    outer = distance + canvas.field(rng, 14.0, box) * np.float32(0.6)
    inner = distance + canvas.field(rng, 9.0, box) * np.float32(rng.uniform(0.2, 1.1))
    lifted = np.float32(wall_mm * 0.6) - gland.distance_mm(*gland.own(x, y, z))  # the base pushes the floor up
    canvas.paint(tissues.FASCIA, canvas.coverage(outer - np.float32(wall_mm + 0.8)) * 0.7, box)
    canvas.paint(tissues.SMOOTH_MUSCLE, canvas.coverage(outer - np.float32(wall_mm)), box)
    canvas.paint(tissues.URINE, canvas.coverage(np.maximum(inner, lifted)), box)


def _paint_seminal_vesicles(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Convoluted bright tubules with dark walls, on both sides behind the bladder."""
    root = gland.surface_point(0, 0.55, 0.9)
    size = rng.uniform(0.85, 1.3)
    filling = rng.uniform(-0.6, 0.4)
    for side in (-1, 1):
        center = tuple(root + np.array([side * 19, 3, 7]) * size)
        vesicle = Blob(center, (20 * size, 8.5 * size, 9 * size), (0, -side * 12, side * rng.uniform(5, 22)))
        box = vesicle.box(canvas)
        if box is None:
            continue
        surface = vesicle.distance_of(*canvas.coordinates(box)) + canvas.field(rng, 12.0, box)
        inside = np.clip(0.5 - surface / 1.5, 0, 1)
        tubules = np.abs(canvas.field(rng, 6.5, box)) * 1.6 + np.float32(filling)
        canvas.paint(tissues.SEMINAL_WALL, inside, box)
        canvas.paint(tissues.SEMINAL_FLUID, inside * np.clip(tubules, 0, 1), box)


def _paint_rectum(canvas: Canvas, rectum: Rectum, content: str, rng: np.random.Generator) -> None:
    """Muscular wall and mucosa around gas above stool, gel, or nothing but folds of mucosa."""
    wide = max(max(tube.radii_mm) for tube in rectum.tubes) + 8
    box = Tube(rectum.tubes[0].start, rectum.tubes[-1].end, (wide, wide)).box(canvas)
    if box is None:
        return
    x, y, z = canvas.coordinates(box)
    distance = rectum.distance_of(x, y, z) + canvas.field(rng, 16.0, box)
    wall_mm = rng.uniform(2.2, 4.2)
    for depth, tissue in ((0.0, tissues.SMOOTH_MUSCLE), (wall_mm * 0.55, tissues.STROMAL_NODULE)):
        canvas.paint(tissue, canvas.coverage(distance + np.float32(depth)), box)
    narrow = np.clip((-20 - z) / 4, 0, 6)  # the canal is closed
    inside = canvas.coverage(distance + np.float32(wall_mm) + narrow)
    clumps = canvas.field(rng, 7.0, box)
    if content == "empty":
        folds = ridges(canvas.field(rng, (24.0, 7.0, 7.0), box), 0.5)
        canvas.paint(tissues.SMOOTH_MUSCLE, inside * 0.8, box)
        canvas.paint(tissues.SEMINAL_FLUID, inside * folds * 0.16, box)
        return
    base = {"gas": tissues.AIR, "stool": tissues.STOOL, "gel": tissues.GEL, "balloon": tissues.AIR}[content]
    canvas.paint(base, inside, box)
    if content == "stool":
        canvas.paint(tissues.AIR, inside * np.clip(clumps * 2 + 0.4, 0, 1) * 0.85, box)
        canvas.paint(tissues.GEL, inside * np.clip(canvas.field(rng, 6.0, box) * 2 - 3, 0, 1) * 0.9, box)
    if content == "gas":
        canvas.paint(tissues.STOOL, inside * np.clip(clumps * 2 - 2, 0, 1), box)


def _paint_plexus(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Veins and loose tissue around the gland's front and sides: bright and dark, close together."""
    box = gland.box(canvas, 9.0)
    u, v, w = gland.own(*canvas.coordinates(box))
    width = np.float32(rng.uniform(2.5, 6.0)) * (1 + np.clip(-v, 0, 1))  # widest in front
    near = np.clip(1.3 - gland.distance_mm(u, v, w) / width, 0, 1) * np.clip(1.6 - np.abs(w), 0, 1)
    field = canvas.field(rng, (8.0, 4.5, 4.5), box)
    canvas.paint(tissues.SMOOTH_MUSCLE, near * np.clip(0.2 - field, 0, 1) * np.float32(rng.uniform(0.3, 0.9)), box)
    canvas.paint(tissues.SLOW_BLOOD, near * np.clip(field * 1.5 - 0.5, 0, 1) * np.float32(rng.uniform(0.2, 0.9)), box)


def _paint_wall_vessels(canvas: Canvas, rng: np.random.Generator) -> None:
    """Vessels along the pelvic wall, around the rectum, and in the fat in front and behind."""
    for side in (-1, 1):
        for _ in range(rng.integers(14, 34)):
            point = np.array([side * rng.normal(32, 4), rng.uniform(-30, 45), rng.uniform(-20, 40)])
            _paint_vessel(canvas, point, rng.uniform(0.6, 2.2), rng)
    for _ in range(rng.integers(30, 90)):
        y = rng.uniform(-98, -60) if rng.random() < 0.5 else rng.uniform(30, 80)
        point = np.array([rng.uniform(-90, 90), y, rng.uniform(-40, 45)])
        _paint_vessel(canvas, point, rng.uniform(0.4, 1.5), rng)


def _paint_vessel(canvas: Canvas, point: np.ndarray, radius_mm: float, rng: np.random.Generator) -> None:
    direction = rng.normal(0, (4, 4, 7))
    blood = tissues.SLOW_BLOOD if rng.random() < 0.35 else tissues.FLOWING_BLOOD
    tube = Tube(tuple(point - direction), tuple(point + direction), (radius_mm, radius_mm))
    canvas.paint_shape(tube, ((-0.2, tissues.FASCIA), (0.25, blood)))


_HEAD_MM, _HEAD_RADIUS_MM, _STEM_RADIUS_MM = (86.0, -2.0, 10.0), 23.0, 9.0


def implant_spheres(count: int, habitus: Habitus) -> list[tuple[Triple, float]]:
    """Metal of hip implants as spheres, (middle, radius) in mm: head, and stem downward and outward."""
    head = np.asarray(_HEAD_MM) * habitus.scale
    spheres: list[tuple[Triple, float]] = []
    for side in (1, -1)[:count]:
        flip = np.array([side, 1, 1])
        spheres.append((tuple(flip * head), _HEAD_RADIUS_MM))
        for step in range(1, 5):
            spheres.append((tuple(flip * (head + np.array([6.0, 1.0, -14.0]) * step)), _STEM_RADIUS_MM))
    return spheres


def paint_implants(canvas: Canvas, habitus: Habitus, count: int) -> None:
    """Paint the metal of hip implants, which gives no signal itself."""
    for center, radius in implant_spheres(count, habitus):
        canvas.paint_shape(Blob(center, (radius,) * 3), ((0.0, tissues.METAL),))


def paint_surroundings(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Paint what is bright at a high b outside of the gland, and uneven muscle: nerves, lymph nodes, bowel loops."""
    muscle = np.abs(canvas.maps[2] - canvas.variant(tissues.MUSCLE).t2_ms) < 6
    for parameter, amount in ((2, 0.18), (3, 0.14)):
        patches = smooth_field(canvas.lattice, rng, 22.0) * np.float32(amount)
        canvas.maps[parameter] *= np.where(muscle, np.exp(patches), np.float32(1))
    for side in (-1, 1):
        x = side * rng.uniform(44, 54)
        sciatic = Tube((x, rng.uniform(50, 58), -50), (x * 0.85, rng.uniform(44, 54), 55), (rng.uniform(3, 5),) * 2)
        femoral = Tube((side * 72, -56, -45), (side * 66, -48, 55), (2.2, 2.6))
        obturator = Tube((side * 33, rng.uniform(-34, -20), -10), (side * 40, rng.uniform(-5, 15), 50), (1.4, 1.8))
        for nerve in (sciatic, femoral, obturator):
            canvas.paint_shape(nerve, ((-0.4, tissues.FASCIA), (0.0, tissues.NERVE)))
    for _ in range(rng.integers(4, 14)):
        _paint_node(canvas, gland, rng)
    for _ in range(rng.integers(0, 4)):
        _paint_bowel(canvas, gland, rng)


def _paint_node(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """A lymph node by the iliac or femoral vessels, or in the fat around the rectum, its hilum of fat."""
    side = rng.choice([-1, 1])
    place = rng.choice(["iliac", "femoral", "mesorectal"], p=[0.5, 0.35, 0.15])
    center = {
        "iliac": (side * rng.uniform(29, 40), rng.uniform(-30, 20), rng.uniform(0, 50)),
        "femoral": (side * rng.uniform(44, 66), rng.uniform(-72, -54), rng.uniform(-40, 30)),
        "mesorectal": (side * rng.uniform(14, 28), rng.uniform(44, 66), rng.uniform(-10, 45)),
    }[place]
    half = np.array([2.4, 2.4, 4.0]) * np.exp(rng.normal(0, 0.35))
    node = Blob(center, tuple(np.minimum(half, 7)), tuple(rng.uniform(-40, 40, 3)))
    layers: Layers = ((-0.4, tissues.FASCIA), (0.0, tissues.LYMPH_NODE))
    if gland.distance_mm(*gland.own(*(np.array([c], np.float32) for c in center)))[0] > 4:
        canvas.paint_shape(node, layers if rng.random() < 0.6 else (*layers, (1.6, tissues.FAT)))


def _paint_bowel(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """A loop of bowel above the gland: wall, mucosa, and gas, stool or fluid."""
    low = max(gland.center_mm[2] + gland.half_mm[2] + 8, 18.0)
    start = np.array([rng.uniform(-38, 38), rng.uniform(-35, 35), low + rng.uniform(8, 20)])
    radius = float(rng.uniform(7, 13))
    content = (tissues.AIR, tissues.STOOL, tissues.CHYME)[int(rng.integers(3))]
    layers: Layers = ((0.0, tissues.SMOOTH_MUSCLE), (1.2, tissues.BOWEL_WALL), (rng.uniform(2.4, 3.6), content))
    for _ in range(3):
        end = start + np.array([rng.uniform(-28, 28), rng.uniform(-22, 22), rng.uniform(0, 14)])
        canvas.paint_shape(Tube(tuple(start), tuple(end), (radius, radius)), layers)
        start = end
