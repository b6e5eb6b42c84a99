"""Many cases: A against B, paired by case, with an interval of the mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .comparison import Comparison
from .measures import KINDS, Between, Measure

RESAMPLES = 9999
CONFIDENCE = 0.95
MIN_CASES = 2
# Resampling few cases seldom shows how much they vary; the bound is this project's own.
FEW_CASES = 10
FEW_NOTE = f"with fewer than {FEW_CASES} cases the bootstrap's intervals are too narrow"
_PAIRS = {Between.A_REFERENCE: Between.B_REFERENCE, Between.A: Between.B}


@dataclass(frozen=True)
class CohortRow:
    """One measure of a structure, output image or class over all cases.

    Attributes:
        between: `a-b` for agreement; `a-reference minus b-reference` and `a minus b` for pairs.
        cases: Number of cases that have a value.
        left_out: Number of cases whose value is undefined.
        mean_a: Of the agreement itself for `a-b`.
        mean_b: `nan` for `a-b`.
        mean: Of A minus B paired by case; of the agreement itself for `a-b`.
        low, high: Bootstrap interval of `mean`.
        higher_is_better: Direction against a reference; None where there is none.
        note: Why there is no interval, or what to keep in mind of it.
    """

    measure: str
    subject: str
    between: str
    cases: int
    left_out: int
    mean_a: float
    mean_b: float
    mean: float
    low: float
    high: float
    unit: str = ""
    higher_is_better: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Cohort:
    """Rows over a list of cases, and how their intervals were drawn."""

    case_ids: tuple[str, ...]
    rows: tuple[CohortRow, ...]
    seed: int
    confidence: float = CONFIDENCE


def compare_cohort(comparisons: Iterable[Comparison], seed: int = 0) -> Cohort:
    """Average comparisons, one a case; A minus B is paired by case. Undefined values are left out and counted.

    The interval is the percentile bootstrap over cases (`scipy.stats.bootstrap`, 9999 resamples). An iterator is read
    one by one, so that one case is in memory.

    Raises:
        ValueError: A case comes twice, or the comparisons are of different tasks.
    """
    case_ids: list[str] = []
    tasks = set()
    values: dict[tuple[str, str, Between], dict[str, Measure]] = defaultdict(dict)
    for comparison in comparisons:
        if comparison.case.id in case_ids:
            raise ValueError(f"Each case must come once, but '{comparison.case.id}' comes twice.")
        case_ids.append(comparison.case.id)
        tasks.add(comparison.a.task)
        for found in comparison.measures:
            values[found.kind, found.subject, found.between][comparison.case.id] = found
    if len(tasks) > 1:
        raise ValueError(f"All comparisons must be of one task, got {', '.join(sorted(tasks))}.")
    rows = []
    for (kind, subject, between), of_a in values.items():
        a = np.array([found.value for found in of_a.values()])
        if between is Between.A_B:
            shown, b, difference = str(between), np.full_like(a, np.nan), a
        elif between in _PAIRS and (kind, subject, _PAIRS[between]) in values:
            of_b = values[kind, subject, _PAIRS[between]]
            cases = [case for case in of_a if case in of_b]
            a, b = (np.array([found[case].value for case in cases]) for found in (of_a, of_b))
            with np.errstate(invalid="ignore"):  # infinity minus infinity: two exact arms have no difference to average
                shown, difference = f"{between} minus {_PAIRS[between]}", a - b
        else:
            continue
        kept = np.isfinite(difference)
        low, high, note = _interval(difference[kept], seed)
        row = CohortRow(
            measure=kind,
            subject=subject,
            between=shown,
            cases=int(kept.sum()),
            left_out=int((~kept).sum()),
            mean_a=_mean(a[kept]),
            mean_b=_mean(b[kept]),
            mean=_mean(difference[kept]),
            low=low,
            high=high,
            unit=next(iter(of_a.values())).unit,
            higher_is_better=None if between is Between.A else KINDS[kind].higher_is_better,
            note=note,
        )
        rows.append(row)
    return Cohort(tuple(case_ids), tuple(rows), seed)


def _interval(values: np.ndarray, seed: int) -> tuple[float, float, str]:
    if len(values) < MIN_CASES:
        return float("nan"), float("nan"), f"an interval needs {MIN_CASES} cases with a value"
    drawn = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=seed
    )
    note = FEW_NOTE if len(values) < FEW_CASES else ""
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high), note


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
