"""What a finished study lets expect of a pretraining on a task, from estimates made on the task's own cases.

The gain comes from the estimator that forecast left-out tasks best, if that was better than the mean gain; else the
mean gain is all that can be said. Intervals are as wide as the errors on left-out tasks were. All of this is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .forecast import (
    CONSTANT,
    EstimateRow,
    ForecastRow,
    Point,
    best,
    expected_gain,
    points_of,
    read_estimates,
    read_forecast,
)
from .grid_config import CONFIG, read_config
from .grid_tables import RUNS, RunRow, read_rows, read_tables
from .transfer_summary import SUMMARY, SummaryRow, summarize

_NOTHING = float("nan")
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
