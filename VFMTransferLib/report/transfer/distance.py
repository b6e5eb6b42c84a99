"""How far fine-tuning moved the features,  and whether that goes with the gain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from ...study.grid_tables import DistanceRow, StudyTables
from ...study.transfer_summary import LAYER, Correlation, SummaryRow, gain_against_distance
from .layers import layers_part
from .plot import Box, Frame, chart, frame, free_place
from .words import encoder_title, figure, interval, number, section, short_task, table, table_row, task_title

_WIDTH, _HEIGHT = 560, 340
_LABEL_PX, _LABEL_GAP, _CHARACTER_PX, _POINT_PX = 15.0, 9.0, 7.2, 6.0
_MOST_STEPS = 8


def relation_section(rows: Sequence[SummaryRow], correlation: Correlation) -> str:
    """Gain against distance, encoder by encoder, with what can be concluded."""
    encoders = dict.fromkeys(row.encoder for row in rows)
    drawn = "".join(_encoder_figure(encoder, [row for row in rows if row.encoder == encoder]) for encoder in encoders)
    rho, ends = number(correlation.rho, 2, sign=True), interval(correlation.low, correlation.high, 2)
    told = f"Spearman's ρ = {rho}, 95 % bootstrap interval {ends}, over {correlation.n_cells} cells."
    if math.isnan(correlation.rho):
        told = f"Spearman's ρ cannot be told from {correlation.n_cells} cells."
    return section(
        "relation",
        "Does a task that moves the features less gain more?",
        f'<p class="finding"><b>{told}</b> {escape(conclusion(correlation))}</p>',
        f'<div class="plots two">{drawn}</div>',
        '<p class="muted">Each point is a task; bars are the 95 % interval of the gain. D2P is comparable within one '
        "encoder only, so that for ρ both numbers are ranked within their encoder first, and the encoders have axes of "
        "their own.</p>",
    )


def conclusion(found: Correlation) -> str:
    """What a rank correlation of so few cells allows to say."""
    if math.isnan(found.rho) or math.isnan(found.low):
        return "With so few cells nothing can be said about the relation."
    caution = (
        f"These are {found.n_cells} cells of small networks, which share encoders and test cases and so are not "
        "independent: this is a description of this study, no proof of a rule."
    )
    if found.low == found.high:
        caution = f"The cells lie in perfect order, of which a bootstrap cannot tell how sure it is. {caution}"
    if found.low <= 0 <= found.high:
        return (
            "The interval contains 0: these cells are compatible with no relation at all, and neither support nor "
            f"refute the published finding (small distance, large gain). {caution}"
        )
    if found.high < 0:
        return f"Tasks that moved the features less gained more, as the published study reports. {caution}"
    return f"Tasks that moved the features more gained more, contrary to what the published study reports. {caution}"


def distance_section(rows: Sequence[SummaryRow], tables: StudyTables) -> str:
    """Distances with their p values and bandwidths, and where in the encoder they arise."""
    if not tables.distances:
        return section("distance", "Distance to pretraining", '<p class="missing">No distance was measured.</p>')
    heads = ("Encoder", "Task", "D2P", "p, by seed", "at ½ bandwidth", "at 2× bandwidth", "Cases")
    body = "".join(_distance_row(one, tables.distances) for one in rows)
    caption = (
        "D2P (our definition: unbiased MMD² between the features of the same cases before and after fine-tuning) of "
        "the encoder's final features, mean over seeds. p: share of random exchanges of before and after that move the "
        "features at least as far; not corrected for how many cells are looked at."
    )
    return section("distance", "Distance to pretraining", table(caption, heads, body, left=2), layers_part(tables))


def _encoder_figure(encoder: str, rows: Sequence[SummaryRow]) -> str:
    """One encoder's tasks, with the correlation over these alone."""
    found = gain_against_distance(rows)
    told = f"{found.n_cells} tasks have both numbers"
    if not math.isnan(found.rho):
        ends = interval(found.low, found.high, 2)
        told = f"ρ = {number(found.rho, 2, sign=True)} ({ends}) over {found.n_cells} tasks"
    return figure(_scatter(encoder, rows), f"{escape(encoder_title(encoder))} <span>{told}</span>")


def _scatter(encoder: str, rows: Sequence[SummaryRow]) -> str:
    known = [row for row in rows if math.isfinite(row.rpg_percent) and math.isfinite(row.d2p)]
    ends = [end for row in known for end in (row.rpg_low, row.rpg_high, row.rpg_percent)]
    area = frame([row.d2p for row in known], ends, _WIDTH, _HEIGHT, zero=True)
    parts = [area.axes("D2P (unbiased MMD²)", "Relative performance gain, %", (5, 5)), _zero_line(area)]
    for row in known:
        x, y = area.x.at(row.d2p), area.y.at(row.rpg_percent)
        if math.isfinite(row.rpg_low):
            parts.append(f'<path class="bar" d="M{x:.1f} {area.y.at(row.rpg_low):.1f}V{area.y.at(row.rpg_high):.1f}"/>')
        title = f"{task_title(row.task)}: gain {row.rpg_percent:.1f} %, D2P {row.d2p:.3g}"
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(title)}</title></circle>')
    parts += _labels(area, known)
    if not known:
        parts.append(
            f'<text class="axis" x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no cell has both</text>'
        )
    points = "; ".join(f"{task_title(row.task)} at D2P {row.d2p:.3g}, gain {row.rpg_percent:.1f} %" for row in known)
    return chart("".join(parts), _WIDTH, _HEIGHT, f"Gain against distance of {encoder_title(encoder)}: {points}")


def _zero_line(area: Frame) -> str:
    return f'<path class="zero" d="M{area.x.start:.1f} {area.y.at(0):.1f}H{area.x.end:.1f}"/>'


def _labels(area: Frame, rows: Sequence[SummaryRow]) -> list[str]:
    """Names beside the points, or as near as there is room, with a line to the point where they are not."""
    points = [(area.x.at(row.d2p), area.y.at(row.rpg_percent)) for row in rows]
    taken: list[Box] = [(x - _POINT_PX, y - _POINT_PX, x + _POINT_PX, y + _POINT_PX) for x, y in points]
    within = (area.x.start, area.y.end, area.x.end, area.y.start)
    parts = []
    for row, (x, y) in sorted(zip(rows, points, strict=True), key=lambda pair: pair[1]):
        name = short_task(row.task)
        left, top, right, bottom = free_place(_places(x, y, _CHARACTER_PX * len(name)), taken, within)
        taken.append((left, top, right, bottom))
        near = min((left, right), key=lambda end: abs(end - x))
        if abs((top + bottom) / 2 - y) > _LABEL_PX / 2:
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{near:.1f} {(top + bottom) / 2:.1f}"/>')
        end = f'x="{right:.1f}" text-anchor="end"' if right < x else f'x="{left:.1f}"'
        parts.append(f'<text class="name" {end} y="{bottom - 4:.1f}">{escape(name)}</text>')
    return parts


def _places(x: float, y: float, width: float) -> Iterator[Box]:
    """Where a point's name may stand: at its right or left, ever further above or below."""
    for step in range(2 * _MOST_STEPS + 1):
        middle = y + (step + 1) // 2 * (1 if step % 2 else -1) * _LABEL_PX
        for start in (x + _LABEL_GAP, x - _LABEL_GAP - width):
            yield (start, middle - _LABEL_PX / 2, start + width, middle + _LABEL_PX / 2)


def _distance_row(found: SummaryRow, distances: Sequence[DistanceRow]) -> str:
    own = [d for d in distances if (d.encoder, d.task, d.layer) == (found.encoder, found.task, LAYER)]
    return table_row(
        (escape(encoder_title(found.encoder)), escape(task_title(found.task))),
        (
            number(found.d2p, 4),
            ", ".join(number(d.p_value, 3) for d in sorted(own, key=lambda d: d.seed)) or "n/a",
            number(found.d2p_low_bandwidth, 4),
            number(found.d2p_high_bandwidth, 4),
            ", ".join(str(n) for n in sorted({d.n_cases for d in own})) or "n/a",
        ),
    )
