"""Advice in sentences: which pretraining suits a task, by what, and how far that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .forecast import COVERAGE, ExpectedGain, Experience, ForecastRow, SavedHours
from .summary import SummaryRow

SCRATCH = "scratch"
_LIMIT = (
    "Expected gain: relative performance gain over training from scratch (this project's own definition and forecast); "
    f"interval: {COVERAGE:.0%}, as wide as the errors on left-out tasks were."
)


@dataclass(frozen=True)
class Outlook:
    """A pretraining's prospects on a task.

    Attributes:
        name: The pretraining's bundle.
        encoder: `profound` or `provicnet`.
        objective: How it was pretrained, as `mae`; empty where the bundle does not say.
        estimates: Estimator → value; `nan` where it cannot say.
        gain: What can be expected.
        hours: What can be saved.
        seen: The same encoder and task in the study, where it has them.
        notes: What to know about these numbers.
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
        task: The task.
        data: What the cases are.
        n_cases: How many train.
        outlooks: One for each pretraining.
        recommended: A pretraining's name, `scratch`, or empty where nothing speaks for one.
        why: In a sentence.
        trust: How far the forecast can be trusted, in sentences.
        forecasts: How good each estimator was on left-out tasks.
    """

    task: str
    data: str
    n_cases: int
    outlooks: tuple[Outlook, ...]
    recommended: str
    why: str
    trust: str
    forecasts: tuple[ForecastRow, ...] = field(default=())


def advice_of(task: str, data: str, n_cases: int, outlooks: Iterable[Outlook], experience: Experience) -> Advice:
    """Weigh the prospects.

    Args:
        task, data, n_cases: As in `Advice`.
        outlooks: One for each pretraining.
        experience: The study that they rest on.
    """
    found = tuple(outlooks)
    recommended, why = _recommendation(found, experience)
    return Advice(task, data, n_cases, found, recommended, why, trust_words(experience), experience.forecasts)


def trust_words(experience: Experience) -> str:
    """How good the forecast was where it could be tried, or that it could not."""
    constant, row = experience.constant, experience.shipped
    if constant is None:
        return (
            "No forecast: the study at hand has no estimates of its own cells, so that no estimator was ever tried. "
            "The estimates are shown as they are. Run `vfm-transfer forecast` on a finished study."
        )
    tried = f"{constant.n_cells} cells, {constant.n_tasks} tasks, each left out in turn"
    if row is None:
        return (
            f"No estimator beats always predicting the mean gain on the study ({tried}; that errs by "
            f"{constant.mae_percent:.1f} percent points on average). The expected gain is that mean, the same for "
            "every pretraining; the estimates are shown, but were not found to tell tasks apart."
        )
    return (
        f"Forecast by `{row.estimator}`: rank correlation with the observed gain {_interval_words(row)} on the study "
        f"({tried}); mean error {row.mae_percent:.1f} percent points, against {row.mae_constant_percent:.1f} of always "
        f"predicting the mean gain. {_choosing_words(experience)}"
    )


def advice_lines(advice: Advice) -> list[str]:
    """The answer as lines for a terminal."""
    lines = [f"{advice.task} on {advice.data}, {advice.n_cases} training cases", ""]
    for outlook in advice.outlooks:
        lines += [*_outlook_lines(outlook), ""]
    chosen = {"": "No recommendation", SCRATCH: "Recommended: train from scratch"}
    lines.append(f"{chosen.get(advice.recommended, f'Recommended: {advice.recommended}')}. {advice.why}")
    return [*lines, advice.trust, _LIMIT]


def forecast_lines(rows: Sequence[ForecastRow]) -> list[str]:
    """How good each estimator was on left-out tasks, as a table for a terminal, and which one is used."""
    if not rows:
        return ["Too few tasks have estimates and a gain: three are needed."]
    lines = [f"{'':12}{'cells':>6}{'error':>8}{'mean gain':>11}{'rank correlation':>26}{'within encoder':>16}"]
    for row in rows:
        rho = "" if math.isnan(row.rho) else f"{row.rho:.2f} ({row.rho_low:.2f} to {row.rho_high:.2f})"
        within = "" if math.isnan(row.rho_within) else f"{row.rho_within:.2f}"
        numbers = f"{row.n_cells:6}{row.mae_percent:8.1f}{row.mae_constant_percent:11.1f}"
        lines.append(f"{row.estimator:12}{numbers}{rho:>26}{within:>16}")
    return [*lines, trust_words(Experience(forecasts=tuple(rows)))]


def advice_document(advice: Advice) -> dict[str, Any]:
    """The answer as a JSON document; what is not known is null."""
    document: dict[str, Any] = without_nan(asdict(advice))
    return {**document, "coverage": COVERAGE, "definition": _LIMIT}


def _recommendation(outlooks: tuple[Outlook, ...], experience: Experience) -> tuple[str, str]:
    shipped = experience.shipped
    if shipped is not None:
        usable = [o for o in outlooks if math.isfinite(o.estimates.get(shipped.estimator, math.nan))]
        if not usable:
            return "", f"The estimator `{shipped.estimator}` has no value for any of them."
        top = max(usable, key=lambda outlook: outlook.gain.percent)
        if top.gain.percent <= 0:
            return SCRATCH, f"No pretraining is expected to gain; the best is {top.name} with {_gain_words(top.gain)}."
        doubt = " The interval reaches below 0: it may as well lose." if top.gain.low < 0 else ""
        return top.name, f"It has the largest expected gain, {_gain_words(top.gain)}.{doubt}"
    seen = [(o, o.seen.rpg_percent) for o in outlooks if o.seen is not None and math.isfinite(o.seen.rpg_percent)]
    if not seen:
        return "", "Nothing was measured that speaks for one of them on this task."
    percent = max(gain for _, gain in seen)
    names = [outlook.name for outlook, gain in seen if gain == percent]
    basis = "That is what the study measured with its own pretraining and cases of this task, no forecast for these."
    if percent <= 0:
        return SCRATCH, f"The largest gain of an encoder was {percent:+.1f} %. {basis}"
    lowest = min(outlook.seen.rpg_low for outlook in outlooks if outlook.name in names and outlook.seen is not None)
    if lowest <= 0:
        return "", f"The largest gain of an encoder was {percent:+.1f} %, and its interval contains 0. {basis}"
    if len(names) > 1:
        return (
            "",
            f"{', '.join(names)} have the same encoder, whose gain was {percent:+.1f} %; nothing tells them apart.",
        )
    return names[0], f"Its encoder had the largest gain, {percent:+.1f} %. {basis}"


def _outlook_lines(outlook: Outlook) -> list[str]:
    kind = f"{outlook.encoder}, {outlook.objective}" if outlook.objective else outlook.encoder
    estimates = ", ".join(f"{name} {_number(value)}" for name, value in outlook.estimates.items())
    lines = [
        f"{outlook.name} ({kind})",
        f"  expected gain   {_gain_words(outlook.gain)}",
        f"  saved hours     {_hours_words(outlook.hours)}",
        f"  estimates       {estimates}",
    ]
    if outlook.seen is not None:
        lines.append(f"  in the study    {_seen_words(outlook.seen)}")
    return [*lines, *(f"  note            {note}" for note in outlook.notes)]


def _gain_words(gain: ExpectedGain) -> str:
    if not math.isfinite(gain.percent):
        return "not known"
    return f"{gain.percent:+.1f} % ({gain.low:+.1f} to {gain.high:+.1f})"


def _hours_words(hours: SavedHours) -> str:
    over = "" if not math.isfinite(hours.low) else f" ({hours.low:.3f} to {hours.high:.3f} over the encoder's tasks)"
    number = f"{hours.hours:.3f} device-hours" if math.isfinite(hours.hours) else "none"
    return f"{number}{over}. {hours.words}"


def _seen_words(row: SummaryRow) -> str:
    interval = "" if math.isnan(row.rpg_low) else f" ({row.rpg_low:+.1f} to {row.rpg_high:+.1f}, 95 %)"
    return f"{row.metric}: gain {row.rpg_percent:+.1f} %{interval} on the study's own cases"


def _interval_words(row: ForecastRow) -> str:
    return f"{row.rho:.2f} (95 %: {row.rho_low:.2f} to {row.rho_high:.2f}, bootstrap over tasks)"


def _choosing_words(experience: Experience) -> str:
    """Picking the best of several flatters it; what picking alone comes to."""
    row = next((row for row in experience.forecasts if row.estimator == "chosen"), None)
    if row is None:
        return ""
    verdict = "still better than" if row.mae_percent < row.mae_constant_percent else "no better than"
    return (
        f"It was picked as the best of several; picked anew without each task, the error is {row.mae_percent:.1f}, "
        f"{verdict} the mean gain."
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not available"


def without_nan(value: Any) -> Any:
    """JSON has no numbers that are not finite: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
