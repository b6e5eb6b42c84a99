"""The rows of a study's tables that one cell gives: its scores, its learning curve, its distance to pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .study.grid_cells import Cell
from .study.grid_tables import CurveRow, MetricRow, RunRow
from .study_scores import SIGNIFICANT, CaseScore, Scores
from .tasks import TASKS
from .terms import TaskId

SCORE = "score"  # the primary measure in a run's history


@dataclass(frozen=True)
class Course:
    """How a cell's training went; of a baseline nothing.

    Attributes:
        steps: Steps trained.
        seconds: They took so long.
        history: What was measured on the way.
    """

    steps: int = 0
    seconds: float = 0.0
    history: Sequence[Mapping[str, float]] = ()


def run_row(cell: Cell, scores: Scores, course: Course, sha256: str) -> RunRow:
    """The cell's row in `runs.csv`."""
    task = TASKS[TaskId(cell.task)]
    counted = [case for case in scores.cases if task.metric in case.values]
    return RunRow(
        *(cell.encoder, cell.task, cell.arm, cell.seed),
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        value=float(scores.primary),
        steps=course.steps,
        steps_to_best=steps_to_best(course, task.higher_is_better),
        device_seconds=round(course.seconds, 3),
        n_test_cases=len(counted) or len(scores.cases),
        config_sha256=sha256,
    )


def steps_to_best(course: Course, higher_is_better: bool) -> int:
    """Step of the best validation value, the first of equal ones; all steps where no value could be told."""
    points = [(point[SCORE], int(point["step"])) for point in course.history if SCORE in point]
    if not points:
        return course.steps
    sign = -1 if higher_is_better else 1
    return min(points, key=lambda point: (sign * point[0], point[1]))[1]


def curve_rows(cell: Cell, course: Course) -> tuple[CurveRow, ...]:
    """The learning curve."""
    key = (cell.encoder, cell.task, cell.arm, cell.seed)
    return tuple(CurveRow(*key, int(point["step"]), float(point[SCORE])) for point in course.history if SCORE in point)


def metric_rows(cell: Cell, scores: Scores, data: str) -> tuple[MetricRow, ...]:
    """Every number of every case, then the statistics that belong to all cases together.

    Args:
        cell: The cell.
        scores: On phantoms or on real cases.
        data: `phantom` or `real`.
    """
    key = (cell.encoder, cell.task, cell.arm, cell.seed, data)
    of_cases = [(case.case_id, name, value) for case in scores.cases for name, value in _numbers(case)]
    in_cases = {name for case in scores.cases for name in case.values}
    together = [("", name, value) for name, value in scores.cohort.items() if name not in in_cases]
    rows: Iterable[tuple[str, str, float]] = of_cases + together
    return tuple(MetricRow(*key, case, name, float(value)) for case, name, value in rows if math.isfinite(value))


def _numbers(case: CaseScore) -> Iterable[tuple[str, float]]:
    """A case's measures; of a classification also the answer and the truth, from which statistics can be made anew."""
    yield from case.values.items()
    if case.probabilities:
        yield "p_cspca", sum(case.probabilities[name] for name in SIGNIFICANT)
        yield "is_cspca", float(case.is_significant)
