"""The numbers of a comparison as HTML: readable without a script, and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..study.comparison import Comparison
from ..study.measures import KINDS, Between, Disagreement, Measure
from .colors import label_title
from .display import Display

Cell = Measure | None
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
AGREEMENT = "Agreement of A with B"
ERROR = "Against the reference"
NO_REFERENCE = "No reference is known for this case: agreement of A with B does not say which of them is right."
WITH_REFERENCE = "Agreement of A with B is no accuracy; only the columns against the reference say how right each is."


def measure_tables(comparison: Comparison) -> str:
    """All measures, one row a structure, output or class."""
    output = comparison.task.output
    if output == "segmentation":
        return _table(comparison, _segmentation_columns(comparison), "Structure")
    if output == "image":
        return _table(comparison, _image_columns(comparison), "Image")
    return _table(comparison, _class_columns(), "Class") + _table(comparison, _whole_class_columns(comparison), "")


def disagreement_table(comparison: Comparison, display: Display) -> str:
    """Regions where A and B differ; each row jumps to its place."""
    if comparison.task.output != "segmentation":
        return ""
    if not comparison.disagreements:
        nowhere = "Nowhere: A and B mark the same voxels."
        return f'<section><h2>Where A and B differ</h2><p class="muted">{nowhere}</p></section>'
    rows = "".join(_disagreement_row(d, display) for d in comparison.disagreements)
    return (
        '<section class="places"><h2>Where A and B differ</h2><div class="scroll"><table>'
        "<caption>Connected regions, largest first. Choose one to look at it.</caption>"
        "<thead><tr><th>Go to</th><th>What</th><th>Volume</th><th>Slice</th><th>Center, mm</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def lesion_table(comparison: Comparison) -> str:
    """Lesions that A and B list, side by side."""
    rows = [
        f'<tr><td class="arm-{who}">{who.upper()}</td><td>{lesion.index}</td>'
        f"<td>{escape(label_title(lesion.label))}</td><td>{lesion.volume_ml:.2f} ml</td>"
        f"<td>{lesion.confidence:.2f}</td><td>{'n/a' if lesion.mean_adc is None else f'{lesion.mean_adc:.0f}'}</td>"
        f"<td>{_point(lesion.center_mm)}</td></tr>"
        for who, result in (("a", comparison.a), ("b", comparison.b))
        for lesion in result.lesions
    ]
    if not rows:
        return ""
    return (
        "<section><h2>Lesions</h2><table><thead><tr><th>Arm</th><th>No.</th><th>Label</th><th>Volume</th>"
        "<th>Highest probability</th><th>Mean ADC, 10⁻⁶ mm²/s</th><th>Center, mm</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></section>"
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
        f'<section><h2>{label}</h2><svg class="bars" viewBox="0 0 680 {y}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></section>"
    )


def facts(comparison: Comparison) -> str:
    """What to know first, in four tiles."""
    tiles = {"segmentation": _segmentation_facts, "image": _image_facts, "classification": _class_facts}
    found = tiles[comparison.task.output](comparison)
    return "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in found
    )


def shown(found: Cell) -> str:
    """A measure with its unit, as text."""
    if found is None:
        return "–"
    return f"{found.text} {found.unit}".strip() if found.text != "n/a" else "n/a"


Column = tuple[str, str, Between]  # group, kind, between


def _segmentation_columns(comparison: Comparison) -> list[Column]:
    volumes = [("Volume", "volume_ml", who) for who in (Between.A, Between.B, Between.REFERENCE)]
    kinds = ("dice", "hausdorff95_mm")
    agreement = [(AGREEMENT, kind, Between.A_B) for kind in (*kinds, "volume_difference_ml")]
    error = [(ERROR, kind, arm) for kind in kinds for arm in _ARMS]
    return volumes[: 3 if comparison.has_reference else 2] + agreement + (error if comparison.has_reference else [])


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
    groups = [column[0] for column in columns]
    firsts = [i == 0 or groups[i - 1] != groups[i] for i in range(len(groups))]
    top = "".join(
        f'<th colspan="{groups.count(group)}" scope="colgroup">{group}</th>' for group in dict.fromkeys(groups)
    )
    sub = "".join(_column_head(column, first) for column, first in zip(columns, firsts, strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(label_title(subject))}</th>'
        + "".join(
            _cell(found.get((kind, subject, who)), first) for (_, kind, who), first in zip(columns, firsts, strict=True)
        )
        + "</tr>"
        for subject in subjects
    )
    caption = WITH_REFERENCE if comparison.has_reference else NO_REFERENCE
    return (
        f"<table><caption>{caption}</caption><thead><tr><td></td>{top}</tr>"
        f'<tr><th scope="col">{heading}</th>{sub}</tr></thead><tbody>{body}</tbody></table>'
    )


def _column_head(column: Column, first: bool) -> str:
    group, kind, who = column
    unit = f", {KINDS[kind].unit}" if KINDS[kind].unit else ""
    name = {Between.A: "A", Between.B: "B", Between.REFERENCE: "Reference"}.get(who)
    text = f"{name}{unit}" if name else KINDS[kind].title + unit
    if group == ERROR:
        text = f"{KINDS[kind].title}{unit} {_WHO[who]}"
    return f'<th scope="col"{_first(first)}>{text}</th>'


def _cell(found: Cell, first: bool) -> str:
    if found is None:
        return f"<td{_first(first)}>–</td>"
    title = f' title="{escape(found.note)}"' if found.note else ""
    unit = f" {found.unit}" if found.unit and not KINDS[found.kind].unit else ""
    return f"<td{_first(first)}{title}>{found.text}{escape(unit)}</td>"


def _first(first: bool) -> str:
    return ' class="first"' if first else ""


def _disagreement_row(d: Disagreement, display: Display) -> str:
    slice_number = display.index_of(d.center_mm)[2] + 1
    return (
        f'<tr data-region="{d.index}"><td><button type="button" data-jump="{d.index}">{d.index}</button></td>'
        f"<td>{_difference_text(d)}</td><td>{d.volume_ml:.3f} ml</td>"
        f"<td>{slice_number}</td><td>{_point(d.center_mm)}</td></tr>"
    )


def _difference_text(d: Disagreement) -> str:
    a, b = (escape(label_title(name)) for name in (d.a_label, d.b_label))
    if b == "Background":
        return f'<span class="arm-a">A only</span> {a}'
    if a == "Background":
        return f'<span class="arm-b">B only</span> {b}'
    return f'<span class="arm-a">A</span> {a}, <span class="arm-b">B</span> {b}'


def _point(point_mm: Iterable[float]) -> str:
    """A point in LPS as a radiologist reads it."""
    sides = zip(point_mm, ("LR", "PA", "SI"), strict=True)
    return " ".join(f"{side[int(v < 0)]}&nbsp;{abs(v):.1f}" for v, side in sides)


def _find(comparison: Comparison, kind: str, subject: str, between: Between) -> Cell:
    return next((m for m in comparison.measures if (m.kind, m.subject, m.between) == (kind, subject, between)), None)


def _segmentation_facts(comparison: Comparison) -> list[tuple[str, str]]:
    structure = comparison.measures[0].subject
    title = label_title(structure).lower()
    volumes = " / ".join(shown(_find(comparison, "volume_ml", structure, who)) for who in (Between.A, Between.B))
    found = [
        (volumes, f"volume of the {title}, A / B"),
        (shown(_find(comparison, "dice", structure, Between.A_B)), f"Dice of A with B, {title}"),
        (shown(_find(comparison, "hausdorff95_mm", structure, Between.A_B)), f"HD95 of A with B, {title}"),
    ]
    if comparison.has_reference:
        structure = next((m.subject for m in comparison.measures if m.between is Between.A_REFERENCE), structure)
        dices = " / ".join(shown(_find(comparison, "dice", structure, arm)) for arm in _ARMS)
        found.append((dices, f"Dice with the reference, {label_title(structure).lower()}, A / B"))
    elif comparison.disagreements:
        largest = comparison.disagreements[0]
        found.append((f"{largest.volume_ml:.2f} ml", "largest region where A and B differ"))
    return found


def _image_facts(comparison: Comparison) -> list[tuple[str, str]]:
    output = comparison.measures[0].subject
    found = [
        (shown(_find(comparison, kind, output, Between.A_B)), f"{KINDS[kind].title} of A with B")
        for kind in ("mae", "psnr_db", "ssim")
    ]
    if comparison.has_reference:
        ssims = " / ".join(shown(_find(comparison, "ssim", output, arm)) for arm in _ARMS)
        found.append((ssims, "SSIM with the reference, A / B"))
    return found


def _class_facts(comparison: Comparison) -> list[tuple[str, str]]:
    best = [
        max(p.items(), key=lambda item: item[1])
        for p in (comparison.a.class_probabilities, comparison.b.class_probabilities)
    ]
    found = [(f"{name} ({p:.2f})", f"most probable class by {who}") for (name, p), who in zip(best, "AB", strict=True)]
    distance = _find(comparison, "total_variation", "all classes", Between.A_B)
    found.append((shown(distance), "total variation distance of A from B, 0 to 1"))
    if comparison.true_class is not None:
        found.append((comparison.true_class, "class by the reference"))
    return found
