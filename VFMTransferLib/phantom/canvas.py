"""The sheet that anatomy is painted on: tissue parameters on a fine grid, and smooth random fields over it.

Body coordinates: x to the left, y to posterior, z to superior, in mm; the prostate's apex lies about z = -22 and
its posterior surface about y = 16, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tissues import FAT, PARAMETERS, Tissue

Box = tuple[slice, slice, slice]
EVERYWHERE: Box = (slice(None), slice(None), slice(None))
_WARP_MARGIN_MM = 7.0
_EDGE_STEPS = 1.3  # how soft edges are, in steps of the lattice


@dataclass(frozen=True)
class Lattice:
    """The regular sampling points (D, H, W) of a canvas; spacing and body coordinates of the middle along (z, y, x)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def axis_mm(self, axis: int) -> np.ndarray:
        """Body coordinate of the points along one array axis, float32."""
        n, step = self.shape[axis], self.spacing_mm[axis]
        return (self.center_mm[axis] + (np.arange(n) - (n - 1) / 2) * step).astype(np.float32)


def smooth_field(
    lattice: Lattice, rng: np.random.Generator, period_mm: float | tuple[float, float, float]
) -> np.ndarray:
    """A random field (D, H, W), float32, of unit deviation that varies over about `period_mm` along (z, y, x).

    Random knots, blended by cubic B-splines along one axis after the other.
    """
    periods = (period_mm,) * 3 if isinstance(period_mm, int | float) else period_mm
    weights = [_spline_weights(lattice.axis_mm(axis), periods[axis]) for axis in range(3)]
    knots = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    norm = np.prod([np.sqrt((w**2).sum(axis=1).mean()) for w in weights])
    field = np.tensordot(weights[0], knots, axes=(1, 0))  # (D, y knots, x knots)
    field = np.matmul(weights[1], field)  # (D, H, x knots)
    return np.matmul(field, weights[2].T / np.float32(norm))


def ridges(field: np.ndarray, width: float) -> np.ndarray:
    """Thin lines where a random field crosses zero: septa, 0..1."""
    return np.clip(1 - np.abs(field) / np.float32(width), 0, 1)


def _spline_weights(points_mm: np.ndarray, period_mm: float) -> np.ndarray:
    """Cubic B-spline weights of knots at half the period: (points, knots)."""
    step = period_mm / 2
    position = (points_mm - points_mm[0]) / step
    knots = np.arange(-1, int(np.ceil(position[-1])) + 2)
    t = np.abs(position[:, None] - knots[None, :])
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype(np.float32)


class Canvas:
    """Tissue parameters over a lattice, painted back to front with soft edges.

    Attributes:
        lattice: Where the points lie.
        x, y, z: Body coordinates (D, H, W) in mm after a smooth deformation, so that no shape is regular.
        maps: Parameters (5, D, H, W) in the order of `PARAMETERS`.
    """

    def __init__(
        self, lattice: Lattice, rng: np.random.Generator, *, warp_mm: float = 1.5, variation: float = 0.08
    ) -> None:
        self.lattice = lattice
        self._rng = rng
        self._variation = variation
        self._variants: dict[Tissue, Tissue] = {}
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
            self._variants[tissue] = tissue.scaled(t2=float(t2), adc=float(adc))
        return self._variants[tissue]

    def box(self, center: np.ndarray, half: np.ndarray) -> Box | None:
        """The points around `center` ± `half` mm (x, y, z) and the deformation's margin; None outside the field."""
        slices = []
        for axis in range(3):
            mid, reach = center[2 - axis], half[2 - axis] + _WARP_MARGIN_MM
            points = self.lattice.axis_mm(axis)
            start, stop = np.searchsorted(points, [mid - reach, mid + reach])
            if start == stop:
                return None
            slices.append(slice(int(start), int(stop)))
        return (slices[0], slices[1], slices[2])

    def field(self, rng: np.random.Generator, period_mm: float | tuple[float, float, float], box: Box) -> np.ndarray:
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


def roughen(canvas: Canvas, rng: np.random.Generator) -> None:
    """Texture within tissues: T2 and ADC vary over a few lengths at once, as far as each tissue's grain allows."""
    periods_mm = ((7.0, 7.0, 7.0), (4.0, 2.2, 2.2), (3.5, 1.2, 1.2))
    coarse, fine, finest = (smooth_field(canvas.lattice, rng, period_mm) for period_mm in periods_mm)
    rough = (coarse * np.float32(0.5) + fine * np.float32(0.65) + finest * np.float32(0.65)) * canvas.maps[4]
    canvas.maps[2] *= np.exp(rough)
    canvas.maps[3] *= np.exp(rough * np.float32(0.5))
