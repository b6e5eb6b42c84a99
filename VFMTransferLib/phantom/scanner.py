"""From tissue to image: signal equations, k-space, coil, noise; the T2w acquisition, its slices and contrast."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.volume import Geometry, IntTriple, Triple
from .canvas import Canvas, Lattice
from .gland import Gland
from .shapes import rotation

_TAPER_START, _TAPER_END = 0.6, 0.35


@dataclass(frozen=True)
class SpinEcho:
    """A turbo spin echo: repetition time and effective echo time."""

    tr_ms: float
    te_ms: float

    def signal(self, pd: np.ndarray, t1_ms: np.ndarray, t2_ms: np.ndarray) -> np.ndarray:
        """PD · (1 − exp(−TR/T1)) · exp(−TE/T2), relative to water at TE 0."""
        return pd * (1 - np.exp(-self.tr_ms / t1_ms)) * np.exp(-self.te_ms / t2_ms)


def box_average(array: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Mean over blocks of `factors` points along (D, H, W): what a voxel that large sees."""
    (d, h, w), (fd, fh, fw) = array.shape, factors
    blocks = array.reshape(d // fd, fd, h // fh, fh, w // fw, fw)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def truncate_k_space(slices: np.ndarray, kept: float | tuple[float, float], *, crop: bool = False) -> np.ndarray:
    """Keep the middle of each slice's k-space along (H, W), as a coarser acquisition would.

    Args:
        slices: Array (D, H, W), real or complex.
        kept: Fraction of the samples kept along both axes, or along each of (H, W).
        crop: Give the coarser matrix (D, round(H·kept), round(W·kept)) in place of zero filling. Its voxels fill the
            same field of view: each lies amid those that it stands for.

    Returns:
        Complex array; the mean of each slice stays.
    """
    _, h, w = slices.shape
    fractions = (kept, kept) if isinstance(kept, int | float) else kept
    rows, columns = (max(round(n * f), 1) for n, f in zip((h, w), fractions, strict=True))
    spectrum = np.fft.fftshift(np.fft.fft2(slices), axes=(1, 2))
    top, left = h // 2 - rows // 2, w // 2 - columns // 2
    middle = spectrum[:, top : top + rows, left : left + columns]
    if not crop:
        full = np.zeros_like(spectrum)
        full[:, top : top + rows, left : left + columns] = middle
        return np.fft.ifft2(np.fft.ifftshift(full, axes=(1, 2)))
    # Without this the first coarse voxel would lie on the first fine one, not amid those it covers.
    shift = np.outer(_half_voxel_ramp(h, rows), _half_voxel_ramp(w, columns))
    scale = (rows * columns) / (h * w)
    return np.fft.ifft2(np.fft.ifftshift(middle * shift, axes=(1, 2))) * scale


def apodize(slices: np.ndarray) -> np.ndarray:
    """Filter the edge of each slice's k-space (D, H, W), complex, as scanners do against ringing and noise.

    Along each axis frequencies stay up to `_TAPER_START` of the highest, and fall from there to `_TAPER_END` as half a
    cosine: so the spectrum of 3 T scans of the prostate with 0.5 mm pixels goes, by measurement.
    """
    _, h, w = slices.shape
    share = [np.clip((np.abs(np.fft.fftfreq(n)) * 2 - _TAPER_START) / (1 - _TAPER_START), 0, 1) for n in (h, w)]
    rows, columns = (_TAPER_END + (1 - _TAPER_END) * (1 + np.cos(np.pi * s)) / 2 for s in share)
    return np.fft.ifft2(np.fft.fft2(slices) * (rows[:, None] * columns)).astype(slices.dtype)


def _half_voxel_ramp(size: int, kept: int) -> np.ndarray:
    """Phase of the middle `kept` of `size` frequencies that moves voxel 0 amid the size / kept voxels it covers."""
    frequency = np.arange(kept) - kept // 2
    return np.exp(2j * np.pi * frequency * (size / kept - 1) / 2 / size)


def coil_sensitivity(y_mm: np.ndarray, x_mm: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Gain (H, W) of a surface array after the scanner's own correction: a little more in front and behind, mean 1."""
    y, x = np.meshgrid(y_mm / 95, x_mm / 95, indexing="ij")
    front, back, tilt, side = rng.uniform(0.3, 1.0), rng.uniform(0.1, 0.9), *rng.normal(0, 0.2, 2)
    gain = front * np.clip(-y, 0, None) ** 2 + back * np.clip(y, 0, None) ** 2 + tilt * x + side * y * x
    gain = np.exp(strength * gain)
    return (gain / gain.mean()).astype(np.float32)


FULL_SCALE = 700.0
TWIN = 2  # matrix of the full-resolution twin against the T2w's, in plane
_BASE_MARGIN_MM, _APEX_MARGIN_MM = 14.0, 11.0
_MIN_SLICES = 19
_SLICE_POINT_MM = 1.5


@dataclass(frozen=True)
class Scanner:
    """How T2w was acquired.

    Attributes:
        noise: Noise of real and imaginary part against the signal of water at TE 0.
        shading: Strength of the coil's uneven gain.
        kept: Fraction of the T2w's k-space along (rows, columns) that was measured; all of it where a twin is made.
    """

    echo: SpinEcho
    noise: float
    shading: float
    kept: tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """The T2w's grid and the finer lattice whose boxes are its voxels.

    Attributes:
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
    """A protocol at random, around those of the public data sets."""
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
