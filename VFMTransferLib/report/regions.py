"""Places as HTML: where A and B differ, and the lesions that each lists."""

from __future__ import annotations

from html import escape

from ..study.comparison import Comparison
from ..study.measures import Disagreement
from ..study.titles import label_title, place_title
from ..terms import Label
from .display import Display

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
