"""What a study concludes: the gain, distance, convergence and savings of each encoder and task.

All of it is computed from the tables alone, so that anybody can compute it again. The published study could not be read
for its formulas; the definitions are this project's own, and are labeled ours wherever they are shown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..metrics.detection import Candidate, Ranking
from .config import PRETRAINED, REAL
from .intervals import (
    RESAMPLES,
    Areas,
    CaseValues,
    Gain,
    Means,
    Precisions,
    gain_over_cases,
    interval,
    mean_over_cases,
    relative_performance_gain,
)
from .tables import SCRATCH, CandidateRow, CurveRow, MetricRow, RunRow, StudyTables, write_rows

SUMMARY = "summary.csv"
LAYER = "encoder"
PHANTOM = "phantom"
# Statistics of all cases, and what of each they are made of; of average precision also its candidates.
AREA, SAID, TRUE = "auroc", "p_cspca", "is_cspca"
PRECISION, LESIONS = "average_precision", "lesions"
BOTH = (PRETRAINED, SCRATCH)
MIN_POINTS = 4
HOUR_S = 3600.0
DEFINITIONS = {
    "rpg_percent": "100 · s · (pretrained − scratch) / |scratch|, s = 1 where higher is better, else −1 (ours)",
    "d2p": "unbiased MMD² between the encoder's features of the same cases before and after fine-tuning (ours)",
    "convergence_efficiency": (
        "steps that the pretrained arm needs to reach the scratch arm's best validation value, over the scratch arm's "
        "own steps to it; undefined unless the scratch arm has learned with every seed, that is, was at some point "
        "better than at its first measurement (ours)"
    ),
    "still improving": (
        "a training that its budget of steps stopped before the validation value had not improved for the stated part "
        "of it; of a fixed number of steps one whose best validation value lies in their last fifth (ours)"
    ),
    "replaced cases": (
        "the number of labeled cases from which the arm from scratch reaches what the pretrained arm reaches with a "
        "given number, minus that number; linear between sizes on a logarithmic scale, at the first crossing (ours)"
    ),
    "savings": (
        "device-hours of the scratch arm minus those of the pretrained arm for equal quality, times planned "
        "fine-tunings, times the price of a device-hour (ours)"
    ),
}


def steps_to_reach(steps: np.ndarray, values: np.ndarray, target: float, higher_is_better: bool) -> float:
    """The first step at which a learning curve reaches a value, linear between its points; `inf` if it never does."""
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


def convergence_efficiency(
    pretrained: tuple[np.ndarray, np.ndarray], scratch: tuple[np.ndarray, np.ndarray], higher_is_better: bool
) -> float:
    """Steps of the pretrained arm to the scratch arm's best, over the scratch arm's own; `inf` if it never gets there.

    It is `nan` where the scratch arm has not learned, that is, was never better than at its first measurement: a flat
    curve has learned nothing, and of one that only fell it is not known in which step it got there. That is ours.

    Args:
        pretrained, scratch: Learning curve: steps, validation metric. Points whose metric is not finite are left out;
            without others the efficiency is `nan`.
    """
    (own_steps, own), (steps, values) = map(_finite_points, (pretrained, scratch))
    curve = values * (1.0 if higher_is_better else -1.0)
    if not own.size or not (curve[1:] > curve[:1]).any():
        return math.nan
    best = int(curve.argmax())
    return steps_to_reach(own_steps, own, target=float(values[best]), higher_is_better=higher_is_better) / steps[best]


def _finite_points(curve: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    steps, values = (np.asarray(part, np.float64) for part in curve)
    kept = np.isfinite(values)
    return steps[kept], values[kept]


@dataclass(frozen=True)
class SummaryRow:
    """One encoder on one task; what cannot be computed is `nan`.

    Attributes:
        encoder: Its `RunKey.label`, which also names the pretraining where there are several.
        rpg_percent: Relative performance gain over cases and the seeds that both arms have.
        rpg_low, rpg_high: Its 95 % interval over cases and seeds.
        d2p: Distance to pretraining, mean over seeds; also at half and twice the bandwidth.
        convergence_efficiency: Mean over seeds; `inf` where a pretrained arm never got to the scratch arm's best,
            `nan` where a scratch arm has not learned.
        device_hours_saved: Of one fine-tuning at equal quality, mean over seeds; below 0 where it costs more.
        scratch, pretrained: What the arms reach, over the same cases and seeds as the gain.
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
    scratch: float = math.nan
    pretrained: float = math.nan


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of gain and distance over encoders and tasks, with a bootstrap interval."""

    rho: float
    low: float
    high: float
    n_pairs: int


def summarize(tables: StudyTables, seed: int = 0) -> tuple[SummaryRow, ...]:
    """One row for each encoder and task that has both arms, and for each pretraining where an encoder has several."""
    tables = tables.of_size().by_pretraining()
    runs: dict[tuple[str, str], list[RunRow]] = defaultdict(list)
    for run in tables.runs:
        runs[run.encoder, run.task].append(run)
    rows = []
    for (encoder, task), own in runs.items():
        if not set(BOTH) <= {run.arm for run in own}:
            continue
        paired = paired_runs(own)
        arms = values_of_arms(paired, tables)
        gain, reached = gain_of_arms(paired, arms, seed), means_of_arms(paired, arms, seed)
        moved = [row for row in tables.distances if (row.encoder, row.task, row.layer) == (encoder, task, LAYER)]
        rows.append(
            SummaryRow(
                encoder,
                task,
                own[0].metric,
                gain.percent,
                gain.low,
                gain.high,
                _mean(row.d2p for row in moved),
                _mean(row.d2p_low_bandwidth for row in moved),
                _mean(row.d2p_high_bandwidth for row in moved),
                *_convergence(own, tables.curves),
                *(reached[arm][0] for arm in (SCRATCH, PRETRAINED)),
            )
        )
    return tuple(rows)


def write_summary(rows: Iterable[SummaryRow], folder: Path) -> Path:
    """Write `summary.csv`; OutputError if the folder cannot be written."""
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
    return Correlation(
        float(rank_correlations(ranked[None])[0]), *interval(rank_correlations(ranked[drawn])), len(ranked)
    )


def ranked_within_encoders(pairs: Iterable[tuple[str, float, float]]) -> np.ndarray:
    """Ranks (pairs, 2), 0 to 1, of encoder and two numbers among those of the same encoder; encoders by name."""
    from scipy import stats  # takes longer to import than Slicer's window may wait for a note on the study

    own = defaultdict(list)
    for encoder, *numbers in pairs:
        own[encoder].append(numbers)
    ranked = [(stats.rankdata(own[encoder], axis=0) - 0.5) / len(own[encoder]) for encoder in sorted(own)]
    return np.concatenate(ranked) if ranked else np.empty((0, 2))


def rank_correlations(samples: np.ndarray) -> np.ndarray:
    """Spearman's rho of each sample (samples, pairs, 2); `nan` where all pairs of one share a value."""
    from scipy import stats

    ranks = stats.rankdata(samples, axis=1)
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    gain, distance = centered[..., 0], centered[..., 1]
    with np.errstate(invalid="ignore"):
        return (gain * distance).sum(axis=1) / np.sqrt((gain**2).sum(axis=1) * (distance**2).sum(axis=1))


def paired_runs(runs: Sequence[RunRow]) -> list[RunRow]:
    """Those of the seeds that both arms have: a study that was stopped may have more seeds of one arm."""
    seeds = set.intersection(*({run.seed for run in runs if run.arm == arm} for arm in BOTH))
    return [run for run in runs if run.seed in seeds]


def gain_of_arms(paired: Sequence[RunRow], arms: Mapping[str, ArmValues | None], seed: int = 0) -> Gain:
    """Over the cases of all seeds that both arms have; where a case has no value, of the runs' own, without interval.

    Both ways agree unless real cases are left out by folds of unequal size.

    Args:
        paired: Runs of one encoder, task and size, of the seeds that both arms have; without any there is no gain.
        arms: As `values_of_arms` gives them.
    """
    if not paired:
        return Gain(math.nan, math.nan, math.nan, 0, 0)
    (a, b), higher = (arms[arm] for arm in BOTH), paired[0].higher_is_better
    try:
        if a is not None and b is not None and a.cases == b.cases:
            return gain_over_cases(a.values, b.values, higher, seed)
        pretrained, scratch = (_mean(run.value for run in paired if run.arm == arm) for arm in BOTH)
        return Gain(relative_performance_gain(pretrained, scratch, higher), math.nan, math.nan, 0, 0)
    except ValueError:  # nothing is measured, or scratch is 0
        return Gain(math.nan, math.nan, math.nan, 0, 0)


def means_of_arms(
    paired: Sequence[RunRow], arms: Mapping[str, ArmValues | None], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Arm → its metric over cases and seeds, with its interval; arguments are those of `gain_of_arms`.

    Where a case has no value it is the mean of the runs' own, without an interval.
    """
    found = {}
    for arm, reached in arms.items():
        missing = (_mean(run.value for run in paired if run.arm == arm), math.nan, math.nan)
        found[arm] = missing if reached is None else mean_over_cases(reached.values, seed)
    return found


def _are_of(rankings: Sequence[Ranking], runs: Sequence[RunRow], tables: StudyTables, arm: str) -> bool:
    """Whether candidates are those of the runs: their table may be missing, or older than that of the runs."""
    of_arm = _OfArm.of(runs, arm)
    if of_arm.is_left_out or not math.isfinite(runs[0].value):  # no run has the precision of these cases
        return any(row.task == runs[0].task for row in tables.candidates)
    reported = {run.seed: run.value for run in runs if run.arm == arm}
    own = [float(ranking.precision(np.ones((1, ranking.cases)))[0]) for ranking in rankings]
    return bool(np.allclose(own, [reported[seed] for seed in of_arm.seeds], rtol=0.0, atol=1e-6, equal_nan=True))


@dataclass(frozen=True)
class ArmValues:
    """What an arm's metric is computed from, and the names of the cases."""

    values: CaseValues
    cases: list[str]


def values_of_arms(paired: Sequence[RunRow], tables: StudyTables) -> dict[str, ArmValues | None]:
    """Both arms of some runs, None of one where a case lacks its metric, or where there is no run."""
    return {arm: values_of_arm(paired, tables, arm) if paired else None for arm in BOTH}


def values_of_arm(runs: Sequence[RunRow], tables: StudyTables, arm: str) -> ArmValues | None:
    """What an arm's metric is made of, None where a case lacks it, or the candidates of its lesions are not the runs'.

    Of real cases that were left out each is tested by one seed, so that all count as those of one.
    """
    metric = runs[0].metric
    found = _by_seed_and_case(runs, tables, arm, {AREA: SAID, PRECISION: LESIONS}.get(metric, metric))
    if found is None:
        return None
    values, cases = found
    if metric == PRECISION:
        rankings = _rankings(runs, tables, arm, values, cases)
        return ArmValues(Precisions(rankings), cases) if _are_of(rankings, runs, tables, arm) else None
    if metric != AREA:
        return ArmValues(Means(values), cases)
    truth = _by_seed_and_case(runs, tables, arm, TRUE)
    return None if truth is None or truth[1] != cases else ArmValues(Areas(values, truth[0][0] > 0), cases)


def _by_seed_and_case(
    runs: Sequence[RunRow], tables: StudyTables, arm: str, metric: str
) -> tuple[np.ndarray, list[str]] | None:
    """A metric (seeds, cases) and the names of the cases that test; None where a case lacks it."""
    of_arm = _OfArm.of(runs, arm)
    found = {of_arm.place(row): row.value for row in tables.metrics if row.metric == metric and of_arm.has(row)}
    cases = sorted({case for _, case in found})
    if not cases or any((seed, case) not in found for seed in of_arm.seeds for case in cases):
        return None
    return np.array([[found[seed, case] for case in cases] for seed in of_arm.seeds]), cases


def _rankings(
    runs: Sequence[RunRow], tables: StudyTables, arm: str, lesions: np.ndarray, cases: Sequence[str]
) -> list[Ranking]:
    """Of each seed the candidates of all cases."""
    of_arm = _OfArm.of(runs, arm)
    found: dict[tuple[int, str], list[Candidate]] = defaultdict(list)
    for row in tables.candidates:
        if of_arm.has(row):
            found[of_arm.place(row)].append(Candidate(row.confidence, row.is_hit))
    return [
        Ranking([found[seed, case] for case in cases], there) for seed, there in zip(of_arm.seeds, lesions, strict=True)
    ]


@dataclass(frozen=True)
class _OfArm:
    """Which rows of a table are of the test cases of an arm's runs, and of which seed and case each is."""

    columns: tuple[object, ...]
    trained: list[int]
    is_left_out: bool

    @classmethod
    def of(cls, runs: Sequence[RunRow], arm: str) -> _OfArm:
        first, is_left_out = runs[0], runs[0].trained_on == REAL
        data = REAL if is_left_out else PHANTOM
        columns = (first.encoder, first.task, arm, data, first.labelled_cases, first.trained_on)
        return cls(columns, sorted({run.seed for run in runs if run.arm == arm}), is_left_out)

    @property
    def seeds(self) -> list[int]:
        return [0] if self.is_left_out else self.trained

    def has(self, row: MetricRow | CandidateRow) -> bool:
        own = (row.encoder, row.task, row.arm, row.data, row.labelled_cases, row.trained_on)
        return own == self.columns and bool(row.case) and row.seed in self.trained

    def place(self, row: MetricRow | CandidateRow) -> tuple[int, str]:
        return 0 if self.is_left_out else row.seed, row.case


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
