"""From an estimate to a gain, by a finished study; and the tables of its estimates and of what they are worth.

An estimate has units of its own, which differ from task to task and from encoder to encoder, and a study has a dozen
pairs: what is used of it is its place among the estimates of the other tasks of the same encoder, 0 (below all) to 1
(above all), which no outlier can stretch. The gain is a straight line in that place, fitted by least squares.

`validate` tries this by leave-one-task-out: ranks and line come from the other tasks alone, and the yardstick is the
constant, the mean gain of the other tasks. It has a flaw to know of: a forecast that knows nothing has a rank
correlation below 0, since the others' mean is low where the left-out gain is high. All of this is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .summary import SummaryRow, rank_correlations, ranked_within_encoders
from .tables import read_rows_if_any, write_rows

ESTIMATES, FORECAST = "estimates.csv", "forecast.csv"
CONSTANT, CHOSEN = "constant", "chosen"
COVERAGE = 0.8  # of the intervals; a dozen residuals do not show rarer errors
MIN_TASKS = 3
RESAMPLES = 1999


@dataclass(frozen=True)
class EstimateRow:
    """An estimator's value for an encoder's pretraining on a task; larger is better, `nan` where it has none.

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
        n_cells, n_tasks: What it rests on.
        rho: Spearman's rank correlation of forecast and gain. That of a forecast which knows nothing is below 0, since
            the others' mean is low where the left-out gain is high.
        rho_low, rho_high: Its 95 % interval, bootstrap over tasks.
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
        """Whether its forecasts err less than the constant's, and order tasks the right way."""
        return self.mae_percent < self.mae_constant_percent and self.rho > 0


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
    return min(better, key=lambda row: row.mae_percent) if better else None


def expected_gain(pair: Point, others: Sequence[Point]) -> float:
    """The gain that an estimate lets expect.

    Args:
        pair: What is asked about; its gain is not used.
        others: Cells whose gain is known.
    """
    places = [_place(other, [o for o in others if o is not other]) for other in others]
    gains = [other.gain for other in others]
    mean_place, mean_gain = float(np.mean(places)), float(np.mean(gains))
    centered = np.array(places) - np.mean(places)
    spread = float(centered @ centered)
    slope = float(centered @ np.array(gains)) / spread if spread > 0 else 0.0  # the mean where all places are the same
    return mean_gain - slope * mean_place + slope * _place(pair, others)


def _place(pair: Point, others: Sequence[Point]) -> float:
    """Share of the other pairs of the same encoder whose estimate is lower, equal ones by half; 1/2 without any."""
    values = np.array([other.estimate for other in others if other.encoder == pair.encoder])
    return float(np.mean((values < pair.estimate) + 0.5 * (values == pair.estimate))) if values.size else 0.5


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
    return read_rows_if_any(folder / FORECAST, ForecastRow)


def read_estimates(folder: Path) -> tuple[EstimateRow, ...]:
    """The estimates of a study; none where nobody made them.

    Raises:
        DatasetError: The table cannot be understood.
    """
    return read_rows_if_any(folder / ESTIMATES, EstimateRow)


def validate(points: Mapping[str, Sequence[Point]], seed: int = 0) -> tuple[ForecastRow, ...]:
    """A row for each estimator, then for choosing among them, then for the constant.

    Args:
        points: From `points_of`; an estimator with fewer than `MIN_TASKS` tasks has no row.
    """
    usable = {name: pairs for name, pairs in points.items() if _task_count(pairs) >= MIN_TASKS}
    if not usable:
        return ()
    rows = [_row(name, pairs, leave_one_task_out(pairs), seed) for name, pairs in usable.items()]
    everything = max(usable.values(), key=len)
    rows.append(_row(CHOSEN, everything, _chosen(usable, everything), seed))
    rows.append(_row(CONSTANT, everything, _constants(everything), seed))
    return tuple(rows)


def leave_one_task_out(points: Sequence[Point]) -> np.ndarray:
    """The forecast gain of each pair, from the pairs of the other tasks."""
    return np.array([expected_gain(pair, _without(points, pair.task)) for pair in points])


def _chosen(usable: Mapping[str, Sequence[Point]], everything: Sequence[Point]) -> np.ndarray:
    """Forecasts by whichever estimator would have been chosen without the task."""
    forecasts = []
    for pair in everything:
        inner = {name: _without(pairs, pair.task) for name, pairs in usable.items()}
        rows = [_errors(name, pairs) for name, pairs in inner.items() if _task_count(pairs) >= MIN_TASKS]
        chosen = best(rows)
        own = (
            []
            if chosen is None
            else [c for c in usable[chosen.estimator] if (c.encoder, c.task) == (pair.encoder, pair.task)]
        )
        if chosen is None or not own:
            forecasts.append(_mean_gain(_without(everything, pair.task)))
        else:
            forecasts.append(expected_gain(own[0], inner[chosen.estimator]))
    return np.array(forecasts)


def _constants(points: Sequence[Point]) -> np.ndarray:
    return np.array([_mean_gain(_without(points, pair.task)) for pair in points])


def _row(name: str, points: Sequence[Point], forecasts: np.ndarray, seed: int) -> ForecastRow:
    gains = np.array([pair.gain for pair in points])
    low, high = _interval(points, forecasts, gains, seed)
    errors = np.sort(np.abs(forecasts - gains))
    # The k-th smallest of n errors covers a new one with probability k / (n + 1), were it alike.
    k = min(math.ceil(COVERAGE * (len(errors) + 1)), len(errors))
    is_estimator = name not in (CONSTANT, CHOSEN)
    ranked = ranked_within_encoders((pair.encoder, pair.estimate, pair.gain) for pair in points)
    return ForecastRow(
        estimator=name,
        n_cells=len(points),
        n_tasks=_task_count(points),
        rho=_rank_correlation(forecasts, gains),
        rho_low=low,
        rho_high=high,
        rho_within=_rank_correlation(*ranked.T) if is_estimator else math.nan,
        mae_percent=float(errors.mean()),
        mae_constant_percent=float(np.abs(_constants(points) - gains).mean()),
        reach_percent=float(errors[k - 1]),
    )


def _errors(name: str, points: Sequence[Point]) -> ForecastRow:
    """A row without its interval, which choosing does not look at."""
    forecasts, gains = leave_one_task_out(points), np.array([pair.gain for pair in points])
    mae, constant = (float(np.abs(values - gains).mean()) for values in (forecasts, _constants(points)))
    rho = _rank_correlation(forecasts, gains)
    unknown = (math.nan, math.nan, math.nan)
    return ForecastRow(name, len(points), _task_count(points), rho, *unknown, mae, constant, math.nan)


def _interval(points: Sequence[Point], forecasts: np.ndarray, gains: np.ndarray, seed: int) -> tuple[float, float]:
    """Bootstrap over tasks: a task's pairs are drawn together, since they have the cases in common."""
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
    if np.isnan(values).all():
        return math.nan, math.nan
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho; `nan` where all of one are the same."""
    return float(rank_correlations(np.stack([a, b], axis=1)[None])[0])


def _without(points: Sequence[Point], task: str) -> list[Point]:
    return [pair for pair in points if pair.task != task]


def _task_count(points: Iterable[Point]) -> int:
    return len({pair.task for pair in points})


def _mean_gain(points: Iterable[Point]) -> float:
    return float(np.mean([pair.gain for pair in points]))
