"""Do estimators made before any fine-tuning tell which task gains from which pretraining? Judged on a finished study.

An estimate has units of its own, which differ from encoder to encoder, so that it is held against the gains of the same
encoder only: by weighted Kendall's tau, in which the largest gains count most, mean over encoders. A task's pairs share
its cases and its difficulty; so under the null hypothesis whole tasks are exchanged, in all encoders alike, and the
p-value is the share of all orders of the tasks whose tau is as large as the one observed. With six tasks that are 720,
and the smallest p-value is 1/720. Where pairs are missing, tasks are exchanged with those alone that the same encoders
have, so that every order has the same pairs. All of this is ours.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations, product
from pathlib import Path

import numpy as np
from scipy import stats

from .config import split_arm
from .label_efficiency import EFFICIENCY, EfficiencyRow, label_efficiency
from .summary import BOTH, SummaryRow, rank_correlations, ranked_within_encoders, summarize
from .tables import RUNS, RunRow, read_rows, read_rows_if_any, read_tables, training_phantoms, write_rows

ESTIMATES, FORECAST = "estimates.csv", "forecast.csv"
FEW_LABELS = "label-efficiency"
"""Folder beside a study's tables: further studies, each of label efficiency, itself and in its folders."""
MIN_TASKS = 3
LEVEL = 0.05  # of the p-value, shared among the estimators that were tried
MAX_ORDERS = 5040  # of seven tasks; of more so many are drawn
_TIE = 1e-12


@dataclass(frozen=True)
class EstimateRow:
    """An estimator's value for an encoder's pretraining on a task; larger is better, `nan` where it has none.

    The seconds are of one core; what estimators share is counted with the first.
    """

    encoder: str
    task: str
    estimator: str
    value: float
    seconds: float


@dataclass(frozen=True)
class Point:
    """An encoder on a task of a study: an estimate, and what was gained."""

    encoder: str
    task: str
    estimate: float
    gain: float


@dataclass(frozen=True)
class ForecastRow:
    """How well an estimator orders the gains of a study.

    Attributes:
        n_cells, n_tasks: Pairs of encoder and task with both numbers, and their tasks.
        rho_within: Spearman's rank correlation, both ranked within their encoder.
        tau_weighted: Weighted Kendall's tau (Vigna, WWW 2015; hyperbolic), mean over encoders.
        p_value: Share of the orders of the tasks, among those of the same encoders, whose tau is at least as large.
        n_orders: How many orders there are; of more than `MAX_ORDERS` how many were drawn.
    """

    estimator: str
    n_cells: int
    n_tasks: int
    rho_within: float
    tau_weighted: float
    p_value: float
    n_orders: int


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study, as far as advice needs it; without forecasts where estimators were not tried.

    Attributes:
        few_labels: What was gained with few labeled cases, by the study itself and those in its folder `FEW_LABELS`.
        lacking_seeds: Tasks of which an arm has fewer seeds than those of others, so that gains may still change order.
    """

    summary: tuple[SummaryRow, ...] = ()
    forecasts: tuple[ForecastRow, ...] = ()
    few_labels: tuple[EfficiencyRow, ...] = ()
    lacking_seeds: tuple[str, ...] = ()


def lacking_seeds(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The tasks of which an arm that all cases train has fewer seeds than those of others."""
    seeds: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for run in runs:
        if split_arm(run.arm)[0] in BOTH and not run.labelled_cases:
            seeds[run.task, run.encoder, run.arm].add(run.seed)
    most = max(map(len, seeds.values()), default=0)
    return tuple(dict.fromkeys(task for (task, _, _), own in seeds.items() if len(own) < most))


def read_finished_study(folder: Path, task: str | None = None) -> FinishedStudy:
    """A finished study from its tables, of a task or all, an empty one where there is none.

    Raises:
        DatasetError: A file is damaged.
    """
    if not (folder / RUNS).is_file():
        return FinishedStudy()
    tables = read_tables(folder)
    own = replace(tables, runs=tuple(run for run in tables.runs if task in (None, run.task)))
    few_labels = list(label_efficiency(own, training_phantoms(folder, {run.task for run in own.runs})))
    for path in sorted((folder / FEW_LABELS).rglob(EFFICIENCY)):
        few_labels += [row for row in read_rows(path, EfficiencyRow) if task in (None, row.task)]
    forecasts = read_rows_if_any(folder / FORECAST, ForecastRow)
    return FinishedStudy(summarize(own), forecasts, tuple(few_labels), lacking_seeds(tables.runs))


def points_of(estimates: Iterable[EstimateRow], summary: Iterable[SummaryRow]) -> dict[str, tuple[Point, ...]]:
    """Estimator → its pairs with a gain, in the summary's order; pairs without a finite number are left out."""
    rows = list(summary)
    found = {(row.encoder, row.task, row.estimator): row.value for row in estimates}
    points = {}
    for name in dict.fromkeys(estimator for _, _, estimator in found):
        pairs = [Point(r.encoder, r.task, found.get((r.encoder, r.task, name), math.nan), r.rpg_percent) for r in rows]
        points[name] = tuple(pair for pair in pairs if math.isfinite(pair.estimate) and math.isfinite(pair.gain))
    return points


def write_forecast(estimates: Iterable[EstimateRow], rows: Iterable[ForecastRow], folder: Path) -> None:
    """Write both tables beside those of the study; OutputError if the folder cannot be written."""
    write_rows(folder / ESTIMATES, EstimateRow, estimates)
    write_rows(folder / FORECAST, ForecastRow, rows)


def judge(points: Mapping[str, Sequence[Point]], seed: int = 0) -> tuple[ForecastRow, ...]:
    """A row for each estimator of `points_of` with `MIN_TASKS` tasks or more."""
    rows = []
    for name, pairs in points.items():
        tasks = list(dict.fromkeys(pair.task for pair in pairs))
        if len(tasks) < MIN_TASKS:
            continue
        ranked = ranked_within_encoders((pair.encoder, pair.estimate, pair.gain) for pair in pairs)
        rho = float(rank_correlations(ranked[None])[0])
        encoders = {task: frozenset(pair.encoder for pair in pairs if pair.task == task) for task in tasks}
        orders = _orders([[t for t in tasks if encoders[t] == own] for own in dict.fromkeys(encoders.values())], seed)
        found = np.array([_tau(pairs, order) for order in orders])
        p_value = float(np.mean(found >= found[0] - _TIE))  # the first is the observed one
        rows.append(ForecastRow(name, len(pairs), len(tasks), rho, float(found[0]), p_value, len(found)))
    return tuple(rows)


def better_than_chance(rows: Sequence[ForecastRow]) -> tuple[ForecastRow, ...]:
    """The estimators whose p-value is at most `LEVEL` divided by their number, since the best of several flatters."""
    return tuple(row for row in rows if row.p_value <= LEVEL / len(rows) and row.tau_weighted > 0)


def can_tell(rows: Sequence[ForecastRow]) -> bool:
    """Whether the tasks are enough for any of the estimators to be better than chance: the best order of all may be."""
    return any(1 / row.n_orders <= LEVEL / len(rows) for row in rows)


def _orders(groups: Sequence[Sequence[str]], seed: int) -> list[dict[str, str]]:
    """All exchanges of tasks within their groups, none of them first; of very many some, drawn."""
    if math.prod(math.factorial(len(group)) for group in groups) <= MAX_ORDERS:
        found = [tuple(chain(*order)) for order in product(*map(permutations, groups))]
    else:
        rng = np.random.default_rng(seed)
        drawn = ([group[i] for group in groups for i in rng.permutation(len(group))] for _ in range(MAX_ORDERS - 1))
        found = [tuple(chain(*groups)), *map(tuple, drawn)]
    return [dict(zip(found[0], order, strict=True)) for order in found]


def _tau(pairs: Sequence[Point], exchanged: Mapping[str, str]) -> float:
    """Weighted tau of the estimates and the gains of exchanged tasks, mean over encoders."""
    gains = {(pair.encoder, pair.task): pair.gain for pair in pairs}
    found = []
    for encoder in dict.fromkeys(pair.encoder for pair in pairs):
        own = [pair for pair in pairs if pair.encoder == encoder]
        estimates = [pair.estimate for pair in own]
        if len(set(estimates)) < 2:
            found.append(0.0)  # what is the same for all tells nothing
            continue
        tau = stats.weightedtau(estimates, [gains[encoder, exchanged[pair.task]] for pair in own]).statistic
        found.append(float(tau) if math.isfinite(tau) else 0.0)
    return float(np.mean(found))
