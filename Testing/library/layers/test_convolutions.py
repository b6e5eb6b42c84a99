"""Convolutions that are fast, or of maps that are not formed, give what PyTorch's give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import noise
from torch import nn

from VFMTransferLib.layers.blocks import (
    ConvModule,
    resize,
)
from VFMTransferLib.layers.convolutions import (
    Doubled,
    FastConv3d,
    FastDepthwiseConv3d,
    FastPatchConv3d,
    JoinedConv3d,
    JoinedConvModule,
    SliceConv3d,
    accelerate,
    convolve_by_slices,
)

EXACT = {"rtol": 1e-4, "atol": 1e-5}


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
