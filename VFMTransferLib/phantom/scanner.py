"""From tissue to image: signal equations, k-space, coil, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TAPER_START, _TAPER_END = 0.6, 0.35


@dataclass(frozen=True)
class SpinEcho:
    """A turbo spin echo.

    Attributes:
        tr_ms: Repetition time.
        te_ms: Effective echo time.
    """

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
    rows, columns = (_taper(np.abs(np.fft.fftfreq(n)) * 2) for n in (h, w))
    return np.fft.ifft2(np.fft.fft2(slices) * (rows[:, None] * columns)).astype(slices.dtype)


def _taper(frequency: np.ndarray) -> np.ndarray:
    """Weight of frequencies 0..1."""
    share = np.clip((frequency - _TAPER_START) / (1 - _TAPER_START), 0, 1)
    return _TAPER_END + (1 - _TAPER_END) * (1 + np.cos(np.pi * share)) / 2


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
