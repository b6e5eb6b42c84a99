"""The numbers of a run as one table: a row a measure, a column an arm or a pair. Needs MRML, but no Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.evaluation.classification import ALL_CLASSES
from VFMTransferLib.evaluation.measures import KINDS, Between, Kind
from VFMTransferLib.evaluation.titles import subject_title, unit_title
from VFMTransferLib.tasks import TASKS

from ..runs import ArmInScene, RunInScene
from .lesion_adc import meanAdcInLesions

COLUMNS = {
    Between.A: "A",
    Between.B: "B",
    Between.REFERENCE: "Reference",
    Between.A_B: "A vs B",
    Between.A_REFERENCE: "A vs reference",
    Between.B_REFERENCE: "B vs reference",
    Between.INPUT_REFERENCE: "Input vs reference",
}
AGREEMENT = "A vs B is agreement, not accuracy: it does not say which of the two is right."
ONLY_REFERENCE = "Only the columns against the reference say how right each is."
CALIBRATION = (
    "Probabilities are as the networks give them. It is not known here whether they are calibrated, that is, whether "
    "of all cases with 0.7 seven in ten are positive."
)
_PROBABILITY = "probability"
# A difference stands in the row of what it is a difference of.
_DIFFERENCE_OF = {"volume_difference_ml": "volume_ml", "probability_difference": _PROBABILITY}
_ARMS = (Between.A, Between.B)
_LESIONS, _MEAN_ADC = "lesions", "mean_adc"
# What the arms tell beyond the comparison.
_OF_ARMS = {
    _LESIONS: Kind("Count", decimals=0, definition="connected regions that the network marks"),
    _MEAN_ADC: Kind("Mean ADC", "1e-6 mm²/s", decimals=0, definition="over the volume of the lesions"),
}
_KINDS = KINDS | _OF_ARMS
_ALL_LESIONS = "All lesions"
_MARKED = "Lesion: "  # one that is marked in the scene, and its name
_UNDEFINED, _INFINITE = "n/a", "∞"


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        text: As shown, without its unit.
        note: Why there is none, or what it depends on.
    """

    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One measure of one structure, image or class.

    Attributes:
        group: The structure or image; rows of one follow each other. Empty for classes, which are named by the title.
        title: With its unit.
        definition: What the measure is; may be empty.
        cells: Column → number; a column without one is left out.
    """

    group: str
    title: str
    definition: str = ""
    cells: dict[Between, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class NumbersTable:
    """All numbers of a run.

    Attributes:
        rows: In the order to show.
        notes: What must be known to read them, in sentences.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Between, ...]:
        """Those in which there is a number."""
        return tuple(column for column in COLUMNS if any(column in row.cells for row in self.rows))


def numbersOf(run: RunInScene) -> NumbersTable:
    """The table of a run as far as it has come."""
    return NumbersTable(_rows(measuresOf(run)), _notes(run))


def measuresOf(run: RunInScene) -> list[dict[str, Any]]:
    """All numbers of a run: of its comparison, before that of each arm that is there, and of the lesions.

    Returns:
        Rows as `comparison.json` has them: subject, measure, between, value, unit, note.
    """
    arms = list(zip(_ARMS, run.arms, strict=False))
    if run.comparison is not None:
        found = list(run.comparison["measures"])
    else:
        found = [row for side, arm in arms for row in _measuresOfArm(arm, side)]
    return [*found, *(row for side, arm in arms for row in _lesionMeasures(run, arm, side)), *_lesionAdc(run)]


def _rows(measures: Iterable[Mapping[str, Any]]) -> tuple[Row, ...]:
    rows: dict[tuple[str, str], Row] = {}
    for found in measures:
        kind = _DIFFERENCE_OF.get(found["measure"], found["measure"])
        row = rows.setdefault((found["subject"], kind), _emptyRow(found["subject"], kind, found["unit"]))
        row.cells[Between(found["between"])] = _cell(found)
    return tuple(rows.values())


def _emptyRow(subject: str, kind: str, unit: str) -> Row:
    about = _KINDS[kind]
    title = about.title + (f", {unit_title(unit)}" if unit else "")
    if subject.startswith(_MARKED):
        return Row(title, subject.removeprefix(_MARKED), about.definition)
    if kind == _PROBABILITY:
        return Row("", f"P({subject_title(subject)})", about.definition)
    return Row("" if subject == ALL_CLASSES else subject_title(subject), title, about.definition)


def _cell(found: Mapping[str, Any]) -> Cell:
    kind, value, note = found["measure"], found["value"], found.get("note", "")
    if value is None:
        return Cell(_INFINITE if kind == "psnr_db" and note.startswith("the images are equal") else _UNDEFINED, note)
    sign = "+" if kind in _DIFFERENCE_OF or kind == "mean_difference" else ""
    note = note or (KINDS[kind].definition if kind in _DIFFERENCE_OF else "")
    text = f"{value:{sign}.{_KINDS[kind].decimals}f}"
    return Cell(text if float(text) else text.lstrip("+-"), note)  # no -0.0


def _measuresOfArm(arm: ArmInScene, side: Between) -> list[dict[str, Any]]:
    """What one arm tells on its own, in the comparison's words."""
    numbers = arm.numbers
    found = [_measure("volume_ml", name, side, ml, "ml") for name, ml in numbers["volumes_ml"].items()]
    probabilities = numbers["class_probabilities"] | numbers["derived_probabilities"]
    return found + [_measure(_PROBABILITY, name, side, value) for name, value in probabilities.items()]


def _lesionMeasures(run: RunInScene, arm: ArmInScene, side: Between) -> list[dict[str, Any]]:
    if run.task is not TaskId.LESION_SEGMENTATION:
        return []
    lesions = arm.numbers["lesions"]
    known = [lesion for lesion in lesions if lesion["mean_adc"] is not None]
    found = [_measure(_LESIONS, _ALL_LESIONS, side, len(lesions))]
    if known:
        total_ml = sum(lesion["volume_ml"] for lesion in known)
        mean = sum(lesion["mean_adc"] * lesion["volume_ml"] for lesion in known) / total_ml
        found.append(_measure(_MEAN_ADC, _ALL_LESIONS, side, mean, _KINDS[_MEAN_ADC].unit))
    return found


def _lesionAdc(run: RunInScene) -> list[dict[str, Any]]:
    """For tasks that give an ADC image."""
    return [
        _measure(_MEAN_ADC, _MARKED + name, side, mean, _KINDS[_MEAN_ADC].unit)
        for name, means in meanAdcInLesions(run)
        for side, mean in zip(_ARMS, means, strict=False)
        if mean is not None
    ]


def _measure(kind: str, subject: str, side: Between, value: float, unit: str = "") -> dict[str, Any]:
    return {"measure": kind, "subject": subject, "between": side, "value": value, "unit": unit}


def _notes(run: RunInScene) -> tuple[str, ...]:
    notes = []
    if run.comparison is not None:
        notes.append(f"{AGREEMENT} {ONLY_REFERENCE}" if run.comparison["has_reference"] else AGREEMENT)
    if TASKS[run.task].output == "classification" and run.arms:
        notes.append(CALIBRATION)
    return (*notes, *(run.comparison["notes"] if run.comparison is not None else ()))
