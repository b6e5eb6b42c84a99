"""How fast the arms learn, and what that costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape

from ...study.grid_tables import CurveRow, RunRow, StudyTables
from ...study.metric_names import metric_name
from ...study.overview import BOTH, HOUR_S, arm_values, encoders_of, mean, tasks_of, total_device_hours
from ...study.transfer_summary import SummaryRow
from ...terms import Arm
from .plot import Frame, chart, frame, line, minus
from .words import (
    arm_title,
    duration,
    encoder_title,
    figure,
    metric_head,
    number,
    section,
    table,
    table_row,
    task_title,
)

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
