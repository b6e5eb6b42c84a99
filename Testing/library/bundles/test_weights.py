"""Weights come back from a file as the same network, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL_SPECS, inputs, small_network
from safetensors.torch import load_file

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.weights import load_network, read_weights
from VFMTransferLib.core.errors import BundleError


def bundle_of(name: str, folder: Path, half: bool = False) -> Bundle:
    bundle = Bundle(folder, name, name, "1.0.0", SMALL_SPECS[name])
    return write_bundle(bundle, small_network(name).state_dict(), half=half)


@pytest.mark.parametrize(
    "name", ["profound-classifier", "profound-upernet-anatomy", "provicnet-classifier", "provicnet-fusion"]
)
def test_a_bundle_gives_back_its_network(name, tmp_path):
    network = load_network(bundle_of(name, tmp_path / "b"))
    x = inputs(SMALL_SPECS[name], (16, 32, 48))
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(*x), small_network(name)(*x))


def test_a_loaded_network_can_be_trained(tmp_path):
    network = load_network(bundle_of("profound-unetr-lesion", tmp_path / "b")).train()
    network(*inputs(SMALL_SPECS["profound-unetr-lesion"], (16, 16, 32))).sum().backward()
    assert all(p.requires_grad for p in network.parameters())


def test_weights_of_another_network_are_named(tmp_path):
    bundle = bundle_of("profound-classifier", tmp_path / "b")
    with pytest.raises(BundleError, match=r"norm1\.weight"):
        load_network(replace(bundle, spec=SMALL_SPECS["profound-unetr-lesion"]))


@pytest.mark.parametrize(("half", "dtype"), [(False, torch.float32), (True, torch.float16)])
def test_weights_are_stored_as_wished_and_read_as_float32(half, dtype, tmp_path):
    path = bundle_of("provicnet-t2w", tmp_path / "b", half).weights_path
    stored, found = load_file(path), read_weights(path)
    assert stored["axis_pos.bias"].dtype == dtype
    assert stored["head.segmentation_conv.2.num_batches_tracked"].dtype == torch.int64
    for name, tensor in small_network("provicnet-t2w").state_dict().items():
        expected = tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        assert torch.equal(found[name], expected)


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (1e6, True)])
def test_weights_that_cannot_be_stored_leave_the_old_bundle(value, half, tmp_path):
    bundle = bundle_of("profound-classifier", tmp_path / "b")
    network = small_network("profound-classifier")
    network.head[0].bias.data[0] = value
    with pytest.raises(BundleError, match=r"head\.0\.bias.*finite"):
        write_bundle(bundle, network.state_dict(), half=half, overwrite=True)
    load_network(bundle)
    assert list(tmp_path.iterdir()) == [bundle.folder]
