"""A study's tables from above: every arm's values, who beats the trivial baseline, costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..terms import Arm, TaskId
from .grid_tables import ARMS, MetricRow, RunRow

ENCODERS = ("profound", "provicnet")
BOTH = (str(Arm.PRETRAINED), str(Arm.SCRATCH))
SPECIALISED, TRIVIAL = "specialised", "trivial"
REAL = "real"
HOUR_S = 3600.0
Column = tuple[str, str]  # encoder, arm


@dataclass(frozen=True)
class ArmValue:
    """One arm of a task over its seeds.

    Attributes:
        encoder, arm: As in the tables.
        values: The primary measure by seed; only those that are a number.
        steps_to_best: Mean over seeds.
        device_seconds: Mean over seeds.
    """

    encoder: str
    arm: str
    values: tuple[float, ...]
    steps_to_best: float
    device_seconds: float

    @property
    def mean(self) -> float:
        return mean(self.values)

    def better_than(self, other: ArmValue, higher_is_better: bool) -> int:
        """How many seeds are better than another arm's mean."""
        sign = 1 if higher_is_better else -1
        return sum(sign * (value - other.mean) > 0 for value in self.values)


@dataclass(frozen=True)
class RealRow:
    """One measure of one real case.

    Attributes:
        task, metric, case: As in the tables.
        values: Encoder and arm → mean over seeds.
    """

    task: str
    metric: str
    case: str
    values: dict[Column, float]


def tasks_of(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The tasks that were run, those of the study first and in its order."""
    found = dict.fromkeys(run.task for run in runs)
    return (*(str(task) for task in TaskId if task in found), *(task for task in found if task not in tuple(TaskId)))


def encoders_of(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The encoders that were fine-tuned."""
    found = dict.fromkeys(run.encoder for run in runs if run.arm in BOTH)
    return (*(name for name in ENCODERS if name in found), *(name for name in found if name not in ENCODERS))


def arm_values(runs: Iterable[RunRow], task: str) -> tuple[ArmValue, ...]:
    """Every arm of a task: both arms encoder by encoder, then what is specialised, then what is trivial."""
    rows: dict[Column, list[RunRow]] = defaultdict(list)
    for run in runs:
        if run.task == task:
            rows[run.encoder, run.arm].append(run)
    return tuple(
        ArmValue(
            encoder,
            arm,
            tuple(run.value for run in found if math.isfinite(run.value)),
            mean(run.steps_to_best for run in found),
            mean(run.device_seconds for run in found),
        )
        for (encoder, arm), found in sorted(rows.items(), key=lambda item: column_place(item[0]))
    )


def best_arm(values: Iterable[ArmValue], higher_is_better: bool) -> ArmValue | None:
    """The arm with the best mean; None where no arm has a number."""
    known = [value for value in values if value.values]
    return max(known, key=lambda value: value.mean if higher_is_better else -value.mean) if known else None


def trivial_arm(values: Iterable[ArmValue]) -> ArmValue | None:
    """The trivial baseline, where it has a number."""
    return next((value for value in values if value.arm == TRIVIAL and value.values), None)


def real_rows(metrics: Iterable[MetricRow]) -> tuple[RealRow, ...]:
    """The numbers of real cases, one row a case and measure, means over seeds."""
    values: dict[tuple[str, str, str], dict[Column, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in metrics:
        if row.data == REAL and row.case and math.isfinite(row.value):
            values[row.task, row.metric, row.case][row.encoder, row.arm].append(row.value)
    return tuple(
        RealRow(*key, {column: mean(found[column]) for column in sorted(found, key=column_place)})
        for key, found in values.items()
    )


def cases_better(rows: Sequence[RealRow], column: Column, higher_is_better: bool | None) -> tuple[int, int]:
    """On how many cases an arm is better than the trivial baseline, of how many that have both.

    Args:
        rows: Of one task and measure.
        column: Encoder and arm.
        higher_is_better: The measure's direction; where it has none, no case counts.
    """
    better, both = 0, 0
    if higher_is_better is None:
        return better, both
    for row in rows:
        trivial = next((value for (_, arm), value in row.values.items() if arm == TRIVIAL), None)
        if trivial is not None and column in row.values:
            both += 1
            better += (row.values[column] - trivial) * (1 if higher_is_better else -1) > 0
    return better, both


def total_device_hours(runs: Iterable[RunRow]) -> float:
    """Of all trainings and baselines together, without the pretrainings, which are no rows of the table."""
    return sum(run.device_seconds for run in runs) / HOUR_S


def mean(values: Iterable[float]) -> float:
    """Mean of some numbers; `nan` of none."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def column_place(column: Column) -> tuple[int, int, str]:
    """Both arms encoder by encoder, then what is specialised, then what is trivial."""
    encoder, arm = column
    if arm in BOTH:
        return (0, ENCODERS.index(encoder) if encoder in ENCODERS else len(ENCODERS), f"{encoder} {BOTH.index(arm)}")
    return (1 + ARMS.index(arm), 0, encoder)
