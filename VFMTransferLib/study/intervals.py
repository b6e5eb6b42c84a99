"""Statistics over test cases and seeds, and what one arm gains over another, with bootstrap intervals.

A statistic is the mean of a value that each case has, or one of all cases together: an area under the ROC curve, an
average precision. Seeds and cases are drawn with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np

from ..metrics.classification import auroc
from ..metrics.detection import Ranking

RESAMPLES = 9999
CONFIDENCE = 0.95
MIN_CASES = 3
_DRAWS_AT_ONCE = 500


class CaseValues(Hashable, Protocol):
    """What an arm has reached on the same cases with each of its seeds."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Seeds and cases."""

    def statistic(self, seeds: np.ndarray, cases: np.ndarray) -> np.ndarray:
        """Mean over drawn seeds (draws, seeds, 1) of what each reaches on drawn cases (draws, 1, cases): (draws,)."""


@dataclass(frozen=True, eq=False)
class Means:
    """Values (seeds, cases) whose mean is the statistic."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.values)

    def statistic(self, seeds: np.ndarray, cases: np.ndarray) -> np.ndarray:
        return np.asarray(np.asarray(self.values, np.float64)[seeds, cases].mean(axis=(-2, -1)))


@dataclass(frozen=True, eq=False)
class Areas:
    """Probabilities (seeds, cases), and which cases (cases,) are positive: the area under the ROC curve."""

    probabilities: np.ndarray
    positives: np.ndarray

    def __post_init__(self) -> None:
        if np.shape(self.positives) != np.shape(self.probabilities)[1:]:
            found = f"got shapes {np.shape(self.probabilities)} and {np.shape(self.positives)}"
            raise ValueError(f"There must be one value for each seed and case, and a class of each case, {found}.")

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.probabilities)

    def statistic(self, seeds: np.ndarray, cases: np.ndarray) -> np.ndarray:
        return _by_times([partial(auroc, scores, self.positives) for scores in self.probabilities], seeds, cases)


@dataclass(frozen=True, eq=False)
class Precisions:
    """Of each seed the candidates of all cases: their average precision."""

    rankings: Sequence[Ranking]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rankings), self.rankings[0].cases

    def statistic(self, seeds: np.ndarray, cases: np.ndarray) -> np.ndarray:
        return _by_times([ranking.precision for ranking in self.rankings], seeds, cases)


def _by_times(
    of_seeds: Sequence[Callable[[np.ndarray], np.ndarray]], seeds: np.ndarray, cases: np.ndarray
) -> np.ndarray:
    """`CaseValues.statistic` from functions of how often each case is drawn (draws, cases), one of each seed."""
    found = []
    for start in range(0, len(cases), _DRAWS_AT_ONCE):  # together they would take gigabytes
        drawn = cases[start : start + _DRAWS_AT_ONCE, 0]
        times = np.zeros(drawn.shape)
        np.add.at(times, (np.arange(len(drawn))[:, None], drawn), 1)
        statistics = np.stack([of_seed(times) for of_seed in of_seeds], axis=1)
        found.append(np.take_along_axis(statistics, seeds[start : start + len(drawn), :, 0], axis=1).mean(axis=1))
    return np.concatenate(found)


@dataclass(frozen=True)
class Gain:
    """Relative performance gain in percent, with its interval; `nan` where an interval needs more cases."""

    percent: float
    low: float
    high: float
    n_cases: int
    n_seeds: int


def relative_performance_gain(pretrained: float, scratch: float, higher_is_better: bool) -> float:
    """Percent by which the pretrained arm is better; ValueError unless both are finite and scratch is other than 0."""
    if scratch == 0 or not np.isfinite([pretrained, scratch]).all():
        raise ValueError(f"A relative gain needs finite values and a scratch value other than 0, got {scratch}.")
    sign = 1.0 if higher_is_better else -1.0
    return 100.0 * sign * (pretrained - scratch) / abs(scratch)


def gain_over_cases(pretrained: CaseValues, scratch: CaseValues, higher_is_better: bool, seed: int = 0) -> Gain:
    """Gain of the mean over cases and seeds, with a percentile bootstrap over both.

    Both arms of a seed share data order and head, and both arms see the same cases, so seeds and cases are drawn
    together for both. A draw in which both arms are at 0 gains 0; draws without a statistic, as of AUROC without cases
    of both kinds, are left out.

    Args:
        pretrained, scratch: Of the two arms, same seeds and cases in the same order.

    Raises:
        ValueError: The two differ in shape, hold values that are not finite, or scratch is 0 on average.
    """
    if len(pretrained.shape) != 2 or pretrained.shape != scratch.shape or not all(pretrained.shape):
        found = f"got shapes {pretrained.shape} and {scratch.shape}"
        raise ValueError(f"Both arms must have one value for each seed and case, {found}.")
    seeds, cases = pretrained.shape
    percent = relative_performance_gain(_whole(pretrained), _whole(scratch), higher_is_better)
    if cases < MIN_CASES:
        return Gain(percent, math.nan, math.nan, cases, seeds)
    a, b = _resampled(pretrained, seed), _resampled(scratch, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = (100.0 if higher_is_better else -100.0) * (a - b) / np.abs(b)
    gains[a == b] = 0.0
    return Gain(percent, *interval(gains), cases, seeds)


def mean_over_cases(values: CaseValues, seed: int = 0) -> tuple[float, float, float]:
    """The statistic of an arm, with its interval, `nan` of fewer than three cases."""
    if values.shape[1] < MIN_CASES:
        return _whole(values), math.nan, math.nan
    return _whole(values), *interval(_resampled(values, seed))


def _whole(values: CaseValues) -> float:
    seeds, cases = map(np.arange, values.shape)
    return float(values.statistic(seeds[None, :, None], cases[None, None])[0])


@lru_cache(maxsize=4)  # the interval of an arm and that of its gain rest on the same draws, which may take seconds
def _resampled(values: CaseValues, seed: int) -> np.ndarray:
    """The statistic in draws of seeds and cases, which are the same for arms of equal shape."""
    seeds, cases = values.shape
    rng = np.random.default_rng(seed)
    rows = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    columns = rng.integers(cases, size=(RESAMPLES, 1, cases))
    return values.statistic(rows, columns)


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """Percentiles of the draws that are numbers; `nan` of none.

    An end next to draws without a bound, as gains over a scratch arm at 0, is not interpolated but the draw beyond it.
    """
    known, edge = drawn[~np.isnan(drawn)], 100 * (1 - CONFIDENCE) / 2
    if not known.size:
        return math.nan, math.nan
    with np.errstate(invalid="ignore"):
        low, high = (float(end) for end in np.percentile(known, (edge, 100 - edge)))
    low = low if math.isfinite(low) else float(np.percentile(known, edge, method="lower"))
    high = high if math.isfinite(high) else float(np.percentile(known, 100 - edge, method="higher"))
    return low, high
