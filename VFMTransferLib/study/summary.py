"""What a study concludes: the gain, distance, convergence and savings of each encoder and task.

All of it is computed from the tables alone, so that anybody can compute it again. The published study could not be read
for its formulas; the definitions are this project's own, and are labeled ours wherever they are shown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..metrics.classification import auroc
from .tables import CurveRow, RunRow, StudyTables, write_rows

SUMMARY = "summary.csv"
LAYER = "encoder"
PHANTOM = "phantom"
AREA, SAID, TRUE = "auroc", "p_cspca", "is_cspca"  # a statistic of all cases, and what of each it is made of
MIN_POINTS = 4
HOUR_S = 3600.0
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
        pretrained: The pretrained arm's probability of each case (seeds, cases), larger for positive ones.
        scratch: The same of the other arm.
        positives: Which cases (cases,) are positive.

    Raises:
        ValueError: Shapes differ, there are no cases of both kinds, or scratch's area is 0.
    """
    a, b = (np.asarray(values, np.float64) for values in (pretrained, scratch))
    positive = np.asarray(positives, bool)
    if a.ndim != 2 or a.shape != b.shape or positive.shape != a.shape[1:]:
        raise ValueError(f"Both arms must have one value for each seed and case, got shapes {a.shape} and {b.shape}.")
    return _bootstrapped(a, b, lambda values, drawn: auroc(values, positive[drawn]).mean(axis=-1), True, seed)


def _bootstrapped(
    a: np.ndarray, b: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], higher: bool, seed: int
) -> Gain:
    """Gain in a statistic of values (..., seeds, cases) and of the numbers (..., 1, cases) of their cases."""
    seeds, cases = a.shape
    whole_a, whole_b = (float(statistic(values, np.arange(cases)[None])) for values in (a, b))
    percent = relative_performance_gain(whole_a, whole_b, higher)
    if cases < MIN_CASES:
        return Gain(percent, math.nan, math.nan, cases, seeds)
    rng = np.random.default_rng(seed)
    rows = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    columns = rng.integers(cases, size=(RESAMPLES, 1, cases))
    drawn_a, drawn_b = (statistic(values[rows, columns], columns) for values in (a, b))
    edge = 100 * (1 - CONFIDENCE) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = (100.0 if higher else -100.0) * (drawn_a - drawn_b) / np.abs(drawn_b)
    low, high = np.nanpercentile(gains, (edge, 100 - edge))
    return Gain(percent, float(low), float(high), cases, seeds)


def steps_to_reach(steps: np.ndarray, values: np.ndarray, target: float, higher_is_better: bool) -> float:
    """The first step at which a learning curve reaches a value, linear between its points; `inf` if it never does.

    Args:
        steps: Steps at which it was measured, increasing.
        values: Validation metric there.
        target: Value to be reached.
    """
    at, curve = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if at.shape != curve.shape or at.ndim != 1 or not at.size or (np.diff(at) <= 0).any():
        raise ValueError("A learning curve must have one value for each step, and steps that increase.")
    ahead = (curve - target) * (1.0 if higher_is_better else -1.0)
    reached = np.flatnonzero(ahead >= 0)
    if not reached.size:
        return math.inf
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
        return math.nan
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


@dataclass(frozen=True)
class SummaryRow:
    """One encoder on one task; what cannot be computed is `nan`.

    Attributes:
        rpg_percent: Relative performance gain of the seeds' mean.
        rpg_low, rpg_high: Its 95 % interval over cases and seeds.
        d2p: Distance to pretraining, mean over seeds; also at half and twice the bandwidth.
        convergence_efficiency: Mean over seeds; `inf` where a pretrained arm never got to the scratch arm's best,
            `nan` where a scratch arm has not learned.
        device_hours_saved: Of one fine-tuning at equal quality, mean over seeds; below 0 where it costs more.
    """

    encoder: str
    task: str
    metric: str
    rpg_percent: float
    rpg_low: float
    rpg_high: float
    d2p: float
    d2p_low_bandwidth: float
    d2p_high_bandwidth: float
    convergence_efficiency: float
    device_hours_saved: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of gain and distance over encoders and tasks, with a bootstrap interval."""

    rho: float
    low: float
    high: float
    n_pairs: int


def summarize(tables: StudyTables, seed: int = 0) -> tuple[SummaryRow, ...]:
    """One row for each encoder and task that has both arms."""
    arms = defaultdict(set)
    for run in tables.runs:
        arms[run.encoder, run.task].add(run.arm)
    return tuple(_row(pair, tables, seed) for pair, found in arms.items() if {"pretrained", "scratch"} <= found)


def write_summary(rows: Iterable[SummaryRow], folder: Path) -> Path:
    """Write `summary.csv`.

    Raises:
        OutputError: The folder cannot be written.
    """
    path = folder / SUMMARY
    write_rows(path, SummaryRow, rows)
    return path


def gain_against_distance(rows: Iterable[SummaryRow], seed: int = 0) -> Correlation:
    """Do tasks nearer to pretraining gain more? Over all pairs that have both numbers.

    D2P is comparable within one encoder only, so that both numbers are ranked within their encoder first; the interval
    is the percentile bootstrap over pairs.
    """
    known = (row for row in rows if math.isfinite(row.rpg_percent) and math.isfinite(row.d2p))
    ranked = ranked_within_encoders((row.encoder, row.rpg_percent, row.d2p) for row in known)
    if len(ranked) < MIN_POINTS:
        return Correlation(math.nan, math.nan, math.nan, len(ranked))
    drawn = np.random.default_rng(seed).integers(len(ranked), size=(RESAMPLES, len(ranked)))
    low, high = np.nanpercentile(rank_correlations(ranked[drawn]), (2.5, 97.5))
    return Correlation(float(rank_correlations(ranked[None])[0]), float(low), float(high), len(ranked))


def ranked_within_encoders(pairs: Iterable[tuple[str, float, float]]) -> np.ndarray:
    """Ranks (pairs, 2), 0 to 1, of encoder and two numbers among those of the same encoder; encoders by name."""
    own = defaultdict(list)
    for encoder, *numbers in pairs:
        own[encoder].append(numbers)
    ranked = [(stats.rankdata(own[encoder], axis=0) - 0.5) / len(own[encoder]) for encoder in sorted(own)]
    return np.concatenate(ranked) if ranked else np.empty((0, 2))


def rank_correlations(samples: np.ndarray) -> np.ndarray:
    """Spearman's rho of each sample (samples, pairs, 2); `nan` where all pairs of one share a value."""
    ranks = stats.rankdata(samples, axis=1)
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    gain, distance = centered[..., 0], centered[..., 1]
    with np.errstate(invalid="ignore"):
        return (gain * distance).sum(axis=1) / np.sqrt((gain**2).sum(axis=1) * (distance**2).sum(axis=1))


def _row(pair: tuple[str, str], tables: StudyTables, seed: int) -> SummaryRow:
    encoder, task = pair
    runs = [run for run in tables.runs if (run.encoder, run.task) == pair]
    first = runs[0]
    gain = _gain(runs, tables, seed)
    distances = [row for row in tables.distances if (row.encoder, row.task) == pair and row.layer == LAYER]
    convergence, saved = _convergence(runs, tables.curves)
    return SummaryRow(
        encoder=encoder,
        task=task,
        metric=first.metric,
        rpg_percent=gain.percent,
        rpg_low=gain.low,
        rpg_high=gain.high,
        d2p=_mean(row.d2p for row in distances),
        d2p_low_bandwidth=_mean(row.d2p_low_bandwidth for row in distances),
        d2p_high_bandwidth=_mean(row.d2p_high_bandwidth for row in distances),
        convergence_efficiency=convergence,
        device_hours_saved=saved,
    )


def _gain(runs: list[RunRow], tables: StudyTables, seed: int) -> Gain:
    """From the runs' own values; the interval from their cases, of which the metric is the mean or the AUROC."""
    means = {arm: _mean(run.value for run in runs if run.arm == arm) for arm in ("pretrained", "scratch")}
    higher = runs[0].higher_is_better
    try:
        percent = relative_performance_gain(means["pretrained"], means["scratch"], higher)
    except ValueError:
        return Gain(math.nan, math.nan, math.nan, 0, 0)
    is_area = runs[0].metric == AREA
    metric = SAID if is_area else runs[0].metric
    a, b = (_by_seed_and_case(runs, tables, arm, metric) for arm in ("pretrained", "scratch"))
    truth = _by_seed_and_case(runs, tables, "scratch", TRUE) if is_area else None
    if a is None or b is None or a.shape != b.shape or (is_area and truth is None):
        return Gain(percent, math.nan, math.nan, 0, 0)
    over = gain_over_cases(a, b, higher, seed) if truth is None else gain_in_area(a, b, truth[0] > 0, seed)
    return Gain(percent, over.low, over.high, over.n_cases, over.n_seeds)


def _by_seed_and_case(runs: list[RunRow], tables: StudyTables, arm: str, metric: str) -> np.ndarray | None:
    """Values (seeds, cases) of a metric on phantoms; None where a case lacks one."""
    first = runs[0]
    seeds = sorted({run.seed for run in runs if run.arm == arm})
    found = {
        (row.seed, row.case): row.value
        for row in tables.metrics
        if (row.encoder, row.task, row.arm, row.metric, row.data) == (first.encoder, first.task, arm, metric, PHANTOM)
        and row.case
    }
    cases = sorted({case for _, case in found})
    if not cases or any((seed, case) not in found for seed in seeds for case in cases):
        return None
    return np.array([[found[seed, case] for case in cases] for seed in seeds])


def _convergence(runs: list[RunRow], curves: Iterable[CurveRow]) -> tuple[float, float]:
    """Convergence efficiency and device-hours saved by one fine-tuning, means over the seeds that both arms have.

    A seed whose scratch arm has not learned makes both undefined: leaving it out would choose the seeds.
    """
    pair = (runs[0].encoder, runs[0].task)
    points: dict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
    for row in curves:
        if (row.encoder, row.task) == pair:
            points[row.arm, row.seed].append((row.step, row.value))
    efficiencies, saved = [], []
    for run in runs:
        pretrained, scratch = points.get(("pretrained", run.seed)), points.get(("scratch", run.seed))
        if run.arm != "scratch" or not pretrained or not scratch or run.steps == 0:
            continue
        curves_of_arms = (np.array(sorted(arm), float).T for arm in (pretrained, scratch))
        a, b = ((curve[0], curve[1]) for curve in curves_of_arms)
        efficiency = convergence_efficiency(a, b, run.higher_is_better)
        efficiencies.append(efficiency)
        saved.append(run.device_seconds * run.steps_to_best / run.steps * (1 - efficiency) / HOUR_S)
    # An arm that never gets there saves nothing at equal quality.
    hours = [value if math.isfinite(value) else math.nan for value in saved]
    return _mean(efficiencies), _mean(hours)


def _mean(values: Iterable[float]) -> float:
    array = np.array(list(values), float)
    return float(array.mean()) if array.size else math.nan
