"""Small images that look like the sequences by their values, for tests of reading."""

import numpy as np
from scipy import ndimage

from VFMTransferLib.core.volume import Geometry, Volume

COS, SIN = 0.8660254037844387, 0.5
T2W_GRID = Geometry((20, 18, 7), (2.0, 2.5, 4.0), (-20.0, -22.0, -12.0))
DWI_GRID = Geometry((14, 12, 5), (3.0, 3.5, 5.0), (-19.0, -20.0, -10.0), (1, 0, 0, 0, COS, -SIN, 0, SIN, COS))


def a_t2w(seed: int = 0) -> Volume:
    return _tissue(T2W_GRID, "t2w", seed, 60, 700)


def an_hbv(seed: int = 1) -> Volume:
    return _tissue(DWI_GRID, "hbv", seed, 5, 120)


def an_adc(seed: int = 2) -> Volume:
    """In 1e-6 mm²/s."""
    return _tissue(DWI_GRID, "adc", seed, 600, 2600)


def a_gland() -> Volume:
    mask = np.zeros(T2W_GRID.shape, np.uint8)
    mask[2:5, 6:12, 7:14] = 1
    return Volume(mask, T2W_GRID, "gland")


def _tissue(grid: Geometry, name: str, seed: int, low: float, high: float) -> Volume:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 0.7)
    scaled = low + (high - low) * (smooth - smooth.min()) / np.ptp(smooth)
    return Volume(np.round(scaled).astype(np.int16), grid, name)
