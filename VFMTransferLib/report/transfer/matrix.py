"""The transfer matrix, and the values of every arm behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ...study.grid_tables import RunRow, StudyTables
from ...study.metric_names import metric_name
from ...study.overview import TRIVIAL, ArmValue, arm_values, best_arm, encoders_of, tasks_of, trivial_arm
from ...study.transfer_summary import SummaryRow
from .plot import Axis
from .words import (
    arm_class,
    arm_text,
    duration,
    encoder_title,
    interval,
    measured,
    metric_head,
    number,
    section,
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
    trivial = trivial_arm(values)
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
    if value.arm == TRIVIAL:
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
