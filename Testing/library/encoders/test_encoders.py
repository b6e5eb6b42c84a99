"""Every network, small: shapes, gradients, odd sizes; at full size the tensors and the numbers of the authors' own."""

from __future__ import annotations

import ast
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import SMALL_SPECS, inputs, noise, small_network, with_made_up_weights
from specs import MODELS, PROFOUND_ENCODER

from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.base import find_family
from VFMTransferLib.encoders.weights import empty_network
from VFMTransferLib.tasks import TASKS

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
A_CASE = (1, 3, 32, 96, 96)
NAMES = list(SMALL_SPECS)
IN_3D = [name for name in NAMES if name.startswith("profound")]
# What a network carries but its loss does not reach.
UNREACHED = {
    "upernet": ("encoder.norm.",),
    "restoration": ("encoder.norm.", *(f"encoders.{s}.backbone.mask_token" for s in ("t2w", "hbv", "adc"))),
    "matching": ("encoder.norm.", *(f"encoders.{s}.backbone.mask_token" for s in ("t2w", "hbv", "adc"))),
    "classifier": tuple(f"encoders.{s}.backbone.mask_token" for s in ("t2w", "hbv", "adc")),
    "convolution": ("backbone.mask_token",),
    "fusion": tuple(f"{s}.{part}" for s in ("t2w", "adc", "dwi") for part in ("backbone.mask_token", "head.")),
}
LISTINGS = {
    "encoder": "profound-encoder",
    "classifier": "profound-classifier",
    "upernet_lesion": "profound-upernet-lesion",
    "upernet_anatomy": "profound-upernet-anatomy",
    "unetr_lesion": "profound-unetr-lesion",
    "ProViCNet_contrastive": "provicnet-t2w",
}


def expected_shape(name: str, size: tuple[int, int, int]) -> tuple[int, ...]:
    spec = SMALL_SPECS[name]
    channels = spec.head.out_channels
    if spec.head.kind in ("none", "classifier"):
        return (2, channels)
    return (2, channels, *size) if spec.family == "profound" else (2, channels, *spec.preprocess.patch[1:])


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_shape_of_the_task(name):
    size = (32, 48, 64)
    with torch.no_grad():
        output = small_network(name)(*inputs(SMALL_SPECS[name], size))
    assert tuple(output.shape) == expected_shape(name, size)


@pytest.mark.parametrize("name", [name for name in IN_3D if "unetr" not in name])
def test_sizes_need_not_be_multiples_of_16(name):
    size = (19, 37, 50)
    with torch.no_grad():
        output = small_network(name)(*inputs(SMALL_SPECS[name], size))
    assert tuple(output.shape) == expected_shape(name, size)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_reaches_every_parameter(name):
    spec = SMALL_SPECS[name]
    network = small_network(name)
    network.train(spec.head.kind == "upernet")  # its auxiliary head serves training only
    outputs = network(*inputs(spec, (32, 48, 64)))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum((output * noise(tuple(output.shape), 5)).sum() for output in outputs).backward()
    unreached = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in unreached if not n.startswith(UNREACHED.get(spec.head.kind, ()))] == []


@pytest.mark.parametrize("name", [name for name in NAMES if SMALL_SPECS[name].head.kind == "restoration"])
@pytest.mark.parametrize("expected", [0.0, 1.2])
def test_an_untrained_image_to_image_head_gives_its_initial_output(name, expected):
    spec = SMALL_SPECS[name]
    output = build_network(spec, initial_output=expected)(*inputs(spec, (16, 17, 32)))
    torch.testing.assert_close(output, torch.full_like(output, expected))


def test_a_window_of_twice_the_scanned_pixels_is_restored_from_those():
    spec = find_family("provicnet").network_for(TASKS["super-resolution"])
    seen = spec.encoder.image_px
    spec = replace(spec, preprocess=replace(spec.preprocess, patch=(1, 2 * seen, 2 * seen)))
    network = with_made_up_weights(build_network(spec))
    windows, positions = inputs(spec, (16, 17, 32))
    with torch.no_grad():
        plain = network(windows, positions)
        windows[..., 40, 40] += 1.0  # a scanned pixel changes a block of 2 x 2, and what lies around
        changed = (network(windows, positions) - plain).abs()[0, 0]
    assert plain.shape == (2, 1, 256, 256)
    assert changed.argmax() // 256 // 2 in range(38, 43)
    assert changed.argmax() % 256 // 2 in range(38, 43)


def test_an_unknown_head_is_a_mistake_of_the_caller():
    spec = SMALL_SPECS["profound-classifier"]
    with pytest.raises(ValueError, match="got fusion"):
        build_network(replace(spec, head=replace(spec.head, kind="fusion")))


def tensors_listed(text: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Network → tensor → shape, from the published listings."""
    networks: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            tensors = networks.setdefault(line.split()[1], {})
        elif line:
            name, shape, _ = line.split("\t")
            tensors[name] = ast.literal_eval(shape)
    return networks


@pytest.mark.parametrize("listed", LISTINGS)
def test_full_size_has_the_tensors_of_the_authors_files(listed, reference_numbers):
    text = "".join((reference_numbers / f"{name}_state_dict.txt").read_text() for name in ("profound", "provicnet"))
    expected = {n: s for n, s in tensors_listed(text)[listed].items() if not n.startswith("CL_Head.")}
    spec = {**MODELS, PROFOUND_ENCODER.name: PROFOUND_ENCODER}[LISTINGS[listed]]
    assert {n: tuple(t.shape) for n, t in empty_network(spec).state_dict().items()} == expected


def test_full_size_fusion_has_the_tensors_of_the_authors_file(reference_numbers):
    expected = tensors_listed((reference_numbers / "provicnet_state_dict.txt").read_text())["FusionModalities"]
    fusion = empty_network(MODELS["provicnet-fusion"]).fusion
    assert {n: tuple(t.shape) for n, t in fusion.state_dict().items()} == expected


@pytest.fixture(scope="module")
def numbers(reference_numbers) -> dict[str, dict]:
    return {
        key: entry
        for name in ("profound", "provicnet")
        for key, entry in json.loads((reference_numbers / f"{name}.json").read_text()).items()
    }


def check(output: torch.Tensor, entry: dict) -> None:
    assert list(output.shape) == entry["shape"]
    values = output.numpy().ravel()
    np.testing.assert_allclose(values[entry["index"]], entry["value"], **TOLERANCE)
    summary = [values.mean(), values.std(), values.min(), values.max()]
    np.testing.assert_allclose(summary, [entry[key] for key in ("mean", "std", "min", "max")], **TOLERANCE)


def test_the_encoder(numbers):
    encoder = with_made_up_weights(build_network(PROFOUND_ENCODER))
    x = noise(A_CASE, 1)
    with torch.no_grad():
        check(encoder(x), numbers["encoder@32x96x96"])
        for stage, feature in enumerate(encoder.forward_features(x)):
            check(feature, numbers[f"encoder.stage{stage}@32x96x96"])


@pytest.mark.parametrize(
    ("name", "key"),
    [("profound-classifier", "classifier@32x96x96"), ("profound-upernet-lesion", "upernet_lesion@32x96x96")],
)
def test_profound(name, key, numbers):
    network = with_made_up_weights(build_network(MODELS[name]))
    with torch.no_grad():
        check(network(noise(A_CASE, 1)), numbers[key])


def test_provicnet(numbers):
    network = with_made_up_weights(build_network(MODELS["provicnet-t2w"]))
    x, positions = noise((2, 3, 448, 448), 3), torch.tensor([[4.0, 20.0], [11.0, 20.0]])
    with torch.no_grad():
        check(network.patch_tokens(x, positions), numbers["provicnet.patchtokens"])
        check(network(x, positions), numbers["provicnet.logits"])
