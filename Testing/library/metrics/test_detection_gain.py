"""The gain in average precision that `benchmarks.detection_gain` prints, and its interval over cases."""

import re
from pathlib import Path

import numpy as np
import pytest

from VFMTransferLib.metrics.detection import Candidate, average_precision
from VFMTransferLib.tasks.base import CaseScore

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import detection_gain

    return detection_gain


def some_scores(seed: int, share_found: float, count: int = 40) -> list[CaseScore]:
    """Cases with one lesion or none and up to four candidates, some of equal confidence."""
    rng = np.random.default_rng(seed)
    scores = []
    for i in range(count):
        lesions = i % 2
        hit = lesions > 0 and rng.random() < share_found
        candidates = [Candidate(round(float(rng.uniform(0, 0.6)), 1), False) for _ in range(rng.integers(4))]
        candidates += [Candidate(round(float(rng.uniform(0.4, 1)), 1), True)] * hit
        scores.append(CaseScore(f"c{i}", {}, candidates=tuple(candidates), lesions=lesions))
    return scores


def test_a_case_that_is_drawn_twice_counts_twice(benchmark):
    scores, drawn = some_scores(0, 0.6), np.array([3, 3, 7, 9, 20, 21, 21, 21, 30])
    chosen = [scores[i] for i in drawn]
    expected = average_precision([c for s in chosen for c in s.candidates], sum(s.lesions for s in chosen))
    assert benchmark._Ranking(scores).precision([drawn]) == pytest.approx([expected])


@pytest.mark.parametrize(("found", "is_certain"), [(0.3, False), (0.95, True)])
def test_an_interval_leaves_out_zero_where_an_arm_is_better(benchmark, found, is_certain):
    pairs = [(some_scores(seed, 0.3), some_scores(seed + 10, found)) for seed in range(3)]
    low, high = map(float, re.search(r"over cases (\S+) to (\S+)\)$", benchmark._gain(pairs)).groups())
    assert low <= high
    assert (low > 0) == is_certain


def test_an_arm_that_marks_nothing_has_a_precision_of_0(benchmark):
    nothing = [CaseScore(f"c{i}", {}, candidates=(), lesions=i % 2) for i in range(40)]
    hits = [CaseScore(f"c{i}", {}, candidates=(Candidate(0.3, True),) * (i % 2), lesions=i % 2) for i in range(40)]
    assert benchmark._Ranking(nothing).precision([np.arange(40)]).tolist() == [0]
    assert benchmark._gain([(nothing, hits)]).startswith("scratch 0.000, pretrained 1.000, gain of the mean +1.000")
