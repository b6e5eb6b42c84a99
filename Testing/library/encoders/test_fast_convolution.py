"""Depthwise convolutions with fast gradients give what PyTorch's own give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from VFMTransferLib.encoders.layers import FastDepthwiseConv3d, FastPatchConv3d, accelerate


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
    assert [type(m) for m in network] == [FastPatchConv3d, FastDepthwiseConv3d, nn.Conv3d]
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
def test_other_convolutions_are_left_alone(convolution):
    network = nn.Sequential(convolution)
    assert accelerate(network)[0] is convolution
