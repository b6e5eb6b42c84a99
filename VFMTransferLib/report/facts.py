"""What to know first: a few tiles, and the class probabilities as bars."""

from __future__ import annotations

from html import escape

from ..study.classification import ALL_CLASSES
from ..study.comparison import Comparison
from ..study.measures import KINDS, Between, Measure
from ..study.titles import label_title, quantity_title
from ..terms import Label

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
