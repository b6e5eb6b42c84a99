"""The sheet that anatomy is painted on: tissue parameters on a fine grid, smooth random fields, implicit shapes.

Body coordinates: x to the left, y to posterior, z to superior, in mm; the prostate's apex lies about z = -22 and
its posterior surface about y = 16, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.volume import Triple
from .tissues import FAT, PARAMETERS, Tissue

Box = tuple[slice, slice, slice]
Layers = tuple[tuple[float, Tissue], ...]
EVERYWHERE: Box = (slice(None), slice(None), slice(None))
_WARP_MARGIN_MM = 7.0
_EDGE_STEPS = 1.3  # how soft edges are, in steps of the lattice


@dataclass(frozen=True)
class Lattice:
    """The regular sampling points (D, H, W) of a canvas; spacing and body coordinates of the middle along (z, y, x)."""

    shape: tuple[int, int, int]
    spacing_mm: Triple
    center_mm: Triple = (0.0, 0.0, 0.0)

    def axis_mm(self, axis: int) -> np.ndarray:
        """Body coordinate of the points along one array axis, float32."""
        n, step = self.shape[axis], self.spacing_mm[axis]
        return (self.center_mm[axis] + (np.arange(n) - (n - 1) / 2) * step).astype(np.float32)


def smooth_field(lattice: Lattice, rng: np.random.Generator, period_mm: float | Triple) -> np.ndarray:
    """A random field (D, H, W), float32, of unit deviation that varies over about `period_mm` along (z, y, x).

    Random knots at half the period, blended by cubic B-splines along one axis after the other.
    """
    periods = (period_mm,) * 3 if isinstance(period_mm, int | float) else period_mm
    weights = []  # of each axis: (points, knots)
    for axis, period in enumerate(periods):
        points = lattice.axis_mm(axis)
        position = (points - points[0]) / (period / 2)
        t = np.abs(position[:, None] - np.arange(-1, int(np.ceil(position[-1])) + 2))
        near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
        weights.append(np.where(t < 1, near, far).astype(np.float32))
    knots = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    norm = np.prod([np.sqrt((w**2).sum(axis=1).mean()) for w in weights])
    field = np.tensordot(weights[0], knots, axes=(1, 0))  # (D, y knots, x knots)
    field = np.matmul(weights[1], field)  # (D, H, x knots)
    return np.matmul(field, weights[2].T / np.float32(norm))


def ridges(field: np.ndarray, width: float) -> np.ndarray:
    """Thin lines where a random field crosses zero: septa, 0..1."""
    return np.clip(1 - np.abs(field) / np.float32(width), 0, 1)


class Canvas:
    """Tissue parameters over a lattice, painted back to front with soft edges.

    Attributes:
        x, y, z: Body coordinates (D, H, W) in mm after a smooth deformation, so that no shape is regular.
        maps: Parameters (5, D, H, W) in the order of `PARAMETERS`.
        stand_ins: Tissues that are painted instead of others.
    """

    def __init__(
        self, lattice: Lattice, rng: np.random.Generator, *, warp_mm: float = 1.5, variation: float = 0.08
    ) -> None:
        self.lattice = lattice
        self._rng = rng
        self._variation = variation
        self._variants: dict[Tissue, Tissue] = {}
        self.stand_ins: dict[Tissue, Tissue] = {}
        self.maps = np.empty((len(PARAMETERS), *lattice.shape), dtype=np.float32)
        self.maps[:] = FAT.values[:, None, None, None]
        z, y, x = np.meshgrid(*(lattice.axis_mm(a) for a in range(3)), indexing="ij")
        coordinates = []
        for axis in (x, y, z):
            slow, quick, ragged = (smooth_field(lattice, rng, period_mm) for period_mm in (70.0, 20.0, 9.0))
            coordinates.append(axis + np.float32(warp_mm) * (slow + np.float32(0.5) * quick + np.float32(0.2) * ragged))
        self.x, self.y, self.z = coordinates
        self.edge_mm = _EDGE_STEPS * max(lattice.spacing_mm[1:])

    def variant(self, tissue: Tissue) -> Tissue:
        """The tissue as it is in this body: T2 and ADC a little off the book's value, the same all over."""
        if tissue not in self._variants:
            t2, adc = np.exp(self._rng.normal(0, self._variation, 2))
            self._variants[tissue] = self.stand_ins.get(tissue, tissue).scaled(t2=float(t2), adc=float(adc))
        return self._variants[tissue]

    def box(self, center: np.ndarray, half: np.ndarray) -> Box | None:
        """The points around `center` ± `half` mm (x, y, z) and the deformation's margin; None outside the field."""
        slices = []
        for axis in range(3):
            mid, reach = center[2 - axis], half[2 - axis] + _WARP_MARGIN_MM
            start, stop = np.searchsorted(self.lattice.axis_mm(axis), [mid - reach, mid + reach])
            if start == stop:
                return None
            slices.append(slice(int(start), int(stop)))
        return (slices[0], slices[1], slices[2])

    def field(self, rng: np.random.Generator, period_mm: float | Triple, box: Box) -> np.ndarray:
        """A random field over a box's points, as from `smooth_field`."""
        shape = tuple(s.stop - s.start for s in box)
        return smooth_field(Lattice(shape, self.lattice.spacing_mm), rng, period_mm)  # type: ignore[arg-type]

    def coordinates(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Deformed x, y, z of the points of a box."""
        return self.x[box], self.y[box], self.z[box]

    def coverage(self, distance_mm: np.ndarray) -> np.ndarray:
        """How much of a point's cell lies inside a shape, 0..1, from the signed distance to its surface."""
        return np.clip(np.float32(0.5) - distance_mm / np.float32(self.edge_mm), 0, 1)

    def paint(self, tissue: Tissue, coverage: np.ndarray, box: Box = EVERYWHERE) -> None:
        """Lay `tissue` over what is there, as far as `coverage` (0..1, of the box's shape) states."""
        hits = [np.flatnonzero(coverage.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        if any(hit.size == 0 for hit in hits):
            return
        touched = tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in hits)  # where coverage is not zero
        share = coverage[touched]
        change = np.empty_like(share)
        for parameter, value in zip(self.maps, self.variant(tissue).values, strict=True):
            view = parameter[box][touched]
            np.subtract(value, view, out=change)
            change *= share
            view += change

    def paint_shape(self, shape: Shape, layers: Layers) -> None:
        """Paint a shape's shells from the surface inward: (depth in mm, tissue) for each."""
        box = shape.box(self)
        if box is None:
            return
        distance = shape.distance_of(*self.coordinates(box))
        for depth_mm, tissue in layers:
            self.paint(tissue, self.coverage(distance + np.float32(depth_mm)), box)

    def roughen(self, rng: np.random.Generator) -> None:
        """Texture within tissues: T2 and ADC vary over a few lengths at once, as far as each tissue's grain allows."""
        periods_mm = ((7.0, 7.0, 7.0), (4.0, 2.2, 2.2), (3.5, 1.2, 1.2))
        coarse, fine, finest = (smooth_field(self.lattice, rng, period_mm) for period_mm in periods_mm)
        rough = (coarse * np.float32(0.5) + fine * np.float32(0.65) + finest * np.float32(0.65)) * self.maps[4]
        self.maps[2] *= np.exp(rough)
        self.maps[3] *= np.exp(rough * np.float32(0.5))


def rotation(*angles_deg: float) -> np.ndarray:
    """3x3 rotation matrix: about x first, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        turn, i, j = np.eye(3), (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Blob:
    """An ellipsoid, boxy (fourth powers) if `square`: middle, half axes along its own (x, y, z) in mm, and rotation."""

    center: Triple
    half: Triple
    turn_deg: Triple = (0.0, 0.0, 0.0)
    square: bool = False

    def mirrored(self) -> Blob:
        """The same on the other side of the body."""
        (x, y, z), (rx, ry, rz) = self.center, self.turn_deg
        return replace(self, center=(-x, y, z), turn_deg=(rx, -ry, -rz))

    def jittered(self, rng: np.random.Generator, shift_mm: float, scale: float, turn_deg: float) -> Blob:
        """Shifted, scaled and turned at random."""
        center = tuple(np.asarray(self.center) + rng.normal(0, shift_mm, 3))
        half = tuple(np.asarray(self.half) * np.exp(rng.normal(0, scale, 3)))
        turn = tuple(np.asarray(self.turn_deg) + rng.normal(0, turn_deg, 3))
        return replace(self, center=center, half=half, turn_deg=turn)

    def box(self, canvas: Canvas) -> Box | None:
        """The canvas's points that the blob can reach."""
        return canvas.box(np.asarray(self.center), np.abs(rotation(*self.turn_deg)) @ np.asarray(self.half))

    def distance_of(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance of points to the surface in mm, negative inside, exact to first order near it; float32."""
        own = rotation(*self.turn_deg).T.astype(np.float32)
        x, y, z = (np.float32(-c) + v for v, c in zip((x, y, z), self.center, strict=True))
        squares, slopes = 0.0, 0.0
        for row, half in zip(own, self.half, strict=True):
            v = (row[0] * x + row[1] * y + row[2] * z) * np.float32(1 / half)
            v *= v
            squares = squares + (v * v if self.square else v)
            slopes = slopes + (v * v * v if self.square else v) * np.float32(1 / half**2)
        level = np.sqrt(squares)
        if self.square:
            level = np.sqrt(level)
            return (level - 1) * level**3 / np.sqrt(slopes + np.float32(1e-9))
        return (level - 1) * level / np.sqrt(slopes + np.float32(1e-9))


@dataclass(frozen=True)
class Tube:
    """A straight tube from `start` to `end` (mm), its radius going from one value to the other."""

    start: Triple
    end: Triple
    radii_mm: tuple[float, float]

    def mirrored(self) -> Tube:
        flip = np.array([-1.0, 1.0, 1.0])
        return replace(self, start=tuple(flip * self.start), end=tuple(flip * self.end))

    def box(self, canvas: Canvas) -> Box | None:
        ends = np.array([self.start, self.end])
        return canvas.box(ends.mean(axis=0), np.ptp(ends, axis=0) / 2 + max(self.radii_mm))

    def distance_of(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        axis = np.subtract(self.end, self.start).astype(np.float32)
        px, py, pz = (np.float32(-s) + v for v, s in zip((x, y, z), self.start, strict=True))
        along = np.clip((px * axis[0] + py * axis[1] + pz * axis[2]) / max(float(axis @ axis), 1e-6), 0, 1)
        gap = (px - along * axis[0]) ** 2 + (py - along * axis[1]) ** 2 + (pz - along * axis[2]) ** 2
        first, last = self.radii_mm
        return np.sqrt(gap) - (np.float32(first) + along * np.float32(last - first))


@dataclass(frozen=True)
class Union:
    """Several shapes grown together, their seams rounded over `blend_mm`."""

    parts: tuple[Blob | Tube, ...]
    blend_mm: float = 8.0

    def mirrored(self) -> Union:
        return replace(self, parts=tuple(part.mirrored() for part in self.parts))

    def box(self, canvas: Canvas) -> Box | None:
        boxes = [box for box in (part.box(canvas) for part in self.parts) if box is not None]
        if not boxes:
            return None
        ends = [(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True)]
        return tuple(slice(*end) for end in ends)  # type: ignore[return-value]

    def distance_of(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        distance = self.parts[0].distance_of(x, y, z)
        for part in self.parts[1:]:
            distance = smooth_union(distance, part.distance_of(x, y, z), self.blend_mm)
        return distance


Shape = Blob | Tube | Union


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Distance to two shapes together, their seam rounded over `blend_mm`."""
    h = np.clip(blend_mm - np.abs(a - b), 0, None) / np.float32(blend_mm)
    return np.minimum(a, b) - h * h * np.float32(blend_mm / 4)
