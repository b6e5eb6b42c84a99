"""A diffusion scan as one echo-planar readout distorts it: signals, the field that moves them, and the images again.

The ADC is made of signals, so that the signal at b 0 and at the high b are moved, and the ADC is taken of these.
"""

from __future__ import annotations

import numpy as np

from ...core.volume import Geometry, Volume
from ...phantom import distort
from ...phantom.canvas import Lattice, smooth_field

ASSUMED_B = 1400.0  # s/mm², of the high-b image where a real case does not state it
PHASE_VOXEL_MM = 2.0  # of the readout; a diffusion image that was interpolated later still moved by these
SLOW_MM, FAST_MM = 90.0, 45.0  # how fast the field varies that a shim leaves over, as in the phantoms
_PER_MM2 = 1e-6
# Of a scan that is distorted once, as in the phantoms.
READOUT_S = 0.042
_SHIM_SLOW_HZ, _SHIM_FAST_HZ = 18.0, 8.0
# What the field and the readout are drawn from, as in the phantoms.
_SLOW_HZ, _FAST_HZ = (8.0, 22.0), (3.0, 10.0)
_READOUT_S = (0.032, 0.052)


def smooth_field_hz(geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """An off-resonance field as a shim leaves it over: (D, H, W) in Hz, slowly varying."""
    lattice = Lattice(geometry.shape, geometry.spacing_mm[::-1])
    return _SHIM_SLOW_HZ * smooth_field(lattice, rng, SLOW_MM) + _SHIM_FAST_HZ * smooth_field(lattice, rng, FAST_MM)


def signals_of(hbv: Volume, adc: Volume) -> np.ndarray:
    """Signals (2, D, H, W) at the high b and at b 0, on the high-b image's grid."""
    high = np.maximum(hbv.array.astype(np.float32), 0)
    return np.stack([high, high * np.exp(np.float32(ASSUMED_B * _PER_MM2) * adc.resample_to(hbv.geometry).array)])


def distorted_images(
    high: np.ndarray, base: np.ndarray, shift_voxels: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    """High-b image and ADC (1e-6 mm²/s) of signals (D, H, W) that were moved along an array axis."""
    moved_high, moved_base = (distort(signal, shift_voxels, axis) for signal in (high, base))
    seen = (moved_high > 0) & (moved_base > 0)
    ratio = np.divide(moved_base, moved_high, out=np.ones_like(moved_base), where=seen)
    adc = np.where(seen, np.log(np.maximum(ratio, 1.0)) / (ASSUMED_B * _PER_MM2), 0).astype(np.float32)
    return moved_high, adc


def draw_displacement_mm(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """The displacement (D, H, W) that a random field gives in a random readout, in mm along the phase axis."""
    lattice = Lattice(shape, spacing_mm)
    hertz = smooth_field(lattice, rng, SLOW_MM) * np.float32(rng.uniform(*_SLOW_HZ))
    hertz += smooth_field(lattice, rng, FAST_MM) * np.float32(rng.uniform(*_FAST_HZ))
    return hertz * np.float32(rng.uniform(*_READOUT_S) * PHASE_VOXEL_MM * rng.choice([-1, 1]))
