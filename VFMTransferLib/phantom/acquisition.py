"""The T2w acquisition: where its slices lie, how its signal becomes an image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..volume import Geometry, IntTriple, Triple
from .canvas import Canvas, Lattice
from .gland import Gland
from .scanner import SpinEcho, apodize, box_average, coil_sensitivity, truncate_k_space
from .shapes import rotation

FULL_SCALE = 700.0
TWIN = 2  # matrix of the full-resolution twin against the T2w's, in plane
_BASE_MARGIN_MM, _APEX_MARGIN_MM = 14.0, 11.0
_MIN_SLICES = 19
_SLICE_POINT_MM = 1.5


@dataclass(frozen=True)
class Scanner:
    """How T2w was acquired.

    Attributes:
        echo: Repetition and echo time.
        noise: Noise of real and imaginary part against the signal of water at TE 0.
        shading: Strength of the coil's uneven gain.
        kept: Fraction of the T2w's k-space along (rows, columns) that was measured; all of it where a twin is wanted.
    """

    echo: SpinEcho
    noise: float
    shading: float
    kept: tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """The T2w's grid and the finer lattice whose boxes are its voxels.

    Attributes:
        grid: The T2w's voxels.
        lattice: Points at which tissue is painted.
        factors: Lattice points a voxel along (D, H, W).
    """

    grid: Geometry
    lattice: Lattice
    factors: IntTriple

    @property
    def fine(self) -> Geometry:
        """The lattice as a grid in space."""
        return refined(self.grid, self.factors)

    @property
    def twin(self) -> Geometry:
        """The T2w's slices with the lattice's pixels."""
        return refined(self.grid, (1, *self.factors[1:]))


def draw_scanner(rng: np.random.Generator, noise: float | None) -> Scanner:
    """A protocol at random, around those of the public studies."""
    echo = SpinEcho(tr_ms=float(rng.uniform(3500, 7000)), te_ms=float(rng.uniform(88, 118)))
    level = float(np.exp(rng.normal(np.log(0.015), 0.4))) if noise is None else noise
    kept = (float(rng.uniform(0.72, 1.0)), float(rng.uniform(0.85, 1.0)))
    return Scanner(echo, level, float(rng.uniform(0.15, 0.85)), kept)


def place_t2w(gland: Gland, spacing_mm: Triple, view_mm: float, in_plane: int, rng: np.random.Generator) -> Placement:
    """Oblique slices that show the whole gland, each voxel `in_plane` by `in_plane` points of the lattice wide."""
    matrix = round(view_mm / spacing_mm[0])
    top = gland.center_mm[2] + gland.half_mm[2] + _BASE_MARGIN_MM
    bottom = gland.center_mm[2] - gland.half_mm[2] - _APEX_MARGIN_MM
    slices = max(_MIN_SLICES, int(np.ceil((top - bottom) / spacing_mm[2])))
    middle = (rng.normal(0, 3), gland.center_mm[1] + rng.normal(0, 6), (top + bottom) / 2 + rng.normal(0, 1.5))
    direction = rotation(rng.normal(0, 8), rng.normal(0, 2), rng.normal(0, 2))
    size = (matrix, matrix, slices)
    origin = rng.normal(0, 15, 3) - direction @ ((np.array(size) - 1) / 2 * spacing_mm)
    grid = Geometry(size, spacing_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist()))
    factors = (max(1, round(spacing_mm[2] / _SLICE_POINT_MM)), in_plane, in_plane)
    fine = refined(grid, factors)
    return Placement(grid, Lattice(fine.shape, fine.spacing_mm[::-1], middle[::-1]), factors)


def refined(grid: Geometry, factors: IntTriple) -> Geometry:
    """The same field of view with each voxel cut into `factors` along (D, H, W)."""
    cut = factors[::-1]
    size = tuple(n * f for n, f in zip(grid.size, cut, strict=True))
    spacing = tuple(s / f for s, f in zip(grid.spacing_mm, cut, strict=True))
    origin = grid.to_world(tuple(-0.5 + 0.5 / f for f in cut))
    return replace(grid, size=size, spacing_mm=spacing, origin_mm=tuple(origin.tolist()))  # type: ignore[arg-type]


def image_t2w(
    canvas: Canvas, scanner: Scanner, factors: IntTriple, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The T2w, and the full-resolution twin whose k-space it is the middle of.

    Returns:
        T2w (D, H, W) and twin (D, H·f, W·f), float32 in whole numbers; f is 1 or `TWIN`.
    """
    pd, t1, t2 = canvas.maps[:3]
    slice_points, in_plane, _ = factors
    signal = box_average(scanner.echo.signal(pd, t1, t2), (slice_points, 1, 1))
    gain = coil_sensitivity(canvas.lattice.axis_mm(1), canvas.lattice.axis_mm(2), rng, scanner.shading)
    received = (signal * gain).astype(np.complex64)
    if scanner.noise > 0:
        noise = rng.standard_normal((2, *received.shape), dtype=np.float32) * np.float32(scanner.noise)
        received += noise[0] + 1j * noise[1]
    if in_plane > 1:  # the twin is what was scanned and filtered, and the T2w the middle of its k-space
        received = apodize(received)
        coarse = truncate_k_space(received, 1 / in_plane, crop=True)
    else:
        coarse = truncate_k_space(received, scanner.kept)
    t2w, twin = (np.round(np.abs(image) * FULL_SCALE).astype(np.float32) for image in (coarse, received))
    return t2w, twin
