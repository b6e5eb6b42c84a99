"""Which pretraining a fine-tuning should start from: what a finished study can tell, which is often nothing.

From the study's tables alone, so that a base installation can ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundles.catalog import shipped_folder
from ..tasks import TASKS
from .config import REAL
from .forecast import FinishedStudy, ForecastRow, better_than_chance, can_tell
from .label_efficiency import EfficiencyRow
from .overview import gain_text, metric_name, reached_text
from .summary import DEFINITIONS, SummaryRow
from .tables import without_nan

_STUDY = "Study"


@dataclass(frozen=True)
class Advice:
    """What a finished study tells about a task.

    Attributes:
        verdict: Whether any estimator predicts better than chance which task gains.
        forecasts: How well each estimator orders the study's gains.
        measured: What each pretraining gained on the task in the study, on the study's own cases.
        few_labels: What each gained with few labeled cases.
    """

    task: str
    verdict: str
    forecasts: tuple[ForecastRow, ...] = ()
    measured: tuple[SummaryRow, ...] = ()
    few_labels: tuple[EfficiencyRow, ...] = ()


def shipped_study() -> Path:
    """The folder of the study that comes with the product; it may not be there."""
    bundles = shipped_folder()
    return Path(_STUDY) if bundles is None else bundles.parent / _STUDY


def advise(task: str, finished: FinishedStudy) -> Advice:
    """What a finished study found for a task."""
    measured = tuple(row for row in finished.summary if row.task == task)
    few_labels = tuple(row for row in finished.few_labels if row.task == task)
    stated = verdict(finished.forecasts, finished.lacking_seeds)
    return Advice(task, stated, finished.forecasts, measured, few_labels)


def verdict(rows: Sequence[ForecastRow], lacking_seeds: Sequence[str] = ()) -> str:
    """Whether any estimator predicts better than chance which task gains from which pretraining, in a sentence, and
    where tasks lack seeds another on that.
    """
    if not (rows and lacking_seeds):
        return _verdict(rows)
    tasks = ", ".join(TASKS[task].title.lower() if task in TASKS else task for task in lacking_seeds)
    return (
        f"{_verdict(rows)} The study is not finished: seeds of {tasks} are missing, with which all of this may change."
    )


def _verdict(rows: Sequence[ForecastRow]) -> str:
    if not rows:
        return (
            "Not known: no estimator was tried on this study. Nothing can be said before fine-tuning; measure both "
            "arms."
        )
    tried = f"{len(rows)} estimators on {max(row.n_cells for row in rows)} pairs of encoder and task"
    if not can_tell(rows):
        most = max(rows, key=lambda row: row.n_orders)
        return (
            f"Not known: too few tasks to tell ({tried}). With {most.n_tasks} tasks even the best order of them comes "
            f"by chance one time in {most.n_orders}, too often for {len(rows)} that were tried. Nothing can be said "
            "before fine-tuning; measure both arms."
        )
    better = better_than_chance(rows)
    if not better:
        return (
            f"No estimator predicts the gain from pretraining better than chance ({tried}). Nothing can be said before "
            "fine-tuning; measure both arms."
        )
    names = ", ".join(
        f"{row.estimator} (p = {row.p_value:.3f}, rank correlation {row.rho_within:.2f})" for row in better
    )
    return (
        f"Better than chance in this study, of {tried}: {names}. Whether that holds for other data is not known; "
        "measure both arms."
    )


def advice_document(advice: Advice) -> dict[str, Any]:
    """The answer as a JSON document; what is not known is null."""
    document: dict[str, Any] = without_nan(asdict(advice))
    return {**document, "definition": DEFINITIONS["rpg_percent"]}


def advice_lines(advice: Advice) -> list[str]:
    """The answer as lines for a terminal."""
    lines = [advice.verdict]
    if advice.forecasts:
        lines.append("Exact p: " + ", ".join(f"{row.estimator} {row.p_value:.3f}" for row in advice.forecasts))
    lines += ["", f"{TASKS[advice.task].title} in the study: from scratch to pretrained, gain (95 % interval)"]
    lines += [_line(row, "all") for row in advice.measured] or ["  nothing"]
    if advice.few_labels:
        lines += ["", "With few labeled cases"]
    for few in advice.few_labels:
        lines.append(_line(few, f"{few.labelled_cases} {'real' if few.trained_on == REAL else few.trained_on}"))
    return lines


def _line(row: SummaryRow | EfficiencyRow, cases: str) -> str:
    unsure = ", contains 0" if row.rpg_low <= 0 <= row.rpg_high else ""
    measure = metric_name(row.metric, row.task).with_unit
    return f"  {row.encoder:22}{cases:13}{measure:19}{reached_text(row):17}{gain_text(row)}{unsure}"


def forecast_lines(rows: Sequence[ForecastRow], lacking_seeds: Sequence[str] = ()) -> list[str]:
    """How well each estimator orders the gains, as a table for a terminal, and what follows."""
    if not rows:
        return ["Too few tasks have estimates and a gain: three are needed."]
    lines = [f"{'':12}{'n':>4}{'weighted tau':>14}{'exact p':>9}{'rank correlation':>18}"]
    for row in rows:
        numbers = f"{row.n_cells:4}{row.tau_weighted:14.2f}{row.p_value:9.3f}{row.rho_within:18.2f}"
        lines.append(f"{row.estimator:12}{numbers}")
    return [*lines, verdict(rows, lacking_seeds)]
