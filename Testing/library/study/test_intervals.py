"""Statistics over drawn cases and seeds: that of average precision, whose candidates belong to their cases."""

import numpy as np
import pytest

from VFMTransferLib.metrics.detection import Candidate, Ranking, average_precision
from VFMTransferLib.study.intervals import RESAMPLES, Means, Precisions, gain_over_cases, mean_over_cases

CASES = 40


def some_candidates(seed: int, share_found: float) -> tuple[list[list[Candidate]], list[int]]:
    """Cases with one lesion or none and up to four candidates, some of equal confidence."""
    rng = np.random.default_rng(seed)
    candidates = []
    for i in range(CASES):
        own = [Candidate(round(float(rng.uniform(0, 0.6)), 1), False) for _ in range(rng.integers(4))]
        is_found = i % 2 > 0 and rng.random() < share_found
        candidates.append(own + [Candidate(round(float(rng.uniform(0.4, 1)), 1), True)] * is_found)
    return candidates, [i % 2 for i in range(CASES)]


def precision_by_hand(candidates, lesions, drawn) -> float:
    """Of drawn cases, lesion by lesion: the precision at each hit, of ties that of all of them."""
    ranked = sorted((c for i in drawn for c in candidates[i]), key=lambda c: -c.confidence)
    total = sum(lesions[i] for i in drawn)
    area = 0.0
    for hit in (c for c in ranked if c.is_hit):
        above = [c for c in ranked if c.confidence >= hit.confidence]
        area += sum(c.is_hit for c in above) / len(above) / total
    return area


def test_a_case_that_is_drawn_twice_counts_twice():
    candidates, lesions = some_candidates(0, 0.6)
    drawn = np.array([[3, 3, 7, 9, 20, 21, 21, 21, 30], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
    times = np.stack([np.bincount(row, minlength=CASES) for row in drawn]).astype(float)
    expected = [precision_by_hand(candidates, lesions, row) for row in drawn]
    assert Ranking(candidates, lesions).precision(times) == pytest.approx(expected)
    every = [c for own in candidates for c in own]
    assert average_precision(every, sum(lesions)) == pytest.approx(precision_by_hand(candidates, lesions, range(CASES)))


def test_draws_are_of_whole_cases_and_of_seeds():
    """Each draw by hand, over the boundary between parts that are computed together."""
    of_seeds = [some_candidates(seed, 0.5) for seed in range(3)]
    values = Precisions([Ranking(*one) for one in of_seeds])
    assert values.shape == (3, CASES)
    rng = np.random.default_rng(1)
    seeds, cases = rng.integers(3, size=(1200, 3, 1)), rng.integers(CASES, size=(1200, 1, CASES))
    found = values.statistic(seeds, cases)
    assert found.shape == (1200,)
    for i in (0, 499, 500, 1199):
        by_seed = [precision_by_hand(*of_seeds[s], cases[i, 0]) for s in seeds[i, :, 0]]
        assert found[i] == pytest.approx(np.mean(by_seed))


@pytest.mark.parametrize(("share_found", "is_certain"), [(0.3, False), (0.95, True)])
def test_an_interval_leaves_out_zero_where_an_arm_is_better(share_found, is_certain):
    scratch = Precisions([Ranking(*some_candidates(seed, 0.3)) for seed in range(3)])
    pretrained = Precisions([Ranking(*some_candidates(seed + 10, share_found)) for seed in range(3)])
    gain = gain_over_cases(pretrained, scratch, True)
    assert gain.low <= gain.percent <= gain.high
    assert (gain.low > 0) == is_certain
    same = gain_over_cases(scratch, scratch, True)
    assert (same.percent, same.low, same.high) == (0, 0, 0)  # both arms are drawn together


def test_an_interval_holds_its_statistic_and_narrows_with_more_cases():
    few, many = (Means(np.random.default_rng(0).normal(1, 0.2, (1, count))) for count in (10, 1000))
    for values in (few, many):
        mean, low, high = mean_over_cases(values)
        assert mean == pytest.approx(values.values.mean())
        assert low < mean < high
    spread = [np.subtract(*mean_over_cases(values)[:0:-1]) for values in (few, many)]
    assert spread[1] < spread[0] / 5
    assert RESAMPLES > 1000
