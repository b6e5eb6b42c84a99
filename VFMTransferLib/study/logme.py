"""LogME: how well features explain a target, as the evidence of a Bayesian linear model, without fitting a network.

You, Liu, Wang, Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021,
arXiv 2102.11005. The model is y = F w + noise, w ~ N(0, 1/α), noise ~ N(0, 1/β); the evidence p(y | F, α, β) is
maximized over both. For each ratio α/β the best β is known, so that one number is left to search, over a range that
holds the paper's fixed point.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize

_RATIOS = np.linspace(-10.0, 10.0, 81)  # decimal logarithms of α/β; standardized features have a scale of 1
_TINY = 1e-12
_FEWEST = 3


def log_maximum_evidence(features: np.ndarray, targets: np.ndarray) -> float:
    """LogME: the largest log evidence per sample, mean over the targets.

    Features and targets are standardized first, so that the number does not depend on their units, and the mean that
    this takes is counted as one sample less. That is ours; the paper takes them as they are.

    Args:
        features: (samples, channels).
        targets: (samples,) or (samples, targets).

    Raises:
        ValueError: They are not of the same samples, or fewer than three.
    """
    x, y = standardized(features), standardized(targets)
    if len(x) != len(y) or len(x) < _FEWEST:
        raise ValueError(f"Features and targets must be of the same three or more samples, got {len(x)} and {len(y)}.")
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    there = singular > _TINY * max(len(x), x.shape[1]) * max(float(singular.max()), 1.0)
    spectrum, basis = singular[there] ** 2, left[:, there]
    return float(np.mean([_evidence(spectrum, basis.T @ column, column) for column in y.T]))


def standardized(values: np.ndarray) -> np.ndarray:
    """Columns (samples, k) with mean 0 and deviation 1; a constant column becomes 0."""
    array = np.asarray(values, np.float64)
    array = array[:, None] if array.ndim == 1 else array
    centered = array - array.mean(axis=0)
    deviation = centered.std(axis=0)
    scale = np.maximum(np.abs(array).max(axis=0), 1.0) if len(array) else np.ones(array.shape[1])
    constant = deviation <= _TINY * scale
    return np.where(constant, 0.0, centered / np.where(constant, 1.0, deviation))


def _evidence(spectrum: np.ndarray, projected: np.ndarray, target: np.ndarray) -> float:
    """The largest log evidence per sample.

    Args:
        spectrum: Squared singular values of the features.
        projected: The target in the basis of the left singular vectors.
        target: The target (samples,), mean 0.
    """
    freedom = len(target) - 1
    length2 = max(float(target @ target), _TINY)

    def negative(log_ratio: float) -> float:
        """The paper's equation 2 at α/β, with the best β: freedom / (y' (F F' β/α + 1)^-1 y)."""
        shrunk = spectrum / (spectrum + 10.0**log_ratio)
        unexplained = max(length2 - float(shrunk @ projected**2), _TINY * length2)
        log_determinant = -float(np.log1p(-shrunk).sum())
        return 0.5 * (freedom * math.log(2 * math.pi * math.e * unexplained / freedom) + log_determinant)

    best = _RATIOS[int(np.argmin([negative(ratio) for ratio in _RATIOS]))]
    step = _RATIOS[1] - _RATIOS[0]
    found = optimize.minimize_scalar(negative, bounds=(best - step, best + step), method="bounded")
    return -min(float(found.fun), negative(best)) / freedom
