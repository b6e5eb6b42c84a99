"""What a study should have, by its configuration or as a whole, and what its tables lack of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from ..core.terms import TaskId
from .config import StudyConfig
from .summary import BOTH, ENCODERS, LAYER, REAL, SPECIALISED, TRIVIAL
from .tables import RunRow, StudyTables, study_cells

Training = tuple[str, str, str, int]  # encoder, task, arm, seed


@dataclass(frozen=True)
class Plan:
    """What a study should have.

    Attributes:
        trainings: Of both arms.
        specialised, trivial, real: Tasks that should have such a row, or a number of a real case.
    """

    trainings: tuple[Training, ...]
    specialised: tuple[str, ...]
    trivial: tuple[str, ...]
    real: tuple[str, ...]


@dataclass(frozen=True)
class Gaps:
    """What of a plan is missing.

    Attributes:
        trainings, specialised, trivial, real: As in the plan.
        distances, curves: Encoder and task.
    """

    trainings: tuple[Training, ...]
    specialised: tuple[str, ...]
    trivial: tuple[str, ...]
    real: tuple[str, ...]
    distances: tuple[tuple[str, str], ...]
    curves: tuple[tuple[str, str], ...]

    @property
    def any(self) -> bool:
        return any((self.trainings, self.specialised, self.trivial, self.real, self.distances, self.curves))


def plan_of(config: StudyConfig) -> Plan:
    """What a configuration plans."""
    cells = study_cells(config)
    tasks = {arm: dict.fromkeys(cell.task for cell in cells if cell.arm == arm) for arm in (SPECIALISED, TRIVIAL)}
    return Plan(
        tuple((cell.encoder, cell.task, cell.arm, cell.seed) for cell in cells if cell.arm in BOTH),
        tuple(tasks[SPECIALISED]),
        tuple(tasks[TRIVIAL]),
        tuple(str(task) for task in config.tasks if config.real_of(task)),
    )


def whole_study(runs: Iterable[RunRow]) -> Plan:
    """Both encoders on all tasks with every seed that is found anywhere, and everything beside them."""
    seeds = sorted({run.seed for run in runs if run.arm in BOTH})
    tasks = tuple(str(task) for task in TaskId)
    return Plan(tuple(product(ENCODERS, tasks, BOTH, seeds)), tasks, tasks, tasks)


def gaps(tables: StudyTables, plan: Plan) -> Gaps:
    """What of a plan is not in a study's tables."""
    runs = [run for run in tables.runs if math.isfinite(run.value)]
    done = {(run.encoder, run.task, run.arm, run.seed) for run in runs}
    has = {arm: {run.task for run in runs if run.arm == arm} for arm in (SPECIALISED, TRIVIAL)}
    real = {row.task for row in tables.metrics if row.data == REAL}
    moved = {(row.encoder, row.task) for row in tables.distances if row.layer == LAYER}
    learned = {(row.encoder, row.task) for row in tables.curves}
    cells = dict.fromkeys((encoder, task) for encoder, task, _, _ in plan.trainings)
    return Gaps(
        tuple(training for training in plan.trainings if training not in done),
        tuple(task for task in plan.specialised if task not in has[SPECIALISED]),
        tuple(task for task in plan.trivial if task not in has[TRIVIAL]),
        tuple(task for task in plan.real if task not in real),
        tuple(cell for cell in cells if cell not in moved),
        tuple(cell for cell in cells if cell not in learned),
    )
