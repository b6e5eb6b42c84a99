"""A study's tables as a person reads them: every arm's values, what is missing, and the names and units of numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import TypeVar

from ..encoders import FAMILIES, pretrained_families
from ..evaluation.measures import ARM_TITLES, subject_title, unit_title
from ..tasks import TASKS
from ..tasks.image_to_image import ARBITRARY_UNIT, ImageTask, unit_of
from .config import RunKey, StudyConfig, label_of, planned_runs, split_arm
from .label_efficiency import EfficiencyRow
from .summary import BOTH, HOUR_S, LAYER, SummaryRow
from .tables import ARMS, MetricRow, RunRow, StudyTables

TASK_SPECIFIC, NAIVE = "specialised", "trivial"  # arms, as format 1 of the tables has them
REAL = "real"
Column = tuple[str, str]  # encoder, arm
T = TypeVar("T")


@dataclass(frozen=True)
class ArmValue:
    """One arm of a task: the primary measure by seed, where it is a number, and means over seeds."""

    encoder: str
    arm: str
    values: tuple[float, ...]
    steps_to_best: float
    device_seconds: float
    improving: int = 0  # seeds that were still improving where they ended, see `RunRow.is_improving`

    @property
    def mean(self) -> float:
        return mean(self.values)

    def better_than(self, other: ArmValue, higher_is_better: bool) -> int:
        """How many seeds are better than another arm's mean."""
        sign = 1 if higher_is_better else -1
        return sum(sign * (value - other.mean) > 0 for value in self.values)


@dataclass(frozen=True)
class RealRow:
    """One measure of one real case, mean over seeds."""

    task: str
    metric: str
    case: str
    values: dict[Column, float]


def tasks_of(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The tasks that were run, those of the study first and in its order."""
    found = dict.fromkeys(run.task for run in runs)
    return (*(task for task in TASKS if task in found), *(task for task in found if task not in TASKS))


def encoders_of(runs: Iterable[RunRow]) -> tuple[str, ...]:
    """The encoders that were fine-tuned, those of the library first and in its order."""
    found = dict.fromkeys(run.encoder for run in runs if run.arm in BOTH)
    known = [name for family in pretrained_families() for name in found if _is_of(name, family)]
    return (*known, *(name for name in found if name not in known))


def _is_of(label: str, family: str) -> bool:
    """Whether a `RunKey.label` is of a family."""
    return label == family or label.startswith(f"{family}-")


def arm_values(runs: Iterable[RunRow], task: str) -> tuple[ArmValue, ...]:
    """Every arm of a task, in the order of `column_place`."""
    rows: dict[Column, list[RunRow]] = defaultdict(list)
    for run in runs:
        if run.task == task:
            rows[run.encoder, run.arm].append(run)
    found = []
    for column in sorted(rows, key=column_place):
        values = tuple(run.value for run in rows[column] if math.isfinite(run.value))
        steps = mean(run.steps_to_best for run in rows[column])
        seconds, improving = mean(run.device_seconds for run in rows[column]), sum(r.is_improving for r in rows[column])
        found.append(ArmValue(*column, values, steps, seconds, improving))
    return tuple(found)


def best_arm(values: Iterable[ArmValue], higher_is_better: bool) -> ArmValue | None:
    """The arm with the best mean; None where no arm has a number."""
    known = [value for value in values if value.values]
    return max(known, key=lambda value: value.mean if higher_is_better else -value.mean) if known else None


def naive_arm(values: Iterable[ArmValue]) -> ArmValue | None:
    return next((value for value in values if value.arm == NAIVE and value.values), None)


def real_rows(metrics: Iterable[MetricRow]) -> tuple[RealRow, ...]:
    """The numbers of real cases, one row a case and measure, means over the seeds that have one."""
    values: dict[tuple[str, str, str], dict[Column, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in metrics:
        if row.data == REAL and row.case and math.isfinite(row.value):
            values[row.task, row.metric, row.case][row.encoder, row.arm].append(row.value)
    return tuple(
        RealRow(*key, {column: mean(found[column]) for column in sorted(found, key=column_place)})
        for key, found in values.items()
    )


def shared_cases(rows: Sequence[RealRow]) -> list[RealRow]:
    """Those of a measure in which every arm that has it somewhere has a value, so that their means can be compared."""
    arms = {column for row in rows for column in row.values}
    return [row for row in rows if arms <= row.values.keys()]


def cases_better(rows: Sequence[RealRow], column: Column, higher_is_better: bool | None) -> tuple[int, int]:
    """On how many cases an arm is better than the naive baseline, of how many that have both; 0 without a direction."""
    gains = []
    for row in rows if higher_is_better is not None else ():
        naive = next((value for (_, arm), value in row.values.items() if arm == NAIVE), None)
        if naive is not None and column in row.values:
            gains.append((row.values[column] - naive) * (1 if higher_is_better else -1))
    return sum(gain > 0 for gain in gains), len(gains)


def total_device_hours(runs: Iterable[RunRow]) -> float:
    """Of all trainings and baselines together, without the pretrainings, which are no rows of the table."""
    return sum(run.device_seconds for run in runs) / HOUR_S


def mean(values: Iterable[float]) -> float:
    """Mean of some numbers; `nan` of none."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def column_place(column: Column) -> tuple[int, int, str]:
    """Both arms encoder by encoder, then task-specific baselines, then the naive one."""
    encoder, arm = column
    arm, name = split_arm(arm)
    if arm in BOTH:
        known = pretrained_families()
        place = next((i for i, family in enumerate(known) if _is_of(encoder, family)), len(known))
        return (0, place, f"{encoder} {BOTH.index(arm)} {name}")
    return (1 + ARMS.index(arm), 0, encoder)


Training = tuple[str, str, str, int]  # encoder, task, arm, seed
FewLabels = tuple[str, str, str, int, int, str]  # the same, number of labeled cases, `trained_on`
_ANY = ""  # of task-specific baselines, where it is not known which were planned


@dataclass(frozen=True)
class Plan:
    """What a study should have.

    Attributes:
        trainings: Of both arms, by all cases.
        task_specific: Baseline, task and seed of each.
        naive, real: Tasks with a naive baseline, and with a number of a real case.
        few_labels: Trainings of both arms by few labeled cases.
    """

    trainings: tuple[Training, ...]
    task_specific: tuple[tuple[str, str, int], ...]
    naive: tuple[str, ...]
    real: tuple[str, ...]
    few_labels: tuple[FewLabels, ...] = ()


@dataclass(frozen=True)
class MissingRuns(Plan):
    """What of a plan is missing; of distances and curves the encoder and task."""

    distances: tuple[tuple[str, str], ...] = ()
    curves: tuple[tuple[str, str], ...] = ()

    @property
    def any(self) -> bool:
        return any(getattr(self, part.name) for part in fields(self))


def plan_of(config: StudyConfig) -> Plan:
    """What a configuration plans."""
    runs = planned_runs(config)
    both = [run for run in runs if split_arm(run.arm)[0] in BOTH]
    return Plan(
        tuple((run.encoder, run.task, run.arm, run.seed) for run in both if not run.labelled_cases),
        tuple((run.encoder, run.task, run.seed) for run in runs if run.arm == TASK_SPECIFIC),
        tuple(dict.fromkeys(run.task for run in runs if run.arm == NAIVE)),
        tuple(str(task) for task in config.tasks if config.real_of(task)),
        tuple(_few_labels(run) for run in both if run.labelled_cases),
    )


def _few_labels(run: RunKey | RunRow) -> FewLabels:
    return (run.encoder, run.task, run.arm, run.seed, run.labelled_cases, run.trained_on)


def whole_study(runs: Iterable[RunRow]) -> Plan:
    """Both encoders on all tasks with every seed that is found anywhere, and everything beside them."""
    seeds = sorted({run.seed for run in runs if run.arm in BOTH})
    tasks = tuple(TASKS)
    baselines = tuple((_ANY, task, 0) for task in tasks)
    return Plan(tuple(product(pretrained_families(), tasks, BOTH, seeds)), baselines, tasks, tasks)


def missing_runs(tables: StudyTables, plan: Plan) -> MissingRuns:
    """What of a plan is not in a study's tables, which are those of all sizes; a run without a value is there."""
    few_labels = {_few_labels(run) for run in tables.runs}
    tables = tables.of_size()
    runs = tables.runs
    done = {(run.encoder, run.task, run.arm, run.seed) for run in runs}
    compared = [run for run in runs if run.arm == TASK_SPECIFIC]
    baselines = {(run.encoder, run.task, run.seed) for run in compared} | {(_ANY, run.task, 0) for run in compared}
    naive = {run.task for run in runs if run.arm == NAIVE}
    real = {row.task for row in tables.metrics if row.data == REAL}
    moved = {(row.encoder, row.task) for row in tables.distances if row.layer == LAYER}
    learned = {(label_of(row.encoder, row.arm), row.task) for row in tables.curves}
    # From scratch there is no distance, and its curve stands beside those of the pretrainings.
    pretrained = [one for one in plan.trainings if split_arm(one[2])[0] == BOTH[0]] or plan.trainings
    pairs = dict.fromkeys((label_of(encoder, arm), task) for encoder, task, arm, _ in pretrained)
    return MissingRuns(
        _without(plan.trainings, done),
        _without(plan.task_specific, baselines),
        _without(plan.naive, naive),
        _without(plan.real, real),
        _without(plan.few_labels, few_labels),
        _without(pairs, moved),
        _without(pairs, learned),
    )


def _without(wanted: Iterable[T], found: Container[T]) -> tuple[T, ...]:
    return tuple(one for one in wanted if one not in found)


def encoder_title(name: str) -> str:
    """An encoder, or what stands in its column of other arms."""
    for family in FAMILIES.values():
        for task in TASKS.values():
            if name in (family.name, family.row_name(task)):
                return family.title if name == family.name else family.row_title(task)
        if family.pretext_tasks and name.startswith(f"{family.name}-"):  # one of several pretrainings
            return f"{family.title}, {name.removeprefix(f'{family.name}-')}"
    words = name.replace("-", " ").replace("adc", "ADC")
    return words[:1].upper() + words[1:]


def arm_title(arm: str) -> str:
    first, name = split_arm(arm)
    if name:
        return f"{arm_title(first)} ({name})"
    return {**ARM_TITLES, TASK_SPECIFIC: "Task-specific baseline", NAIVE: "Naive baseline"}.get(arm, arm)


def column_title(column: Column) -> str:
    return f"{encoder_title(column[0])}, {arm_title(column[1]).lower()}"


def task_title(task: str) -> str:
    return TASKS[task].title if task in TASKS else task


GLAND = "gland"


@dataclass(frozen=True)
class MetricName:
    """How a number is shown: unit, direction (None where neither is better), digits after the point."""

    title: str
    unit: str = ""
    higher_is_better: bool | None = True
    decimals: int = 3

    @property
    def with_unit(self) -> str:
        """Its title and unit, in letters that every terminal has."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def heading(self) -> str:
        """Its title, unit and direction."""
        unit = f", {unit_title(self.unit)}" if self.unit else ""
        direction = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.title}{unit}{direction}"

    def text(self, value: float) -> str:
        """A value without its unit."""
        if math.isnan(value):
            return "n/a"
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{round(value, self.decimals) + 0.0:.{self.decimals}f}"  # which has no negative zero


_KINDS = {
    "dice": MetricName("Dice"),
    "hd95_mm": MetricName("HD95", "mm", False, 2),
    "volume_error_ml": MetricName("Volume error", "ml", False, 2),
    "volume_in_vain_ml": MetricName("False-positive volume", "ml", False, 2),
    "lesions_missed": MetricName("Missed lesions", "", False, 2),
    "lesions_added": MetricName("False-positive lesions", "", False, 2),
    "average_precision": MetricName("Average precision"),
    "lesions": MetricName("Lesions present (ground truth)", "", None, 0),
    "auroc": MetricName("AUROC"),
    "quadratic_weighted_kappa": MetricName("Quadratic-weighted kappa"),
    "p_cspca": MetricName("P(csPCa)", "", None),
    "is_cspca": MetricName("csPCa present (ground truth)", "", None, 0),
    "ece": MetricName("Expected calibration error", "", False),
    "brier": MetricName("Brier score", "", False),
    "log_loss": MetricName("Log loss", "", False),
    "psnr_db": MetricName("PSNR", "dB", True, 2),
    "ssim": MetricName("SSIM"),
    "mae": MetricName("MAE", ARBITRARY_UNIT, False, 1),
    "displacement_mm": MetricName("Displacement error", "mm", False, 2),
}


def gain_decimals(percent: float, low: float, high: float) -> int:
    """How many decimals a gain and its interval are stated with: two where one would make a 0 of what is none."""
    return 2 if any(0 < abs(value) < 0.05 for value in (percent, low, high)) else 1


def gain_text(row: SummaryRow | EfficiencyRow) -> str:
    """A gain and its interval, as `+4.5 % (3.1 to 6.2)`; `n/a` where there is none."""
    percent, low, high = row.rpg_percent, row.rpg_low, row.rpg_high
    n = gain_decimals(percent, low, high)
    interval = "" if math.isnan(low) else f" ({low:.{n}f} to {high:.{n}f})"
    return "n/a" if math.isnan(percent) else f"{percent:+.{n}f} %{interval}"


def reached_text(row: SummaryRow | EfficiencyRow) -> str:
    """What the arm from scratch and the pretrained one reach, as `0.837 to 0.875`; `n/a` where it is not known."""
    name = metric_name(row.metric, row.task)
    known = math.isfinite(row.scratch) and math.isfinite(row.pretrained)
    return f"{name.text(row.scratch)} to {name.text(row.pretrained)}" if known else "n/a"


def metric_name(name: str, task: str) -> MetricName:
    """How a number of a task is shown; one that is not known keeps its name, without a direction."""
    kind, *words = name.split(" ")
    found, measured = _KINDS.get(kind, MetricName(kind, "", None)), TASKS.get(task)
    subjects = [word for word in words if word != GLAND]
    images = subjects or (measured.outputs if isinstance(measured, ImageTask) else ())
    unit = unit_of(images[0]) if kind == "mae" and images else found.unit
    parts = [found.title, *map(subject_title, subjects), *(["in the gland"] if GLAND in words else [])]
    return replace(found, title=", ".join(parts), unit=unit)
