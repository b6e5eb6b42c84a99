"""Measures of class probabilities: area under the ROC curve, kappa, calibration error; and the fit of a calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .calibration import Calibration

# Standard deviations of the penalty: a temperature off by a factor of 1.6, or odds off by a factor of e, are each as
# likely as a normal variable that is one deviation off.
_LOG_TEMPERATURE_SD = 0.5
_BIAS_SD = 1.0
_DIGITS = 6  # of what is stored: far below what cases can resolve, far above rounding
_BINS = 10
SMALLEST_PROBABILITY = 1e-6


def auroc(
    scores: np.ndarray | Sequence[float], positives: np.ndarray | Sequence[bool], times: np.ndarray | None = None
) -> np.ndarray:
    """Area under the ROC curve of cases: how many pairs of a positive and another case are in order, ties half.

    As scikit-learn's `roc_auc_score`, but by hand, because a bootstrap takes the areas of thousands of draws at once.

    Args:
        scores, positives: Of each case (cases,).
        times: How often each case is there in each draw (draws, cases); once by default.

    Returns:
        The area, or with `times` those of the draws (draws,); `nan` where all cases are of one kind.
    """
    values, positive = np.asarray(scores, float), np.asarray(positives, bool)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)  # of those with equal scores
    weights = (np.ones((1, len(values))) if times is None else times)[:, order]
    above, below = (np.add.reduceat(weights * kind[order], starts, axis=1) for kind in (positive, ~positive))
    ordered = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    areas = np.divide(ordered, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas[0] if times is None else areas


def log_loss(probability: float) -> float:
    """-ln of the probability that the true class was given, finite of an impossible one too."""
    return -math.log(max(probability, SMALLEST_PROBABILITY))


def quadratic_weighted_kappa(truth: Sequence[int], found: Sequence[int], classes: int) -> float:
    """Cohen's kappa with squared weights; `nan` where truth and answers are all one class.

    As scikit-learn's `cohen_kappa_score(weights="quadratic")`, which the base installation lacks.
    """
    table = np.zeros((classes, classes))
    np.add.at(table, (np.asarray(truth, int), np.asarray(found, int)), 1)
    weights = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1)
    by_chance = float((weights * expected).sum())
    return 1 - float((weights * table).sum()) / by_chance if by_chance else math.nan


def expected_calibration_error(probabilities: Sequence[float], happened: Sequence[bool], bins: int = _BINS) -> float:
    """How far probabilities are from frequencies: the mean over cases of their bin's difference (Guo et al., eq. 3).

    0..1, by `bins` of equal width; `nan` without cases. Of few cases it is large by chance alone.
    """
    expected, observed = np.asarray(probabilities, float), np.asarray(happened, float)
    if not len(expected):
        return math.nan
    place = np.minimum((expected * bins).astype(int), bins - 1)
    gaps = np.bincount(place, expected - observed, minlength=bins)  # bin's cases times its difference of means
    return float(np.abs(gaps).sum() / len(expected))


def fit_calibration(logits: np.ndarray, possible: np.ndarray) -> Calibration:
    """The calibration under which what is known of cases is likeliest, with a penalty for leaving the network as it is.

    From logits (or logarithms of probabilities) (N, C), and (N, C), True for the class that a case has, or for all that
    it may have. ValueError where there are no cases, or one can have no class.
    """
    from scipy.optimize import minimize  # takes longer to import than a prediction may wait

    logits, possible = np.asarray(logits, float), np.asarray(possible, bool)
    if not len(logits) or logits.shape != possible.shape or not possible.any(axis=1).all():
        raise ValueError(f"Each of 1 or more cases must have a class, got {logits.shape} and {possible.shape}.")
    found = minimize(penalized_loss, np.zeros(1 + logits.shape[1]), (logits, possible), "L-BFGS-B", jac=True)
    log_scale, *bias = (round(float(value), _DIGITS) + 0.0 for value in found.x)
    return Calibration(round(math.exp(-log_scale), _DIGITS), tuple(bias), len(logits))


def penalized_loss(parameters: np.ndarray, logits: np.ndarray, possible: np.ndarray) -> tuple[float, np.ndarray]:
    """What `fit_calibration` minimizes, and its gradient, by (logarithm of 1 / temperature, biases)."""
    scale, bias = math.exp(parameters[0]), parameters[1:]
    calibrated = scale * logits + bias
    everything = _log_sum(calibrated)
    known = np.where(possible, calibrated, -np.inf)
    wrong = np.exp(calibrated - everything) - np.exp(known - _log_sum(known))  # (N, C), gradient of the loss
    deviation = np.array([_LOG_TEMPERATURE_SD, *[_BIAS_SD] * len(bias)])
    loss = float((everything - _log_sum(known)).sum() + 0.5 * ((parameters / deviation) ** 2).sum())
    gradient = np.array([scale * (wrong * logits).sum(), *wrong.sum(axis=0)])
    return loss, gradient + parameters / deviation / deviation


def _log_sum(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials over classes, (N, 1)."""
    most = logits.max(axis=1, keepdims=True)
    return most + np.log(np.exp(logits - most).sum(axis=1, keepdims=True))
