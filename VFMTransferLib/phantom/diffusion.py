"""Diffusion-weighted echo-planar imaging: b-values measured, ADC fitted, the high b-value calculated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..volume import Geometry, Volume
from .canvas import Lattice
from .distortion import displacement_voxels, distort, draw_field_hz
from .scanner import SpinEcho, box_average
from .shapes import rotation

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


@dataclass(frozen=True)
class EchoPlanar:
    """How diffusion was acquired.

    Attributes:
        echo: Repetition and echo time.
        noise: Noise of real and imaginary part against the signal of water at TE 0.
        total_readout_s: From the first to the last line of k-space, at full resolution.
        phase_axis: Index axis (0 x, 1 y) of the phase encoding.
        sign: Direction of the phase encoding along it.
        tesla: Field strength.
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
    """A protocol at random, around those of the public studies."""
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
    """Scan the tissue.

    Args:
        maps: Tissue parameters (5, D, H, W) on `fine`, in the order of `PARAMETERS`.
        fine: The grid of the tissue.
        grid: Where diffusion is scanned.
        protocol: How.
        rng: Source of noise and field.
    """
    pure = [_sampled(s, fine, grid) for s in weighted_signals(maps, protocol.echo)]
    air = _sampled((maps[0] < 0.05).astype(np.float32), fine, grid)
    air *= np.float32(rng.uniform(0.2, 0.7))  # few bodies hold still pure gas
    air[:, : air.shape[1] // 2] = 0.0  # gas in the rectum; the shim copes with the air around the body
    lattice = Lattice(grid.shape, grid.spacing_mm[::-1])
    field = draw_field_hz(air, lattice, protocol.tesla, rng, protocol.field_strength)
    shift = displacement_voxels(field, protocol.total_readout_s, protocol.sign)
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
