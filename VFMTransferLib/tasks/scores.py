"""How good results are on labeled cases: networks and baselines of any task, scored by one function.

Reports, validation during training and the transfer study give the same number for the same result, because all of
them ask the task's `score`. A case's scores bear the names of their measures, the task's primary one among them unless
it is a statistic of all cases (AUROC). A measure that has no value for a case, such as the Dice of a lesion that is not
there, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..core.result import Result
from . import find_task
from .base import CaseScore, LabeledCase


@dataclass(frozen=True)
class Scores:
    """All cases of one network or baseline.

    Attributes:
        task: Id of the task.
        cases: Case by case.
        cohort: Measure → mean over the cases that have it, and statistics of all cases together.
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
    cases = tuple(score_case(result, labeled) for result, labeled in results)
    if any(score.case_id == other.case_id for i, score in enumerate(cases) for other in cases[:i]):
        raise ValueError("Each case must be scored once.")
    names = sorted({name for case in cases for name in case.values})
    cohort = {name: float(np.mean([case.values[name] for case in cases if name in case.values])) for name in names}
    return Scores(task_id, cases, {**cohort, **find_task(task_id).cohort_measures(cases)})


def score_case(result: Result, labeled: LabeledCase) -> CaseScore:
    """Score one result; see the module.

    Raises:
        ValueError: The result is of another task or case.
    """
    if (result.task, result.case_id) != (labeled.task, labeled.case.id):
        raise ValueError(
            f"A result must be of {labeled.task} on '{labeled.case.id}', got {result.task} on '{result.case_id}'."
        )
    return find_task(labeled.task).score(result, labeled)
