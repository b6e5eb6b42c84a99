"""Full-size networks with made-up weights give the numbers of the authors' own networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from networks import noise, with_made_up_weights
from specs import MODELS, PROFOUND_ENCODER

from VFMTransferLib.encoders import build_network

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
STUDY = (1, 3, 32, 96, 96)


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
    x = noise(STUDY, 1)
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
        check(network(noise(STUDY, 1)), numbers[key])


def test_provicnet(numbers):
    network = with_made_up_weights(build_network(MODELS["provicnet-t2w"]))
    x, positions = noise((2, 3, 448, 448), 3), torch.tensor([[4.0, 20.0], [11.0, 20.0]])
    with torch.no_grad():
        check(network.patch_tokens(x, positions), numbers["provicnet.patchtokens"])
        check(network(x, positions), numbers["provicnet.logits"])
