"""Real cases, on which nothing was trained: every arm beside the trivial baseline, case by case."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape

from ...study.grid_tables import StudyTables
from ...study.metric_names import metric_name
from ...study.overview import REAL, TRIVIAL, Column, RealRow, cases_better, column_place, mean, real_rows, tasks_of
from ...tasks import TASKS
from ...terms import TaskId
from .words import arm_title, encoder_title, measured, metric_head, section, table, table_row, task_title


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
    primary = TASKS[TaskId(task)].metric if task in tuple(TaskId) else ""
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
        told = f'<span class="better {css}">better on {better} of {of}</span>' if of and column[1] != TRIVIAL else ""
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
    if not of or column[1] == TRIVIAL:
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
