"""What pretraining hands to fine-tuning: encoders find their places in every network, heads stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL_CONVNEXT, SMALL_SPECS, small_network

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.weights import bundle_encoder_weights
from VFMTransferLib.core.errors import CheckpointError
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.weights import encoder_weights, load_encoder

SLICE_TASKS = [name for name in SMALL_SPECS if name.startswith("provicnet") and name != "provicnet-fusion"]
PLACES = {"provicnet-t2w": "", "provicnet-adc": "", "provicnet-hbv": "", "provicnet-anatomy": ""}


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return encoder_weights(small_network(name).state_dict(), SMALL_SPECS[name])


def bundle_of(name: str, folder: Path) -> Bundle:
    return write_bundle(Bundle(folder, name, name, "1.0.0", SMALL_SPECS[name]), small_network(name).state_dict())


@pytest.mark.parametrize("source", ["profound-classifier", "profound-encoder", "profound-restoration-adc-translation"])
def test_profounds_encoder_bears_its_own_names_whatever_the_head(source):
    assert set(weights_of(source)) == set(small_network("profound-encoder").state_dict())


@pytest.mark.parametrize("source", ["profound-classifier", "profound-encoder"])
def test_an_encoder_starts_from_other_weights_and_the_head_stays(source):
    spec = SMALL_SPECS["profound-upernet-lesion"]
    network = build_network(spec)
    head = network.decode_head.bottleneck.conv.weight.clone()
    load_encoder(network, spec, weights_of(source))
    given = weights_of(source)
    assert all(torch.equal(tensor, given[name]) for name, tensor in network.encoder.state_dict().items())
    assert torch.equal(network.decode_head.bottleneck.conv.weight, head)


@pytest.mark.parametrize("name", SLICE_TASKS)
def test_the_fusions_networks_feed_the_streams_of_each_task(name):
    spec, fusion = SMALL_SPECS[name], small_network("provicnet-fusion")
    network = build_network(spec)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_encoder(network, spec, weights_of("provicnet-fusion"))
    for sequence in spec.preprocess.sequences:
        place = network if name in PLACES else network.encoders[sequence]
        given = {"t2w": fusion.t2w, "adc": fusion.adc, "hbv": fusion.dwi}[sequence]
        for part in ("backbone.patch_embed.proj.weight", "axis_pos.weight", "axis_max.bias"):
            assert torch.equal(place.get_parameter(part), given.get_parameter(part)), (sequence, part)
    for key, tensor in network.state_dict().items():
        if key.startswith("head."):
            assert torch.equal(tensor, before[key]), key


def test_a_fusion_starts_from_a_fusion_and_keeps_its_heads():
    spec = SMALL_SPECS["provicnet-fusion"]
    network = build_network(spec)
    head = network.t2w.head.segmentation_conv[1].weight.clone()
    load_encoder(network, spec, weights_of("provicnet-fusion"))
    assert torch.equal(network.dwi.backbone.pos_embed, small_network("provicnet-fusion").dwi.backbone.pos_embed)
    assert torch.equal(network.t2w.head.segmentation_conv[1].weight, head)


def test_an_encoder_starts_from_a_bundle(tmp_path):
    spec = SMALL_SPECS["provicnet-anatomy"]
    network = build_network(spec)
    load_encoder(network, spec, bundle_encoder_weights(bundle_of("provicnet-t2w", tmp_path / "b")))
    assert torch.equal(network.axis_max.weight, small_network("provicnet-t2w").axis_max.weight)


def test_a_sequence_without_a_start_is_named():
    spec = SMALL_SPECS["provicnet-classifier"]
    with pytest.raises(CheckpointError, match="must have an encoder of adc, hbv for ProViCNet classifier"):
        load_encoder(build_network(spec), spec, weights_of("provicnet-t2w"))


def test_an_encoder_of_other_sizes_is_named():
    deeper = replace(SMALL_SPECS["profound-classifier"], encoder=replace(SMALL_CONVNEXT, depths=(1, 2, 2, 1)))
    with pytest.raises(CheckpointError, match=r"but they lack stages.1.1.dwconv.weight"):
        load_encoder(build_network(deeper), deeper, weights_of("profound-classifier"))


def test_an_encoder_of_the_other_family_is_refused():
    spec = SMALL_SPECS["profound-classifier"]
    with pytest.raises(CheckpointError, match="must have the network's encoder"):
        load_encoder(build_network(spec), spec, weights_of("provicnet-fusion"))
