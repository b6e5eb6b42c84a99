"""What pretraining gave: relative gain, faster convergence, savings. The definitions are this project's own.

The published study could not be read for its formulas; these are labeled ours wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95
MIN_CASES = 3
DEFINITIONS = {
    "rpg_percent": "100 · s · (pretrained − scratch) / |scratch|, s = 1 where higher is better, else −1 (ours)",
    "d2p": "unbiased MMD² between the encoder's features of the same cases before and after fine-tuning (ours)",
    "convergence_efficiency": (
        "steps that the pretrained arm needs to reach the scratch arm's best validation value, over the scratch arm's "
        "own steps to it; undefined unless the scratch arm has learned with every seed, that is, was at some point "
        "better than at its first measurement (ours)"
    ),
    "savings": (
        "device-hours of the scratch arm minus those of the pretrained arm for equal quality, times planned "
        "fine-tunings, times the price of a device-hour (ours)"
    ),
}


@dataclass(frozen=True)
class Gain:
    """Relative performance gain in percent, with its interval; `nan` where an interval needs more cases."""

    percent: float
    low: float
    high: float
    n_cases: int
    n_seeds: int


@dataclass(frozen=True)
class Savings:
    """What planned fine-tunings would save.

    Attributes:
        device_hours_each: Saved by one fine-tuning; below 0 where pretraining costs time.
        device_hours: Saved by all that are planned.
        money: Their price, in the currency of the price.
    """

    device_hours_each: float
    device_hours: float
    money: float


def relative_performance_gain(pretrained: float, scratch: float, higher_is_better: bool) -> float:
    """Percent by which the pretrained arm is better; below 0 where it is worse.

    Raises:
        ValueError: The scratch arm's value is 0 or not finite, so that nothing is relative to it.
    """
    if scratch == 0 or not np.isfinite([pretrained, scratch]).all():
        raise ValueError(f"A relative gain needs finite values and a scratch value other than 0, got {scratch}.")
    sign = 1.0 if higher_is_better else -1.0
    return 100.0 * sign * (pretrained - scratch) / abs(scratch)


def gain_over_cases(pretrained: np.ndarray, scratch: np.ndarray, higher_is_better: bool, seed: int = 0) -> Gain:
    """Gain of the mean over cases and seeds, with a percentile bootstrap over both.

    Both arms of a seed share data order and head, and both arms see the same cases, so seeds and cases are drawn
    together for both.

    Args:
        pretrained: Metric (seeds, cases) of the pretrained arm.
        scratch: The same for the other arm, same seeds and cases in the same order.
        higher_is_better: Direction of the metric.
        seed: Of the resampling.

    Raises:
        ValueError: The two differ in shape, hold values that are not finite, or scratch is 0 on average.
    """
    a, b = (np.asarray(values, np.float64) for values in (pretrained, scratch))
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"Both arms must have one value for each seed and case, got shapes {a.shape} and {b.shape}.")
    return _bootstrapped(a, b, lambda values, _: values.mean(axis=(-2, -1)), higher_is_better, seed)


def gain_in_area(pretrained: np.ndarray, scratch: np.ndarray, positives: np.ndarray, seed: int = 0) -> Gain:
    """Gain in AUROC, mean over seeds, with a percentile bootstrap over cases and seeds as of `gain_over_cases`.

    Draws without cases of both kinds have no area and are left out.

    Args:
        pretrained: What the pretrained arm says of each case (seeds, cases), larger for positive ones.
        scratch: The same of the other arm.
        positives: Which cases (cases,) are positive.
        seed: Of the resampling.

    Raises:
        ValueError: Shapes differ, there are no cases of both kinds, or scratch's area is 0.
    """
    a, b = (np.asarray(values, np.float64) for values in (pretrained, scratch))
    positive = np.asarray(positives, bool)
    if a.ndim != 2 or a.shape != b.shape or positive.shape != a.shape[1:]:
        raise ValueError(f"Both arms must have one value for each seed and case, got shapes {a.shape} and {b.shape}.")
    return _bootstrapped(a, b, lambda values, drawn: areas(values, positive[drawn]).mean(axis=-1), True, seed)


def _bootstrapped(
    a: np.ndarray, b: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], higher: bool, seed: int
) -> Gain:
    """Gain in a statistic of values (..., seeds, cases) and of the numbers (..., 1, cases) of their cases."""
    seeds, cases = a.shape
    whole_a, whole_b = (float(statistic(values, np.arange(cases)[None])) for values in (a, b))
    percent = relative_performance_gain(whole_a, whole_b, higher)
    if cases < MIN_CASES:
        return Gain(percent, float("nan"), float("nan"), cases, seeds)
    rng = np.random.default_rng(seed)
    rows = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    columns = rng.integers(cases, size=(RESAMPLES, 1, cases))
    drawn_a, drawn_b = (statistic(values[rows, columns], columns) for values in (a, b))
    edge = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(_gains(drawn_a, drawn_b, higher), (edge, 100 - edge))
    return Gain(percent, float(low), float(high), cases, seeds)


def areas(scores: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Areas under ROC curves along the last axis, by rank sums; `nan` where all cases are of one kind.

    Args:
        scores: (..., cases).
        positives: Of the same shape, or one that broadcasts to it.
    """
    positive = np.broadcast_to(positives, scores.shape)
    count = positive.sum(axis=-1)
    others = scores.shape[-1] - count
    over = (stats.rankdata(scores, axis=-1) * positive).sum(axis=-1) - count * (count + 1) / 2
    return np.divide(over, count * others, out=np.full(over.shape, np.nan), where=count * others > 0)


def steps_to_reach(steps: np.ndarray, values: np.ndarray, target: float, higher_is_better: bool) -> float:
    """The first step at which a learning curve reaches a value, linear between its points; `inf` if it never does.

    Args:
        steps: Steps at which it was measured, increasing.
        values: Validation metric there.
        target: Value to be reached.
        higher_is_better: Direction of the metric.
    """
    at, curve = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if at.shape != curve.shape or at.ndim != 1 or not at.size or (np.diff(at) <= 0).any():
        raise ValueError("A learning curve must have one value for each step, and steps that increase.")
    ahead = (curve - target) * (1.0 if higher_is_better else -1.0)
    reached = np.flatnonzero(ahead >= 0)
    if not reached.size:
        return float("inf")
    i = int(reached[0])
    if i == 0:
        return float(at[0])
    share = -ahead[i - 1] / (ahead[i] - ahead[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def has_learned(values: np.ndarray, higher_is_better: bool) -> bool:
    """Whether a learning curve is anywhere better than at its first measurement; the definition is ours.

    A flat curve has learned nothing. Of one that was never better again it is not known in which step it got there.
    """
    curve = np.asarray(values, np.float64) * (1.0 if higher_is_better else -1.0)
    return bool((curve[1:] > curve[0]).any())


def convergence_efficiency(
    pretrained: tuple[np.ndarray, np.ndarray], scratch: tuple[np.ndarray, np.ndarray], higher_is_better: bool
) -> float:
    """Steps of the pretrained arm to the scratch arm's best, over the scratch arm's own.

    Args:
        pretrained: Learning curve: steps, validation metric.
        scratch: That of the other arm.
        higher_is_better: Direction of the metric.

    Returns:
        `inf` where the pretrained arm never gets there, `nan` where the scratch arm has not learned.
    """
    steps, values = (np.asarray(part, np.float64) for part in scratch)
    if not has_learned(values, higher_is_better):
        return float("nan")
    best = int(values.argmax() if higher_is_better else values.argmin())
    return steps_to_reach(*pretrained, target=float(values[best]), higher_is_better=higher_is_better) / steps[best]


def savings(
    scratch_device_hours: float, convergence: float, planned: int = 1, price_per_device_hour: float = 0.0
) -> Savings:
    """What starting from pretrained weights saves at equal quality.

    Args:
        scratch_device_hours: What one fine-tuning from scratch takes to its best.
        convergence: Convergence efficiency: the share of these that the pretrained arm needs.
        planned: Fine-tunings that are planned.
        price_per_device_hour: In any currency.

    Raises:
        ValueError: A number is negative, or the pretrained arm never gets there, so that nothing is of equal quality.
    """
    if min(scratch_device_hours, convergence, planned, price_per_device_hour) < 0:
        raise ValueError("Hours, efficiency, count and price must be 0 or more.")
    if not np.isfinite(convergence):
        raise ValueError("The pretrained arm never reached the scratch arm's quality, so nothing is saved at it.")
    each = scratch_device_hours * (1 - convergence)
    return Savings(each, each * planned, each * planned * price_per_device_hour)


def _gains(pretrained: np.ndarray, scratch: np.ndarray, higher_is_better: bool) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return (100.0 if higher_is_better else -100.0) * (pretrained - scratch) / np.abs(scratch)
