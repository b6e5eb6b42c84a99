"""Diffusion-weighted echo-planar imaging: distortion, measured b values, the fitted ADC, the calculated high b value.

Along the phase-encoding axis a voxel at an off-resonance of f hertz is displaced by f times the total readout
time, in voxels (Jezzard and Balaban, Magn Reson Med 34:65 (1995)). Signal is moved, not sampled: what comes
together adds up, so that no signal is made or lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..core.volume import Geometry, Volume
from .canvas import Lattice, smooth_field
from .scanner import SpinEcho, box_average
from .shapes import rotation

GYROMAGNETIC_MHZ_PER_T = 42.577
AIR_TISSUE_PPM = 9.4  # difference of volume susceptibility, SI (Schenck, Med Phys 23:815 (1996))
_PIECES = 4
_ROUNDING = 1e-9  # an edge that falls on a voxel's own by arithmetic alone
_LIMIT_HZ = 160.0
B_VALUES = (50.0, 400.0, 800.0)  # s/mm²
HIGH_B = 1400.0
FULL_SCALE = 1200.0
ADC_LIMIT = 4000.0  # 1e-6 mm²/s
_PER_MM2 = 1e-6
_FAT_T1_MS, _WATER_T1_MS = 850.0, 1250.0
_VOXEL_MM = (2.0, 2.0, 3.0)
_VIEW_MM = (176.0, 188.0)
_FINE = 2  # points a voxel along each axis
_VISIBLE_NOISE = 6.0  # below this many standard deviations of noise the scanner shows nothing


def field_of_air_hz(air: np.ndarray, spacing_mm: tuple[float, float, float], tesla: float) -> np.ndarray:
    """Off-resonance around air in tissue, with B0 along z: the dipole field, by Fourier transform.

    After Marques and Bowtell, Concepts Magn Reson 25B:65 (2005): multiply by 1/3 − kz²/k² in k-space.

    Args:
        air: Share of air in each voxel (D, H, W), 0..1.
        spacing_mm: Voxel along (z, y, x).
        tesla: Field strength.

    Returns:
        Array (D, H, W) in Hz, float32.
    """
    padded = [2 * n for n in air.shape]
    kz, ky, kx = np.meshgrid(
        *(np.fft.fftfreq(n, step) for n, step in zip(padded, spacing_mm, strict=True)), indexing="ij", sparse=True
    )
    square = kz**2 + ky**2 + kx**2
    square[0, 0, 0] = 1.0
    kernel = 1 / 3 - kz**2 / square
    kernel[0, 0, 0] = 0.0
    spectrum = np.fft.fftn(air, padded, axes=(0, 1, 2)) * kernel
    hertz = np.fft.ifftn(spectrum).real * AIR_TISSUE_PPM * GYROMAGNETIC_MHZ_PER_T * tesla
    d, h, w = air.shape
    return hertz[:d, :h, :w].astype(np.float32)


def draw_field_hz(
    air: np.ndarray, lattice: Lattice, tesla: float, rng: np.random.Generator, strength: float
) -> np.ndarray:
    """A field map: rectal gas, and what the shim leaves over, slowly varying; (D, H, W) in Hz."""
    left_over = smooth_field(lattice, rng, 90.0) * np.float32(rng.uniform(8, 22))
    left_over += smooth_field(lattice, rng, 45.0) * np.float32(rng.uniform(3, 10))
    field = strength * (field_of_air_hz(air, lattice.spacing_mm, tesla) + left_over)
    return (_LIMIT_HZ * np.tanh(field / _LIMIT_HZ)).astype(np.float32)


def distort(image: np.ndarray, shift_voxels: np.ndarray, axis: int) -> np.ndarray:
    """Move each voxel's signal along `axis` and add up what arrives.

    Each voxel is cut into pieces, each displaced by the field's interpolated shift and shared among the voxels that it
    then overlaps. What leaves at one end enters at the other, as in an aliased readout.

    Args:
        image: Signal (D, H, W).
        shift_voxels: Displacement of each voxel along `axis`.
        axis: Array axis of the phase encoding.

    Returns:
        Array (D, H, W), float32, with the same sum along each line.
    """
    lines = np.moveaxis(image, axis, -1)
    length = lines.shape[-1]
    shifts = np.moveaxis(shift_voxels, axis, -1).reshape(-1, length).astype(np.float64)
    signal = lines.reshape(-1, length).astype(np.float64) / _PIECES
    start = np.arange(len(signal))[:, None] * length
    slope = np.asarray(np.gradient(shifts, axis=1)) if length > 1 else np.zeros_like(shifts)
    out = np.zeros(signal.size)
    for piece in range(_PIECES):
        middle = (piece + 0.5) / _PIECES  # counted from the voxel's edge
        edge = np.arange(length) + shifts + slope * (middle - 0.5) + piece / _PIECES
        below = np.floor(edge + _ROUNDING).astype(int)
        share = np.clip((1 - (edge - below)) * _PIECES, 0, 1)
        for index, weight in ((below, share), (below + 1, 1 - share)):
            out += np.bincount((start + index % length).ravel(), (signal * weight).ravel(), out.size)
    return np.moveaxis(out.reshape(lines.shape), -1, axis).astype(np.float32)


@dataclass(frozen=True)
class EchoPlanar:
    """How diffusion was acquired.

    Attributes:
        noise: Noise of real and imaginary part against the signal of water at TE 0.
        total_readout_s: From the first to the last line of k-space, at full resolution.
        phase_axis: Index axis (0 x, 1 y) of the phase encoding.
        sign: Direction of the phase encoding along it.
        field_strength: Factor of the off-resonance; 0 gives no distortion.
    """

    echo: SpinEcho
    noise: float
    total_readout_s: float
    phase_axis: int
    sign: int
    tesla: float = 3.0
    field_strength: float = 1.0

    @property
    def array_axis(self) -> int:
        """Array axis (D, H, W) of the phase encoding."""
        return 2 - self.phase_axis


@dataclass(frozen=True)
class DiffusionStudy:
    """High-b image and ADC as scanned, and what is true of them; all on one grid.

    Attributes:
        hbv, adc: As scanned: distorted and noisy.
        hbv_undistorted, adc_undistorted: The same with the same noise, had there been no field.
        adc_true: What a noise-free, undistorted scan would measure, 1e-6 mm²/s; 0 where this one shows nothing, as in
            saturated fat.
        field_map_hz: Off-resonance.
        displacement_mm: Where the signal went, along the positive phase axis.
    """

    hbv: Volume
    adc: Volume
    hbv_undistorted: Volume
    adc_undistorted: Volume
    adc_true: Volume
    field_map_hz: Volume
    displacement_mm: Volume


def draw_protocol(rng: np.random.Generator, noise: float | None, field_strength: float) -> EchoPlanar:
    """A protocol at random, around those of the public data sets."""
    level = float(np.exp(rng.normal(np.log(0.004), 0.3))) if noise is None else noise
    return EchoPlanar(
        echo=SpinEcho(tr_ms=float(rng.uniform(2700, 5000)), te_ms=float(rng.uniform(58, 75))),
        noise=level,
        total_readout_s=float(rng.uniform(0.032, 0.052)),
        phase_axis=int(rng.integers(0, 2)),
        sign=int(rng.choice([-1, 1])),
        field_strength=field_strength,
    )


def place_diffusion(t2w: Geometry, rng: np.random.Generator) -> Geometry:
    """A grid over the middle of the T2w, tilted against it by a few degrees."""
    direction = np.reshape(t2w.direction, (3, 3)) @ rotation(rng.normal(0, 4), rng.normal(0, 1.5), rng.normal(0, 1.5))
    size = (round(_VIEW_MM[0] / _VOXEL_MM[0]), round(_VIEW_MM[1] / _VOXEL_MM[1]), t2w.size[2])
    center = t2w.center_mm + rng.normal(0, 2, 3)
    origin = center - direction @ ((np.array(size) - 1) / 2 * _VOXEL_MM)
    return Geometry(size, _VOXEL_MM, tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def image_diffusion(
    maps: np.ndarray, fine: Geometry, grid: Geometry, protocol: EchoPlanar, rng: np.random.Generator
) -> DiffusionStudy:
    """Scan the tissue, given by its parameters (5, D, H, W) on `fine` in the order of `PARAMETERS`, on `grid`."""
    pure = [_sampled(s, fine, grid) for s in weighted_signals(maps, protocol.echo)]
    air = _sampled((maps[0] < 0.05).astype(np.float32), fine, grid)
    air *= np.float32(rng.uniform(0.2, 0.7))  # few bodies hold still pure gas
    air[:, : air.shape[1] // 2] = 0.0  # gas in the rectum; the shim copes with the air around the body
    lattice = Lattice(grid.shape, grid.spacing_mm[::-1])
    field = draw_field_hz(air, lattice, protocol.tesla, rng, protocol.field_strength)
    shift = field * np.float32(protocol.sign * protocol.total_readout_s)  # in voxels of the phase axis
    noise = [rng.standard_normal((2, *grid.shape), dtype=np.float32) * np.float32(protocol.noise) for _ in B_VALUES]
    seen = {
        "": [distort(s, shift, protocol.array_axis) for s in pure],
        "_undistorted": pure,
    }
    images = {name: measured(signals, noise, protocol.noise) for name, signals in seen.items()}
    truth, _ = fit_adc(pure)
    made = {f"{kind}{name}": pair[i] for name, pair in images.items() for i, kind in enumerate(("hbv", "adc"))}
    made["adc_true"] = np.where(pure[0] > _VISIBLE_NOISE * protocol.noise, truth, 0)
    made["field_map_hz"] = field
    made["displacement_mm"] = shift * np.float32(grid.spacing_mm[protocol.phase_axis])
    return DiffusionStudy(**{name: Volume(array.astype(np.float32), grid, name) for name, array in made.items()})


def weighted_signals(maps: np.ndarray, echo: SpinEcho) -> list[np.ndarray]:
    """Signal at each of `B_VALUES`: fat is saturated, and S_b = S_0 · exp(−b · ADC)."""
    pd, t1, t2, adc = maps[:4]
    base = echo.signal(pd, t1, t2)
    base *= np.clip((t1 - np.float32(_FAT_T1_MS)) / np.float32(_WATER_T1_MS - _FAT_T1_MS), 0.02, 1)  # short T1: fat
    return [base * np.exp(-np.float32(b * _PER_MM2) * adc) for b in B_VALUES]


def measured(signals: list[np.ndarray], noise: list[np.ndarray], level: float) -> tuple[np.ndarray, np.ndarray]:
    """The calculated high-b image and the ADC map of a scan with the given complex noise."""
    magnitudes = [np.hypot(s + n[0], n[1]) for s, n in zip(signals, noise, strict=True)]
    adc, base = fit_adc(magnitudes)
    high = base * np.exp(-HIGH_B * _PER_MM2 * adc) * FULL_SCALE
    shown = magnitudes[0] > _VISIBLE_NOISE * level
    return np.round(np.where(shown, high, 0)), np.round(np.where(shown, adc, 0))


def fit_adc(signals: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares line through log signal over b: ADC in 1e-6 mm²/s (0..`ADC_LIMIT`), and the signal at b 0."""
    b = np.asarray(B_VALUES, dtype=np.float32) * np.float32(_PER_MM2)
    logs = np.log(np.maximum(np.stack(signals), np.float32(1e-6)))
    centered = b - b.mean()
    adc = -np.tensordot(centered, logs, axes=(0, 0)) / (centered**2).sum()
    adc = np.clip(adc, 0, ADC_LIMIT)
    return adc, np.exp(logs.mean(axis=0) + adc * b.mean())


def _sampled(array: np.ndarray, fine: Geometry, grid: Geometry) -> np.ndarray:
    """What a grid's voxels see of finer tissue: the mean over `_FINE` points along each of their axes."""
    step = np.asarray(grid.spacing_mm) / _FINE
    first = grid.to_world(tuple(-0.5 + 0.5 / _FINE for _ in range(3)))
    size = [n * _FINE for n in grid.size]
    resample = sitk.ResampleImageFilter()
    resample.SetSize(size)
    resample.SetOutputSpacing(step.tolist())
    resample.SetOutputOrigin(first.tolist())
    resample.SetOutputDirection(grid.direction)
    resample.SetUseNearestNeighborExtrapolator(True)
    resample.SetNumberOfThreads(1)
    image = resample.Execute(Volume(array, fine).to_sitk())
    return box_average(sitk.GetArrayFromImage(image), (_FINE,) * 3)
