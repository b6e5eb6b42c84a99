"""What a finished study lets expect of a pretraining on a task, and the advice that follows, in numbers and sentences.

The gain comes from the estimator that forecast left-out tasks best, if that was better than the mean gain; else the
mean gain is all that is known. Intervals are as wide as the errors on left-out tasks were. All of this is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .config import CONFIG, read_config
from .forecast import (
    CONSTANT,
    COVERAGE,
    EstimateRow,
    ForecastRow,
    Point,
    best,
    expected_gain,
    points_of,
    read_estimates,
    read_forecast,
)
from .summary import SUMMARY, SummaryRow, summarize
from .tables import RUNS, RunRow, read_rows, read_tables, without_nan

SCRATCH = "scratch"
_LIMIT = (
    "Expected gain: relative performance gain over training from scratch (this project's own definition and forecast); "
    f"interval: {COVERAGE:.0%}, as wide as the errors on left-out tasks were."
)


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study, as far as advice needs it.

    Attributes:
        estimates: What the estimators gave for each of these before.
        forecasts: How good they were on left-out tasks; empty where they were not tried.
        around_gland_mm: Side of the square that its cases were cut to; None for whole images.
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

    @property
    def constant(self) -> ForecastRow | None:
        """How good the mean gain is as a forecast."""
        return next((row for row in self.forecasts if row.estimator == CONSTANT), None)

    def row(self, encoder: str, task: str) -> SummaryRow | None:
        """The study's summary of an encoder and task; None where it has none."""
        return next((row for row in self.summary if (row.encoder, row.task) == (encoder, task)), None)


@dataclass(frozen=True)
class ExpectedGain:
    """Relative performance gain in percent that can be expected; `nan` where nothing is known."""

    percent: float = math.nan
    low: float = math.nan
    high: float = math.nan


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


def read_finished_study(folder: Path) -> FinishedStudy:
    """Read a finished study; an empty one where the folder holds none.

    Raises:
        DatasetError: A table cannot be understood.
        ConfigError: Its configuration cannot be understood.
    """
    if not (folder / RUNS).is_file():
        return FinishedStudy()
    tables = read_tables(folder)
    written = folder / SUMMARY
    summary = read_rows(written, SummaryRow) if written.is_file() else summarize(tables)
    width_mm = read_config(folder / CONFIG).around_gland_mm if (folder / CONFIG).is_file() else None
    return FinishedStudy(tables.runs, summary, read_estimates(folder), read_forecast(folder), width_mm)


def gain_to_expect(finished: FinishedStudy, encoder: str, task: str, estimates: Mapping[str, float]) -> ExpectedGain:
    """The gain that the study lets expect, with the interval that its errors on left-out tasks make.

    Args:
        encoder: `profound` or `provicnet`.
        estimates: Estimator → its value on the task's cases.
    """
    points = points_of(finished.estimates, finished.summary)
    row = finished.best_forecast
    estimate = math.nan if row is None else estimates.get(row.estimator, math.nan)
    if row is not None and math.isfinite(estimate):
        percent = expected_gain(Point(encoder, task, estimate, math.nan), points[row.estimator])
    else:
        row = finished.constant
        gains = [pair.rpg_percent for pair in finished.summary if math.isfinite(pair.rpg_percent)]
        percent = float(np.mean(gains)) if gains else math.nan
    if row is None:
        return ExpectedGain()
    return ExpectedGain(percent, percent - row.reach_percent, percent + row.reach_percent)


def hours_to_save(
    finished: FinishedStudy, encoder: str, task: str, seconds_per_step: float | None = None
) -> SavedHours:
    """What the study's convergence lets expect.

    Args:
        seconds_per_step: Measured on the user's machine and cases; the study's own by default.
    """
    own = finished.row(encoder, task)
    known = [row.device_hours_saved for row in finished.summary if row.encoder == encoder]
    finite = [hours for hours in known if math.isfinite(hours)]
    if not finite:
        words = "The study has no task of this encoder on which hours were saved."
        return SavedHours(math.nan, math.nan, math.nan, words)
    if own is None:
        words = "The study has no such task; this is the median of the encoder's tasks."
        return SavedHours(float(np.median(finite)), min(finite), max(finite), words)
    factor, words = _speed(finished, own, seconds_per_step)
    low, high = factor * min(finite), factor * max(finite)
    if not math.isfinite(own.device_hours_saved):
        reason = "The study's learning curves of this task do not show convergence."
        if math.isinf(own.convergence_efficiency):
            reason = (
                "In the study the pretrained arm did not reach the scratch arm's best on this task with every seed: "
                "at equal quality nothing is saved."
            )
        return SavedHours(math.nan, low, high, reason)
    return SavedHours(factor * own.device_hours_saved, low, high, words)


def _speed(finished: FinishedStudy, pair: SummaryRow, seconds_per_step: float | None) -> tuple[float, str]:
    """Factor between this machine's steps and the study's, and what the hours then rest on."""
    steps = [
        run.device_seconds / run.steps
        for run in finished.runs
        if (run.encoder, run.task, run.arm) == (pair.encoder, pair.task, "scratch") and run.steps > 0
    ]
    if seconds_per_step is None or not steps or min(steps) <= 0:
        return 1.0, "From the study's convergence on this task and its own seconds per step."
    words = f"From the study's convergence on this task, at the {seconds_per_step:.2g} s per step measured here."
    return seconds_per_step / float(np.mean(steps)), words


@dataclass(frozen=True)
class CandidateEstimate:
    """What a pretraining may be worth on a task.

    Attributes:
        objective: How it was pretrained, as `mae`; empty where the bundle does not state it.
        estimates: Estimator → value; `nan` where it has none.
        seen: The same encoder and task in the study, where it has them.
    """

    name: str
    encoder: str
    objective: str
    estimates: dict[str, float]
    gain: ExpectedGain
    hours: SavedHours
    seen: SummaryRow | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """The answer.

    Attributes:
        recommended: A pretraining's name, `scratch`, or empty where nothing favors one.
        trust: How far the forecast can be trusted, in sentences.
    """

    task: str
    data: str
    n_cases: int
    candidates: tuple[CandidateEstimate, ...]
    recommended: str
    why: str
    trust: str
    forecasts: tuple[ForecastRow, ...] = field(default=())


def advice_of(
    task: str, data: str, n_cases: int, candidates: Iterable[CandidateEstimate], finished: FinishedStudy
) -> Advice:
    """Weigh the candidates."""
    found = tuple(candidates)
    recommended, why = _recommendation(found, finished)
    return Advice(task, data, n_cases, found, recommended, why, trust_words(finished), finished.forecasts)


def trust_words(finished: FinishedStudy) -> str:
    """How good the forecast was where it could be tried, or that it could not."""
    constant, row = finished.constant, finished.best_forecast
    if constant is None:
        return (
            "No forecast: the study at hand has no estimates of its own runs, so that no estimator was ever tried. "
            "The estimates are shown as they are. Run `vfm-transfer forecast` on a finished study."
        )
    tried = f"{constant.n_cells} pairs, {constant.n_tasks} tasks, each left out in turn"
    if row is None:
        return (
            f"No estimator beats always predicting the mean gain on the study ({tried}; that errs by "
            f"{constant.mae_percent:.1f} percent points on average). The expected gain is that mean, the same for "
            "every pretraining; the estimates are shown, but were not found to distinguish tasks."
        )
    rho = f"{row.rho:.2f} (95 %: {row.rho_low:.2f} to {row.rho_high:.2f}, bootstrap over tasks)"
    return (
        f"Forecast by `{row.estimator}`: rank correlation with the observed gain {rho} on the study ({tried}); mean "
        f"error {row.mae_percent:.1f} percent points, against {row.mae_constant_percent:.1f} of always predicting the "
        f"mean gain. {_choosing_words(finished)}"
    )


def advice_lines(advice: Advice) -> list[str]:
    """The answer as lines for a terminal."""
    lines = [f"{advice.task} on {advice.data}, {advice.n_cases} training cases", ""]
    for candidate in advice.candidates:
        lines += [*_candidate_lines(candidate), ""]
    chosen = {"": "No recommendation", SCRATCH: "Recommended: train from scratch"}
    lines.append(f"{chosen.get(advice.recommended, f'Recommended: {advice.recommended}')}. {advice.why}")
    return [*lines, advice.trust, _LIMIT]


def forecast_lines(rows: Sequence[ForecastRow]) -> list[str]:
    """How good each estimator was on left-out tasks, as a table for a terminal, and which one is used."""
    if not rows:
        return ["Too few tasks have estimates and a gain: three are needed."]
    lines = [f"{'':12}{'pairs':>6}{'error':>8}{'mean gain':>11}{'rank correlation':>26}{'within encoder':>16}"]
    for row in rows:
        rho = "" if math.isnan(row.rho) else f"{row.rho:.2f} ({row.rho_low:.2f} to {row.rho_high:.2f})"
        within = "" if math.isnan(row.rho_within) else f"{row.rho_within:.2f}"
        numbers = f"{row.n_cells:6}{row.mae_percent:8.1f}{row.mae_constant_percent:11.1f}"
        lines.append(f"{row.estimator:12}{numbers}{rho:>26}{within:>16}")
    return [*lines, trust_words(FinishedStudy(forecasts=tuple(rows)))]


def advice_document(advice: Advice) -> dict[str, Any]:
    """The answer as a JSON document; what is not known is null."""
    document: dict[str, Any] = without_nan(asdict(advice))
    document["outlooks"] = document.pop("candidates")  # the key of version 1
    return {**document, "coverage": COVERAGE, "definition": _LIMIT}


def _recommendation(candidates: tuple[CandidateEstimate, ...], finished: FinishedStudy) -> tuple[str, str]:
    forecast = finished.best_forecast
    if forecast is not None:
        usable = [one for one in candidates if math.isfinite(one.estimates.get(forecast.estimator, math.nan))]
        if not usable:
            return "", f"The estimator `{forecast.estimator}` has no value for any of them."
        top = max(usable, key=lambda candidate: candidate.gain.percent)
        if top.gain.percent <= 0:
            return SCRATCH, f"No pretraining is expected to gain; the best is {top.name} with {_gain_words(top.gain)}."
        doubt = " The interval reaches below 0: it may as well lose." if top.gain.low < 0 else ""
        return top.name, f"It has the largest expected gain, {_gain_words(top.gain)}.{doubt}"
    seen = [(o, o.seen.rpg_percent) for o in candidates if o.seen is not None and math.isfinite(o.seen.rpg_percent)]
    if not seen:
        return "", "Nothing was measured that favors one of them on this task."
    percent = max(gain for _, gain in seen)
    names = [candidate.name for candidate, gain in seen if gain == percent]
    basis = "That is what the study measured with its own pretraining and cases of this task, no forecast for these."
    if percent <= 0:
        return SCRATCH, f"The largest gain of an encoder was {percent:+.1f} %. {basis}"
    if min(o.seen.rpg_low for o, gain in seen if gain == percent and o.seen is not None) <= 0:
        return "", f"The largest gain of an encoder was {percent:+.1f} %, and its interval contains 0. {basis}"
    if len(names) > 1:
        same = f"{', '.join(names)} have the same encoder, whose gain was {percent:+.1f} %"
        return "", f"{same}; nothing distinguishes them."
    return names[0], f"Its encoder had the largest gain, {percent:+.1f} %. {basis}"


def _candidate_lines(candidate: CandidateEstimate) -> list[str]:
    kind = f"{candidate.encoder}, {candidate.objective}" if candidate.objective else candidate.encoder
    known = {n: f"{v:.3g}" if math.isfinite(v) else "not available" for n, v in candidate.estimates.items()}
    hours, seen = candidate.hours, candidate.seen
    over = "" if not math.isfinite(hours.low) else f" ({hours.low:.3f} to {hours.high:.3f} over the encoder's tasks)"
    saved = f"{hours.hours:.3f} device-hours" if math.isfinite(hours.hours) else "none"
    lines = [
        f"{candidate.name} ({kind})",
        f"  expected gain   {_gain_words(candidate.gain)}",
        f"  saved hours     {saved}{over}. {hours.words}",
        f"  estimates       {', '.join(f'{name} {text}' for name, text in known.items())}",
    ]
    if seen is not None:
        interval = "" if math.isnan(seen.rpg_low) else f" ({seen.rpg_low:+.1f} to {seen.rpg_high:+.1f}, 95 %)"
        gain = f"{seen.metric}: gain {seen.rpg_percent:+.1f} %{interval} on the study's own cases"
        lines.append(f"  in the study    {gain}")
    return [*lines, *(f"  note            {note}" for note in candidate.notes)]


def _gain_words(gain: ExpectedGain) -> str:
    if not math.isfinite(gain.percent):
        return "not known"
    return f"{gain.percent:+.1f} % ({gain.low:+.1f} to {gain.high:+.1f})"


def _choosing_words(finished: FinishedStudy) -> str:
    """Picking the best of several flatters it; the error of picking."""
    row = next((row for row in finished.forecasts if row.estimator == "chosen"), None)
    if row is None:
        return ""
    verdict = "still better than" if row.mae_percent < row.mae_constant_percent else "no better than"
    return (
        f"It was picked as the best of several; picked again without each task, the error is {row.mae_percent:.1f}, "
        f"{verdict} the mean gain."
    )
