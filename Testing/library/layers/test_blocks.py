"""The shared blocks give what their definitions state, computed again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import noise, with_made_up_weights
from scipy.ndimage import correlate, map_coordinates
from scipy.special import erf
from torch import nn

from VFMTransferLib.layers.blocks import (
    GRN,
    AdaptiveAveragePool,
    ConvModule,
    ConvNeXtBlock,
    DropPath,
    LayerNorm,
    resize,
    soft_dice_loss,
)

EXACT = {"rtol": 1e-4, "atol": 1e-5}


def plain_layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Normalize the last axis."""
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def plain_grn(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Weigh the channels (last axis) by their share of the response."""
    response = np.sqrt((x**2).sum((1, 2, 3), keepdims=True))
    return gamma * x * response / (response.mean(-1, keepdims=True) + 1e-6) + beta + x


def tensors(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def test_layer_norm_normalizes_the_channels_of_each_voxel():
    norm = with_made_up_weights(LayerNorm(5))
    x = noise((2, 5, 3, 4, 6), 0)
    expected = plain_layer_norm(np.moveaxis(x.numpy(), 1, -1), *tensors(norm).values())
    np.testing.assert_allclose(norm(x).detach().numpy(), np.moveaxis(expected, -1, 1), **EXACT)


def test_grn_weighs_channels_by_their_norm_over_the_map():
    grn = GRN(2)
    grn.gamma.data.fill_(2.0)
    grn.beta.data.fill_(0.5)
    x = torch.tensor([[3.0, 1.0], [4.0, 0.0]]).reshape(1, 1, 1, 2, 2)  # norms 5 and 1, mean 3
    expected = torch.tensor([[3 + 10 + 0.5, 1 + 2 / 3 + 0.5], [4 + 40 / 3 + 0.5, 0.5]])
    torch.testing.assert_close(grn(x).reshape(2, 2), expected, **EXACT)


def test_grn_has_finite_gradients_where_the_map_is_zero():
    grn = GRN(3)
    x = torch.zeros(1, 2, 2, 2, 3, requires_grad=True)
    grn(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_a_block_is_depthwise_convolution_then_perceptron_with_grn():
    block = with_made_up_weights(ConvNeXtBlock(4))
    x = noise((2, 4, 5, 6, 9), 1)
    weights = tensors(block)
    y = np.stack(
        [
            [
                correlate(image, kernel[0], mode="constant") + bias
                for image, kernel, bias in zip(sample, weights["dwconv.weight"], weights["dwconv.bias"], strict=True)
            ]
            for sample in x.numpy()
        ]
    )
    y = plain_layer_norm(np.moveaxis(y, 1, -1), weights["norm.weight"], weights["norm.bias"])
    y = y @ weights["pwconv1.weight"].T + weights["pwconv1.bias"]
    y = plain_grn(y / 2 * (1 + erf(y / np.sqrt(2))), weights["grn.gamma"], weights["grn.beta"])
    y = y @ weights["pwconv2.weight"].T + weights["pwconv2.bias"]
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() + np.moveaxis(y, -1, 1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(2, 3, 4, 14, 15), (1, 2, 1, 2, 5), (1, 2, 7, 6, 3)])
def test_adaptive_pooling_equals_pytorchs_at_any_size(shape, size):
    x = noise(shape, 2)
    torch.testing.assert_close(AdaptiveAveragePool(size)(x), F.adaptive_avg_pool3d(x, size), **EXACT)


def test_resize_interpolates_between_voxel_centers():
    x = noise((1, 1, 3, 4, 5), 3)
    size = (5, 7, 4)
    axes = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(x.shape[2:], size, strict=True)]
    expected = map_coordinates(x.numpy()[0, 0], np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(resize(x, size).numpy()[0, 0], expected, **EXACT)


def test_the_norm_of_a_conv_module_bears_the_name_in_the_files():
    assert set(ConvModule(2, 3, 3).state_dict()) == {"conv.weight", "batch_norm.weight", "batch_norm.bias"}


def test_drop_path_changes_nothing_in_evaluation():
    x = noise((4, 2), 4)
    assert DropPath(0.5).eval()(x) is x


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1]).all()
    assert dropped.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_drop_path_rate_must_lie_between_0_and_1(rate):
    with pytest.raises(ValueError, match="must lie in"):
        DropPath(rate)


def test_soft_dice_by_hand():
    probability = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 3)
    target = torch.tensor([1.0, 0.0, 0.5]).reshape(1, 1, 3)
    # overlap 2 * 1 + 1, sums of squares 1.25 + 1.25 + 1
    assert float(soft_dice_loss(probability, target)) == pytest.approx(1 - 3 / 3.5)


def test_dice_is_zero_where_both_are_equal_even_if_soft():
    target = torch.rand(2, 3, 4)
    assert float(soft_dice_loss(target, target)) == pytest.approx(0, abs=1e-6)
