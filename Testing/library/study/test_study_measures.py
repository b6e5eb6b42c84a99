"""What pretraining gave, on cases whose answer is known by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from VFMTransferLib.metrics.classification import auroc
from VFMTransferLib.study.distance import distance_to_pretraining, median_bandwidth, paired_mmd2
from VFMTransferLib.study.summary import (
    convergence_efficiency,
    gain_in_area,
    gain_over_cases,
    relative_performance_gain,
    savings,
    steps_to_reach,
)


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


@pytest.mark.parametrize(
    ("pretrained", "scratch", "higher", "percent"),
    [(0.9, 0.8, True, 12.5), (80.0, 100.0, False, 20.0), (0.7, 0.8, True, -12.5), (-1.0, -2.0, True, 50.0)],
)
def test_gain_counts_in_the_direction_of_the_metric(pretrained, scratch, higher, percent):
    assert relative_performance_gain(pretrained, scratch, higher) == pytest.approx(percent)


def test_nothing_is_relative_to_zero():
    with pytest.raises(ValueError, match="other than 0"):
        relative_performance_gain(0.5, 0.0, True)


def test_an_even_gain_has_no_width_and_an_uneven_one_has():
    scratch = np.array([[0.5, 0.6, 0.7, 0.8]] * 3)
    even = gain_over_cases(scratch * 1.1, scratch, True)
    assert (even.percent, even.low, even.high) == pytest.approx((10, 10, 10))
    uneven = gain_over_cases(scratch + np.array([0.2, 0, -0.1, 0.1]), scratch, True)
    assert uneven.low < 0 < uneven.high
    assert (uneven.n_cases, uneven.n_seeds) == (4, 3)


def test_seeds_that_disagree_widen_the_interval():
    scratch = np.full((3, 5), 0.5)
    alike = gain_over_cases(scratch + 0.05, scratch, True)
    unlike = gain_over_cases(scratch + np.array([[-0.05], [0.05], [0.15]]), scratch, True)
    assert alike.percent == pytest.approx(unlike.percent)
    assert unlike.high - unlike.low > alike.high - alike.low + 10


def test_areas_are_those_of_the_scores_by_pairs():
    rng = np.random.default_rng(0)
    scores, positives = rng.integers(0, 5, (3, 20)) / 4, rng.random(20) < 0.4  # with ties
    above = scores[:, positives][:, :, None] - scores[:, ~positives][:, None]
    by_pairs = ((above > 0) + 0.5 * (above == 0)).mean(axis=(1, 2))
    assert auroc(scores, positives) == pytest.approx(by_pairs)
    assert np.isnan(auroc(scores, np.ones(20, bool))).all()


def test_gain_in_area_is_that_of_the_means_with_an_interval_over_cases_and_seeds():
    rng = np.random.default_rng(0)
    positives = np.arange(40) < 20
    good, poor = (rng.normal(size=(3, 40)) + shift * positives for shift in (2.0, 0.5))
    gain = gain_in_area(good, poor, positives)
    means = [float(auroc(values, positives).mean()) for values in (good, poor)]
    assert gain.percent == pytest.approx(100 * (means[0] - means[1]) / means[1])
    assert 0 < gain.low < gain.percent < gain.high
    assert (gain.n_cases, gain.n_seeds) == (40, 3)
    same = gain_in_area(good, good, positives)
    assert (same.percent, same.low, same.high) == (0, 0, 0)  # both arms are drawn together
    with pytest.raises(ValueError, match="one value for each seed and case"):
        gain_in_area(good, poor, positives[:5])


def test_two_cases_give_a_gain_without_an_interval():
    found = gain_over_cases([[0.6, 0.8]], [[0.5, 0.7]], True)
    assert found.percent == pytest.approx(100 * 0.2 / 1.2)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_curve_reaches_a_value_between_its_points():
    assert steps_to_reach([0, 100, 200], [0.1, 0.5, 0.9], 0.7, True) == 150
    assert steps_to_reach([0, 100, 200], [9, 5, 1], 5, False) == 100
    assert steps_to_reach([10, 20], [0.9, 0.8], 0.5, True) == 10
    assert steps_to_reach([0, 100], [0.1, 0.5], 0.7, True) == math.inf


def test_convergence_is_the_share_of_steps_to_the_scratch_arms_best():
    scratch = ([0, 100, 200, 300], [0.1, 0.4, 0.8, 0.7])
    assert convergence_efficiency(([0, 100, 200], [0.2, 1.0, 1.1]), scratch, True) == pytest.approx(75 / 200)


def test_crossed_curves_count_the_first_crossing():
    scratch = ([0, 100, 200], [9.0, 4.0, 2.0])
    assert convergence_efficiency(([0, 100, 200], [9.0, 1.0, 5.0]), scratch, False) == pytest.approx(87.5 / 200)


def test_an_arm_that_never_gets_there_has_no_efficiency():
    scratch = ([0, 100], [0.1, 0.8])
    assert convergence_efficiency(([0, 100], [0.1, 0.7]), scratch, True) == math.inf
    with pytest.raises(ValueError, match="never reached"):
        savings(1.0, math.inf)


def test_savings_follow_their_formula():
    found = savings(scratch_device_hours=10, convergence=0.4, planned=5, price_per_device_hour=2.5)
    assert (found.device_hours_each, found.device_hours, found.money) == pytest.approx((6, 30, 75))
    assert savings(10, 1.5).device_hours == pytest.approx(-5)


@pytest.mark.parametrize(
    ("values", "higher"),
    [([0.0, 0.0, 0.0], True), ([0.5, 0.4, 0.5], True), ([210.0, 230.0, 210.0], False), ([0.5], True)],
)
def test_a_scratch_arm_that_never_got_better_has_no_convergence(values, higher):
    scratch = (np.arange(1, 1 + len(values)) * 60, np.array(values))
    assert math.isnan(convergence_efficiency(scratch, scratch, higher))


def test_where_lower_is_better_a_lower_value_is_a_gain_with_all_of_its_interval():
    scratch = np.array([[2.0, 4.0, 3.0], [2.0, 4.0, 3.0]])
    gain = gain_over_cases(scratch / 2, scratch, higher_is_better=False)
    assert (gain.percent, gain.low, gain.high) == pytest.approx((50.0, 50.0, 50.0))
