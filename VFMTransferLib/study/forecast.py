"""From an estimate to a gain, by a finished study; and the tables of its estimates and of what they are worth.

An estimate has units of its own, which differ from task to task and from encoder to encoder, and a study has a dozen
cells: what is used of it is its place among the estimates of the other tasks of the same encoder, 0 (below all) to 1
(above all), which no outlier can stretch. The gain is a straight line in that place, fitted by least squares. All of
this is ours; `left_out` says how well it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from .config import CONFIG, read_config
from .summary import SUMMARY, SummaryRow, rank_correlations, summarize
from .tables import RUNS, RunRow, read_rows, read_tables, write_rows

ESTIMATES, FORECAST = "estimates.csv", "forecast.csv"
CONSTANT, CHOSEN = "constant", "chosen"
COVERAGE = 0.8  # of the intervals; a dozen residuals say nothing of rarer errors
_NOTHING = float("nan")


@dataclass(frozen=True)
class EstimateRow:
    """What an estimator says of an encoder's pretraining for a task; larger is better, `nan` where it cannot say.

    Attributes:
        seconds: What it took, on one core; what estimators share is counted with the first.
    """

    encoder: str
    task: str
    estimator: str
    value: float
    seconds: float


@dataclass(frozen=True)
class Point:
    """A cell of a study: an estimate, and what was gained."""

    encoder: str
    task: str
    estimate: float
    gain: float


@dataclass(frozen=True)
class ForecastRow:
    """How good an estimator's forecasts of tasks that were left out are.

    Attributes:
        estimator: Its name; `constant` for the mean gain of the other tasks; `chosen` for the one that was best on the
            other tasks, or their mean gain where none was, which is what picking the best of several comes to.
        n_cells, n_tasks: What it rests on.
        rho: Spearman's rank correlation of forecast and gain. That of a forecast which knows nothing is below 0, since
            the others' mean is low where the left-out gain is high.
        rho_low, rho_high: Its 95 % interval, bootstrap over tasks.
        rho_within: Rank correlation of estimate and gain, both ranked within their encoder; nothing is fitted.
        mae_percent: Mean absolute error of the forecast gain, in percent points.
        mae_constant_percent: That of the constant, on the same cells.
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
        """Whether its forecasts err less than the constant's, and order tasks the right way."""
        return self.mae_percent < self.mae_constant_percent and self.rho > 0


def points_of(estimates: Iterable[EstimateRow], summary: Iterable[SummaryRow]) -> dict[str, tuple[Point, ...]]:
    """Estimator → its cells with a gain, in the summary's order; cells without a finite number are left out."""
    rows = list(summary)
    found = {(row.encoder, row.task, row.estimator): row.value for row in estimates}
    points = {}
    for name in dict.fromkeys(estimator for _, _, estimator in found):
        cells = [Point(r.encoder, r.task, found.get((r.encoder, r.task, name), _NOTHING), r.rpg_percent) for r in rows]
        points[name] = tuple(cell for cell in cells if math.isfinite(cell.estimate) and math.isfinite(cell.gain))
    return points


def best(rows: Iterable[ForecastRow]) -> ForecastRow | None:
    """The estimator that errs least, if it is better than the constant; None if none is."""
    better = [row for row in rows if row.estimator not in (CONSTANT, CHOSEN) and row.is_better]
    return min(better, key=lambda row: row.mae_percent) if better else None


def expected_gain(cell: Point, others: Sequence[Point]) -> float:
    """The gain that an estimate lets expect.

    Args:
        cell: What is asked about; its gain is not looked at.
        others: Cells whose gain is known.
    """
    places = [_place(other, [o for o in others if o is not other]) for other in others]
    gains = [other.gain for other in others]
    base, slope = _line(np.array(places), np.array(gains))
    return base + slope * _place(cell, others)


def _place(cell: Point, others: Sequence[Point]) -> float:
    """Share of the other cells of the same encoder whose estimate is lower, equal ones by half; 1/2 without any."""
    values = np.array([other.estimate for other in others if other.encoder == cell.encoder])
    return float(np.mean((values < cell.estimate) + 0.5 * (values == cell.estimate))) if values.size else 0.5


def _line(places: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    """Base and slope by least squares; the mean where all places are the same."""
    centered = places - places.mean()
    spread = float(centered @ centered)
    slope = float(centered @ gains) / spread if spread > 0 else 0.0
    return float(gains.mean()) - slope * float(places.mean()), slope


def write_forecast(estimates: Iterable[EstimateRow], rows: Iterable[ForecastRow], folder: Path) -> None:
    """Write both tables beside those of the study.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_rows(folder / ESTIMATES, EstimateRow, estimates)
    write_rows(folder / FORECAST, ForecastRow, rows)


def read_forecast(folder: Path) -> tuple[ForecastRow, ...]:
    """The validation of a study's estimators; none where nobody made it.

    Raises:
        DatasetError: The table cannot be understood.
    """
    path = folder / FORECAST
    return read_rows(path, ForecastRow) if path.is_file() else ()


def read_estimates(folder: Path) -> tuple[EstimateRow, ...]:
    """The estimates of a study; none where nobody made them.

    Raises:
        DatasetError: The table cannot be understood.
    """
    path = folder / ESTIMATES
    return read_rows(path, EstimateRow) if path.is_file() else ()


# Estimators tried on a finished study: each task is forecast from the others, and compared with what was gained.
#
# For a task that is left out, both its cells are: places and line come from the other tasks alone. The yardstick is
# the constant, the mean gain of the other tasks. Left-out forecasts have a flaw to know of: one that knows nothing
# has a rank correlation below 0, since the others' mean is low where the left-out gain is high.

MIN_TASKS = 3
RESAMPLES = 1999


def validate(points: Mapping[str, Sequence[Point]], seed: int = 0) -> tuple[ForecastRow, ...]:
    """A row for each estimator, then for choosing among them, then for the constant.

    Args:
        points: From `points_of`; an estimator with fewer than `MIN_TASKS` tasks has no row.
        seed: Of the bootstrap.
    """
    usable = {name: cells for name, cells in points.items() if _task_count(cells) >= MIN_TASKS}
    if not usable:
        return ()
    rows = [_row(name, cells, leave_one_task_out(cells), seed) for name, cells in usable.items()]
    everything = max(usable.values(), key=len)
    rows.append(_row(CHOSEN, everything, _choosing(usable, everything), seed))
    rows.append(_row(CONSTANT, everything, _constants(everything), seed))
    return tuple(rows)


def leave_one_task_out(points: Sequence[Point]) -> np.ndarray:
    """The forecast gain of each cell, from the cells of the other tasks."""
    return np.array([expected_gain(cell, _without(points, cell.task)) for cell in points])


def _choosing(usable: Mapping[str, Sequence[Point]], everything: Sequence[Point]) -> np.ndarray:
    """Forecasts by whichever estimator would have been chosen without the task."""
    forecasts = []
    for cell in everything:
        inner = {name: _without(cells, cell.task) for name, cells in usable.items()}
        rows = [_errors(name, cells) for name, cells in inner.items() if _task_count(cells) >= MIN_TASKS]
        chosen = best(rows)
        own = [] if chosen is None else [c for c in usable[chosen.estimator] if _same_cell(c, cell)]
        if chosen is None or not own:
            forecasts.append(_mean_gain(_without(everything, cell.task)))
        else:
            forecasts.append(expected_gain(own[0], inner[chosen.estimator]))
    return np.array(forecasts)


def _constants(points: Sequence[Point]) -> np.ndarray:
    return np.array([_mean_gain(_without(points, cell.task)) for cell in points])


def _row(name: str, points: Sequence[Point], forecasts: np.ndarray, seed: int) -> ForecastRow:
    gains = np.array([cell.gain for cell in points])
    low, high = _interval(points, forecasts, gains, seed)
    errors = np.sort(np.abs(forecasts - gains))
    # The k-th smallest of n errors covers a new one with probability k / (n + 1), were it alike.
    k = min(math.ceil(COVERAGE * (len(errors) + 1)), len(errors))
    is_estimator = name not in (CONSTANT, CHOSEN)
    return ForecastRow(
        estimator=name,
        n_cells=len(points),
        n_tasks=_task_count(points),
        rho=_rank_correlation(forecasts, gains),
        rho_low=low,
        rho_high=high,
        rho_within=_within(points) if is_estimator else _NOTHING,
        mae_percent=float(errors.mean()),
        mae_constant_percent=float(np.abs(_constants(points) - gains).mean()),
        reach_percent=float(errors[k - 1]),
    )


def _errors(name: str, points: Sequence[Point]) -> ForecastRow:
    """A row without its interval, which choosing does not look at."""
    forecasts, gains = leave_one_task_out(points), np.array([cell.gain for cell in points])
    mae, constant = (float(np.abs(values - gains).mean()) for values in (forecasts, _constants(points)))
    rho = _rank_correlation(forecasts, gains)
    unknown = (_NOTHING, _NOTHING, _NOTHING)
    return ForecastRow(name, len(points), _task_count(points), rho, *unknown, mae, constant, _NOTHING)


def _interval(points: Sequence[Point], forecasts: np.ndarray, gains: np.ndarray, seed: int) -> tuple[float, float]:
    """Bootstrap over tasks: a task's cells are drawn together, since they have the cases in common."""
    tasks = list(dict.fromkeys(cell.task for cell in points))
    rows = [np.array([i for i, cell in enumerate(points) if cell.task == task]) for task in tasks]
    drawn = np.random.default_rng(seed).integers(len(tasks), size=(RESAMPLES, len(tasks)))
    samples = [np.concatenate([rows[task] for task in sample]) for sample in drawn]
    pairs = np.stack([forecasts, gains], axis=1)
    values = np.concatenate(
        [
            rank_correlations(pairs[np.array([sample for sample in samples if len(sample) == size])])
            for size in sorted({len(sample) for sample in samples})
        ]
    )
    if np.isnan(values).all():
        return _NOTHING, _NOTHING
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _within(points: Sequence[Point]) -> float:
    """Rank correlation of estimate and gain after both were ranked within their encoder."""
    pairs = []
    for encoder in dict.fromkeys(cell.encoder for cell in points):
        own = np.array([(cell.estimate, cell.gain) for cell in points if cell.encoder == encoder])
        pairs.append((stats.rankdata(own, axis=0) - 0.5) / len(own))
    return _rank_correlation(*np.concatenate(pairs).T)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho; `nan` where all of one are the same."""
    return float(rank_correlations(np.stack([a, b], axis=1)[None])[0])


def _without(points: Sequence[Point], task: str) -> list[Point]:
    return [cell for cell in points if cell.task != task]


def _task_count(points: Iterable[Point]) -> int:
    return len({cell.task for cell in points})


def _mean_gain(points: Iterable[Point]) -> float:
    return float(np.mean([cell.gain for cell in points]))


def _same_cell(a: Point, b: Point) -> bool:
    return (a.encoder, a.task) == (b.encoder, b.task)


# What a finished study lets expect of a pretraining on a task, from estimates made on the task's own cases.
#
# The gain comes from the estimator that forecast left-out tasks best, if that was better than the mean gain; else the
# mean gain is all that can be said. Intervals are as wide as the errors on left-out tasks were. All of this is ours.

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Experience:
    """A finished study, as far as advice needs it.

    Attributes:
        runs: Its trainings.
        summary: Its cells.
        estimates: What the estimators said of each cell before.
        forecasts: How good they were on left-out tasks; empty where nobody has tried.
        around_gland_mm: Side of the square that its cases were cut to; None for whole images.
    """

    runs: tuple[RunRow, ...] = ()
    summary: tuple[SummaryRow, ...] = ()
    estimates: tuple[EstimateRow, ...] = ()
    forecasts: tuple[ForecastRow, ...] = ()
    around_gland_mm: float | None = None

    @property
    def shipped(self) -> ForecastRow | None:
        """The estimator that gains are forecast by; None where none is better than the mean gain."""
        return best(self.forecasts)

    @property
    def constant(self) -> ForecastRow | None:
        """How good the mean gain is as a forecast."""
        return next((row for row in self.forecasts if row.estimator == CONSTANT), None)

    def cell(self, encoder: str, task: str) -> SummaryRow | None:
        """A cell of the study."""
        return next((row for row in self.summary if (row.encoder, row.task) == (encoder, task)), None)


@dataclass(frozen=True)
class ExpectedGain:
    """Relative performance gain in percent that can be expected; `nan` where nothing can be said."""

    percent: float = _NOTHING
    low: float = _NOTHING
    high: float = _NOTHING


@dataclass(frozen=True)
class SavedHours:
    """Device-hours that one fine-tuning saves at equal quality, for as many steps as the study's had.

    Attributes:
        hours: From the study's own cell of the task, else the median of the encoder's tasks; `nan` if nothing is saved.
        low, high: Least and most over the encoder's tasks in the study.
        words: What the number rests on, or why there is none.
    """

    hours: float
    low: float
    high: float
    words: str


def read_experience(folder: Path) -> Experience:
    """Read a finished study; an empty experience where the folder holds none.

    Raises:
        DatasetError: A table cannot be understood.
        ConfigError: Its configuration cannot be understood.
    """
    if not (folder / RUNS).is_file():
        return Experience()
    tables = read_tables(folder)
    written = folder / SUMMARY
    summary = read_rows(written, SummaryRow) if written.is_file() else summarize(tables)
    width_mm = read_config(folder / CONFIG).around_gland_mm if (folder / CONFIG).is_file() else None
    return Experience(tables.runs, summary, read_estimates(folder), read_forecast(folder), width_mm)


def gain_to_expect(experience: Experience, encoder: str, task: str, estimates: Mapping[str, float]) -> ExpectedGain:
    """The gain that the study lets expect, with the interval that its errors on left-out tasks make.

    Args:
        experience: The study.
        encoder: `profound` or `provicnet`.
        task: The task.
        estimates: Estimator → what it says on the task's cases.
    """
    points = points_of(experience.estimates, experience.summary)
    row = experience.shipped
    estimate = math.nan if row is None else estimates.get(row.estimator, math.nan)
    if row is not None and math.isfinite(estimate):
        percent = expected_gain(Point(encoder, task, estimate, math.nan), points[row.estimator])
    else:
        row = experience.constant
        gains = [cell.rpg_percent for cell in experience.summary if math.isfinite(cell.rpg_percent)]
        percent = float(np.mean(gains)) if gains else math.nan
    if row is None:
        return ExpectedGain()
    return ExpectedGain(percent, percent - row.reach_percent, percent + row.reach_percent)


def hours_to_save(experience: Experience, encoder: str, task: str, seconds_per_step: float | None = None) -> SavedHours:
    """What the study's convergence lets expect.

    Args:
        experience: The study.
        encoder, task: As above.
        seconds_per_step: Measured on the user's machine and cases; the study's own by default.
    """
    own = experience.cell(encoder, task)
    known = [row.device_hours_saved for row in experience.summary if row.encoder == encoder]
    finite = [hours for hours in known if math.isfinite(hours)]
    if not finite:
        return SavedHours(
            _NOTHING, _NOTHING, _NOTHING, "The study has no task of this encoder on which hours were saved."
        )
    if own is None:
        words = "The study has no such task; this is the median of the encoder's tasks."
        return SavedHours(float(np.median(finite)), min(finite), max(finite), words)
    factor, words = _speed(experience, own, seconds_per_step)
    low, high = factor * min(finite), factor * max(finite)
    if not math.isfinite(own.device_hours_saved):
        return SavedHours(_NOTHING, low, high, _why_not(own))
    return SavedHours(factor * own.device_hours_saved, low, high, words)


def _speed(experience: Experience, cell: SummaryRow, seconds_per_step: float | None) -> tuple[float, str]:
    """Factor between this machine's steps and the study's, and what the hours then rest on."""
    steps = [
        run.device_seconds / run.steps
        for run in experience.runs
        if (run.encoder, run.task, run.arm) == (cell.encoder, cell.task, "scratch") and run.steps > 0
    ]
    if seconds_per_step is None or not steps or min(steps) <= 0:
        return 1.0, "From the study's convergence on this task and its own seconds per step."
    words = f"From the study's convergence on this task, at the {seconds_per_step:.2g} s per step measured here."
    return seconds_per_step / float(np.mean(steps)), words


def _why_not(cell: SummaryRow) -> str:
    if math.isinf(cell.convergence_efficiency):
        return (
            "In the study the pretrained arm did not reach the scratch arm's best on this task with every seed: "
            "at equal quality nothing is saved."
        )
    return "The study's learning curves of this task say nothing of convergence."
