"""From an estimate to a gain, by a finished study; and the tables of its estimates and of what they are worth.

An estimate has units of its own, which differ from task to task and from encoder to encoder, and a study has a dozen
cells: what is used of it is its place among the estimates of the other tasks of the same encoder, 0 (below all) to 1
(above all), which no outlier can stretch. The gain is a straight line in that place, fitted by least squares. All of
this is ours; `left_out` says how well it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .grid_tables import read_rows, write_rows
from .transfer_summary import SummaryRow

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
