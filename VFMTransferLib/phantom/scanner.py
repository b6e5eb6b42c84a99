"""From tissue to image: T2w by a turbo spin echo, diffusion by echo-planar readout with its distortion.

Along the phase-encoding axis a voxel at an off-resonance of f hertz is displaced by f times the total readout
time, in voxels (Jezzard and Balaban, Magn Reson Med 34:65 (1995)). Signal is moved, not sampled: what comes
together adds up, so that no signal is made or lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy  # `fft` is imported at its first use, for which those who make no phantom need not wait
import SimpleITK as sitk

from ..core.volume import Geometry, IntTriple, Triple, Volume
from .canvas import Canvas, Lattice, rotation, smooth_field
from .gland import Gland

if TYPE_CHECKING:
    from .artifacts import Artifacts

_TAPER_START, _TAPER_END = 0.6, 0.35
# T2w.
TWIN = 2  # matrix of the full-resolution twin against the T2w's, in plane
_T2W_FULL_SCALE = 700.0
_BASE_MARGIN_MM, _APEX_MARGIN_MM = 14.0, 11.0
_MIN_SLICES = 19
_SLICE_POINT_MM = 1.5
# Diffusion.
GYROMAGNETIC_MHZ_PER_T = 42.577
AIR_TISSUE_PPM = 9.4  # difference of volume susceptibility, SI (Schenck, Med Phys 23:815 (1996))
_PIECES = 4
_ROUNDING = 1e-9  # an edge that falls on a voxel's own by arithmetic alone
_LIMIT_HZ = 160.0
B_VALUES = (50.0, 400.0, 800.0)  # s/mm²
HIGH_B = 1400.0
_HBV_FULL_SCALE = 1200.0
ADC_LIMIT = 4000.0  # 1e-6 mm²/s
_PER_MM2 = 1e-6
_FAT_T1_MS, _WATER_T1_MS = 850.0, 1250.0
_VOXEL_MM = (2.0, 2.0, 3.0)
_VIEW_MM = (176.0, 188.0)
_FINE = 2  # points a voxel along each axis
_VISIBLE_NOISE = 6.0  # below this many standard deviations of noise the scanner shows nothing


@dataclass(frozen=True)
class SpinEcho:
    """A turbo spin echo: repetition time and effective echo time."""

    tr_ms: float
    te_ms: float

    def signal(self, pd: np.ndarray, t1_ms: np.ndarray, t2_ms: np.ndarray) -> np.ndarray:
        """PD · (1 − exp(−TR/T1)) · exp(−TE/T2), relative to water at TE 0."""
        return pd * (1 - np.exp(-self.tr_ms / t1_ms)) * np.exp(-self.te_ms / t2_ms)


def box_average(array: np.ndarray, factors: IntTriple) -> np.ndarray:
    """Mean over blocks of `factors` points along (D, H, W): what a voxel that large sees."""
    (d, h, w), (fd, fh, fw) = array.shape, factors
    blocks = array.reshape(d // fd, fd, h // fh, fh, w // fw, fw)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def truncate_k_space(slices: np.ndarray, kept: float | tuple[float, float], *, crop: bool = False) -> np.ndarray:
    """Keep the middle of each slice's k-space (D, H, W), as a coarser acquisition would: complex, of the same mean.

    Args:
        kept: Fraction of the samples kept along both axes, or along each of (H, W).
        crop: Give the coarser matrix (D, round(H·kept), round(W·kept)) of the same field of view, not zero filling.
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
    # Without this phase the first coarse voxel would lie on the first fine one, not amid those it covers.
    ramps = [
        np.exp(2j * np.pi * (np.arange(part) - part // 2) * (size / part - 1) / 2 / size)
        for size, part in ((h, rows), (w, columns))
    ]
    scale = (rows * columns) / (h * w)
    return np.fft.ifft2(np.fft.ifftshift(middle * np.outer(*ramps), axes=(1, 2))) * scale


def apodize(slices: np.ndarray) -> np.ndarray:
    """Filter the edge of each slice's k-space (D, H, W), complex, as scanners do against ringing and noise.

    Along each axis frequencies stay up to `_TAPER_START` of the highest and fall from there to `_TAPER_END` as half a
    cosine: so goes the spectrum of 3 T scans of the prostate with 0.5 mm pixels, by measurement.
    """
    _, h, w = slices.shape
    share = [np.clip((np.abs(np.fft.fftfreq(n)) * 2 - _TAPER_START) / (1 - _TAPER_START), 0, 1) for n in (h, w)]
    rows, columns = (_TAPER_END + (1 - _TAPER_END) * (1 + np.cos(np.pi * s)) / 2 for s in share)
    return np.fft.ifft2(np.fft.fft2(slices) * (rows[:, None] * columns)).astype(slices.dtype)


@dataclass(frozen=True)
class Scanner:
    """How T2w was acquired.

    Attributes:
        noise: Of real and imaginary part against the signal of water at TE 0.
        shading: Strength of the coil's uneven gain.
        kept: Fraction of the T2w's k-space along (rows, columns) that was measured; all of it where a twin is made.
    """

    echo: SpinEcho
    noise: float
    shading: float
    kept: tuple[float, float]


def draw_scanner(rng: np.random.Generator, noise: float | None) -> Scanner:
    """A protocol at random, around those of the public data sets."""
    echo = SpinEcho(tr_ms=float(rng.uniform(3500, 7000)), te_ms=float(rng.uniform(88, 118)))
    level = float(np.exp(rng.normal(np.log(0.015), 0.4))) if noise is None else noise
    kept = (float(rng.uniform(0.72, 1.0)), float(rng.uniform(0.85, 1.0)))
    return Scanner(echo, level, float(rng.uniform(0.15, 0.85)), kept)


def place_t2w(
    gland: Gland, spacing_mm: Triple, view_mm: float, in_plane: int, rng: np.random.Generator
) -> tuple[Geometry, Lattice, IntTriple]:
    """Oblique slices that show the whole gland: the T2w's grid, the lattice, and its points a voxel along (D, H, W)."""
    matrix = round(view_mm / spacing_mm[0])
    top = gland.center_mm[2] + gland.half_mm[2] + _BASE_MARGIN_MM
    bottom = gland.center_mm[2] - gland.half_mm[2] - _APEX_MARGIN_MM
    slices = max(_MIN_SLICES, int(np.ceil((top - bottom) / spacing_mm[2])))
    middle = (rng.normal(0, 3), gland.center_mm[1] + rng.normal(0, 6), (top + bottom) / 2 + rng.normal(0, 1.5))
    direction = rotation(rng.normal(0, 8), rng.normal(0, 2), rng.normal(0, 2))
    grid = Geometry.centered(rng.normal(0, 15, 3), (matrix, matrix, slices), spacing_mm, direction)
    factors = (max(1, round(spacing_mm[2] / _SLICE_POINT_MM)), in_plane, in_plane)
    fine = grid.refined(factors[::-1])
    return grid, Lattice(fine.shape, fine.spacing_mm[::-1], middle[::-1]), factors


def image_t2w(
    canvas: Canvas,
    scanner: Scanner,
    factors: IntTriple,
    rng: np.random.Generator,
    artifacts: Artifacts | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The T2w (D, H, W), and the full-resolution twin (D, H·f, W·f) whose k-space it is the middle of.

    Both are float32 in whole numbers; f is 1 or `TWIN`.
    """
    pd, t1, t2 = canvas.maps[:3]
    if artifacts is not None:
        t2 = t2 * np.float32(artifacts.apparent_t2())
    slice_points, in_plane, _ = factors
    signal = box_average(scanner.echo.signal(pd, t1, t2), (slice_points, 1, 1))
    # The gain of a surface array after the scanner's own correction: a little more in front and behind, mean 1.
    y, x = np.meshgrid(canvas.lattice.axis_mm(1) / 95, canvas.lattice.axis_mm(2) / 95, indexing="ij")
    front, back, tilt, side = rng.uniform(0.3, 1.0), rng.uniform(0.1, 0.9), *rng.normal(0, 0.2, 2)
    gain = front * np.clip(-y, 0, None) ** 2 + back * np.clip(y, 0, None) ** 2 + tilt * x + side * y * x
    gain = np.exp(scanner.shading * gain)
    received = (signal * (gain / gain.mean()).astype(np.float32)).astype(np.complex64)
    if artifacts is not None:
        depth, height, width = canvas.lattice.spacing_mm
        received = artifacts.t2w(received.real, (depth * slice_points, height, width))
    if scanner.noise > 0:
        noise = rng.standard_normal((2, *received.shape), dtype=np.float32) * np.float32(scanner.noise)
        received += noise[0] + 1j * noise[1]
    if in_plane > 1:  # the twin is what was scanned and filtered, and the T2w the middle of its k-space
        received = apodize(received)
        coarse = truncate_k_space(received, 1 / in_plane, crop=True)
    else:
        coarse = truncate_k_space(received, scanner.kept)
    full_scale = _T2W_FULL_SCALE if artifacts is None else artifacts.full_scale(_T2W_FULL_SCALE)
    t2w, twin = (np.round(np.abs(image) * full_scale).astype(np.float32) for image in (coarse, received))
    return t2w, twin


def field_of_air_hz(air: np.ndarray, spacing_mm: Triple, tesla: float) -> np.ndarray:
    """Off-resonance in Hz (D, H, W), float32, around air in tissue, with B0 along z: the dipole field.

    After Marques and Bowtell, Concepts Magn Reson 25B:65 (2005): multiply by 1/3 − kz²/k² in k-space.

    Args:
        air: Share of air in each voxel (D, H, W), 0..1.
        spacing_mm: Voxel along (z, y, x).
    """
    (d, h, w), (step_z, step_y, step_x) = air.shape, spacing_mm
    fft = scipy.fft  # float32 stays float32, as it does not in NumPy before 2
    frequencies = fft.fftfreq(2 * d, step_z), fft.fftfreq(2 * h, step_y), fft.rfftfreq(2 * w, step_x)
    kz, ky, kx = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    square = kz**2 + ky**2 + kx**2
    square[0, 0, 0] = 1.0
    kernel = (1 / 3 - kz**2 / square).astype(np.float32)
    kernel[0, 0, 0] = 0.0
    # Axis by axis: lines of padding need no transform, neither do those that are cut off again.
    spectrum = fft.fft(fft.rfft(air, 2 * w, axis=2), 2 * h, axis=1)
    spectrum = fft.fft(spectrum, 2 * d, axis=0, overwrite_x=True)
    spectrum *= kernel
    spectrum = fft.ifft(spectrum, axis=0, overwrite_x=True)[:d]
    spectrum = fft.ifft(spectrum, axis=1)[:, :h]
    shift = fft.irfft(spectrum, 2 * w, axis=2)[:, :, :w]
    return shift * np.float32(AIR_TISSUE_PPM * GYROMAGNETIC_MHZ_PER_T * tesla)


def distort(image: np.ndarray, shift_voxels: np.ndarray, axis: int) -> np.ndarray:
    """Move each voxel's signal (D, H, W) along an array axis and add up what arrives; the sum of each line stays.

    Each voxel is cut into pieces, each displaced by the field's interpolated shift and shared among the voxels that it
    then overlaps. What leaves at one end enters at the other, as in an aliased readout.
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
        noise: Of real and imaginary part against the signal of water at TE 0.
        total_readout_s: From the first to the last line of k-space, at full resolution.
        phase_axis, sign: Index axis (0 x, 1 y) of the phase encoding, and its direction.
        field_strength: Factor of the off-resonance; 0 gives no distortion.
    """

    echo: SpinEcho
    noise: float
    total_readout_s: float
    phase_axis: int
    sign: int
    tesla: float = 3.0
    field_strength: float = 1.0


@dataclass(frozen=True)
class DiffusionStudy:
    """High-b image and ADC as scanned, and what is true of them; all on one grid.

    Attributes:
        hbv_undistorted, adc_undistorted: Of the same noise, had there been no field.
        adc_true: What a noise-free, undistorted scan would measure, 1e-6 mm²/s; 0 where this one shows nothing, as in
            saturated fat.
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
    return Geometry.centered(t2w.center_mm + rng.normal(0, 2, 3), size, _VOXEL_MM, direction)


def image_diffusion(
    maps: np.ndarray,
    fine: Geometry,
    grid: Geometry,
    protocol: EchoPlanar,
    rng: np.random.Generator,
    artifacts: Artifacts | None = None,
) -> DiffusionStudy:
    """Scan the tissue, given by its parameters (5, D, H, W) on `fine` in the order of `PARAMETERS`, on `grid`."""
    pd, t1, t2, adc = maps[:4]
    base = protocol.echo.signal(pd, t1, t2)
    water = 1.0 if artifacts is None else artifacts.water_t1_factor()
    kept = np.clip((t1 - np.float32(_FAT_T1_MS * water)) / np.float32((_WATER_T1_MS - _FAT_T1_MS) * water), 0.02, 1)
    fat = base if artifacts is None else base * (1 - kept)
    base = base * kept  # fat is saturated
    pure = [_sampled(base * np.exp(-np.float32(b * _PER_MM2) * adc), fine, grid) for b in B_VALUES]
    air = _sampled((maps[0] < 0.05).astype(np.float32), fine, grid)
    air *= np.float32(rng.uniform(0.2, 0.7))  # few bodies hold still pure gas
    air[:, : air.shape[1] // 2] = 0.0  # gas in the rectum; the shim copes with the air around the body
    lattice = Lattice(grid.shape, grid.spacing_mm[::-1])
    left_over = smooth_field(lattice, rng, 90.0) * np.float32(rng.uniform(8, 22))  # by the shim
    left_over += smooth_field(lattice, rng, 45.0) * np.float32(rng.uniform(3, 10))
    if artifacts is not None:
        left_over *= np.float32(protocol.tesla / 3.0)
    hertz = protocol.field_strength * (field_of_air_hz(air, lattice.spacing_mm, protocol.tesla) + left_over)
    phase = 2 - protocol.phase_axis
    weakest = _VISIBLE_NOISE * protocol.noise
    if artifacts is not None:
        pure, metal_hz = artifacts.diffusion(pure, _sampled(fat, fine, grid), fine, grid, protocol)
        hertz = hertz + protocol.field_strength * metal_hz
        weakest = artifacts.weakest(pure[0], weakest)
    field = (_LIMIT_HZ * np.tanh(hertz / _LIMIT_HZ)).astype(np.float32)
    shift = field * np.float32(protocol.sign * protocol.total_readout_s)  # in voxels of the phase axis
    noise = [rng.standard_normal((2, *grid.shape), dtype=np.float32) * np.float32(protocol.noise) for _ in B_VALUES]
    made = {"adc_true": np.where(pure[0] > weakest, _fit_adc(pure)[0], 0)}
    for name, signals in (("", [distort(s, shift, phase) for s in pure]), ("_undistorted", pure)):
        magnitudes = [np.hypot(s + n[0], n[1]) for s, n in zip(signals, noise, strict=True)]
        adc, base = _fit_adc(magnitudes)
        shown = magnitudes[0] > weakest
        high = base * np.exp(-HIGH_B * _PER_MM2 * adc) * _HBV_FULL_SCALE
        made |= {f"hbv{name}": np.round(np.where(shown, high, 0)), f"adc{name}": np.round(np.where(shown, adc, 0))}
    made["field_map_hz"] = field
    made["displacement_mm"] = shift * np.float32(grid.spacing_mm[protocol.phase_axis])
    return DiffusionStudy(**{name: Volume(array.astype(np.float32), grid, name) for name, array in made.items()})


def _fit_adc(signals: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares line through log signal over b: ADC in 1e-6 mm²/s (0..`ADC_LIMIT`), and the signal at b 0."""
    b = np.asarray(B_VALUES, dtype=np.float32) * np.float32(_PER_MM2)
    logs = np.log(np.maximum(np.stack(signals), np.float32(1e-6)))
    centered = b - b.mean()
    adc = -np.tensordot(centered, logs, axes=(0, 0)) / (centered**2).sum()
    adc = np.clip(adc, 0, ADC_LIMIT)
    return adc, np.exp(logs.mean(axis=0) + adc * b.mean())


def _sampled(array: np.ndarray, fine: Geometry, grid: Geometry) -> np.ndarray:
    """What a grid's voxels see of finer tissue: the mean over `_FINE` points along each of their axes."""
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(grid.refined((_FINE,) * 3).image())
    resample.SetUseNearestNeighborExtrapolator(True)
    resample.SetNumberOfThreads(1)
    image = resample.Execute(Volume(array, fine).to_sitk())
    return box_average(sitk.GetArrayFromImage(image), (_FINE,) * 3)
