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


# A linear probe: how much of a target ridge regression predicts from frozen features, in cases it has not seen.
#
# Linear probes: Alain and Bengio, arXiv 1610.01644; ridge regression: Hoerl and Kennard, Technometrics 12 (1970); its
# penalty is chosen by generalized cross-validation, Golub, Heath and Wahba, Technometrics 21 (1979).

FOLDS = 5
_PENALTIES = np.logspace(-3, 5, 25)  # of standardized features, for a sum over samples


def explained_share(features: np.ndarray, target: np.ndarray, groups: np.ndarray, folds: int = FOLDS) -> float:
    """Share of a target's variance that the probe predicts in groups it was not fitted on; below 0 it misleads.

    Args:
        features: (samples, channels).
        target: (samples,).
        groups: The case of each sample, (samples,); a case is never on both sides.
        folds: Parts that are left out in turn, at most as many as there are cases.

    Raises:
        ValueError: There are fewer than two cases.
    """
    cases = np.unique(groups)
    if len(cases) < 2:
        raise ValueError("A probe must see two or more cases, so that it can be tried on one it has not seen.")
    y = np.asarray(target, np.float64)
    total = float(((y - y.mean()) ** 2).sum())
    if total <= _TINY * max(float((y**2).sum()), 1.0):
        return 0.0  # there is nothing to explain
    predicted = np.empty_like(y)
    for fold in range(min(folds, len(cases))):
        out = np.isin(groups, cases[fold :: min(folds, len(cases))])
        predicted[out] = _fitted(features[~out], y[~out], features[out])
    return 1 - float(((y - predicted) ** 2).sum()) / total


def _fitted(features: np.ndarray, target: np.ndarray, new: np.ndarray) -> np.ndarray:
    """What ridge regression on some samples predicts for new ones."""
    both = np.asarray(features, np.float64)
    mean, deviation = both.mean(axis=0), both.std(axis=0)
    deviation = np.where(deviation > _TINY * np.maximum(np.abs(both).max(axis=0), 1.0), deviation, np.inf)
    left, singular, right = np.linalg.svd(standardized(both), full_matrices=False)
    centered = target - target.mean()
    projected = left.T @ centered
    rest = max(float(centered @ centered - projected @ projected), 0.0)
    penalty = min(_PENALTIES, key=lambda p: _validation(singular, projected, rest, len(target), p))
    weights = right.T @ (singular / (singular**2 + penalty) * projected)
    return target.mean() + (np.asarray(new, np.float64) - mean) / deviation @ weights


def _validation(singular: np.ndarray, projected: np.ndarray, rest: float, samples: int, penalty: float) -> float:
    """Generalized cross-validation: residual over the squared share of freedom that is left."""
    shrunk = penalty / (singular**2 + penalty)
    residual = float(((shrunk * projected) ** 2).sum()) + rest
    freedom = samples - float((1 - shrunk).sum()) - 1  # the mean takes one
    return residual / max(freedom, _TINY) ** 2
