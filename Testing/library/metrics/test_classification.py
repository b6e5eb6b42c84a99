"""Measures of class probabilities, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from VFMTransferLib.metrics.classification import auroc, quadratic_weighted_kappa


@pytest.mark.parametrize("seed", range(5))
def test_the_area_under_the_curve_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    scores, positives = rng.integers(0, 6, 40) / 5, rng.integers(0, 2, 40) > 0  # with ties
    assert float(auroc(scores, positives)) == pytest.approx(roc_auc_score(positives, scores))


def test_areas_of_many_draws_come_at_once():
    rng = np.random.default_rng(0)
    scores, positives = rng.integers(0, 9, 25) / 8, rng.integers(0, 2, 25) > 0  # with ties
    drawn = rng.integers(25, size=(6, 25))
    times = np.stack([np.bincount(row, minlength=25) for row in drawn]).astype(float)
    expected = [roc_auc_score(positives[row], scores[row]) for row in drawn]
    assert auroc(scores, positives, times) == pytest.approx(expected)


def test_cases_of_one_kind_have_no_area():
    assert np.isnan(auroc([0.1, 0.9], [True, True]))
    times = np.array([[1.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
    assert np.isnan(auroc([0.1, 0.9, 0.4], [True, False, True], times)).tolist() == [True, False]
    assert np.isnan(auroc([], []))


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(0, 4, 30).tolist(), rng.integers(0, 4, 30).tolist()
    expected = cohen_kappa_score(truth, found, labels=range(4), weights="quadratic")
    assert quadratic_weighted_kappa(truth, found, 4) == pytest.approx(expected)


def test_answers_of_one_class_have_no_kappa():
    assert np.isnan(quadratic_weighted_kappa([1, 1], [1, 1], 4))
