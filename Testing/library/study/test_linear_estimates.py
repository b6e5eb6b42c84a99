"""LogME and the linear probe: against second computations and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from VFMTransferLib.study.estimators import (
    bhattacharyya_separation,
    explained_share,
    log_maximum_evidence,
    quartiles,
)


def a_sample(samples=90, channels=7, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(samples, channels)) @ rng.normal(size=(channels, channels)) + 3
    target = features @ rng.normal(size=channels) + noise * rng.normal(size=samples) - 2
    return features, target


def without_mean(features, target):
    """Standardized, in a basis of what is orthogonal to the mean: one sample less."""
    x = (features - features.mean(0)) / features.std(0)
    y = (target - target.mean()) / target.std()
    basis = np.linalg.qr(np.column_stack([np.ones(len(y)), np.eye(len(y))[:, 1:]]))[0][:, 1:]
    return basis.T @ x, basis.T @ y


def directly(features, target):
    """log N(y; 0, F F'/α + 1/β), maximized by a general optimizer from several starts."""
    x, y = without_mean(features, target)

    def negative(logs):
        alpha, beta = np.exp(logs)
        covariance = x @ x.T / alpha + np.eye(len(y)) / beta
        return -stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) / len(y)

    starts = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0), (8.0, 0.0)]
    options = {"xatol": 1e-6, "fatol": 1e-10}
    return -min(optimize.minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)


def by_the_papers_fixed_point(features, target):
    """The paper's algorithm 1 and equation 2, with matrices instead of their decomposition."""
    f, y = without_mean(features, target)
    (n, d), alpha, beta = f.shape, 1.0, 1.0
    for _ in range(500):
        a = alpha * np.eye(d) + beta * f.T @ f
        m = beta * np.linalg.solve(a, f.T @ y)
        eigenvalues = beta * np.linalg.eigvalsh(f.T @ f)
        gamma = (eigenvalues / (alpha + eigenvalues)).sum()
        alpha, beta = gamma / (m @ m), (n - gamma) / ((f @ m - y) @ (f @ m - y))
    a = alpha * np.eye(d) + beta * f.T @ f
    m = beta * np.linalg.solve(a, f.T @ y)
    quadratic = beta / 2 * ((f @ m - y) @ (f @ m - y)) + alpha / 2 * (m @ m)
    logs = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi) - np.linalg.slogdet(a)[1] / 2
    return (logs - quadratic) / n


@pytest.mark.parametrize(("samples", "channels", "noise"), [(90, 7, 0.5), (60, 3, 3.0)])
def test_logme_is_where_the_papers_fixed_point_ends(samples, channels, noise):
    features, target = a_sample(samples, channels, noise)
    assert log_maximum_evidence(features, target) == pytest.approx(
        by_the_papers_fixed_point(features, target), abs=1e-6
    )


@pytest.mark.parametrize(("samples", "channels", "noise"), [(90, 7, 0.5), (60, 3, 5.0), (25, 40, 1.0)])
def test_logme_is_the_evidence_at_its_maximum(samples, channels, noise):
    """Also with more channels than samples."""
    features, target = a_sample(samples, channels, noise)
    assert log_maximum_evidence(features, target) == pytest.approx(directly(features, target), abs=1e-4)


def test_logme_prefers_features_that_hold_the_target():
    features, target = a_sample()
    noise = np.random.default_rng(5).normal(size=features.shape)
    assert log_maximum_evidence(features, target) > log_maximum_evidence(noise, target) + 1
    # Noise explains nothing: all that is left is a normal distribution of deviation 1.
    assert log_maximum_evidence(noise, target) == pytest.approx(-0.5 * np.log(2 * np.pi) - 0.5, abs=0.05)


def test_logme_does_not_depend_on_units_and_means_over_targets():
    features, target = a_sample()
    other = features[:, 0] ** 2
    plain = log_maximum_evidence(features, target)
    assert log_maximum_evidence(features * 7 + 1, target * 100) == pytest.approx(plain)
    both = log_maximum_evidence(features, np.stack([target, other], axis=1))
    assert both == pytest.approx((plain + log_maximum_evidence(features, other)) / 2)


def test_a_constant_column_says_nothing_however_large():
    features, target = a_sample()
    more = np.column_stack([np.full(len(target), 1e6), features])
    assert log_maximum_evidence(more, target) == pytest.approx(log_maximum_evidence(features, target))
    cases = np.arange(len(target)) // 9
    assert explained_share(more, target, cases) == pytest.approx(explained_share(features, target, cases))
    assert np.isfinite(log_maximum_evidence(np.zeros_like(features), target))


def test_logme_needs_the_same_samples():
    with pytest.raises(ValueError, match="same three or more samples"):
        log_maximum_evidence(np.zeros((4, 2)), np.zeros(3))


def test_the_probe_finds_what_the_features_hold_and_nothing_else():
    features, target = a_sample(noise=0.0)
    cases = np.arange(len(target)) // 9
    noise = np.random.default_rng(5).normal(size=features.shape)
    assert explained_share(features, target, cases) > 0.99
    assert -0.2 < explained_share(noise, target, cases) < 0.1
    assert explained_share(features, np.full(len(target), 3.0), cases) == 0.0


def test_the_probe_is_tried_on_cases_it_has_not_seen():
    """Features that tell cases apart, and a target that belongs to the case: seen cases would be known by heart."""
    rng = np.random.default_rng(1)
    cases = np.repeat(np.arange(10), 8)
    features = np.eye(10)[cases]
    target = rng.normal(size=10)[cases]
    assert explained_share(features, target, cases) < 0.05
    anywhere = np.arange(80)  # as if each sample were a case of its own
    assert explained_share(features, target, anywhere) > 0.95


def test_the_probe_is_ridge_regression_with_the_penalty_of_generalized_cross_validation():
    features, target = a_sample(samples=40, channels=5, noise=4.0)
    cases = np.arange(40) % 4
    predicted = np.empty(40)
    for case in range(4):
        own, out = cases != case, cases == case
        mean, deviation = features[own].mean(0), features[own].std(0)
        x, y = (features[own] - mean) / deviation, target[own] - target[own].mean()

        def hat(penalty, x=x):
            return x @ np.linalg.solve(x.T @ x + penalty * np.eye(5), x.T)

        def criterion(penalty, y=y, hat=hat):
            return ((y - hat(penalty) @ y) ** 2).sum() / (len(y) - 1 - np.trace(hat(penalty))) ** 2

        best = min(np.logspace(-3, 5, 25), key=criterion)
        weights = np.linalg.solve(x.T @ x + best * np.eye(5), x.T @ y)
        predicted[out] = target[own].mean() + (features[out] - mean) / deviation @ weights
    expected = 1 - ((target - predicted) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert explained_share(features, target, cases) == pytest.approx(expected)


def test_the_probe_needs_two_cases():
    with pytest.raises(ValueError, match="two or more cases"):
        explained_share(np.zeros((4, 2)), np.arange(4.0), np.zeros(4))


def test_gbc_of_two_classes_by_hand():
    """Means ten apart, variances 1 and 4: distance 100 / (8 * 2.5) + ln(2.5 / 2) / 2, and each pair counts twice."""
    features = np.array([[0.0], [2.0], [9.0], [13.0]])
    expected = -2 * np.exp(-(100 / 20 + 0.5 * np.log(2.5 / 2)))
    assert bhattacharyya_separation(features, np.array([0, 0, 1, 1])) == pytest.approx(expected)
    assert bhattacharyya_separation(1000 * features - 7, np.array([0, 0, 1, 1])) == pytest.approx(expected)


def test_gbc_prefers_classes_that_lie_apart_and_needs_two():
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=90)
    noise = rng.normal(size=(90, 70))
    apart = noise + 0.5 * classes[:, None]
    assert bhattacharyya_separation(apart, classes) > bhattacharyya_separation(noise, classes)
    assert np.isnan(bhattacharyya_separation(noise, np.zeros(90, int)))
    assert np.isnan(bhattacharyya_separation(noise[:3], np.array([0, 0, 1])))  # a single sample has no spread


def test_a_target_becomes_its_values_or_its_quarters():
    assert quartiles(np.array([2.0, 0.0, 2.0, 3.0])).tolist() == [1, 0, 1, 2]
    assert quartiles(np.arange(8.0)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    mostly_zero = np.array([0.0] * 90 + list(np.linspace(0.1, 1, 10)))
    assert len(set(quartiles(mostly_zero))) == 2
    assert len(set(quartiles(1 - mostly_zero))) == 2
