"""What a pretraining gains with few labeled cases, and how many of them it replaces; from the tables alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from .config import PHANTOMS, REAL
from .summary import PRECISION, gain_of_arms, means_of_arms, paired_runs, values_of_arms
from .tables import RunRow, StudyTables, write_rows

EFFICIENCY = "label_efficiency.csv"


@dataclass(frozen=True)
class EfficiencyRow:
    """Both arms of one encoder and task at one number of labeled cases; what cannot be computed is `nan`.

    Where lesions were measured by Dice, as they were before, there are two: of it, and of the average precision.

    Attributes:
        encoder: Its `RunKey.label`, which also names the pretraining where there are several.
        trained_on: `phantoms`, tested on the study's, or `real`, each tested where it was left out.
        pretrained, scratch: The metric over test cases and the seeds that both arms have, with its 95 % interval over
            cases and seeds.
        rpg_percent: Relative performance gain with its interval.
        replaced_cases: How many labeled cases the pretraining replaces, see `replaced_cases`; by the seeds that all
            sizes have.
        n_cases, n_seeds: What the intervals rest on.
    """

    encoder: str
    task: str
    trained_on: str
    labelled_cases: int
    metric: str
    pretrained: float
    pretrained_low: float
    pretrained_high: float
    scratch: float
    scratch_low: float
    scratch_high: float
    rpg_percent: float
    rpg_low: float
    rpg_high: float
    replaced_cases: float
    n_cases: int
    n_seeds: int


def label_efficiency(
    tables: StudyTables, all_cases: Mapping[str, int] | None = None, seed: int = 0
) -> tuple[EfficiencyRow, ...]:
    """A row for each encoder, task, metric and size that both arms were trained with, smallest first; none without
    sizes.

    Args:
        all_cases: Task → how many phantoms train its other runs, which then are the largest size. Where it is not
            known, how many cases are replaced is not either, but for those that fewer reach.
    """
    sizes = {(run.trained_on, run.labelled_cases) for run in tables.runs if run.labelled_cases}
    found: dict[tuple[str, str, str, str], dict[int, tuple[list[RunRow], StudyTables]]] = defaultdict(dict)
    unknown: set[tuple[str, str]] = set()  # whose runs with all phantoms have no known size
    for trained_on, size in sorted(sizes) + [("", 0)] * bool(sizes):
        part = tables.of_size(size, trained_on).by_pretraining()
        runs: dict[tuple[str, str], list[RunRow]] = defaultdict(list)
        for run in part.runs:
            runs[run.encoder, run.task].append(run)
        for (encoder, task), own in runs.items():
            number, source = (size, trained_on) if size else ((all_cases or {}).get(task, 0), PHANTOMS)
            paired = paired_runs(own)
            if paired and not number:
                unknown.add((encoder, task))
            if number and paired:
                for measured in (paired, *_by_precision(paired, part)):
                    found[encoder, task, source, measured[0].metric][number] = (measured, part)
    rows = []
    for (encoder, task, source, metric), by_size in found.items():
        if all(run.labelled_cases == 0 for own, _ in by_size.values() for run in own):
            continue
        means, gains = {}, {}
        for size, (own, part) in sorted(by_size.items()):
            arms = values_of_arms(own, part)
            means[size], gains[size] = means_of_arms(own, arms, seed), gain_of_arms(own, arms, seed)
        # Of patients each seed tests others, so that sizes are compared by the seeds that all of them have.
        seeds = set.intersection(*({run.seed for run in own} for own, _ in by_size.values()))
        compared = {}
        for size, (own, part) in by_size.items():
            shared = [run for run in own if run.seed in seeds]
            if shared:
                compared[size] = (
                    means[size] if shared == own else means_of_arms(shared, values_of_arms(shared, part), seed)
                )
        scratch = {size: reached["scratch"][0] for size, reached in compared.items()}
        for size, reached in means.items():
            own, gain, replaced = by_size[size][0], gains[size], math.nan
            if compared:
                replaced = replaced_cases(size, compared[size]["pretrained"][0], scratch, own[0].higher_is_better)
                if source == PHANTOMS and (encoder, task) in unknown and replaced == math.inf:
                    replaced = math.nan
            values = (*reached["pretrained"], *reached["scratch"], gain.percent, gain.low, gain.high, replaced)
            rows.append(EfficiencyRow(encoder, task, source, size, metric, *values, gain.n_cases, gain.n_seeds))
    order = {source: place for place, source in enumerate((PHANTOMS, REAL))}

    def place(row: EfficiencyRow) -> tuple[object, ...]:
        return order[row.trained_on], row.task, row.encoder, row.metric == PRECISION, row.labelled_cases

    return tuple(sorted(rows, key=place))


def _by_precision(runs: Sequence[RunRow], tables: StudyTables) -> list[list[RunRow]]:
    """The same runs by the average precision of lesions, where the candidates of all of their cases are known."""
    found = [replace(run, metric=PRECISION, higher_is_better=True, value=math.nan) for run in runs]
    is_known = runs[0].metric != PRECISION and all(values_of_arms(found, tables).values())
    return [found] if is_known else []


def replaced_cases(size: int, value: float, scratch: Mapping[int, float], higher_is_better: bool) -> float:
    """How many labeled cases a pretraining replaces at a size; the definition is ours.

    The number from which the arm from scratch reaches what the pretrained one reaches with `size`, minus `size`: linear
    between sizes on a logarithmic scale, and the first time that it does. Below 0 where fewer do from scratch; `inf`
    where it never gets there; `nan` where a value is missing, or the smallest size does better already.

    Args:
        value: What the pretrained arm reaches.
        scratch: Size → what the arm from scratch reaches.
    """
    if not all(math.isfinite(number) for number in (value, *scratch.values())):
        return math.nan
    sign = 1.0 if higher_is_better else -1.0
    points = [(math.log2(number), sign * (reached - value)) for number, reached in sorted(scratch.items())]
    if points[0][1] >= 0:  # how few would do is not known, unless it is as many to the digit
        return 2 ** points[0][0] - size if points[0][1] == 0 else math.nan
    for (first, below), (second, above) in pairwise(points):
        if above >= 0:
            return float(2 ** (first - below / (above - below) * (second - first)) - size)
    return math.inf


def write_label_efficiency(rows: Iterable[EfficiencyRow], folder: Path) -> Path:
    """Write `label_efficiency.csv`; OutputError if the folder cannot be written."""
    path = folder / EFFICIENCY
    write_rows(path, EfficiencyRow, rows)
    return path
