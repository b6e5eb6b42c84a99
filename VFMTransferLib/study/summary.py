"""What a study concludes: for each encoder and task the gain, the distance, the convergence and what it saves.

Computed from the tables alone, so that anybody can compute it again. The definitions are ours; see `transfer`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..core.terms import Arm, TaskId
from .tables import ARMS, CurveRow, MetricRow, RunRow, StudyTables, write_rows
from .transfer import Gain, convergence_efficiency, gain_in_area, gain_over_cases, relative_performance_gain

SUMMARY = "summary.csv"
LAYER = "encoder"
PHANTOM = "phantom"
AREA, SAID, TRUE = "auroc", "p_cspca", "is_cspca"  # a statistic of all cases, and what of each it is made of
MIN_POINTS = 4
RESAMPLES = 9999
_HOUR_S = 3600.0
_NOTHING = float("nan")


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
    """Spearman's rank correlation of gain and distance over the cells of the grid, with a bootstrap interval."""

    rho: float
    low: float
    high: float
    n_cells: int


def summarize(tables: StudyTables, seed: int = 0) -> tuple[SummaryRow, ...]:
    """One row for each encoder and task that has both arms.

    Args:
        tables: The study's tables.
        seed: Of the resampling.
    """
    return tuple(_row(cell, tables, seed) for cell in _cells(tables.runs))


def write_summary(rows: Iterable[SummaryRow], folder: Path) -> Path:
    """Write `summary.csv`.

    Raises:
        OutputError: The folder cannot be written.
    """
    path = folder / SUMMARY
    write_rows(path, SummaryRow, rows)
    return path


def gain_against_distance(rows: Iterable[SummaryRow], seed: int = 0) -> Correlation:
    """Do tasks nearer to pretraining gain more? Over all cells that have both numbers.

    D2P is comparable within one encoder only, so that both numbers are ranked within their encoder first; the interval
    is the percentile bootstrap over cells.
    """
    cells = [row for row in rows if math.isfinite(row.rpg_percent) and math.isfinite(row.d2p)]
    ranked = np.array([pair for encoder in sorted({row.encoder for row in cells}) for pair in _ranks(cells, encoder)])
    if len(ranked) < MIN_POINTS:
        return Correlation(_NOTHING, _NOTHING, _NOTHING, len(ranked))
    drawn = np.random.default_rng(seed).integers(len(ranked), size=(RESAMPLES, len(ranked)))
    low, high = np.nanpercentile(rank_correlations(ranked[drawn]), (2.5, 97.5))
    return Correlation(float(rank_correlations(ranked[None])[0]), float(low), float(high), len(ranked))


def _ranks(cells: list[SummaryRow], encoder: str) -> np.ndarray:
    """Ranks (cells, 2) of gain and distance within one encoder, 0..1."""
    own = np.array([(row.rpg_percent, row.d2p) for row in cells if row.encoder == encoder])
    return (stats.rankdata(own, axis=0) - 0.5) / len(own)


def rank_correlations(samples: np.ndarray) -> np.ndarray:
    """Spearman's rho of each sample (samples, cells, 2); `nan` where all cells of one share a value."""
    ranks = stats.rankdata(samples, axis=1)
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    gain, distance = centered[..., 0], centered[..., 1]
    with np.errstate(invalid="ignore"):
        return (gain * distance).sum(axis=1) / np.sqrt((gain**2).sum(axis=1) * (distance**2).sum(axis=1))


def _cells(runs: Iterable[RunRow]) -> list[tuple[str, str]]:
    """Encoder and task of each cell with both arms, in the order of the runs."""
    arms = defaultdict(set)
    for run in runs:
        arms[run.encoder, run.task].add(run.arm)
    return [cell for cell, found in arms.items() if {"pretrained", "scratch"} <= found]


def _row(cell: tuple[str, str], tables: StudyTables, seed: int) -> SummaryRow:
    encoder, task = cell
    runs = [run for run in tables.runs if (run.encoder, run.task) == cell]
    first = runs[0]
    gain = _gain(runs, tables, seed)
    distances = [row for row in tables.distances if (row.encoder, row.task) == cell and row.layer == LAYER]
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
        return Gain(_NOTHING, _NOTHING, _NOTHING, 0, 0)
    is_area = runs[0].metric == AREA
    metric = SAID if is_area else runs[0].metric
    a, b = (_by_seed_and_case(runs, tables, arm, metric) for arm in ("pretrained", "scratch"))
    truth = _by_seed_and_case(runs, tables, "scratch", TRUE) if is_area else None
    if a is None or b is None or a.shape != b.shape or (is_area and truth is None):
        return Gain(percent, _NOTHING, _NOTHING, 0, 0)
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
    cell = (runs[0].encoder, runs[0].task)
    points: dict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
    for row in curves:
        if (row.encoder, row.task) == cell:
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
        saved.append(run.device_seconds * run.steps_to_best / run.steps * (1 - efficiency) / _HOUR_S)
    # An arm that never gets there saves nothing at equal quality.
    hours = [value if math.isfinite(value) else _NOTHING for value in saved]
    return _mean(efficiencies), _mean(hours)


def _mean(values: Iterable[float]) -> float:
    array = np.array(list(values), float)
    return float(array.mean()) if array.size else _NOTHING


# A study's tables from above: every arm's values, who beats the trivial baseline, costs.

ENCODERS = ("profound", "provicnet")
BOTH = (str(Arm.PRETRAINED), str(Arm.SCRATCH))
SPECIALISED, TRIVIAL = "specialised", "trivial"
REAL = "real"
HOUR_S = 3600.0
Column = tuple[str, str]  # encoder, arm


@dataclass(frozen=True)
class ArmValue:
    """One arm of a task over its seeds.

    Attributes:
        encoder, arm: As in the tables.
        values: The primary measure by seed; only those that are a number.
        steps_to_best: Mean over seeds.
        device_seconds: Mean over seeds.
    """

    encoder: str
    arm: str
    values: tuple[float, ...]
    steps_to_best: float
    device_seconds: float

    @property
    def mean(self) -> float:
        return mean(self.values)

    def better_than(self, other: ArmValue, higher_is_better: bool) -> int:
        """How many seeds are better than another arm's mean."""
        sign = 1 if higher_is_better else -1
        return sum(sign * (value - other.mean) > 0 for value in self.values)


@dataclass(frozen=True)
class RealRow:
    """One measure of one real case.

    Attributes:
        task, metric, case: As in the tables.
        values: Encoder and arm → mean over seeds.
    """

    task: str
    metric: str
    case: str
    values: dict[Column, float]


def tasks_of(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The tasks that were run, those of the study first and in its order."""
    found = dict.fromkeys(run.task for run in runs)
    return (*(str(task) for task in TaskId if task in found), *(task for task in found if task not in tuple(TaskId)))


def encoders_of(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The encoders that were fine-tuned."""
    found = dict.fromkeys(run.encoder for run in runs if run.arm in BOTH)
    return (*(name for name in ENCODERS if name in found), *(name for name in found if name not in ENCODERS))


def arm_values(runs: Iterable[RunRow], task: str) -> tuple[ArmValue, ...]:
    """Every arm of a task: both arms encoder by encoder, then what is specialised, then what is trivial."""
    rows: dict[Column, list[RunRow]] = defaultdict(list)
    for run in runs:
        if run.task == task:
            rows[run.encoder, run.arm].append(run)
    return tuple(
        ArmValue(
            encoder,
            arm,
            tuple(run.value for run in found if math.isfinite(run.value)),
            mean(run.steps_to_best for run in found),
            mean(run.device_seconds for run in found),
        )
        for (encoder, arm), found in sorted(rows.items(), key=lambda item: column_place(item[0]))
    )


def best_arm(values: Iterable[ArmValue], higher_is_better: bool) -> ArmValue | None:
    """The arm with the best mean; None where no arm has a number."""
    known = [value for value in values if value.values]
    return max(known, key=lambda value: value.mean if higher_is_better else -value.mean) if known else None


def trivial_arm(values: Iterable[ArmValue]) -> ArmValue | None:
    """The trivial baseline, where it has a number."""
    return next((value for value in values if value.arm == TRIVIAL and value.values), None)


def real_rows(metrics: Iterable[MetricRow]) -> tuple[RealRow, ...]:
    """The numbers of real cases, one row a case and measure, means over seeds."""
    values: dict[tuple[str, str, str], dict[Column, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in metrics:
        if row.data == REAL and row.case and math.isfinite(row.value):
            values[row.task, row.metric, row.case][row.encoder, row.arm].append(row.value)
    return tuple(
        RealRow(*key, {column: mean(found[column]) for column in sorted(found, key=column_place)})
        for key, found in values.items()
    )


def cases_better(rows: Sequence[RealRow], column: Column, higher_is_better: bool | None) -> tuple[int, int]:
    """On how many cases an arm is better than the trivial baseline, of how many that have both.

    Args:
        rows: Of one task and measure.
        column: Encoder and arm.
        higher_is_better: The measure's direction; where it has none, no case counts.
    """
    better, both = 0, 0
    if higher_is_better is None:
        return better, both
    for row in rows:
        trivial = next((value for (_, arm), value in row.values.items() if arm == TRIVIAL), None)
        if trivial is not None and column in row.values:
            both += 1
            better += (row.values[column] - trivial) * (1 if higher_is_better else -1) > 0
    return better, both


def total_device_hours(runs: Iterable[RunRow]) -> float:
    """Of all trainings and baselines together, without the pretrainings, which are no rows of the table."""
    return sum(run.device_seconds for run in runs) / HOUR_S


def mean(values: Iterable[float]) -> float:
    """Mean of some numbers; `nan` of none."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def column_place(column: Column) -> tuple[int, int, str]:
    """Both arms encoder by encoder, then what is specialised, then what is trivial."""
    encoder, arm = column
    if arm in BOTH:
        return (0, ENCODERS.index(encoder) if encoder in ENCODERS else len(ENCODERS), f"{encoder} {BOTH.index(arm)}")
    return (1 + ARMS.index(arm), 0, encoder)
