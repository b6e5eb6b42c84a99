"""Echo-planar distortion: where a field shifts the signal to, and what piles up there.

Along the phase-encoding axis a voxel at an off-resonance of f hertz is displaced by f times the total readout
time, in voxels (Jezzard and Balaban, Magn Reson Med 34:65 (1995)). Signal is moved, not sampled: what comes
together adds up, so that no signal is made or lost.
"""

from __future__ import annotations

import numpy as np

from .canvas import Lattice, smooth_field

GYROMAGNETIC_MHZ_PER_T = 42.577
AIR_TISSUE_PPM = 9.4  # difference of volume susceptibility, SI (Schenck, Med Phys 23:815 (1996))
_PIECES = 4
_ROUNDING = 1e-9  # an edge that falls on a voxel's own by arithmetic alone
_LIMIT_HZ = 160.0


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


def displacement_voxels(field_hz: np.ndarray, total_readout_s: float, sign: int = 1) -> np.ndarray:
    """How far the signal of each voxel is moved along the phase axis, in voxels of that axis."""
    return field_hz * np.float32(sign * total_readout_s)


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
