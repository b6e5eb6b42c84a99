"""What a task is, and one folder for each: sequences, truth, decoding, scores, naive baseline, what is shown.

A new task is a folder with a `task.py` that ends with `TASK = ...`, and one line in `_MODULES`. Imports `core` to
`encoders`; importing this package loads no task, so that a list of ids costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

from ..core.decoding import OneOf
from ..core.errors import UnknownTaskError

if TYPE_CHECKING:
    from ..core.result import Result
    from ..encoders.base import ModelSpec
    from .base import CaseScore, LabeledCase, Task

# Task id → module with its `TASK`, loaded when it is first looked up. The first one is what commands take by default.
_MODULES = {
    "anatomy-segmentation": "anatomy_segmentation.task",
    "lesion-segmentation": "lesion_segmentation.task",
    "classification": "classification.task",
    "super-resolution": "super_resolution.task",
    "distortion-correction": "distortion_correction.task",
    "adc-translation": "adc_translation.task",
}
DEFAULT_TASK = next(iter(_MODULES))


class _Registry(Mapping[str, "Task"]):
    """The tasks by id, in the order in which they are listed everywhere."""

    def __init__(self) -> None:
        self.loaded: dict[str, Task | None] = dict.fromkeys(_MODULES)

    def __getitem__(self, task_id: str) -> Task:
        task = self.loaded[task_id]
        if task is None:
            task = self.loaded[task_id] = import_module(f"{__name__}.{_MODULES[task_id]}").TASK
        return task

    def __contains__(self, task_id: object) -> bool:
        return task_id in self.loaded  # as a mapping has it, asking would load the task

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaded)

    def __len__(self) -> int:
        return len(self.loaded)


_REGISTRY = _Registry()
TASKS: Mapping[str, Task] = _REGISTRY
TaskName = Annotated[str, OneOf(lambda: TASKS)]
"""The type of a task's id in messages, configurations and recipes."""


def find_task(task_id: str) -> Task:
    """The task of an id; UnknownTaskError lists the known ones where there is none."""
    if task_id not in TASKS:
        raise UnknownTaskError(f"The task must be one of {', '.join(TASKS)}, got '{task_id}'.")
    return TASKS[task_id]


def task_of(spec: ModelSpec) -> Task:
    """The task that a network predicts; ValueError of an encoder alone, and of a task that is not registered."""
    if spec.task is None:
        raise ValueError(f"A model that predicts must have a head, but {spec.name} is an encoder alone.")
    return find_task(spec.task)


def gland_task() -> Task:
    """The task whose networks mark the prostate for all others: the first that finds the gland."""
    return next(task for task in TASKS.values() if task.finds_gland)


def lesion_task() -> Task:
    """The task whose truth is marked lesions: the first that finds them."""
    return next(task for task in TASKS.values() if task.finds_lesions)


def register(task: Task) -> None:
    """Add a task of another package, such as a test's; ValueError where there is one of this id."""
    if task.id in TASKS:
        raise ValueError(f"Each task must be registered once, but '{task.id}' is registered already.")
    _REGISTRY.loaded[str(task.id)] = task


def unregister(task_id: str) -> None:
    """Remove a task that `register` added."""
    del _REGISTRY.loaded[task_id]


@dataclass(frozen=True)
class Scores:
    """How good one network or baseline is, case by case, and over the cohort: means of each measure over the cases that
    have it, and statistics of all cases together.
    """

    task: str
    cases: tuple[CaseScore, ...]
    cohort: Mapping[str, float]

    @property
    def primary(self) -> float:
        """The task's primary measure; `nan` where these cases give it no value."""
        return self.cohort.get(find_task(self.task).metric, math.nan)


def score_results(task_id: str, results: Iterable[tuple[Result, LabeledCase]]) -> Scores:
    """Score results against what is true of their cases; an iterator is read one by one.

    Raises:
        ValueError: A result is of another task or case, or a case comes twice.
    """
    import numpy as np

    cases = tuple(score_case(result, labeled) for result, labeled in results)
    if len({case.case_id for case in cases}) < len(cases):
        raise ValueError("Each case must be scored once.")
    names = sorted({name for case in cases for name in case.values})
    cohort = {name: float(np.mean([case.values[name] for case in cases if name in case.values])) for name in names}
    return Scores(task_id, cases, {**cohort, **find_task(task_id).cohort_measures(cases)})


def score_case(result: Result, labeled: LabeledCase) -> CaseScore:
    """Score one result as the task does: a measure that has no value for the case is left out.

    Reports, validation during training and the transfer study give the same number for the same result, because all of
    them ask this. Raises ValueError where the result is of another task or case.
    """
    if (result.task, result.case_id) != (labeled.task, labeled.case.id):
        raise ValueError(
            f"A result must be of {labeled.task} on '{labeled.case.id}', got {result.task} on '{result.case_id}'."
        )
    return find_task(labeled.task).score(result, labeled)
