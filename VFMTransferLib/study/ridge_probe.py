"""A linear probe: how much of a target ridge regression predicts from frozen features, in cases it has not seen.

Linear probes: Alain and Bengio, arXiv 1610.01644; ridge regression: Hoerl and Kennard, Technometrics 12 (1970); its
penalty is chosen by generalized cross-validation, Golub, Heath and Wahba, Technometrics 21 (1979).
"""

from __future__ import annotations

import numpy as np

from .logme import standardized

FOLDS = 5
_PENALTIES = np.logspace(-3, 5, 25)  # of standardized features, for a sum over samples
_TINY = 1e-12


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
