"""The transfer matrix, and the values of every arm behind it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

from ..core.terms import Arm
from ..study.overview import (
    BOTH,
    NAIVE,
    REAL,
    ArmValue,
    Column,
    RealRow,
    arm_values,
    best_arm,
    cases_better,
    column_place,
    encoders_of,
    mean,
    metric_name,
    naive_arm,
    real_rows,
    tasks_of,
    total_device_hours,
)
from ..study.summary import HOUR_S, LAYER, Correlation, SummaryRow, gain_against_distance
from ..study.tables import CurveRow, DistanceRow, RunRow, StudyTables
from ..tasks import TASKS
from .plot import Axis, Box, Frame, chart, frame, free_place, line, minus
from .study_words import (
    arm_class,
    arm_text,
    arm_title,
    duration,
    encoder_title,
    figure,
    interval,
    measured,
    metric_head,
    number,
    section,
    short_task,
    table,
    table_row,
    task_title,
)

STEPS_PERCENT = (1.0, 3.0, 10.0, 30.0)
"""Gains from which on a cell's color is stronger; the same for every study, so that colors can be compared."""
_STRIP_WIDTH, _STRIP_HEIGHT = 120, 16


def matrix_section(rows: Sequence[SummaryRow], tables: StudyTables) -> str:
    """Encoders by tasks: the relative gain of each, with its interval."""
    tasks, encoders = tasks_of(tables.runs), encoders_of(tables.runs)
    cells = {(one.encoder, one.task): one for one in rows}
    heads = ["Encoder", *(f"{escape(task_title(task))}{_metric(task, tables.runs)}" for task in tasks)]
    body = "".join(
        f'<tr><th scope="row">{escape(encoder_title(encoder))}</th>'
        + "".join(_cell(cells.get((encoder, task))) for task in tasks)
        + "</tr>"
        for encoder in encoders
    )
    caption = (
        "Relative performance gain (RPG, our definition: 100 · s · (pretrained − scratch) / |scratch|, s = 1 where "
        "higher is better, else −1), mean over seeds; below it the 95 % bootstrap interval over cases and seeds. "
        "Positive: pretraining helped, whichever way the measure points."
    )
    return section("matrix", "Transfer matrix", table(caption, heads, body, css="matrix"), _legend())


def gain_class(percent: float) -> str:
    """The color of a gain: its sign and how many of `STEPS_PERCENT` it passes."""
    if math.isnan(percent):
        return "gain-none"
    level = sum(abs(percent) >= step for step in STEPS_PERCENT)
    return f"gain-{'up' if percent > 0 else 'down'}-{level}" if level else "gain-0"


def is_unsure(found: SummaryRow) -> bool:
    """Whether the interval contains 0."""
    return found.rpg_low <= 0 <= found.rpg_high


def arms_section(tables: StudyTables) -> str:
    """Every arm's values, task by task."""
    heads = ("Arm", "Mean", "Lowest to highest (seeds)", "Each seed", "Seeds better than trivial", "Steps to best")
    bodies = "".join(_task_body(task, tables.runs) for task in tasks_of(tables.runs))
    caption = (
        "Test phantoms. ★ is the best mean of a task. The dashed line in a strip is the trivial baseline; a strip "
        "spans all values of its task, and better lies to the right."
    )
    shown = table(caption, (*heads, "Device time each"), bodies, css="arms")
    return section("arms", "What every arm reaches", shown)


def _cell(found: SummaryRow | None) -> str:
    if found is None:
        return '<td class="gain-none">not run</td>'
    gain = number(found.rpg_percent, 1, " %", sign=True)
    ends = f'<span class="interval">{interval(found.rpg_low, found.rpg_high)}</span>'
    mark = '<span class="unsure">contains 0</span>' if is_unsure(found) else ""
    return f'<td class="{gain_class(found.rpg_percent)}"><b>{gain}</b>{ends}{mark}</td>'


def _legend() -> str:
    steps = ["less than 1 %"] + [f"{step:g} % and more" for step in STEPS_PERCENT]
    names = [f"gain-down-{i}" for i in range(len(STEPS_PERCENT), 0, -1)] + ["gain-0"]
    names += [f"gain-up-{i}" for i in range(1, len(STEPS_PERCENT) + 1)]
    shown = [steps[int(name[-1])] for name in names]
    signs = ["−" if "down" in name else "+" if "up" in name else "±" for name in names]
    items = "".join(
        f'<li><span class="swatch {name}"></span>{sign} {text}</li>'
        for name, sign, text in zip(names, signs, shown, strict=True)
    )
    return (
        f'<ul class="legend-row">{items}</ul><p class="muted">“Contains 0” marks intervals in which no gain at all is '
        "among the plausible values. Where some cases have no value, there is no interval; where the value from "
        "scratch is 0, nothing is relative to it (n/a). Small relative gains are not small in every measure: a PSNR of "
        "30 dB that rises by 1 dB gains 3 %.</p>"
    )


def _metric(task: str, runs: Sequence[RunRow]) -> str:
    metric = next((run.metric for run in runs if run.task == task), "")
    return f'<span class="metric">{escape(metric_head(metric_name(metric, task)))}</span>'


def _task_body(task: str, runs: Sequence[RunRow]) -> str:
    values = arm_values(runs, task)
    run = next(run for run in runs if run.task == task)
    best = best_arm(values, run.higher_is_better)
    trivial = naive_arm(values)
    title = f"{escape(task_title(task))}<span>{escape(metric_head(metric_name(run.metric, task)))}</span>"
    shown = [one for value in values for one in value.values]
    rows = "".join(
        _arm_row(value, run, best is not None and value.mean == best.mean, trivial, shown) for value in values
    )
    return f'<tbody><tr class="task"><th colspan="7" scope="colgroup">{title}</th></tr>{rows}</tbody>'


def _arm_row(value: ArmValue, run: RunRow, is_best: bool, trivial: ArmValue | None, shown: Sequence[float]) -> str:
    cells = (
        f"{'★ ' if is_best else ''}{measured(value.mean, run.metric, run.task)}",
        _spread(value, run.metric, run.task),
        _strip(value, shown, trivial, run.higher_is_better),
        _better(value, trivial, run.higher_is_better),
        f"{value.steps_to_best:.0f}" if value.steps_to_best > 0 else "–",
        duration(value.device_seconds) if value.device_seconds > 0 else "–",
    )
    name = f'<span class="dot {arm_class(value.arm)}"></span>{escape(arm_text(value))}'
    return table_row((name,), cells, "best" if is_best else "")


def _spread(value: ArmValue, metric: str, task: str) -> str:
    if len(value.values) < 2:
        return f"{len(value.values)} seed" if value.values else "no value"
    low, high = measured(min(value.values), metric, task), measured(max(value.values), metric, task)
    return f"{low} to {high} ({len(value.values)})"


def _better(value: ArmValue, trivial: ArmValue | None, higher_is_better: bool) -> str:
    if value.arm == NAIVE:
        return "–"
    if trivial is None or not value.values:
        return "n/a"
    better, count = value.better_than(trivial, higher_is_better), len(value.values)
    css = "good" if better == count else "bad" if better == 0 else "mixed"
    return f'<span class="{css}">{better} of {count}</span>'


def _strip(value: ArmValue, shown: Sequence[float], trivial: ArmValue | None, higher_is_better: bool) -> str:
    """The seeds' values as dots."""
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    ends = (6.0, _STRIP_WIDTH - 6.0) if higher_is_better else (_STRIP_WIDTH - 6.0, 6.0)
    axis = Axis(low, high if high > low else low + 1, *ends)
    middle = _STRIP_HEIGHT / 2
    parts = [f'<path class="grid" d="M2 {middle}H{_STRIP_WIDTH - 2}"/>']
    if trivial is not None:
        parts.append(f'<path class="reference" d="M{axis.at(trivial.mean):.1f} 1V{_STRIP_HEIGHT - 1}"/>')
    parts += [
        f'<circle class="{arm_class(value.arm)}" cx="{axis.at(v):.1f}" cy="{middle}" r="4"/>' for v in value.values
    ]
    return (
        f'<svg class="dots" width="{_STRIP_WIDTH}" height="{_STRIP_HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'
    )


# How fast the arms learn, and what that costs.

_WIDTH, _HEIGHT = 360, 230
_NEVER = "never reached"
SCRATCH = str(Arm.SCRATCH)
Points = dict[int, float]  # step → validation value


def curves_section(rows: Sequence[SummaryRow], tables: StudyTables) -> str:
    """Learning curves of both arms, encoder by encoder."""
    if not tables.curves:
        return section("curves", "Learning curves", '<p class="missing">No learning curve was recorded.</p>')
    cells = {(row.encoder, row.task): row for row in rows}
    parts = [
        '<p class="muted">Validation value after so many steps; every seed thin, their mean thick. '
        '<span class="dot pretrained"></span>pretrained, <span class="dot scratch"></span>from scratch. The vertical '
        "scale leaves out what came before the first step.</p>"
    ]
    for encoder in encoders_of(tables.runs):
        charts = ""
        for task in tasks_of(tables.runs):
            own = [row for row in tables.curves if (row.encoder, row.task) == (encoder, task) and row.arm in BOTH]
            if own:
                charts += figure(_curves(own, tables.runs), _caption(task, cells.get((encoder, task))))
        parts.append(f'<h3>{escape(encoder_title(encoder))}</h3><div class="plots three">{charts}</div>')
    return section("curves", "Learning curves", *parts)


def cost_section(rows: Sequence[SummaryRow], tables: StudyTables) -> str:
    """Device time of each training, what pretrained weights save at equal quality, and the total."""
    heads = ("Encoder", "Task", "Pretrained, each", "From scratch, each", "Convergence efficiency")
    caption = (
        "Device time of one training at demonstration size, mean over seeds. Convergence efficiency (our definition): "
        "the steps that the pretrained arm needs to the best value of the arm from scratch, over that arm's own; below "
        "1 it needs fewer. Where it never got there, nothing is saved at equal quality."
    )
    body = "".join(_cost_row(one, tables.runs) for one in rows)
    count = sum(run.arm != "trivial" for run in tables.runs)
    total = (
        f"<p><b>{number(total_device_hours(tables.runs), 2)} device-hours</b> for {count} trainings and specialised "
        "rows in all. The pretrainings' own time is no part of these tables: it is spent once, and must be saved again "
        "before anything is.</p>"
    )
    return section(
        "cost",
        "Cost",
        table(caption, (*heads, "Device-hours saved, each (share of one from scratch)"), body, left=2),
        total,
    )


def efficiency_text(value: float) -> str:
    """A convergence efficiency as HTML."""
    if math.isinf(value):
        return f'<data value="{value!r}">{_NEVER}</data>'
    return number(value, 2)


def _caption(task: str, row: SummaryRow | None) -> str:
    efficiency = "n/a" if row is None else efficiency_text(row.convergence_efficiency)
    return f"{escape(task_title(task))} <span>convergence efficiency {efficiency}</span>"


def _curves(rows: Sequence[CurveRow], runs: Sequence[RunRow]) -> str:
    seeds: dict[str, dict[int, Points]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        seeds[row.arm][row.seed][row.step] = row.value
    started = [row for row in rows if row.step > 0] or rows
    area = frame([row.step for row in rows], [row.value for row in started], _WIDTH, _HEIGHT)
    lines = ""
    for arm in (arm for arm in BOTH if arm in seeds):
        lines += "".join(_line(area, points, f"curve thin {arm}") for points in seeds[arm].values())
        lines += _line(area, _mean_curve(list(seeds[arm].values())), f"curve {arm}")
    encoder, task = rows[0].encoder, rows[0].task
    metric = next((run.metric for run in runs if (run.encoder, run.task) == (encoder, task)), "")
    title = escape(metric_head(metric_name(metric, task)))
    told = " and ".join(f"{len(found)} seeds {arm_title(arm).lower()}" for arm, found in seeds.items())
    label = f"Learning curves of {encoder_title(encoder)}, {task_title(task)}: {told}"
    return chart(area.axes("Step", title) + area.inside(lines), _WIDTH, _HEIGHT, label)


def _mean_curve(seeds: Sequence[Points]) -> Points:
    """Mean over the seeds, at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(points) for points in seeds)))
    return {step: mean(points[step] for points in seeds) for step in steps}


def _line(area: Frame, points: Points, css: str) -> str:
    steps = sorted(points)
    return line(area, steps, [points[step] for step in steps], css)


def _cost_row(found: SummaryRow, runs: Sequence[RunRow]) -> str:
    own = arm_values((run for run in runs if run.encoder == found.encoder), found.task)
    seconds = {value.arm: value.device_seconds for value in own}
    saved = number(found.device_hours_saved, 4, sign=True)
    if math.isfinite(found.device_hours_saved) and seconds[SCRATCH] > 0:
        share = minus(f"{found.device_hours_saved * HOUR_S / seconds[SCRATCH]:+.0%}")
        saved += f' <span class="muted">({share})</span>'
    return table_row(
        (escape(encoder_title(found.encoder)), escape(task_title(found.task))),
        (*(duration(seconds[arm]) for arm in BOTH), efficiency_text(found.convergence_efficiency), saved),
    )


# How far fine-tuning moved the features,  and whether that goes with the gain.

_WIDTH_of_distance, _HEIGHT_of_distance = 560, 340
_LABEL_PX, _LABEL_GAP, _CHARACTER_PX, _POINT_PX = 15.0, 9.0, 7.2, 6.0
_MOST_STEPS = 8


def relation_section(rows: Sequence[SummaryRow], correlation: Correlation) -> str:
    """Gain against distance, encoder by encoder, with what can be concluded."""
    encoders = dict.fromkeys(row.encoder for row in rows)
    drawn = "".join(_encoder_figure(encoder, [row for row in rows if row.encoder == encoder]) for encoder in encoders)
    rho, ends = number(correlation.rho, 2, sign=True), interval(correlation.low, correlation.high, 2)
    told = f"Spearman's ρ = {rho}, 95 % bootstrap interval {ends}, over {correlation.n_pairs} cells."
    if math.isnan(correlation.rho):
        told = f"Spearman's ρ cannot be told from {correlation.n_pairs} cells."
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
        f"These are {found.n_pairs} cells of small networks, which share encoders and test cases and so are not "
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
    told = f"{found.n_pairs} tasks have both numbers"
    if not math.isnan(found.rho):
        ends = interval(found.low, found.high, 2)
        told = f"ρ = {number(found.rho, 2, sign=True)} ({ends}) over {found.n_pairs} tasks"
    return figure(_scatter(encoder, rows), f"{escape(encoder_title(encoder))} <span>{told}</span>")


def _scatter(encoder: str, rows: Sequence[SummaryRow]) -> str:
    known = [row for row in rows if math.isfinite(row.rpg_percent) and math.isfinite(row.d2p)]
    ends = [end for row in known for end in (row.rpg_low, row.rpg_high, row.rpg_percent)]
    area = frame([row.d2p for row in known], ends, _WIDTH_of_distance, _HEIGHT_of_distance, zero=True)
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
    return chart(
        "".join(parts),
        _WIDTH_of_distance,
        _HEIGHT_of_distance,
        f"Gain against distance of {encoder_title(encoder)}: {points}",
    )


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


# Where in an encoder fine-tuning moved the features: the distance of each layer, as bars.

_WIDTH_of_layers, _HEIGHT_of_layers = 300, 150
_LEFT, _RIGHT, _BOTTOM, _TOP = 48, _WIDTH_of_layers - 8, _HEIGHT_of_layers - 26, 10
_MOST_WIDTH, _FILLED = 48.0, 0.7
Layers = dict[str, float]  # layer → mean distance over seeds


def layers_part(tables: StudyTables) -> str:
    """A chart for each encoder and task; one scale for each encoder."""
    found = _by_cell(tables)
    if not found:
        return '<p class="missing">No distance of a single layer was measured.</p>'
    parts = ["<h3>Where in the encoder does fine-tuning move?</h3>"]
    for encoder in encoders_of(tables.runs):
        cells = {task: found[encoder, task] for task in tasks_of(tables.runs) if (encoder, task) in found}
        shown = [0.0, *(value for layers in cells.values() for value in layers.values())]
        ends = (min(shown), max(shown) if max(shown) > min(shown) else min(shown) + 1)
        axis = Axis(*ends, _BOTTOM, _TOP)
        charts = "".join(
            figure(_bars(f"{encoder_title(encoder)}, {task_title(task)}", layers, axis), escape(task_title(task)))
            for task, layers in cells.items()
        )
        parts.append(f'<h4>{escape(encoder_title(encoder))}</h4><div class="plots six">{charts}</div>')
    note = (
        "D2P of each layer's features from the input (left) to the output (right), mean over seeds. An encoder's charts"
    )
    return f'{"".join(parts)}<p class="muted">{note} share one scale.</p>'


def _by_cell(tables: StudyTables) -> dict[tuple[str, str], Layers]:
    """Encoder and task → its layers, in the order of the table."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.distances:
        if row.layer != LAYER and math.isfinite(row.d2p):
            found[row.encoder, row.task][row.layer].append(row.d2p)
    return {cell: {layer: mean(values) for layer, values in layers.items()} for cell, layers in found.items()}


def _bars(who: str, layers: Layers, axis: Axis) -> str:
    step = (_RIGHT - _LEFT) / max(len(layers), 1)
    width, zero = min(_FILLED * step, _MOST_WIDTH), axis.at(0)
    parts = [f'<path class="zero" d="M{_LEFT} {zero:.1f}H{_RIGHT}"/>']
    for value in (0.0, axis.high):
        y = axis.at(value) + 3.5
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y:.1f}" text-anchor="end">{minus(f"{value:.2g}")}</text>')
    for i, (layer, value) in enumerate(layers.items()):
        middle, end = _LEFT + (i + 0.5) * step, axis.at(value)
        size = f'width="{width:.1f}" height="{max(abs(end - zero), 0.5):.1f}"'
        title = f"<title>{escape(layer)}: {value:.4g}</title>"
        place = f'x="{middle - width / 2:.1f}" y="{min(end, zero):.1f}"'
        parts.append(f'<rect class="column" {place} {size}>{title}</rect>')
        name = escape(layer.rpartition("-")[2])
        parts.append(f'<text class="tick" x="{middle:.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{name}</text>')
    told = ", ".join(f"{layer} {value:.3g}" for layer, value in layers.items())
    return chart("".join(parts), _WIDTH_of_layers, _HEIGHT_of_layers, f"D2P by layer of {who}: {told}", "small")


# Real cases, on which nothing was trained: every arm beside the trivial baseline, case by case.


def real_section(tables: StudyTables) -> str:
    """Numbers of real cases, task by task."""
    rows = real_rows(tables.metrics)
    if not rows:
        return section("real", "Real cases", '<p class="missing">No real case was measured.</p>')
    tasks = [task for task in tasks_of(tables.runs) if any(row.task == task for row in rows)]
    note = (
        "Scans of patients that no network here was trained on: few, so that they show whether something carries over "
        "from phantoms at all, not how well it would do in a clinic. Their truth is the scan itself where the task is "
        "an image (k-space cut, diffusion moved by a known field, the measured ADC), and a mask that a network or a "
        "reader drew where it is not. Means over seeds. “Better on” counts the cases on "
        "which an arm's mean over seeds is better than the trivial baseline."
    )
    shown = "".join(_task(task, [row for row in rows if row.task == task]) for task in tasks)
    statistics = _statistics(tables)
    return section("real", "Real cases", f'<p class="muted">{note}</p>{shown}{statistics}')


def _task(task: str, rows: Sequence[RealRow]) -> str:
    """Means over the cases of all measures, and each case of the primary one; the others on demand."""
    metrics = _ordered(task, list(dict.fromkeys(one.metric for one in rows)))
    columns = list(dict.fromkeys(column for one in rows for column in one.values))
    by_metric = {metric: [one for one in rows if one.metric == metric] for metric in metrics}
    body = "".join(_mean_row(task, metric, by_metric[metric], columns) for metric in metrics)
    means = table("", ("Mean over cases", *map(_column_title, columns)), body, css="real")
    details = "".join(_cases(task, metric, by_metric[metric], columns, i == 0) for i, metric in enumerate(metrics))
    cases = len({one.case for one in rows})
    return f"<h3>{escape(task_title(task))} <span>{cases} cases</span></h3>{means}{details}"


def _ordered(task: str, metrics: list[str]) -> list[str]:
    """The primary measure first, as its own table and where it is of a part."""
    primary = TASKS[task].metric if task in TASKS else ""
    return sorted(metrics, key=lambda name: (name != primary, name.split(" ")[0] != primary, metrics.index(name)))


def _column_title(column: Column) -> str:
    encoder, arm = column
    return f"{escape(encoder_title(encoder))}<br><span>{escape(arm_title(arm).lower())}</span>"


def _mean_row(task: str, metric: str, rows: Sequence[RealRow], columns: Sequence[Column]) -> str:
    name = metric_name(metric, task)
    cells = []
    for column in columns:
        found = [one.values[column] for one in rows if column in one.values]
        better, of = cases_better(rows, column, name.higher_is_better)
        css = "good" if better == of else "bad" if better == 0 else "mixed"
        told = f'<span class="better {css}">better on {better} of {of}</span>' if of and column[1] != NAIVE else ""
        cells.append(f"{measured(mean(found), metric, task)}{told}" if found else "–")
    return table_row((escape(metric_head(name)),), cells)


def _cases(task: str, metric: str, rows: Sequence[RealRow], columns: Sequence[Column], is_open: bool) -> str:
    """Each case of one measure; those better than the trivial baseline are marked."""
    name = metric_name(metric, task)
    body = "".join(
        table_row((escape(one.case),), [_case_cell(one, column, name.higher_is_better) for column in columns])
        for one in sorted(rows, key=lambda one: one.case)
    )
    shown = table("", ("Case", *map(_column_title, columns)), body, css="real")
    title = f"{escape(metric_head(name))}, case by case"
    return f"<details{' open' if is_open else ''}><summary>{title}</summary>{shown}</details>"


def _case_cell(found: RealRow, column: Column, higher_is_better: bool | None) -> str:
    if column not in found.values:
        return "–"
    value = measured(found.values[column], found.metric, found.task)
    better, of = cases_better([found], column, higher_is_better)
    if not of or column[1] == NAIVE:
        return value
    return f'<span class="{"good" if better else "bad"}">{"✓" if better else "✗"}</span> {value}'


def _statistics(tables: StudyTables) -> str:
    """What is known of all real cases of a task together only, as AUROC."""
    found = [one for one in tables.metrics if one.data == REAL]
    by_case = {(one.task, one.metric) for one in found if one.case}
    values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for one in found:
        if not one.case and (one.task, one.metric) not in by_case and math.isfinite(one.value):
            values[one.task, one.metric, one.encoder, one.arm].append(one.value)
    if not values:
        return ""
    body = "".join(_statistic_row(*key, values[key]) for key in sorted(values, key=_place))
    heads = ("Task", "Measure", "Arm", "Mean over seeds")
    return f"<h3>Statistics of all real cases together</h3>{table('', heads, body, left=3)}"


def _statistic_row(task: str, metric: str, encoder: str, arm: str, values: Sequence[float]) -> str:
    who = f"{encoder_title(encoder)}, {arm_title(arm).lower()}"
    words = (task_title(task), metric_head(metric_name(metric, task)), who)
    return table_row([escape(word) for word in words], [measured(mean(values), metric, task)])


def _place(key: tuple[str, str, str, str]) -> tuple[str, str, tuple[int, int, str]]:
    return (key[0], key[1], column_place((key[2], key[3])))
