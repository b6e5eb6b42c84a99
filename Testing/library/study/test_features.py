"""Features layer by layer: of the same windows each time, equal to plain sums, and moved only where weights moved."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from study_examples import CELLS, FAMILIES, a_study, tiny_study_spec

from VFMTransferLib.core.placement import cut
from VFMTransferLib.encoders.weights import pretrained_network
from VFMTransferLib.study.features import (
    ENCODER,
    distance_rows,
    distance_to_pretraining,
    encoder_features,
    feature_cases,
    gland_shares,
    median_bandwidth,
    paired_mmd2,
)

SEEDS = (0, 1, 2)


def a_spec(family, task, depth=3):
    """Three blocks, so that there are layers to tell apart; strong enough that each says something."""
    spec = tiny_study_spec(family, task)
    return replace(spec, encoder=replace(spec.encoder, depth=depth)) if family == "provicnet" else spec


def a_network(spec, seed=0):
    network = pretrained_network(spec, None, seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma") and "ls" in name:
                parameter.fill_(0.5)  # a fresh block is nearly nothing
    return network


def cases_of(spec, seeds=SEEDS):
    return feature_cases([a_study(spec.task, seed) for seed in seeds], spec)


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_every_task_has_features_of_each_layer(family, task):
    spec = a_spec(family, task)
    found = encoder_features(a_network(spec), spec, cases_of(spec))
    if family == "profound":
        widths = dict(zip([f"stage-{i}" for i in range(1, 5)], spec.encoder.dims, strict=True))
        expected = {**widths, ENCODER: spec.encoder.dims[-1]}
    else:
        width = spec.encoder.dim * len(spec.preprocess.sequences)
        expected = dict.fromkeys(["block-1", "block-2", "block-3", ENCODER], width)
    assert {layer: feature.shape for layer, feature in found.items()} == {
        layer: (len(SEEDS), channels) for layer, channels in expected.items()
    }
    assert list(found) == list(expected)
    assert all(feature.std() > 0 for feature in found.values())


def test_profounds_features_are_its_maps_averages_by_hand():
    spec = a_spec("profound", "super-resolution")
    network, case = a_network(spec), cases_of(spec)[0]
    sums = {}
    for start in case.starts:
        x = torch.from_numpy(cut(case.prepared.array, start, case.prepared.patch)[None])
        for i in range(4):
            x = network.encoder.stages[i](network.encoder.downsample_layers[i](x))
            sums.setdefault(f"stage-{i + 1}", []).append(x[0].flatten(1).mean(1))
        mean, variance = sums["stage-4"][-1].mean(), sums["stage-4"][-1].var(correction=0)
        norm = network.encoder.norm
        normalized = (sums["stage-4"][-1] - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
        sums.setdefault(ENCODER, []).append(normalized)
    found = encoder_features(network, spec, [case])
    for layer, windows in sums.items():
        np.testing.assert_allclose(found[layer][0], torch.stack(windows).mean(0).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_that_stayed_has_no_distance(family):
    spec = a_spec(family, "adc-translation")
    found = [encoder_features(a_network(spec), spec, cases_of(spec)) for _ in range(2)]
    rows = distance_rows(*found, family, spec.task, seed=4)
    assert [row.layer for row in rows] == list(found[0])
    for row in rows:
        assert row.d2p == pytest.approx(0, abs=1e-12)
        assert (row.p_value, row.n_cases, row.seed, row.task) == (1.0, len(SEEDS), 4, "adc-translation")


@pytest.mark.parametrize(
    ("family", "part", "unmoved"),
    [
        ("profound", "encoder.stages.2", ["stage-1", "stage-2"]),
        ("provicnet", "encoders.t2w.backbone.blocks.1", ["block-1"]),
        ("provicnet", "encoders.t2w.backbone.norm", ["block-1", "block-2", "block-3"]),
    ],
)
def test_where_weights_moved_features_move_and_before_it_they_do_not(family, part, unmoved):
    spec = a_spec(family, "super-resolution")
    network, cases = a_network(spec), cases_of(spec)
    before = encoder_features(network, spec, cases)
    with torch.no_grad():
        for parameter in network.get_submodule(part).parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    after = encoder_features(network, spec, cases)
    rows = {row.layer: row.d2p for row in distance_rows(before, after, family, spec.task, 0)}
    for layer, d2p in rows.items():
        assert np.array_equal(before[layer], after[layer]) == (layer in unmoved)
        assert (d2p > 0.01) == (layer not in unmoved), layer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_windows_are_few_fixed_and_show_the_gland(family):
    task = "super-resolution"
    spec, study = a_spec(family, task), a_study(task)
    case, again = (feature_cases([study], spec, most_windows=2)[0] for _ in range(2))
    assert case.starts == again.starts
    assert 1 <= len(case.starts) <= 2
    voxels = dict(zip(case.prepared.starts, gland_shares(study.gland, case.prepared), strict=True))
    assert all(voxels[start] >= max(voxels.values()) / 2 for start in case.starts)
    nowhere = feature_cases([replace(study, gland=None)], spec)[0] if family == "profound" else None
    assert nowhere is None or set(nowhere.starts) <= set(nowhere.prepared.starts)


def a_sample(shift: float = 0.0, seed: int = 0, cases: int = 60, dimensions: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (cases, dimensions))


def by_loops(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    def k(a, b):
        return math.exp(-sum((a - b) ** 2) / (2 * bandwidth**2))

    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    return sum(k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs) / len(pairs)


def test_the_distance_equals_a_plain_second_implementation():
    x, y = a_sample(cases=7), a_sample(0.5, seed=1, cases=7)
    assert paired_mmd2(x, y, 1.3) == pytest.approx(by_loops(x, y, 1.3), rel=1e-12)


def test_the_estimate_is_unbiased_where_nothing_differs():
    drawn = [paired_mmd2(a_sample(seed=2 * i, cases=10), a_sample(seed=2 * i + 1, cases=10), 1.5) for i in range(400)]
    assert abs(np.mean(drawn)) < 3 * stats.sem(drawn)


def test_chance_is_told_from_a_move():
    assert distance_to_pretraining(a_sample(), a_sample(seed=1)).p_value > 0.05
    assert distance_to_pretraining(a_sample(), a_sample(1.0, seed=1)).p_value == 1 / 1000


def test_signs_do_what_exchanging_pairs_would():
    x, y = a_sample(cases=6), a_sample(0.4, seed=1, cases=6)
    bandwidth = median_bandwidth(x, y)
    found = distance_to_pretraining(x, y, permutations=4000)
    everything = []
    for code in range(2**6):
        swap = np.array([code >> i & 1 for i in range(6)], bool)[:, None]
        everything.append(paired_mmd2(np.where(swap, y, x), np.where(swap, x, y), bandwidth))
    exact = np.mean(np.array(everything) >= found.mmd2 - 1e-12)
    assert found.p_value == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(
    ("before", "after"),
    [(a_sample(cases=4), a_sample(cases=5)), (a_sample(cases=2), a_sample(cases=2)), (a_sample() * np.nan, a_sample())],
)
def test_features_that_cannot_be_compared_are_refused(before, after):
    with pytest.raises(ValueError, match="must be"):
        distance_to_pretraining(before, after)
