"""The parts of a case's page as HTML: tables, tiles, cards, places, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..bundles.bundle import Bundle
from ..core.result import Provenance
from ..core.terms import Label
from ..evaluation.classification import ALL_CLASSES
from ..evaluation.comparison import Comparison
from ..evaluation.measures import KINDS, Between, Disagreement, Measure
from ..evaluation.titles import ARM_TITLES, label_title, place_title, quantity_title, subject_title, unit_title
from .scene import Display

# Places as HTML: where A and B differ, and the lesions that each lists.

SHOWN_LESIONS = 50


def disagreement_table(comparison: Comparison, display: Display) -> str:
    """Regions where A and B differ; each row jumps to its place."""
    if comparison.task.output != "segmentation":
        return ""
    if not comparison.disagreements:
        nowhere = "Nowhere: A and B mark the same voxels."
        return f'<h2>Where A and B differ</h2><p class="muted">{nowhere}</p>'
    rows = "".join(_disagreement_row(d, display) for d in comparison.disagreements)
    return (
        '<h2>Where A and B differ</h2><div class="scroll"><table class="places">'
        "<caption>Connected regions, largest first. Choose one to look at it.</caption>"
        "<thead><tr><th>Go to</th><th>What</th><th>Volume</th><th>Slice</th><th>Center, mm</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def lesion_table(comparison: Comparison) -> str:
    """The largest lesions that A and B list, side by side."""
    rows = [
        f'<tr><td class="arm-{who}">{who.upper()}</td>'
        f'<td class="left">{escape(label_title(lesion.label))}</td>'
        f'<td class="left">{escape(label_title(lesion.zone or "–"))}</td>'
        f"<td>{lesion.index}</td><td>{lesion.volume_ml:.2f} ml</td>"
        f"<td>{lesion.confidence:.2f}</td><td>{'n/a' if lesion.mean_adc is None else f'{lesion.mean_adc:.0f}'}</td>"
        f"<td>{place_title(lesion.center_mm)}</td></tr>"
        for who, result in (("a", comparison.a), ("b", comparison.b))
        for lesion in result.lesions[:SHOWN_LESIONS]
    ]
    if not rows:
        return ""
    return (
        f'<h2>Lesions</h2><div class="scroll"><table><caption>Largest first, at most {SHOWN_LESIONS} of each; '
        'all are in comparison.json.</caption><thead><tr><th>Arm</th><th class="left">Label</th>'
        '<th class="left">Zone</th><th>No.</th><th>Volume</th>'
        "<th>Highest probability</th><th>Mean ADC, 10⁻⁶ mm²/s</th><th>Center, mm</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _disagreement_row(d: Disagreement, display: Display) -> str:
    slice_number = display.index_of(d.center_mm)[2] + 1
    return (
        f'<tr data-region="{d.index}"><td><button type="button" data-jump="{d.index}">{d.index}</button></td>'
        f"<td>{_difference_text(d)}</td><td>{d.volume_ml:.3f} ml</td>"
        f"<td>{slice_number}</td><td>{place_title(d.center_mm)}</td></tr>"
    )


def _difference_text(d: Disagreement) -> str:
    a, b = (escape(label_title(name)) for name in (d.a_label, d.b_label))
    if d.b_label == Label.BACKGROUND:
        return f'<span class="arm-a">A only</span> {a}'
    if d.a_label == Label.BACKGROUND:
        return f'<span class="arm-b">B only</span> {b}'
    return f'<span class="arm-a">A</span> {a}, <span class="arm-b">B</span> {b}'


# What each arm is, as HTML: weights, runtime, versions, time, and the bundle's own words.

MAX_ITEMS = 12


def model_card(who: str, provenance: Provenance, bundle: Bundle | None) -> str:
    """The card of arm `who` ("a" or "b")."""
    rows = {"Bundle": escape(provenance.bundle)}
    if bundle is not None:
        rows |= _bundle_rows(bundle)
    rows |= {
        "Weights, SHA-256": f"<code>{escape(provenance.sha256)}</code>",
        "Ran with": escape(f"{provenance.runtime} on {provenance.device}"),
        "Time": escape(_seconds_text(provenance.seconds)),
        "Versions": escape(", ".join(f"{name} {version}" for name, version in provenance.versions.items())),
    }
    rows |= {"Notes": "<br>".join(escape(note) for note in provenance.notes)}
    arm = ARM_TITLES.get(provenance.arm, "")
    tags = [arm] if arm else []
    if bundle is not None and bundle.demonstration:
        tags.append("Demonstration network")
    return (
        f'<article class="card-{who}"><h3><span class="arm-{who}">{who.upper()}</span> {escape(provenance.title)}'
        + "".join(f'<span class="tag">{escape(tag)}</span>' for tag in tags)
        + "</h3><dl>"
        + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows.items() if text)
        + "</dl></article>"
    )


def _bundle_rows(bundle: Bundle) -> dict[str, str]:
    return {
        "Description": escape(bundle.description),
        "Version": escape(bundle.version),
        "Architecture": f"{escape(bundle.spec.title)}, {escape(bundle.spec.paper)}",
        "License of the weights": escape(bundle.license),
        "Training": _mapping(bundle.training),
        "Metrics": _mapping(bundle.metrics),
    }


def _mapping(values: Mapping[str, Any]) -> str:
    """Plain entries of free JSON; nested ones are left to the bundle's own files."""
    plain = {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
    items = [f"{escape(str(key).replace('_', ' '))}: {escape(_value(value))}" for key, value in plain.items()]
    return "<br>".join(items[:MAX_ITEMS])


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds_text(seconds: Mapping[str, float]) -> str:
    stages = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
    return f"{sum(seconds.values()):.2f} s ({stages})" if seconds else ""


# What to know first: a few tiles, and the class probabilities as bars.

_ARMS = (Between.A_REFERENCE, Between.B_REFERENCE)


def facts(comparison: Comparison) -> str:
    """What to know first, in four tiles."""
    tiles = {"segmentation": _segmentation_facts, "image": _image_facts, "classification": _class_facts}
    found = tiles[comparison.task.output](comparison)
    return "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in found
    )


def probability_bars(comparison: Comparison) -> str:
    """Class probabilities of A and B as bars."""
    a, b = comparison.a.class_probabilities, comparison.b.class_probabilities
    if not a:
        return ""
    parts, y = [], 16
    for name in a:
        truth = " (reference)" if name == comparison.true_class else ""
        parts.append(f'<text x="0" y="{y + 14}">{escape(name)}{truth}</text>')
        for offset, who, value in ((0, "a", a[name]), (18, "b", b[name])):
            parts.append(
                f'<rect class="track-bar" x="190" y="{y + offset}" width="400" height="14" rx="3"/>'
                f'<rect class="bar-{who}" x="190" y="{y + offset}" width="{400 * value:.1f}" height="14" rx="3"/>'
                f'<text x="600" y="{y + offset + 12}">{who.upper()} {value:.3f}</text>'
            )
        y += 50
    label = "Probability of each class by A and by B"
    return (
        f'<h2>{label}</h2><svg class="bars" viewBox="0 0 680 {y}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _segmentation_facts(comparison: Comparison) -> list[tuple[str, str]]:
    structure = _leading([measure.subject for measure in comparison.measures])
    title = label_title(structure).lower()
    volumes = [_find(comparison, "volume_ml", structure, who) for who in (Between.A, Between.B)]
    found = [
        (" / ".join(v.text for v in volumes if v) + " ml", f"volume of the {title}, A / B"),
        (_shown(_find(comparison, "dice", structure, Between.A_B)), f"Dice of A with B, {title}"),
        (_shown(_find(comparison, "hausdorff95_mm", structure, Between.A_B)), f"HD95 of A with B, {title}"),
    ]
    if comparison.has_reference:
        known = [m.subject for m in comparison.measures if m.between is Between.A_REFERENCE]
        structure = _leading(known) if known else structure
        dices = " / ".join(_shown(_find(comparison, "dice", structure, arm)) for arm in _ARMS)
        found.append((dices, f"Dice with the reference, {label_title(structure).lower()}, A / B"))
    elif comparison.disagreements:
        largest = comparison.disagreements[0]
        found.append((f"{largest.volume_ml:.2f} ml", "largest region where A and B differ"))
    return found


def _leading(structures: list[str]) -> str:
    """The structure that is asked about first: clinically significant cancer where it is known, else the first one."""
    return str(Label.CSPCA) if Label.CSPCA in structures else structures[0]


def _image_facts(comparison: Comparison) -> list[tuple[str, str]]:
    output = comparison.measures[0].subject
    found = [
        (_shown(_find(comparison, kind, output, Between.A_B)), f"{KINDS[kind].title} of A with B")
        for kind in ("mae", "psnr_db", "ssim")
    ]
    if comparison.has_reference:
        ssims = " / ".join(_shown(_find(comparison, "ssim", output, arm)) for arm in _ARMS)
        found.append((ssims, "SSIM with the reference, A / B"))
    return found


def _class_facts(comparison: Comparison) -> list[tuple[str, str]]:
    best = [
        max(p.items(), key=lambda item: item[1])
        for p in (comparison.a.class_probabilities, comparison.b.class_probabilities)
    ]
    found = [(f"{name} ({p:.2f})", f"most probable class by {who}") for (name, p), who in zip(best, "AB", strict=True)]
    distance = _find(comparison, "total_variation", ALL_CLASSES, Between.A_B)
    found.append((_shown(distance), "total variation distance of A from B, 0 to 1"))
    if comparison.true_class is not None:
        found.append((comparison.true_class, "class by the reference"))
    return found


def _shown(found: Measure | None) -> str:
    """A measure with its unit, as text."""
    if found is None:
        return "–"
    return quantity_title(found.text, found.unit) if found.text != "n/a" else "n/a"


def _find(comparison: Comparison, kind: str, subject: str, between: Between) -> Measure | None:
    return next((m for m in comparison.measures if (m.kind, m.subject, m.between) == (kind, subject, between)), None)


# The numbers of a comparison as HTML: readable without a script, and on paper.

Cell = Measure | None
Column = tuple[str, str, Between]  # group, kind, between
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
