"""The numbers of a comparison as HTML: readable without a script, and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..study.comparison import Comparison
from ..study.measures import KINDS, Between, Measure
from ..study.titles import quantity_title, subject_title, unit_title

Cell = Measure | None
Column = tuple[str, str, Between]  # group, kind, between
_ARMS = (Between.A_REFERENCE, Between.B_REFERENCE)
_WHO = {
    Between.A: "A",
    Between.B: "B",
    Between.REFERENCE: "Reference",
    Between.A_B: "A, B",
    Between.A_REFERENCE: "A",
    Between.B_REFERENCE: "B",
    Between.INPUT_REFERENCE: "Input",
}
_LESIONS = ("lesions_matched", "lesions_added", "lesions_missed")
AGREEMENT = "Agreement of A with B"
ERROR = "Against the reference"
NO_REFERENCE = "No reference is known for this case: agreement of A with B does not say which of them is right."
WITH_REFERENCE = "Agreement of A with B is no accuracy; only the columns against the reference say how right each is."


def measure_tables(comparison: Comparison) -> str:
    """All measures, one row a structure, output or class, and what they mean."""
    tables = {
        "segmentation": lambda: (
            _table(comparison, _segmentation_columns(comparison), "Structure")
            + _table(comparison, _lesion_columns(comparison), "Lesions")
        ),
        "image": lambda: _table(comparison, _image_columns(comparison), "Image"),
        "classification": lambda: (
            _table(comparison, _class_columns(), "Class") + _table(comparison, _whole_class_columns(comparison), "")
        ),
    }
    caption = WITH_REFERENCE if comparison.has_reference else NO_REFERENCE
    return f'<p class="muted">{caption}</p>{tables[comparison.task.output]()}{_footnotes(comparison)}'


def _segmentation_columns(comparison: Comparison) -> list[Column]:
    volumes = [("Volume", "volume_ml", who) for who in (Between.A, Between.B, Between.REFERENCE)]
    kinds = ("dice", "hausdorff95_mm")
    agreement = [(AGREEMENT, kind, Between.A_B) for kind in (*kinds, "volume_difference_ml")]
    error = [(ERROR, kind, arm) for kind in kinds for arm in _ARMS]
    return volumes[: 3 if comparison.has_reference else 2] + agreement + (error if comparison.has_reference else [])


def _lesion_columns(comparison: Comparison) -> list[Column]:
    agreement = [(AGREEMENT, kind, Between.A_B) for kind in _LESIONS]
    error = [(ERROR, kind, arm) for kind in _LESIONS for arm in _ARMS]
    return agreement + (error if comparison.has_reference else [])


def _image_columns(comparison: Comparison) -> list[Column]:
    kinds = ("mean_difference", "mae", "psnr_db", "ssim")
    agreement = [(AGREEMENT, kind, Between.A_B) for kind in kinds]
    arms = (*_ARMS, Between.INPUT_REFERENCE)
    measured = {m.between for m in comparison.measures}
    error = [(ERROR, kind, arm) for kind in kinds[1:] for arm in arms if arm in measured]
    moved = any(m.kind == "displacement_difference_mm" for m in comparison.measures)
    return agreement + ([(AGREEMENT, "displacement_difference_mm", Between.A_B)] if moved else []) + error


def _class_columns() -> list[Column]:
    return [
        ("Probability", "probability", Between.A),
        ("Probability", "probability", Between.B),
        (AGREEMENT, "probability_difference", Between.A_B),
    ]


def _whole_class_columns(comparison: Comparison) -> list[Column]:
    error = [(ERROR, "log_loss", arm) for arm in _ARMS] if comparison.has_reference else []
    return [(AGREEMENT, "total_variation", Between.A_B), *error]


def _table(comparison: Comparison, columns: Sequence[Column], heading: str) -> str:
    found = {(m.kind, m.subject, m.between): m for m in comparison.measures}
    kinds = {kind for _, kind, _ in columns}
    subjects = list(dict.fromkeys(m.subject for m in comparison.measures if m.kind in kinds))
    if not subjects:
        return ""
    groups = [column[0] for column in columns]
    firsts = [i == 0 or groups[i - 1] != groups[i] for i in range(len(groups))]
    units = [_column_unit(column, comparison.measures) for column in columns]
    top = "".join(
        f'<th colspan="{groups.count(group)}" scope="colgroup">{group}</th>' for group in dict.fromkeys(groups)
    )
    sub = "".join(_head(column, unit, first) for column, unit, first in zip(columns, units, firsts, strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(subject_title(subject))}</th>'
        + "".join(
            _cell(found.get((kind, subject, who)), not unit, first)
            for (_, kind, who), unit, first in zip(columns, units, firsts, strict=True)
        )
        + "</tr>"
        for subject in subjects
    )
    return (
        f"<table><thead><tr><td></td>{top}</tr>"
        f'<tr><th scope="col">{heading}</th>{sub}</tr></thead><tbody>{body}</tbody></table>'
    )


def _column_unit(column: Column, measures: Sequence[Measure]) -> str:
    """The unit that all values of a column share, or nothing."""
    units = {m.unit for m in measures if (m.kind, m.between) == column[1:]}
    return units.pop() if len(units) == 1 else ""


def _head(column: Column, unit: str, first: bool) -> str:
    group, kind, who = column
    words = {
        "Volume": _WHO[who],
        "Probability": _WHO[who],
        ERROR: f"{KINDS[kind].title} {_WHO[who]}",
    }
    text = words.get(group, KINDS[kind].title) + (f", {unit_title(unit)}" if unit else "")
    return f'<th scope="col"{_first(first)}>{text}</th>'


def _cell(found: Cell, with_unit: bool, first: bool) -> str:
    if found is None:
        return f"<td{_first(first)}>–</td>"
    title = f' title="{escape(found.note)}"' if found.note else ""
    text = quantity_title(found.text, found.unit) if with_unit else found.text
    return f"<td{_first(first)}{title}>{escape(text)}</td>"


def _footnotes(comparison: Comparison) -> str:
    """Definitions of the measures, and the reason of each value that is missing."""
    kinds = dict.fromkeys(m.kind for m in comparison.measures if KINDS[m.kind].definition)
    lines = [f"<b>{KINDS[kind].title}</b>: {KINDS[kind].definition}" for kind in kinds]
    ranges = dict.fromkeys(m.note for m in comparison.measures if m.kind == "psnr_db" and m.note)
    lines += [f"<b>PSNR, SSIM</b>: {escape(note)}" for note in ranges]
    missing = dict.fromkeys((m.title, subject_title(m.subject), m.note) for m in comparison.measures if m.text == "n/a")
    lines += [f"<b>{title}</b> of {escape(subject)} has no value: {escape(note)}" for title, subject, note in missing]
    return '<ul class="footnotes">' + "".join(f"<li>{line}.</li>" for line in lines) + "</ul>"


def _first(first: bool) -> str:
    return ' class="first"' if first else ""
