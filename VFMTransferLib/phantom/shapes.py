"""Implicit shapes: signed distance in mm, negative inside, on the points of a canvas."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .canvas import Box, Canvas
from .tissues import Tissue

Layers = tuple[tuple[float, Tissue], ...]


def rotation(about_x_deg: float = 0.0, about_y_deg: float = 0.0, about_z_deg: float = 0.0) -> np.ndarray:
    """3x3 rotation matrix: about x first, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians([about_x_deg, about_y_deg, about_z_deg])):
        turn = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        sign = -1.0 if axis == 1 else 1.0
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -sign * np.sin(angle), sign * np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Blob:
    """A (super-)ellipsoid.

    Attributes:
        center: Middle, mm (x, y, z).
        half: Half axes, mm, along its own (x, y, z).
        turn_deg: Rotation about (x, y, z).
        square: Whether it is boxy (fourth powers) rather than round.
    """

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    turn_deg: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))
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
        reach = np.abs(rotation(*self.turn_deg)) @ np.asarray(self.half)
        return canvas.box(np.asarray(self.center), reach)

    def distance_of(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance of points to the surface, exact to first order near it; float32."""
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

    start: tuple[float, float, float]
    end: tuple[float, float, float]
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


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Distance to two shapes together, their seam rounded over `blend_mm`."""
    h = np.clip(blend_mm - np.abs(a - b), 0, None) / np.float32(blend_mm)
    return np.minimum(a, b) - h * h * np.float32(blend_mm / 4)


Shape = Blob | Tube | Union


def paint_layers(canvas: Canvas, shape: Shape, layers: Layers) -> None:
    """Paint a shape's shells from the surface inward: (depth in mm, tissue) for each."""
    box = shape.box(canvas)
    if box is None:
        return
    distance = shape.distance_of(*canvas.coordinates(box))
    for depth_mm, tissue in layers:
        canvas.paint(tissue, canvas.coverage(distance + np.float32(depth_mm)), box)
