"""Estimators tried on a finished study: each task is forecast from the others, and compared with what was gained.

For a task that is left out, both its cells are: places and line come from the other tasks alone. The yardstick is the
constant, the mean gain of the other tasks. Left-out forecasts have a flaw to know of: one that knows nothing has a rank
correlation below 0, since the others' mean is low where the left-out gain is high.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from .forecast import CHOSEN, CONSTANT, COVERAGE, ForecastRow, Point, best, expected_gain
from .transfer_summary import rank_correlations

MIN_TASKS = 3
RESAMPLES = 1999
_NOTHING = float("nan")


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
