"""What this project's study measured of transfer, in a sentence, where the library has it. Plain Python."""

from __future__ import annotations

import csv
from pathlib import Path

import VFMTransferLib
from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.evaluation.measures import KINDS
from VFMTransferLib.tasks import TASKS

SUMMARY = Path(VFMTransferLib.__file__).resolve().parents[1] / "Resources" / "Study" / "summary.csv"
_COLUMNS = {"encoder", "task", "metric", "rpg_percent", "rpg_low", "rpg_high", "device_hours_saved"}


def transferNote(encoder: str, task: TaskId, summary: Path = SUMMARY) -> str:
    """What starting from pretrained weights gave for this encoder and task; empty where nothing was measured.

    Args:
        encoder: As the study names it, as `profound`.
        task: The task.
        summary: One row an encoder, task and metric.

    Raises:
        ValueError: The file lacks a column, or its gain is no number.
    """
    if not summary.is_file():
        return ""
    with summary.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if rows and (missing := _COLUMNS - set(rows[0])):
        raise ValueError(f"The study's summary must have the columns {', '.join(sorted(missing))}, but lacks them.")
    return " ".join(_sentence(row) for row in rows if (row["encoder"], row["task"]) == (encoder, task))


def _sentence(row: dict[str, str]) -> str:
    title = TASKS[TaskId(row["task"])].title.lower()
    metric = KINDS[row["metric"]].title if row["metric"] in KINDS else row["metric"]
    interval = (
        f" (95 % interval {float(row['rpg_low']):.1f} to {float(row['rpg_high']):.1f} %)" if row["rpg_low"] else ""
    )
    sentence = (
        f"In this project's study, starting {row['encoder']} from pretrained weights changed the {metric} of {title} "
        f"by {float(row['rpg_percent']):+.1f} %{interval}; above 0 is better"
    )
    if not row["device_hours_saved"]:
        return f"{sentence}."
    hours = float(row["device_hours_saved"])
    return f"{sentence}. It {'saves' if hours >= 0 else 'costs'} {abs(hours):.1f} device-hours a fine-tuning."
