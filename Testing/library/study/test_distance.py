"""Distances of features: against second computations and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from VFMTransferLib.study.distance import distance_to_pretraining, median_bandwidth, paired_mmd2, unpaired_mmd2


def features(shift: float = 0.0, seed: int = 0, cases: int = 60, dimensions: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (cases, dimensions))


def population_mmd2(shift: float, bandwidth: float, dimensions: int) -> float:
    """Of two unit Gaussians `shift` apart along each axis: the kernel's expectation is again a Gaussian."""
    spread = 1 + 2 / bandwidth**2
    same = spread ** (-dimensions / 2)
    return 2 * same * (1 - math.exp(-dimensions * shift**2 / (2 * bandwidth**2 * spread)))


def by_loops(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    def k(a, b):
        return math.exp(-sum((a - b) ** 2) / (2 * bandwidth**2))

    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    return sum(k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs) / len(pairs)


def test_features_that_did_not_move_have_no_distance():
    found = distance_to_pretraining(features(), features())
    assert found.mmd2 == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1
    assert found.n_cases == 60


def test_the_distance_equals_a_plain_second_implementation():
    x, y = features(cases=7), features(0.5, seed=1, cases=7)
    assert paired_mmd2(x, y, 1.3) == pytest.approx(by_loops(x, y, 1.3), rel=1e-12)


def test_two_gaussians_are_as_far_apart_as_theory_says():
    x, y = features(cases=1500), features(1.0, seed=1, cases=1500)
    assert paired_mmd2(x, y, 1.5) == pytest.approx(population_mmd2(1.0, 1.5, 3), rel=0.05)


def test_the_estimate_is_unbiased_where_nothing_differs():
    drawn = [paired_mmd2(features(seed=2 * i, cases=10), features(seed=2 * i + 1, cases=10), 1.5) for i in range(400)]
    assert abs(np.mean(drawn)) < 3 * stats.sem(drawn)


def test_chance_is_told_from_a_move():
    assert distance_to_pretraining(features(), features(seed=1)).p_value > 0.05
    assert distance_to_pretraining(features(), features(1.0, seed=1)).p_value == 1 / 1000


def test_signs_do_what_exchanging_pairs_would():
    x, y = features(cases=6), features(0.4, seed=1, cases=6)
    bandwidth = median_bandwidth(x, y)
    found = distance_to_pretraining(x, y, permutations=4000)
    everything = []
    for code in range(2**6):
        swap = np.array([code >> i & 1 for i in range(6)], bool)[:, None]
        everything.append(paired_mmd2(np.where(swap, y, x), np.where(swap, x, y), bandwidth))
    exact = np.mean(np.array(everything) >= found.mmd2 - 1e-12)
    assert found.p_value == pytest.approx(exact, abs=0.03)


def test_bandwidth_is_the_median_distance_and_its_sensitivity_is_told():
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[7.0], [15.0], [31.0]])
    found = distance_to_pretraining(x, y)
    every = sorted(abs(a - b) for i, a in enumerate([0, 1, 3, 7, 15, 31]) for b in [0, 1, 3, 7, 15, 31][:i])
    assert found.bandwidth == every[7]
    assert found.low_bandwidth == pytest.approx(by_loops(x, y, found.bandwidth / 2))
    assert found.high_bandwidth == pytest.approx(by_loops(x, y, found.bandwidth * 2))


@pytest.mark.parametrize(
    ("before", "after"),
    [(features(cases=4), features(cases=5)), (features(cases=2), features(cases=2)), (features() * np.nan, features())],
)
def test_features_that_cannot_be_compared_are_refused(before, after):
    with pytest.raises(ValueError, match="must be"):
        distance_to_pretraining(before, after)


def test_the_unpaired_distance_is_the_sum_over_pairs_and_near_zero_for_alike_samples():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(4, 2)) + 1
    kernel = lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 0.7**2))  # noqa: E731
    within_x = sum(kernel(x[i], x[j]) for i in range(6) for j in range(6) if i != j) / 30
    within_y = sum(kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(kernel(a, b) for a in x for b in y) / 24
    assert unpaired_mmd2(x, y, 0.7) == pytest.approx(within_x + within_y - 2 * across)
    alike = [unpaired_mmd2(rng.normal(size=(40, 3)), rng.normal(size=(30, 3))) for _ in range(20)]
    assert abs(np.mean(alike)) < 0.01
    assert unpaired_mmd2(rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 2) > 0.3


def test_the_unpaired_distance_needs_the_same_dimensions():
    with pytest.raises(ValueError, match="same dimensions"):
        unpaired_mmd2(np.zeros((4, 2)), np.zeros((4, 3)))
