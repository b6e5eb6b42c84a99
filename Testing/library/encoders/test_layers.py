"""The shared blocks give what their definitions state, computed again; fast convolutions what PyTorch's give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import noise, with_made_up_weights
from scipy.ndimage import correlate, map_coordinates
from scipy.special import erf
from torch import nn

from VFMTransferLib.encoders.layers import (
    GRN,
    AdaptiveAveragePool,
    ConvModule,
    ConvNeXtBlock,
    Doubled,
    DropPath,
    FastConv3d,
    FastDepthwiseConv3d,
    FastPatchConv3d,
    JoinedConv3d,
    JoinedConvModule,
    LayerNorm,
    SliceConv3d,
    accelerate,
    convolve_by_slices,
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


@pytest.fixture
def a_convolution() -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(4, 4, 7, padding=3, groups=4)


def gradients(convolution: nn.Conv3d, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, then gradients with respect to input, weight and bias, of an uneven loss."""
    x = x.clone().requires_grad_()
    convolution.zero_grad()
    output = convolution(x)
    (output * torch.linspace(-1, 2, output.numel()).reshape(output.shape)).sum().backward()
    return [output.detach(), x.grad, convolution.weight.grad.clone(), convolution.bias.grad.clone()]


@pytest.mark.parametrize("shape", [(1, 4, 5, 8, 9), (2, 4, 3, 11, 6), (1, 4, 2, 1, 3)])
def test_output_and_gradients_equal_pytorchs(a_convolution, shape):
    x = torch.randn(shape)
    expected = gradients(a_convolution, x)
    found = gradients(FastDepthwiseConv3d.from_convolution(a_convolution), x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_gradients_pass_a_numerical_check(a_convolution):
    fast = FastDepthwiseConv3d.from_convolution(a_convolution.double())
    x = torch.randn(1, 4, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    # The kernel's gradient is summed in float32, hence the tolerance.
    assert torch.autograd.gradcheck(lambda x: fast(x), (x,), atol=1e-4)


def test_a_tensor_in_channels_last_layout_gives_the_same(a_convolution):
    x = torch.randn(2, 4, 5, 6, 7)
    fast = FastDepthwiseConv3d.from_convolution(a_convolution)
    expected = gradients(fast, x)
    found = gradients(fast, x.contiguous(memory_format=torch.channels_last_3d))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("kernel", "size"), [(4, (8, 12, 4)), (2, (5, 4, 7)), (1, (2, 3, 4)), ((1, 2, 3), (2, 4, 8))])
def test_a_patch_convolution_equals_pytorchs(kernel, size):
    torch.manual_seed(2)
    convolution = nn.Conv3d(3, 5, kernel, kernel)
    x = torch.randn(2, 3, *size)
    expected = gradients(convolution, x)
    found = gradients(FastPatchConv3d.from_convolution(convolution), x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_acceleration_keeps_parameters_names_and_result():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv3d(2, 4, 1), nn.Conv3d(4, 4, 3, padding=1, groups=4), nn.Conv3d(4, 3, 3))
    x = torch.randn(1, 2, 4, 5, 6)
    names, parameters, expected = list(network.state_dict()), list(network.parameters()), network(x)
    assert accelerate(network) is network
    assert list(network.state_dict()) == names
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert [type(m) for m in network] == [FastPatchConv3d, FastDepthwiseConv3d, FastConv3d]
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv3d(4, 4, 3, padding=1, groups=2),
        nn.Conv3d(4, 4, 3, padding=1, groups=4, stride=2),
        nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1), groups=4),
        nn.Conv3d(4, 8, 3, padding=1, groups=4),
    ],
)
def test_other_convolutions_compute_as_they_did(convolution):
    network, x = nn.Sequential(convolution), torch.randn(1, 4, 4, 5, 6)
    expected = gradients(convolution, x)
    assert accelerate(network)[0] is convolution
    for a, b in zip(gradients(convolution, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "depth"),
    [
        (3, 1, 1, 8),
        (3, 1, 1, 7),
        (3, (2, 1, 1), 1, 8),
        (3, (2, 1, 1), 1, 7),
        (3, 2, 0, 10),
        ((1, 3, 5), 2, (0, 0, 2), 9),
    ],
)
def test_a_single_sample_is_convolved_by_halves_as_a_whole(kernel, stride, padding, depth, monkeypatch):
    torch.manual_seed(4)
    convolution, x = nn.Conv3d(5, 6, kernel, stride, padding), torch.randn(1, 5, depth, 9, 7)
    expected, shapes = gradients(convolution, x), []
    conv3d = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda x, *rest, **options: shapes.append(len(x)) or conv3d(x, *rest, **options))
    found = gradients(accelerate(nn.Sequential(convolution))[0], x)
    assert shapes == [2]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize(("kernel", "depth", "precision"), [(3, 2, 32), (5, 3, 32), (7, 4, 32), (3, 3, 16), (7, 7, 16)])
def test_gradients_under_autocast_are_those_of_float32(kernel, depth, precision):
    torch.manual_seed(3)
    network = accelerate(nn.Sequential(nn.Conv3d(16, 24, kernel, padding=kernel // 2)))
    x = torch.randn(2, 16, depth, 6, 6)
    found = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = network(x)
        assert output.dtype == (torch.bfloat16 if enabled and precision == 16 else torch.float32)
        found.append(torch.autograd.grad(output.float().square().sum(), list(network.parameters())))
    for half, whole in zip(*found, strict=True):
        assert (half - whole).norm() < 0.02 * whole.norm()


@pytest.mark.parametrize("sizes", [[(6, 8, 10), (3, 4, 5), (2, 2, 3)], [(5, 7, 4), (1, 1, 1), (6, 9, 5)]])
def test_a_joined_convolution_equals_resizing_joining_and_convolving(sizes):
    channels = (3, 4, 2)
    joined = JoinedConvModule(channels, 5)
    maps = [noise((2, c, *size), i) for i, (c, size) in enumerate(zip(channels, sizes, strict=True))]
    plain = ConvModule(sum(channels), 5, 3)
    plain.load_state_dict(joined.state_dict())
    expected = plain(torch.cat([maps[0], *(resize(x, sizes[0]) for x in maps[1:])], dim=1))
    torch.testing.assert_close(joined(*maps), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "groups", "bias", "out"), [(7, 16, True, 32), (3, 1, False, 32), (5, 2, True, 32), (3, 1, True, 8)]
)
def test_a_convolution_by_slices_equals_pytorchs(kernel, groups, bias, out):
    torch.manual_seed(3)
    convolution = nn.Conv3d(16, out, kernel, padding=kernel // 2, groups=groups, bias=bias)
    x = torch.randn(2, 16, 4, 5, 7)
    found = SliceConv3d.from_convolution(convolution)(x)
    torch.testing.assert_close(found, convolution(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 11])
def test_a_convolution_by_tiles_of_slices_equals_pytorchs_at_any_depth(depth):
    torch.manual_seed(4)
    convolution = nn.Conv3d(16, 32, 3, padding=1)
    x = torch.randn(2, 16, depth, 5, 7)
    found = SliceConv3d.from_convolution(convolution)(x)
    torch.testing.assert_close(found, convolution(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("for_processors", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("out", [32, 8], ids=["by slices", "few channels"])
@pytest.mark.parametrize(
    ("doubled_from", "formed"),
    [((24,), 1), ((24, 16), 0), ((24, 129), 1), ((24,), 0), ((), 1)],
    ids=["and one formed", "two", "many channels", "alone", "one formed"],
)
def test_a_convolution_of_maps_that_are_not_formed_equals_doubling_joining_and_convolving(
    doubled_from, formed, out, kernel, for_processors
):
    torch.manual_seed(5)
    doublings = [nn.ConvTranspose3d(channels, 16, 2, 2, bias=False) for channels in doubled_from]
    small = [noise((2, channels, 3, 4, 5), i) for i, channels in enumerate(doubled_from)]
    maps = [noise((2, 16, 6, 8, 10), 9)] * formed
    joined = JoinedConv3d((16,) * (len(small) + formed), out, kernel)
    joined.for_processors = for_processors
    with torch.no_grad():
        found = joined(*(Doubled(x, d.weight) for x, d in zip(small, doublings, strict=True)), *maps)
        together = torch.cat([*(d(x) for x, d in zip(small, doublings, strict=True)), *maps], dim=1)
        expected = nn.functional.conv3d(together, joined.weight, padding=kernel // 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_convolutions_of_few_channels_or_other_steps_are_not_taken_by_slices():
    network = nn.Sequential(
        nn.Conv3d(16, 32, 3, padding=1),
        nn.Conv3d(32, 32, 7, padding=3, groups=32),
        nn.Conv3d(32, 8, 3, padding=1),
        nn.Conv3d(8, 16, 1),
        nn.Conv3d(16, 16, 2, 2),
    )
    x = torch.randn(1, 16, 4, 6, 8)
    names, expected = list(network.state_dict()), network(x)
    assert convolve_by_slices(network) is network
    assert [type(m) is SliceConv3d for m in network] == [True, True, False, False, False]
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_soft_dice_by_hand():
    probability = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 3)
    target = torch.tensor([1.0, 0.0, 0.5]).reshape(1, 1, 3)
    # overlap 2 * 1 + 1, sums of squares 1.25 + 1.25 + 1
    assert float(soft_dice_loss(probability, target)) == pytest.approx(1 - 3 / 3.5)


def test_dice_is_zero_where_both_are_equal_even_if_soft():
    target = torch.rand(2, 3, 4)
    assert float(soft_dice_loss(target, target)) == pytest.approx(0, abs=1e-6)
