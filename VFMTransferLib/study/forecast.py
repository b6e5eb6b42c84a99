"""From an estimate to a gain, by a finished study: what it lets expect, and what its estimators were worth.

An estimate has units of its own, which differ from task to task and from encoder to encoder, and a study has a dozen
pairs: what is used of it is its place among the estimates of the other tasks of the same encoder, 0 (below all) to 1
(above all), which no outlier can stretch. The gain is a straight line in that place, fitted by least squares.

`validate` tries this by leave-one-task-out: ranks and line come from the other tasks alone, and the yardstick is the
constant, the mean gain of the other tasks. It has a flaw to know of: a forecast that knows nothing has a rank
correlation below 0, since the others' mean is low where the left-out gain is high. The gain that is expected comes from
the estimator that forecast left-out tasks best, if that was better than the constant; else the mean gain is all that is
known. Intervals are as wide as the errors on left-out tasks were. All of this is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .config import CONFIG, read_config
from .summary import SUMMARY, SummaryRow, rank_correlations, ranked_within_encoders, summarize
from .tables import RUNS, RunRow, read_rows, read_rows_if_any, read_tables, write_rows

ESTIMATES, FORECAST = "estimates.csv", "forecast.csv"
CONSTANT, CHOSEN = "constant", "chosen"
COVERAGE = 0.8  # of the intervals; a dozen residuals do not show rarer errors
MIN_TASKS = 3
RESAMPLES = 1999


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
    """How good an estimator's forecasts of tasks that were left out are.

    Attributes:
        estimator: Its name; `constant` for the mean gain of the other tasks; `chosen` for the one that was best on the
            other tasks, or their mean gain where none was, which is the cost of picking the best of several.
        rho, rho_low, rho_high: Spearman's rank correlation of forecast and gain; 95 % interval, bootstrap over tasks.
        rho_within: Rank correlation of estimate and gain, both ranked within their encoder; nothing is fitted.
        mae_percent: Mean absolute error of the forecast gain, in percent points.
        mae_constant_percent: That of the constant, on the same pairs.
        reach_percent: Half width of the interval: of the left-out errors, the quantile for `COVERAGE` of a new one.
    """

    estimator: str
    n_cells: int
    n_tasks: int
    rho: float
    rho_low: float
    rho_high: float
    rho_within: float
    mae_percent: float
    mae_constant_percent: float
    reach_percent: float

    @property
    def is_better(self) -> bool:
        return self.mae_percent < self.mae_constant_percent and self.rho > 0


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study, as far as advice needs it; without estimates and forecasts where estimators were not tried.

    Its cases were cut to a square of side `around_gland_mm`; None for whole images.
    """

    runs: tuple[RunRow, ...] = ()
    summary: tuple[SummaryRow, ...] = ()
    estimates: tuple[EstimateRow, ...] = ()
    forecasts: tuple[ForecastRow, ...] = ()
    around_gland_mm: float | None = None

    @property
    def best_forecast(self) -> ForecastRow | None:
        """The estimator that gains are forecast by; None where none is better than the mean gain."""
        return best(self.forecasts)

    def forecast(self, estimator: str) -> ForecastRow | None:
        return next((row for row in self.forecasts if row.estimator == estimator), None)

    def row(self, encoder: str, task: str) -> SummaryRow | None:
        return next((row for row in self.summary if (row.encoder, row.task) == (encoder, task)), None)


def read_finished_study(folder: Path) -> FinishedStudy:
    """Read a finished study, an empty one where there is none; DatasetError, ConfigError if a file is damaged."""
    if not (folder / RUNS).is_file():
        return FinishedStudy()
    tables, written = read_tables(folder), folder / SUMMARY
    return FinishedStudy(
        tables.of_size().runs,
        read_rows(written, SummaryRow) if written.is_file() else summarize(tables),
        read_rows_if_any(folder / ESTIMATES, EstimateRow),
        read_rows_if_any(folder / FORECAST, ForecastRow),
        read_config(folder / CONFIG).around_gland_mm if (folder / CONFIG).is_file() else None,
    )


@dataclass(frozen=True)
class ExpectedGain:
    """Relative performance gain in percent that can be expected; `nan` where nothing is known."""

    percent: float = math.nan
    low: float = math.nan
    high: float = math.nan


def gain_to_expect(finished: FinishedStudy, encoder: str, task: str, estimates: Mapping[str, float]) -> ExpectedGain:
    """The gain that a study lets expect, from each estimator's value on the task's cases."""
    row = finished.best_forecast
    estimate = math.nan if row is None else estimates.get(row.estimator, math.nan)
    if row is not None and math.isfinite(estimate):
        points = points_of(finished.estimates, finished.summary)
        percent = expected_gain(Point(encoder, task, estimate, math.nan), points[row.estimator])
    else:
        row = finished.forecast(CONSTANT)
        gains = [pair.rpg_percent for pair in finished.summary if math.isfinite(pair.rpg_percent)]
        percent = float(np.mean(gains)) if gains else math.nan
    if row is None:
        return ExpectedGain()
    return ExpectedGain(percent, percent - row.reach_percent, percent + row.reach_percent)


@dataclass(frozen=True)
class SavedHours:
    """Device-hours that one fine-tuning saves at equal quality, for as many steps as the study's had.

    Attributes:
        hours: From the study's own row of the task, else the median of the encoder's tasks; `nan` if nothing is saved.
        low, high: Minimum and maximum over the encoder's tasks in the study.
        words: What the number rests on, or why there is none.
    """

    hours: float
    low: float
    high: float
    words: str


def hours_to_save(
    finished: FinishedStudy, encoder: str, task: str, seconds_per_step: float | None = None
) -> SavedHours:
    """What a study's convergence lets expect, at its own speed or at that measured on the user's machine and cases."""
    own = finished.row(encoder, task)
    hours = [row.device_hours_saved for row in finished.summary if row.encoder == encoder]
    hours = [value for value in hours if math.isfinite(value)]
    if not hours:
        words = "The study has no task of this encoder on which hours were saved."
        return SavedHours(math.nan, math.nan, math.nan, words)
    if own is None:
        words = "The study has no such task; this is the median of the encoder's tasks."
        return SavedHours(float(np.median(hours)), min(hours), max(hours), words)
    factor, words = 1.0, "From the study's convergence on this task and its own seconds per step."
    steps = [
        run.device_seconds / run.steps
        for run in finished.runs
        if (run.encoder, run.task, run.arm) == (encoder, task, "scratch") and run.steps > 0
    ]
    if seconds_per_step is not None and steps and min(steps) > 0:
        factor = seconds_per_step / float(np.mean(steps))
        words = f"From the study's convergence on this task, at the {seconds_per_step:.2g} s per step measured here."
    low, high = factor * min(hours), factor * max(hours)
    if math.isfinite(own.device_hours_saved):
        return SavedHours(factor * own.device_hours_saved, low, high, words)
    words = "The study's learning curves of this task do not show convergence."
    if math.isinf(own.convergence_efficiency):
        words = (
            "In the study the pretrained arm did not reach the scratch arm's best on this task with every seed: "
            "at equal quality nothing is saved."
        )
    return SavedHours(math.nan, low, high, words)


def points_of(estimates: Iterable[EstimateRow], summary: Iterable[SummaryRow]) -> dict[str, tuple[Point, ...]]:
    """Estimator → its pairs with a gain, in the summary's order; pairs without a finite number are left out."""
    rows = list(summary)
    found = {(row.encoder, row.task, row.estimator): row.value for row in estimates}
    points = {}
    for name in dict.fromkeys(estimator for _, _, estimator in found):
        pairs = [Point(r.encoder, r.task, found.get((r.encoder, r.task, name), math.nan), r.rpg_percent) for r in rows]
        points[name] = tuple(pair for pair in pairs if math.isfinite(pair.estimate) and math.isfinite(pair.gain))
    return points


def best(rows: Iterable[ForecastRow]) -> ForecastRow | None:
    """The estimator that errs least, if it is better than the constant; None if none is."""
    better = [row for row in rows if row.estimator not in (CONSTANT, CHOSEN) and row.is_better]
    return min(better, key=lambda row: row.mae_percent, default=None)


def expected_gain(pair: Point, others: Sequence[Point]) -> float:
    """The gain that a pair's estimate lets expect, from others whose gain is known."""
    places = np.array([_place(other, [o for o in others if o is not other]) for other in others])
    gains = np.array([other.gain for other in others])
    centered = places - places.mean()
    spread = float(centered @ centered)
    slope = float(centered @ gains) / spread if spread > 0 else 0.0  # the mean where all places are the same
    return float(gains.mean()) - slope * float(places.mean()) + slope * _place(pair, others)


def _place(pair: Point, others: Sequence[Point]) -> float:
    """Share of the other pairs of the same encoder whose estimate is lower, equal ones by half; 1/2 without any."""
    values = np.array([other.estimate for other in others if other.encoder == pair.encoder])
    return float(np.mean((values < pair.estimate) + 0.5 * (values == pair.estimate))) if values.size else 0.5


def write_forecast(estimates: Iterable[EstimateRow], rows: Iterable[ForecastRow], folder: Path) -> None:
    """Write both tables beside those of the study; OutputError if the folder cannot be written."""
    write_rows(folder / ESTIMATES, EstimateRow, estimates)
    write_rows(folder / FORECAST, ForecastRow, rows)


def validate(points: Mapping[str, Sequence[Point]], seed: int = 0) -> tuple[ForecastRow, ...]:
    """A row for each estimator of `points_of` with `MIN_TASKS` tasks, for choosing among them, and for the constant."""
    usable = {name: pairs for name, pairs in points.items() if _task_count(pairs) >= MIN_TASKS}
    if not usable:
        return ()
    everything = max(usable.values(), key=len)
    rows = [_row(name, pairs, leave_one_task_out(pairs), seed) for name, pairs in usable.items()]
    rows.append(_row(CHOSEN, everything, _chosen(usable, everything), seed))
    rows.append(_row(CONSTANT, everything, _constants(everything), seed))
    return tuple(rows)


def leave_one_task_out(points: Sequence[Point]) -> np.ndarray:
    """The forecast gain of each pair, from the pairs of the other tasks."""
    return np.array([expected_gain(pair, _without(points, pair.task)) for pair in points])


def _chosen(usable: Mapping[str, Sequence[Point]], everything: Sequence[Point]) -> np.ndarray:
    """Forecasts by whichever estimator would have been chosen without the task, else by the constant."""
    forecasts = _constants(everything)
    for i, pair in enumerate(everything):
        inner = {name: _without(pairs, pair.task) for name, pairs in usable.items()}
        chosen = best(
            _errors(name, pairs, leave_one_task_out(pairs))
            for name, pairs in inner.items()
            if _task_count(pairs) >= MIN_TASKS
        )
        if chosen is None:
            continue
        for own in usable[chosen.estimator]:
            if (own.encoder, own.task) == (pair.encoder, pair.task):
                forecasts[i] = expected_gain(own, inner[chosen.estimator])
    return forecasts


def _constants(points: Sequence[Point]) -> np.ndarray:
    return np.array([np.mean([other.gain for other in _without(points, pair.task)]) for pair in points])


def _errors(name: str, points: Sequence[Point], forecasts: np.ndarray) -> ForecastRow:
    """A row without what choosing does not need."""
    gains = np.array([pair.gain for pair in points])
    mae, constant = (float(np.abs(values - gains).mean()) for values in (forecasts, _constants(points)))
    unknown = (math.nan,) * 3
    rho = _rank_correlation(forecasts, gains)
    return ForecastRow(name, len(points), _task_count(points), rho, *unknown, mae, constant, math.nan)


def _row(name: str, points: Sequence[Point], forecasts: np.ndarray, seed: int) -> ForecastRow:
    gains = np.array([pair.gain for pair in points])
    # Bootstrap over tasks: a task's pairs are drawn together, since they have the cases in common.
    tasks = list(dict.fromkeys(pair.task for pair in points))
    rows = [np.array([i for i, pair in enumerate(points) if pair.task == task]) for task in tasks]
    drawn = np.random.default_rng(seed).integers(len(tasks), size=(RESAMPLES, len(tasks)))
    samples = [np.concatenate([rows[task] for task in sample]) for sample in drawn]
    pairs = np.stack([forecasts, gains], axis=1)
    values = np.concatenate(
        [
            rank_correlations(pairs[np.array([sample for sample in samples if len(sample) == size])])
            for size in sorted({len(sample) for sample in samples})
        ]
    )
    low, high = (math.nan, math.nan) if np.isnan(values).all() else np.nanpercentile(values, (2.5, 97.5))
    errors = np.sort(np.abs(forecasts - gains))
    # The k-th smallest of n errors covers a new one with probability k / (n + 1), were it alike.
    k = min(math.ceil(COVERAGE * (len(errors) + 1)), len(errors))
    ranked = ranked_within_encoders((pair.encoder, pair.estimate, pair.gain) for pair in points)
    return replace(
        _errors(name, points, forecasts),
        rho_low=float(low),
        rho_high=float(high),
        rho_within=math.nan if name in (CONSTANT, CHOSEN) else _rank_correlation(*ranked.T),
        mae_percent=float(errors.mean()),
        reach_percent=float(errors[k - 1]),
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho; `nan` where all of one are the same."""
    return float(rank_correlations(np.stack([a, b], axis=1)[None])[0])


def _without(points: Sequence[Point], task: str) -> list[Point]:
    return [pair for pair in points if pair.task != task]


def _task_count(points: Iterable[Point]) -> int:
    return len({pair.task for pair in points})
