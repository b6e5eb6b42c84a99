"""Features layer by layer: of the same windows each time, equal to plain sums, and moved only where weights moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from specs import ViTSpec
from study_examples import CELLS, FAMILIES, a_study, tiny_study_spec

from VFMTransferLib.core.placement import cut
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.provicnet.spec import encoder_prefixes
from VFMTransferLib.encoders.weights import encoder_weights, pretrained_network
from VFMTransferLib.inference.windows import infer
from VFMTransferLib.study.features import ENCODER, distance_rows, encoder_features, feature_cases, gland_shares

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


def test_provicnets_features_are_its_patch_tokens_averages_by_hand():
    """The fusion of three, walked through block by block; cls, registers and positions are no patches."""
    spec = a_spec("provicnet", "lesion-segmentation")
    network, case = a_network(spec), cases_of(spec)[0]
    depth = case.prepared.array.shape[1]
    found = encoder_features(network, spec, [case])
    streams = {Sequence.T2W: network.t2w, Sequence.ADC: network.adc, Sequence.HBV: network.dwi}
    by_layer = {}
    for z, y, x in case.starts:
        middle = min(max(z, 1), depth - 2)
        for channel, sequence in enumerate(spec.preprocess.sequences):
            window = torch.from_numpy(
                cut(case.prepared.array[channel : channel + 1, middle - 1 : middle + 2], (0, y, x), (3, 64, 64))
            )
            encoder = streams[sequence]
            extra = [encoder.axis_pos(torch.tensor([[float(z)]])), encoder.axis_max(torch.tensor([[float(depth)]]))]
            backbone = encoder.backbone
            patches = backbone.patch_embed(window) + backbone._patch_positions()
            cls = backbone.cls_token + backbone.pos_embed[:, :1]
            tokens = torch.cat([cls, backbone.register_tokens, torch.stack(extra, 1), patches], 1)
            for i, block in enumerate(backbone.blocks, start=1):
                tokens = block(tokens)
                by_layer.setdefault((f"block-{i}", sequence), []).append(tokens[0, -64:].mean(0))
            normalized = F.layer_norm(tokens, [16], backbone.norm.weight, backbone.norm.bias, backbone.norm.eps)
            by_layer.setdefault((ENCODER, sequence), []).append(normalized[0, -64:].mean(0))
    for layer, feature in found.items():
        parts = [torch.stack(by_layer[layer, sequence]).mean(0) for sequence in spec.preprocess.sequences]
        np.testing.assert_allclose(feature[0], torch.cat(parts).detach(), rtol=1e-4, atol=1e-5)


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
def test_looking_at_features_changes_nothing(family):
    spec = a_spec(family, "distortion-correction")
    network, case = a_network(spec), cases_of(spec)[0]
    inputs = [torch.from_numpy(array) for array in _inputs(case, spec)]
    with torch.inference_mode():
        plain = network(*inputs)
        encoder_features(network, spec, [case])
        assert torch.equal(network(*inputs), plain)
    assert not any(module._forward_hooks for module in network.modules())


def _inputs(case, spec):
    from VFMTransferLib.inference.windows import network_input

    return network_input(case.prepared, spec, case.starts[0])


def test_inference_feeds_the_network_what_features_are_taken_from():
    spec = a_spec("provicnet", "classification")
    case, seen = cases_of(spec)[0], []

    def run(*arrays):
        seen.append(arrays)
        return np.zeros((1, 4), np.float32)

    infer(run, case.prepared, spec)
    own = _inputs(case, spec)
    assert any(all(np.array_equal(a, b) for a, b in zip(own, arrays, strict=True)) for arrays in seen)


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


def test_of_a_gland_voxels_are_counted_window_by_window():
    task = "super-resolution"
    spec, study = a_spec("profound", task), a_study(task)
    case = cases_of(spec, (0,))[0]
    inside = study.gland.resample_to(case.prepared.geometry, "nearest").array > 0
    expected = [
        sum(
            inside[z, y, x]
            for z in range(max(a, 0), min(a + 16, inside.shape[0]))
            for y in range(max(b, 0), min(b + 32, inside.shape[1]))
            for x in range(max(c, 0), min(c + 48, inside.shape[2]))
        )
        for a, b, c in case.prepared.starts[:3]
    ]
    assert gland_shares(study.gland, case.prepared)[:3].tolist() == expected


def test_features_need_a_network_in_evaluation_mode():
    spec = a_spec("profound", "classification")
    with pytest.raises(ValueError, match="evaluation mode"):
        encoder_features(build_network(spec), spec, cases_of(spec, (0,)))


def test_distances_need_the_same_layers():
    features = {"encoder": np.eye(4)}
    with pytest.raises(ValueError, match="same layers"):
        distance_rows(features, {"stage-1": np.eye(4)}, "profound", "classification", 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretrained_network_has_the_given_encoders(family):
    spec = a_spec(family, "classification")
    weights = encoder_weights(a_network(spec, seed=7).state_dict(), spec)
    network = pretrained_network(spec, weights)
    assert not network.training
    assert all(
        torch.equal(tensor, weights[name]) for name, tensor in encoder_weights(network.state_dict(), spec).items()
    )
    if isinstance(spec.encoder, ViTSpec):
        assert list(encoder_prefixes(spec)) == list(spec.preprocess.sequences)
