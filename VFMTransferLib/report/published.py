"""The original study's numbers beside ours, and what can be compared.

Huang et al., "Understanding the Transfer Limits of Vision Foundation Models", arXiv 2601.15888. Its own tables could
not be read; the gains below are those that a secondary summary reports, and were not checked against the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..study.summary import SummaryRow
from .study_words import encoder_title, interval, number, section, table, table_row, task_title

PAPER = "https://arxiv.org/abs/2601.15888"
_LINK = f'<a href="{PAPER}">arXiv 2601.15888</a>'
_CITED = f"Huang et al., “Understanding the Transfer Limits of Vision Foundation Models”, {_LINK}"


@dataclass(frozen=True)
class PublishedGain:
    """A relative performance gain of the original study.

    Attributes:
        encoder: As in the tables.
        name: The task as the summary calls it.
        percent: The gain.
        tasks: Ours that it may stand for.
    """

    encoder: str
    name: str
    percent: float
    tasks: tuple[str, ...]


PUBLISHED = (
    PublishedGain("profound", "distortion correction", 20.72, ("distortion-correction",)),
    PublishedGain("profound", "super-resolution", 15.91, ("super-resolution",)),
    PublishedGain("provicnet", "segmentation", 21.23, ("anatomy-segmentation", "lesion-segmentation")),
    PublishedGain("provicnet", "classification", 8.99, ("classification",)),
)
_LEAST = {
    "profound": "semantic tasks (classification, lesion segmentation)",
    "provicnet": "distortion correction and modality translation",
}
_CAN = (
    "the direction: does each pretraining help the tasks that resemble it, and does it help the others less?",
    "the order of tasks within one encoder",
    "whether a smaller distance goes with a larger gain",
)
_CANNOT = (
    "the percentages themselves: metric, head, split, budget and the published formula of RPG may differ from ours, "
    "and a relative gain depends on all of them",
    "the networks: ours have a small part of the published size and were pretrained on phantoms",
    "the data: phantoms here, thousands of patients there; our real cases are too few for percentages",
    "distances: the published bandwidth, kernel and features are not known to us",
    "device-hours: theirs are of GPUs and of full size",
)


def published_section(rows: Sequence[SummaryRow]) -> str:
    """Both studies side by side."""
    ours = {(one.encoder, one.task): one for one in rows}
    body = "".join(_row(gain, task, ours.get((gain.encoder, task))) for gain in PUBLISHED for task in gain.tasks)
    heads = ("Encoder", "Task as published", "Our task", "RPG, as reported", "Our RPG", "95 % interval of ours")
    least = " ".join(f"{encoder_title(name)} is reported to gain least on {tasks}." for name, tasks in _LEAST.items())
    return section(
        "published",
        "Beside the original study",
        f"<p>{_CITED}, fine-tunes ProFound and ProViCNet on five prostate MRI tasks from pretrained weights and from "
        f"scratch. {least} It concludes that the closer pretraining and task are, measured by the maximum mean "
        "discrepancy of the same features before and after fine-tuning, the larger the gain and the faster the "
        "convergence.</p>",
        table("RPG as reported by a secondary summary, not checked against the paper.", heads, body, left=3),
        '<div class="columns">',
        _list("What can be compared", _CAN),
        _list("What cannot, and why", _CANNOT),
        "</div>",
    )


def _row(gain: PublishedGain, task: str, ours: SummaryRow | None) -> str:
    words = (encoder_title(gain.encoder), gain.name, escape(task_title(task)))
    reported = number(gain.percent, 2, " %", sign=True)
    if ours is None:
        return table_row(words, (reported, "not run", "–"))
    own = number(ours.rpg_percent, 1, " %", sign=True)
    return table_row(words, (reported, own, interval(ours.rpg_low, ours.rpg_high)))


def _list(title: str, items: Sequence[str]) -> str:
    return f"<div><h3>{title}</h3><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul></div>"
