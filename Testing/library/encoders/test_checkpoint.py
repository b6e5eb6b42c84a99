"""The authors' files, made up in their layouts: what is read, what it is, and what is refused."""

from __future__ import annotations

import argparse
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL_SPECS, noise, small, small_network, with_made_up_weights
from specs import PROFOUND_ENCODER
from torch import Tensor

from VFMTransferLib.core.errors import CheckpointError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.encoders.checkpoint import identify, read_checkpoint, read_network, sequence_of_name
from VFMTransferLib.encoders.weights import empty_network

PROFOUND = ["profound-classifier", "profound-upernet-lesion", "profound-upernet-anatomy", "profound-unetr-lesion"]
PARTS = {"t2w": "T2_best.pth", "adc": "ADC_best.pth", "dwi": "DWI_best.pth", "fusion": "mpMRI_Fusion_best.pth"}


def tensors(spec: ModelSpec) -> dict[str, Tensor]:
    return with_made_up_weights(build_network(spec)).state_dict()


def container(path: Path, state: dict, **others: object) -> Path:
    """A file of ProFound: weights, optimizer and arguments."""
    content = {"model": state, "optimizer": {"state": {0: torch.ones(3)}}, "epoch": 7, "scaler": {"scale": 65536.0}}
    torch.save({**content, "args": argparse.Namespace(lr=1e-3, device="cuda"), **others}, path)
    return path


def provicnet_file(path: Path, state: dict) -> Path:
    """A file of ProViCNet: bare, with the contrastive head in its old-style weight norm."""
    contrastive = {"CL_Head.mlp.0.weight": torch.ones(3, 2), "CL_Head.last_layer.weight_g": torch.ones(5, 1)}
    torch.save({**contrastive, "CL_Head.last_layer.weight_v": torch.ones(5, 3), **state}, path)
    return path


@pytest.fixture
def four_files(tmp_path) -> dict[str, Path]:
    """T2, ADC, DWI and fusion, each with weights of its own."""
    state = tensors(SMALL_SPECS["provicnet-fusion"])
    files = {part: tmp_path / name for part, name in PARTS.items()}
    for part, path in files.items():
        content = {n.removeprefix(f"{part}."): t for n, t in state.items() if n.startswith(f"{part}.")}
        if part == "fusion":
            torch.save(content, path)
        else:
            provicnet_file(path, content)
    return files


@pytest.mark.parametrize("name", PROFOUND)
def test_a_profound_file_is_recognized_with_its_sizes(name, tmp_path):
    state = tensors(SMALL_SPECS[name])
    spec, found = read_network([container(tmp_path / "any_name.pth.tar", state)])
    assert spec == SMALL_SPECS[name]
    assert found.keys() == state.keys()
    assert all(torch.equal(found[n], state[n]) for n in state)


@pytest.mark.parametrize(
    ("file_name", "row"),
    [("T2_best.pth", "provicnet-t2w"), ("ADC_best.pth", "provicnet-adc"), ("DWI_best.pth", "provicnet-hbv")],
)
def test_a_provicnet_file_is_recognized_and_its_training_head_left_out(file_name, row, tmp_path):
    state = tensors(SMALL_SPECS[row])
    spec, found = read_network([provicnet_file(tmp_path / file_name, state)])
    assert spec == SMALL_SPECS[row]
    assert found.keys() == state.keys()


def test_the_sequence_may_be_stated_where_the_name_is_silent(tmp_path):
    path = provicnet_file(tmp_path / "renamed.pth", tensors(SMALL_SPECS["provicnet-adc"]))
    assert read_network([path], Sequence.ADC)[0].name == "provicnet-adc"
    with pytest.raises(CheckpointError, match="State the sequence: t2w, hbv, adc"):
        read_network([path])


def test_a_stated_sequence_that_contradicts_the_name_is_refused(tmp_path, four_files):
    path = provicnet_file(tmp_path / "T2_best.pth", tensors(SMALL_SPECS["provicnet-t2w"]))
    assert read_network([path], Sequence.T2W)[0].name == "provicnet-t2w"
    with pytest.raises(CheckpointError, match="t2w by its name"):
        read_network([path], Sequence.ADC)
    with pytest.raises(CheckpointError, match="no sequence"):
        read_network(four_files.values(), Sequence.ADC)


@pytest.mark.parametrize(
    ("name", "sequence"),
    [("T2_best.pth", "t2w"), ("my-DWI.v2.pth", "hbv"), ("adc_vs_t2.pth", None), ("mpMRI_Fusion_best.pth", None)],
)
def test_a_name_states_one_sequence_or_none(name, sequence):
    assert sequence_of_name(Path(name)) == sequence


def test_the_streams_take_the_networks_own_heads_as_the_authors_program_does(four_files):
    spec, state = read_network(four_files.values())
    assert spec == SMALL_SPECS["provicnet-fusion"]
    assert torch.equal(state["fusion.Stream_ADC.UpsampleModule.1.bias"], state["adc.head.segmentation_conv.1.bias"])
    own = torch.load(four_files["fusion"], weights_only=True)
    assert torch.equal(state["fusion.FusionSegmentation.1.weight"], own["FusionSegmentation.1.weight"])
    # The same by hand: three networks, the head loaded, then each stream's first block exchanged.
    network = build_network(spec).eval()
    network.load_state_dict(state, strict=True)
    by_hand = build_network(spec).eval()
    for part, path in four_files.items():
        content = {n: t for n, t in torch.load(path, weights_only=True).items() if not n.startswith("CL_Head")}
        getattr(by_hand, part).load_state_dict(content, strict=True)
    for stream, source in (("T2W", by_hand.t2w), ("ADC", by_hand.adc), ("DWI", by_hand.dwi)):
        target = getattr(by_hand.fusion, f"Stream_{stream}").UpsampleModule
        for layer in (1, 2):
            target[layer].load_state_dict(source.head.segmentation_conv[layer].state_dict())
    images = [noise((1, 3, 64, 64), seed) for seed in range(3)]
    with torch.no_grad():
        positions = torch.tensor([[2.0, 9.0]])
        torch.testing.assert_close(network(*images, positions), by_hand(*images, positions))


def test_the_fusion_files_own_streams_can_be_kept(four_files):
    _, state = read_network(four_files.values(), own_streams=True)
    own = torch.load(four_files["fusion"], weights_only=True)
    assert all(torch.equal(state[f"fusion.{name}"], tensor) for name, tensor in own.items())


def test_the_fusion_head_alone_is_no_network(four_files):
    with pytest.raises(CheckpointError, match="fusion head alone"):
        read_network([four_files["fusion"]])


@pytest.mark.parametrize("left_out", PARTS)
def test_three_of_the_four_files_are_not_enough(four_files, left_out):
    with pytest.raises(CheckpointError, match="one file each for T2, ADC and DWI"):
        read_network([path for part, path in four_files.items() if part != left_out])


def test_two_files_of_one_sequence_are_not_two_sequences(four_files, tmp_path):
    again = four_files["t2w"].rename(tmp_path / "ADC_again.pth")
    with pytest.raises(CheckpointError, match=r"ADC_again\.pth"):
        read_network([again, four_files["adc"], four_files["dwi"], four_files["fusion"]])


@pytest.mark.parametrize(
    ("name", "channels", "labels"),
    [
        ("profound-classifier", 2, ("class-1", "class-2")),
        ("profound-upernet-lesion", 3, ("background", "structure-1", "structure-2")),
        ("profound-unetr-lesion", 2, ("background", "structure-1")),
    ],
)
def test_unknown_output_channels_get_neutral_labels(name, channels, labels):
    spec = SMALL_SPECS[name]
    spec = replace(spec, head=replace(spec.head, out_channels=channels))
    found = identify(tensors(spec))
    assert (found.labels, found.activation, found.head) == (labels, "softmax", spec.head)
    assert found.task == ("classification" if "classifier" in name else "anatomy-segmentation")


def sparse_layout(dense: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pre-training file's tensors from an encoder's, place by place in each kernel."""
    sparse = {"mask_token": torch.zeros(1, 4, 1, 1, 1), "proj.weight": torch.ones(4, 20, 1, 1, 1)}
    sparse |= {"decoder.0.dwconv.weight": torch.ones(4, 1, 7, 7, 7), "pred.bias": torch.ones(6)}
    for name, tensor in dense.items():
        module, leaf = name.rsplit(".", 1)
        if name.startswith("norm."):
            continue  # pre-training has none
        if name.startswith("downsample_layers.0."):
            sparse[f"encoder.{name}"] = tensor  # the stem is dense
        elif tensor.ndim == 5 and "grn" not in name:
            sparse[f"encoder.{module}.kernel"] = sparse_kernel(tensor)
        elif "grn" in name or (leaf == "bias" and (module.endswith("dwconv") or module.endswith(".1"))):
            sparse[f"encoder.{name}"] = tensor.reshape(1, -1)
        else:
            wrapper = "linear" if "pwconv" in name else "ln"
            sparse[f"encoder.{module}.{wrapper}.{leaf}"] = tensor
    return sparse


def sparse_kernel(weight: Tensor) -> Tensor:
    """(out, in, k, k, k) to (k³, in, out), (k³, out) where depthwise, (in, out) where k is 1."""
    edge = weight.shape[2]
    places = []
    for x in range(edge):
        for y in range(edge):
            for z in range(edge):
                place = weight[:, :, z, y, x]
                places.append(place[:, 0] if weight.shape[1] == 1 else place.T)
    return places[0] if edge == 1 else torch.stack(places)


def test_a_pretraining_file_becomes_the_dense_encoder(tmp_path):
    dense = tensors(small(PROFOUND_ENCODER))
    path = container(tmp_path / "checkpoint-799.pth", sparse_layout(dense))
    spec, found = read_network([path])
    assert spec == small(PROFOUND_ENCODER)
    assert found.keys() == dense.keys()
    assert all(torch.equal(found[n], dense[n]) for n in dense if not n.startswith("norm."))
    assert torch.equal(found["norm.weight"], torch.ones(20))


def test_a_made_up_pretraining_file_has_the_published_names(reference_numbers):
    text = (reference_numbers / "profound_state_dict.txt").read_text().split("## FCMAE")[1]
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    published = {name for name, *_ in lines if name.startswith("encoder.")}
    made_up = sparse_layout(empty_network(PROFOUND_ENCODER).state_dict())
    assert {name for name in made_up if name.startswith("encoder.")} == published


class Program:
    """What a malicious file holds: reading it would make a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return Path.touch, (self.made,)


@pytest.mark.parametrize("key", ["args", "model"])
def test_a_file_with_a_program_is_refused_and_nothing_runs(key, tmp_path):
    path = container(tmp_path / "evil.pth", {"a": torch.ones(2)}, **{key: Program(tmp_path / "ran")})
    with pytest.raises(CheckpointError, match=r"evil\.pth.*nothing in it was run"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_with_a_program_is_refused(protocol, tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"a": Program(tmp_path / "ran")}, protocol))
    with pytest.raises(CheckpointError, match=r"refused|no PyTorch checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "network.pth")
    with pytest.raises(CheckpointError, match=r"torch.nn.modules.linear.Linear"):
        read_checkpoint(tmp_path / "network.pth")


def test_the_one_allowed_class_is_allowed_while_reading_only(tmp_path):
    read_checkpoint(container(tmp_path / "fine.pth", {"a": torch.ones(2)}))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("kept", [20, 0.5, 0.99])
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_truncated_file_is_named_as_such(kept, as_zip, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"a": torch.ones(5000)}, path, _use_new_zipfile_serialization=as_zip)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"cut.pth .* cut off"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off"),
        (b"\n <!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"no checkpoint at all", "no PyTorch checkpoint"),
    ],
)
def test_other_files_are_told_apart(content, message, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "weights.pth")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "no table"),
        ({}, "no table"),
        ({"state": {"a": torch.ones(1)}}, "'state' is a dict"),
        ({"epoch": 3}, "'epoch' is a int"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "odd.pth")


def test_the_ultrasound_network_is_out_of_scope():
    state = {**small_network("provicnet-t2w").state_dict(), "ChannelReducer.reduce_channels.bias": torch.ones(3)}
    with pytest.raises(CheckpointError, match="ultrasound"):
        identify(state, Sequence.T2W)


def test_an_unknown_network_is_described():
    with pytest.raises(CheckpointError, match="but holds 2 tensors named layer1, stem"):
        identify({"stem.weight": torch.ones(1), "layer1.0.bias": torch.ones(1)})


def test_missing_and_extra_tensors_are_named():
    state = {**small_network("profound-classifier").state_dict()}
    del state["encoder.norm.bias"]
    state["encoder.surplus"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"they lack encoder.norm.bias; they also hold encoder.surplus"):
        identify(state)


def test_an_encoder_without_a_known_head_is_described():
    state = {n: t for n, t in small_network("profound-classifier").state_dict().items() if n != "head.0.weight"}
    with pytest.raises(CheckpointError, match="8 tensors named head"):
        identify(state)
