"""The masked autoencoder hides what it should, and sees nothing of it."""

from __future__ import annotations

import pytest
import torch
from training_cases import tiny_spec

from VFMTransferLib.encoders.profound.pretraining import (
    CUBE,
    MaskedAutoencoder,
    enlarge,
    normalized_cubes,
    random_visible,
    visible_only,
)


@pytest.fixture
def an_autoencoder() -> MaskedAutoencoder:
    torch.manual_seed(0)
    network = MaskedAutoencoder(tiny_spec(), 8)
    for name, parameter in network.named_parameters():
        if "grn" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return network


def test_the_stated_part_of_the_cubes_is_hidden():
    visible = random_visible((2, 5, 7), 0.6, torch.Generator().manual_seed(0))
    assert visible.shape == (1, 1, 2, 5, 7)
    assert int((visible == 0).sum()) == 42


def test_a_mask_is_repeated_in_blocks():
    mask = torch.tensor([[0.0, 1.0, 1.0]]).reshape(1, 1, 1, 1, 3)
    large = enlarge(mask, (2, 4, 6))
    assert large.shape == (1, 1, 2, 4, 6)
    assert large[0, 0, 1, 3].tolist() == [0, 0, 1, 1, 1, 1]


def test_cubes_are_normalized_one_by_one_in_a_fixed_order():
    x = torch.randn(1, 2, CUBE, 2 * CUBE, CUBE)
    cubes = normalized_cubes(x)
    assert cubes.shape == (1, 2 * CUBE**3, 1, 2, 1)
    cube = x[0, :, :, CUBE:].flatten()  # channel, z, y, x
    expected = (cube - cube.mean()) / (cube.std(correction=0) + 1e-6)
    torch.testing.assert_close(cubes[0, :, 0, 1, 0], expected)


def test_what_is_hidden_does_not_change_what_is_predicted(an_autoencoder):
    visible = random_visible((1, 2, 3), 0.5, torch.Generator().manual_seed(1))
    x = torch.randn(1, 3, CUBE, 2 * CUBE, 3 * CUBE)
    other = torch.where(enlarge(visible, x.shape[2:]) > 0, x, torch.randn_like(x))
    with torch.no_grad():
        torch.testing.assert_close(an_autoencoder(x, visible), an_autoencoder(other, visible))


def test_hidden_places_are_empty_in_every_map(an_autoencoder):
    visible = random_visible((1, 2, 3), 0.5, torch.Generator().manual_seed(1))
    x = torch.randn(1, 3, CUBE, 2 * CUBE, 3 * CUBE)
    with torch.no_grad(), visible_only(an_autoencoder.encoder, visible):
        maps = an_autoencoder.encoder.forward_features(x * enlarge(visible, x.shape[2:]))
    for feature in maps:
        assert not (feature * (1 - enlarge(visible, feature.shape[2:]))).any()


def test_the_encoder_is_an_ordinary_one_afterwards(an_autoencoder):
    x = torch.randn(1, 3, CUBE, 2 * CUBE, CUBE)
    with torch.no_grad():
        before = an_autoencoder.encoder(x)
        with visible_only(an_autoencoder.encoder, torch.zeros(1, 1, 1, 2, 1)):
            pass
        torch.testing.assert_close(an_autoencoder.encoder(x), before)


def test_with_everything_visible_the_encoder_sees_what_it_always_sees(an_autoencoder):
    x = torch.randn(1, 3, CUBE, 2 * CUBE, CUBE)
    with torch.no_grad():
        plain = an_autoencoder.encoder.forward_features(x)
        with visible_only(an_autoencoder.encoder, torch.ones(1, 1, 1, 2, 1)):
            masked = an_autoencoder.encoder.forward_features(x)
    for a, b in zip(masked, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_counts_hidden_cubes_only(an_autoencoder):
    visible = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2, 1)
    x = torch.randn(1, 3, CUBE, 2 * CUBE, CUBE)
    with torch.no_grad():
        predicted = an_autoencoder(x, visible)[0, :, 0, 1, 0]
        loss = an_autoencoder.loss(x, visible)
    expected = (predicted - normalized_cubes(x[:, :1])[0, :, 0, 1, 0]).square().mean()
    torch.testing.assert_close(loss, expected)
