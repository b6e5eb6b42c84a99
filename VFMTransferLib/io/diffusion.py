"""The high-b image of a diffusion series: the highest measured one, or one computed from the fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import ImageError
from ..volume import Volume

HIGH_B = 1400.0  # s/mm²; from here on a measured image is taken as it is
LOWEST_FITTED_B = 1.0  # a b of 0 also shows perfusion, which a mono-exponential does not describe
MIN_SPREAD_OF_B = 200.0
MAX_ADC_MM2_S = 5e-3


def high_b_image(by_b: Mapping[float, Volume], source: str) -> tuple[Volume, str]:
    """The image of a diffusion series that serves as high-b image.

    Args:
        by_b: b value in s/mm² → trace-weighted image, on one grid.
        source: What to call the series in the note.

    Returns:
        The measured image of the highest b, where that is at least 1400; else one computed for
        b 1400; and a sentence that says which.

    Raises:
        GeometryError: The images lie on different grids.
        ImageError: The highest b is too low and there are not two b values to extrapolate from.
    """
    highest = max(by_b)
    measured = ", ".join(f"{b:g}" for b in sorted(by_b))
    if highest >= HIGH_B:
        return by_b[highest], f"High-b image: b {highest:g} as measured ({source}, b {measured})."
    fitted = sorted(b for b in by_b if b >= LOWEST_FITTED_B)
    if len(fitted) < 2 or fitted[-1] - fitted[0] < MIN_SPREAD_OF_B:
        fitted = sorted(by_b)
    if len(fitted) < 2 or fitted[-1] - fitted[0] < MIN_SPREAD_OF_B:
        raise ImageError(
            f"{source} must hold b {HIGH_B:g} or higher, or two b values {MIN_SPREAD_OF_B:g} apart to compute it from, "
            f"but holds b {measured}. Select the high-b image itself."
        )
    for b in fitted:
        by_b[highest].require_same_grid(by_b[b])
    computed = mono_exponential({b: by_b[b].array for b in fitted}, HIGH_B)
    used = ", ".join(f"{b:g}" for b in fitted)
    note = f"High-b image: b {HIGH_B:g} computed by a mono-exponential fit to b {used} ({source}); it was not measured."
    return by_b[highest].with_array(computed), note


def mono_exponential(by_b: Mapping[float, np.ndarray], b: float) -> np.ndarray:
    """The signal at `b` by S(b) = S0 exp(-b ADC), fitted to log signals by least squares.

    Args:
        by_b: b value in s/mm² → signal, at least two, arrays of one shape.
        b: Where to evaluate the fit.

    Returns:
        float32 of the same shape. The ADC is kept in 0..5e-3 mm²/s, so that noise cannot make the
        signal grow with b; where any measured signal is not positive, 0.
    """
    values = np.array(sorted(by_b), dtype=np.float64)
    signals = np.stack([by_b[v] for v in values]).astype(np.float32)
    has_signal = (signals > 0).all(axis=0)
    logs = np.log(np.where(has_signal, signals, 1))
    mean_b, mean_log = values.mean(), logs.mean(axis=0)
    weights = (values - mean_b) / ((values - mean_b) ** 2).sum()
    adc = np.clip(-np.tensordot(weights, logs, axes=1), 0, MAX_ADC_MM2_S)
    return np.where(has_signal, np.exp(mean_log - (b - mean_b) * adc), 0).astype(np.float32)
