"""Convolutions with fewer operations, or faster ones; equal to the plain ones, but for rounding.

What several maps give joined, resized or doubled is computed without forming it (`JoinedConvModule`, `JoinedConv3d`).
`accelerate` is for PyTorch on a processor, `convolve_by_slices` for the graph that ONNX Runtime runs there.
Axes: B batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ConvModule

_TAPS = 3  # of a kernel along each axis
# Of more channels the kernel of a doubling with a convolution, in * out * 64 numbers, takes more than it saves. PyTorch
# forms it at every pass: to train 128 channels on crops as small as 4x12x12 takes 1.6 times as long with it.
_MOST_COMPOSED = 128
_LANES = 16  # channels that ONNX Runtime computes at once
_NATIVE = 20480  # of B * C * D * H, up to which PyTorch may convolve without oneDNN (`ConvParams::use_mkldnn`)


class JoinedConvModule(ConvModule):
    """The same over several maps, joined along the channels at the size of the first.

    Equal to resizing, joining and convolving. But both steps are linear: here the channels of a coarser map are mixed
    where it is small, for each tap of the kernel, and what is resized, and shifted by the tap, has left the many input
    channels behind. Of UPerNet's last convolution at published size that leaves 29 % of the operations.

    Args:
        channels: Of each map, in their order.
        out_channels: Of the output.
    """

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__(sum(channels), out_channels, _TAPS)
        self.channels = tuple(channels)

    def forward(self, first: Tensor, *coarser: Tensor, region: Region | None = None) -> Tensor:
        """Map the first (B, channels[0], D, H, W) and maps of any size to (B, out, D, H, W).

        Args:
            first: Of a region that region alone; what lies beyond counts as zeros.
            coarser: The other maps, whole.
            region: Where on the first's grid to compute; everywhere by default.
        """
        weight, *weights = self.conv.weight.split(self.channels, dim=1)
        joined = self.conv._conv_forward(first, weight, None)
        region = Region.whole(first.shape[2:]) if region is None else region
        for x, weight in zip(coarser, weights, strict=True):
            joined = joined + _convolve_resized(x, weight, region)
        return self.activation(self.batch_norm(joined))


class Region(NamedTuple):
    """A box of a grid's voxels along each of its axes (D, H, W): [start, stop), inside the grid of `size`.

    All are integers, or while a graph is exported tensors of one.
    """

    start: Sequence[Any]
    stop: Sequence[Any]
    size: Sequence[Any]

    @classmethod
    def whole(cls, size: Sequence[Any]) -> Region:
        return cls([0] * len(size), size, size)

    def coarser(self, size: Sequence[Any]) -> Region:
        """The voxels of a coarser grid over the same field of view from which `resize` makes these."""
        starts, stops = [], []
        for start, stop, fine, coarse in zip(*self, size, strict=True):
            # Of the first and of the last voxel the place on the coarser grid, times 2 `fine`, so that it is whole.
            # What is divided is never negative: to round such a number down, a graph needs operators that OpenVINO's
            # provider leaves to another one.
            first, last = (2 * start + 1) * coarse - fine, (2 * stop - 1) * coarse - fine  # above -`fine`
            starts.append(torch.as_tensor(first).clamp(min=0).div(2 * fine, rounding_mode="trunc"))
            beyond = torch.as_tensor(last + 2 * fine).div(2 * fine, rounding_mode="trunc") + 1
            stops.append(beyond.minimum(torch.as_tensor(coarse)))
        return Region(starts, stops, size)

    def widened(self, voxels: int) -> Region:
        """With so many voxels more on each side, as far as the grid goes."""
        starts = [(torch.as_tensor(start) - voxels).clamp(min=0) for start in self.start]
        stops = (torch.as_tensor(stop) + voxels for stop in self.stop)
        sizes = map(torch.as_tensor, self.size)
        return Region(starts, [stop.minimum(size) for stop, size in zip(stops, sizes, strict=True)], self.size)

    def crop(self, x: Tensor, origin: Sequence[Any] = (0, 0, 0)) -> Tensor:
        """These voxels of a map (B, C, D, H, W) whose first voxel is `origin` of the grid."""
        d, h, w = (start - first for start, first in zip(self.start, origin, strict=True))
        to_d, to_h, to_w = (stop - first for stop, first in zip(self.stop, origin, strict=True))
        return x[:, :, d:to_d, h:to_h, w:to_w]

    def resized(self, x: Tensor, coarse: Region) -> Tensor:
        """These voxels of a coarser map resized to this grid, from its voxels `coarse` alone; equal to `resize`."""
        for axis in range(3):
            matrix = _resizing_matrix(coarse.size[axis], self.size[axis], x)
            matrix = matrix[self.start[axis] : self.stop[axis], coarse.start[axis] : coarse.stop[axis]]
            x = (x.transpose(2 + axis, 4) @ matrix.T).transpose(2 + axis, 4)
        return x


def _convolve_resized(x: Tensor, weight: Tensor, region: Region) -> Tensor:
    """A convolution 3x3x3 (out, C, 3, 3, 3), zero padding, of x (B, C, d, h, w) resized linearly to a region's grid."""
    axes = zip(x.shape[2:], region.start, region.stop, region.size, strict=True)
    along_d, along_h, along_w = (_tap_matrices(n, start, stop, size, x) for n, start, stop, size in axes)
    # Each plane of the kernel by itself, since the products of all at once take most of the network's memory. No
    # convolution: one of rearranged weights OpenVINO 2025.4 runs by its reference code, ten times as slowly.
    taps = weight.permute(2, 3, 4, 0, 1)  # (3, 3, 3, out, C)
    voxels = x.flatten(2)[:, None, None]
    found: Tensor | None = None
    for k, depths in enumerate(along_d.unbind()):
        products = (taps[k] @ voxels).unflatten(-1, x.shape[2:])  # (B, 3, 3, out, d, h, w)
        rows = sum(products[:, :, i] @ along_w[i].T for i in range(_TAPS))  # (B, 3, out, d, h, W)
        planes = sum(along_h[i] @ rows[:, i] for i in range(_TAPS))  # (B, out, d, H, W)
        part = (depths @ planes.flatten(3)).unflatten(-1, planes.shape[3:])  # (B, out, D, H, W)
        # ONNX Runtime evaluates what stands second first: so no part has to wait in memory for the others.
        found = part if found is None else part + found
    assert found is not None
    return found


def _tap_matrices(length: int, start: int, stop: int, size: int, like: Tensor) -> Tensor:
    """Matrices (3, stop - start, length): linear resizing, then a step to the place before, none, or to the next.

    A step from beyond the ends of the grid of `size` brings zeros.
    """
    padded = F.pad(_resizing_matrix(length, size, like), (0, 0, 1, 1))
    return torch.stack([padded[start + k : stop + k] for k in range(_TAPS)])


def _resizing_matrix(length: int, size: int, like: Tensor) -> Tensor:
    """Matrix (size, length) of linear resizing; voxel corners are aligned, as in `resize`."""
    source = torch.arange(length, device=like.device)
    place = (torch.arange(size, device=like.device) + 0.5) * (length / size) - 0.5
    distance = (place.clamp(min=0).minimum(source[-1])[:, None] - source).abs()
    return (1 - distance).clamp(min=0).to(like.dtype)


class Doubled(NamedTuple):
    """A map that is not formed: x (B, C, D, H, W) at twice its size by a transposed convolution of stride 2.

    Its kernel is `weight` (C, K, 2, 2, 2); what it stands for is (B, K, 2D, 2H, 2W).
    """

    x: Tensor
    weight: Tensor


class JoinedConv3d(nn.Conv3d):
    """A convolution 1x1x1 or 3x3x3 without bias that keeps the size, of several maps as if joined along the channels.

    Equal to forming and joining them. But doubling a map and convolving it are both linear, so that one convolution of
    the small map, with the kernel of both, gives the same: for UNETR's finest level 16 instead of 29 products for each
    pair of channels. What is joined takes no memory, nor what is doubled from up to 128 channels.

    Args:
        channels: Of each map, in their order.
        out_channels: Of the output.
        kernel_size: 1 or 3.
    """

    for_processors = False  # in the graph that ONNX Runtime's own kernels run, see `convolve_by_slices`

    def __init__(self, channels: Sequence[int], out_channels: int, kernel_size: int) -> None:
        super().__init__(sum(channels), out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.channels = tuple(channels)

    def forward(self, *maps: Tensor | Doubled) -> Tensor:
        """Convolve maps (B, C, D, H, W), formed or not, to (B, out, D, H, W)."""
        # ONNX Runtime does not form the only part of a divided weight beforehand.
        kernels = self.weight.split(self.channels, dim=1) if len(maps) > 1 else (self.weight,)
        found: Tensor | None = None
        for m, kernel in zip(maps, kernels, strict=True):
            part = self._of_doubled(m, kernel) if isinstance(m, Doubled) else self._convolve(m, kernel)
            found = part if found is None else part + found
        assert found is not None
        return found

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        padding = kernel.shape[2] // 2
        if self.for_processors and _is_faster_by_slices(self):
            return _convolve_by_slices(x, kernel, None, padding)
        return F.conv3d(x, kernel, padding=padding)

    def _of_doubled(self, m: Doubled, kernel: Tensor) -> Tensor:
        if m.x.shape[1] > _MOST_COMPOSED:
            return self._convolve(self._double(m.x, m.weight), kernel)
        return self._double(m.x, F.conv3d(m.weight, kernel, padding=kernel.shape[2] // 2 * 2))

    def _double(self, x: Tensor, kernel: Tensor) -> Tensor:
        """A transposed convolution (C, out, 2n, 2n, 2n) of stride 2, n 1 or 2, that doubles the size."""
        n = kernel.shape[2] // 2
        if not self.for_processors:
            return F.conv_transpose3d(x, kernel, stride=2, padding=n - 1)
        # Its eight phases are plain convolutions; of all at once eight times the channels come out.
        phases = kernel.reshape(*kernel.shape[:2], *3 * (n, 2))
        phases = (phases if n == 1 else phases.flip(2, 4, 6)).permute(3, 5, 7, 1, 0, 2, 4, 6)
        phases = phases.reshape(-1, kernel.shape[0], n, n, n)  # (8 out, C, n, n, n)
        size = [length + n - 1 for length in x.shape[2:]]
        found = self._convolve(x, phases).reshape(-1, 2, 2, 2, kernel.shape[1], *size).permute(0, 4, 5, 1, 6, 2, 7, 3)
        found = found.reshape(-1, kernel.shape[1], *(2 * length for length in size))
        return found if n == 1 else found[:, :, 1:-1, 1:-1, 1:-1]


# PyTorch's own gradients of a depthwise `Conv3d` are the slowest part of training a ConvNeXt on a CPU: ten to thirty
# times its forward pass. Both are rewritten here as operations that are fast (`docs/training.md` has the timings):
#
# - with respect to the input: the forward convolution of the output's gradient with the flipped kernel;
# - with respect to the kernel: one matrix product for each kernel plane. The product of all rows of the output's
#   gradient with all rows of the padded input holds every shift along W as a diagonal.
#
# A convolution whose stride is its kernel (ConvNeXt's stem and downsampling) is one matrix product.


class _DepthwiseConvolution(torch.autograd.Function):
    """Depthwise convolution of stride 1 that keeps the size: odd cubic kernel, padding kernel // 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        to_x = to_weight = to_bias = None
        if needs_x:
            padding = weight.shape[-1] // 2
            to_x = F.conv3d(gradient, weight.flip(2, 3, 4), padding=padding, groups=x.shape[1])
        if needs_weight:
            to_weight = _kernel_gradient(x, gradient, weight.shape[-1]).to(weight.dtype)
        if needs_bias and ctx.has_bias:
            to_bias = gradient.sum((0, 2, 3, 4))
        return to_x, to_weight, to_bias


def _kernel_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Gradient (C, 1, size, size, size), float32, with respect to the kernel of a depthwise convolution.

    `gradient` is that with respect to the output, of the shape of the input x (B, C, D, H, W).
    """
    batch, channels, depth, height, width = x.shape
    padded_width = width + size - 1
    padded = F.pad(x, (size // 2,) * 6)
    rows = padded.unfold(3, height, 1)  # (B, C, D + size - 1, ky, W + size - 1, H)
    # The pixels of one column of the gradient, for each W: (C, W, B D H)
    columns = gradient.permute(1, 4, 0, 2, 3).reshape(channels, width, batch * depth * height)
    planes = []
    for kz in range(size):
        plane = rows[:, :, kz : kz + depth].permute(1, 0, 2, 5, 3, 4)  # (C, B, D, H, ky, W + size - 1)
        plane = plane.reshape(channels, batch * depth * height, size * padded_width)
        products = torch.bmm(columns, plane)  # (C, W, ky (W + size - 1))
        # Entry (w, ky, w + kx) for all w is a diagonal; its sum is the gradient of the tap (kz, ky, kx).
        row = size * padded_width
        diagonals = products.as_strided((channels, size, size, width), (width * row, padded_width, 1, row + 1))
        planes.append(diagonals.float().sum(-1))
    return torch.stack(planes, dim=1).unsqueeze(1)


class FastDepthwiseConv3d(nn.Conv3d):
    """A depthwise `nn.Conv3d` with fast gradients; under autocast it computes in autocast's precision."""

    @classmethod
    def from_convolution(cls, convolution: nn.Conv3d) -> FastDepthwiseConv3d:
        """The same convolution, sharing its parameters."""
        size, channels = convolution.kernel_size[0], convolution.in_channels
        fast = cls(channels, channels, size, padding=size // 2, groups=channels, device="meta")
        fast.weight, fast.bias = convolution.weight, convolution.bias
        return fast

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W); the size stays."""
        if x.device.type != "cpu":
            return super().forward(x)  # there PyTorch's own gradients are the fast ones
        precision = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        bias = None if self.bias is None else self.bias.to(precision)
        return _DepthwiseConvolution.apply(x.to(precision).contiguous(), self.weight.to(precision), bias)


class FastPatchConv3d(nn.Conv3d):
    """A `nn.Conv3d` whose stride equals its kernel, as one matrix product over patches."""

    @classmethod
    def from_convolution(cls, convolution: nn.Conv3d) -> FastPatchConv3d:
        """The same convolution, sharing its parameters."""
        size: Any = convolution.kernel_size
        fast = cls(convolution.in_channels, convolution.out_channels, size, size, device="meta")
        fast.weight, fast.bias = convolution.weight, convolution.bias
        return fast

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W); what is left over at the end of an axis is dropped."""
        (kd, kh, kw), (batch, channels, *size) = self.kernel_size, x.shape
        depth, height, width = size[0] // kd, size[1] // kh, size[2] // kw
        x = x[:, :, : depth * kd, : height * kh, : width * kw]
        x = x.reshape(batch, channels, depth, kd, height, kh, width, kw).permute(0, 2, 4, 6, 1, 3, 5, 7)
        patches = x.reshape(batch, depth, height, width, channels * kd * kh * kw)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)


class FastConv3d(nn.Conv3d):
    """A `nn.Conv3d` for which PyTorch takes oneDNN's fast kernels on a processor, and none that is wrong.

    PyTorch 2.13 takes none of them in float32 for a single sample with C * D * H <= 20480 and 3x3x3 kernels, by a rule
    that was made for images: a crop then takes 3 to 7 times as long. Its halves in depth are two samples.

    In bfloat16 with AVX-512 but without AMX (AMD Zen 4) oneDNN 3.12 leaves parts of a kernel's gradient undefined where
    the kernel is deeper than its input, and writes beyond its memory: with 2 slices and 3x3x3, 3 and 5x5x5, 3 to 5 and
    7x7x7. Such a convolution stays in float32, even under autocast.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.device.type != "cpu":
            return super()._conv_forward(x, weight, bias)
        if x.shape[2] < self.kernel_size[0]:
            with torch.autocast("cpu", enabled=False):
                return super()._conv_forward(x.to(weight.dtype), weight, bias)
        is_single = x.shape[0] == 1 and x.shape[:4].numel() <= _NATIVE and x.dtype == torch.float32
        if is_single and not torch.is_autocast_enabled("cpu") and self._has_halves:
            return self._convolve_halves(x, weight, bias)
        return super()._conv_forward(x, weight, bias)

    @property
    def _has_halves(self) -> bool:
        return self.groups == 1 and self.dilation == (1, 1, 1) and self.padding_mode == "zeros"

    def _convolve_halves(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve one sample (1, C, D, H, W) as two: the upper and the lower half of the slices of its output."""
        rim, *padding = cast(tuple[int, ...], self.padding)
        size, stride = self.kernel_size[0], self.stride[0]
        depth = (x.shape[2] + 2 * rim - size) // stride + 1
        half = (depth + 1) // 2
        start = half * stride  # where the lower half's input begins
        seen = start - stride + size  # slices of the input of either
        padded = F.pad(x, (0, 0, 0, 0, rim, start + seen - x.shape[2] - rim))
        halves = torch.cat([padded[:, :, :seen], padded[:, :, start:]])
        upper, lower = F.conv3d(halves, weight, bias, self.stride, (0, *padding)).split(1)
        return torch.cat([upper, lower], dim=2)[:, :, :depth]


def accelerate(network: nn.Module) -> nn.Module:
    """Make the 3D convolutions of a network fast on processors, in place, above all their gradients.

    Parameters, their names and their order stay; only how outputs and gradients are computed changes.

    Returns:
        The same network.
    """
    for module in network.modules():
        for name, child in list(module.named_children()):
            if type(child) is not nn.Conv3d:
                continue
            channels = child.in_channels
            is_plain_depthwise = child.groups == channels == child.out_channels and channels > 1 and _keeps_size(child)
            is_patchwise = (
                child.stride == child.kernel_size
                and child.padding == (0, 0, 0)
                and child.dilation == (1, 1, 1)
                and child.groups == 1
            )
            if is_plain_depthwise:
                setattr(module, name, FastDepthwiseConv3d.from_convolution(child))
            elif is_patchwise:
                setattr(module, name, FastPatchConv3d.from_convolution(child))
            elif max(child.kernel_size) > 1 and isinstance(child.padding, tuple):
                child.__class__ = FastConv3d
    return network


class SliceConv3d(nn.Conv3d):
    """An odd cubic convolution of stride 1 that keeps the size, by 2D convolutions over slices.

    ONNX Runtime's fast kernels for processors are those of 2D convolutions: a depthwise 7x7x7 takes a sixth of the time
    so, a dense 3x3x3 half.
    """

    @classmethod
    def from_convolution(cls, convolution: nn.Conv3d) -> SliceConv3d:
        """The same convolution, sharing its parameters."""
        size, groups = convolution.kernel_size[0], convolution.groups
        channels = convolution.in_channels, convolution.out_channels
        same = cls(*channels, size, padding=size // 2, groups=groups, device="meta")
        same.weight, same.bias = convolution.weight, convolution.bias
        return same

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve_by_slices(x, weight, bias, padding=weight.shape[2] // 2, groups=self.groups)


def _convolve_by_slices(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int = 1) -> Tensor:
    """`F.conv3d` of a cubic kernel and zero padding as 2D convolutions over slices."""
    if groups == 1 and weight.shape[2] == _TAPS:
        unbiased = _convolve_by_tiles(x, weight, padding)
        return unbiased if bias is None else unbiased + bias[:, None, None, None]
    taps, depth = weight.shape[2], x.shape[2] + 2 * padding - weight.shape[2] + 1
    slices = F.pad(x, (0, 0, 0, 0, padding, padding)).transpose(1, 2)  # (B, D + 2 padding, C, H, W)
    found: Tensor | None = None
    if groups == 1:  # slices joined along the channels, so that no sum of several maps takes memory
        joined = torch.cat([slices[:, k : k + depth] for k in range(taps)], dim=2).flatten(0, 1)
        found = F.conv2d(joined, weight.transpose(1, 2).flatten(1, 2), bias, padding=padding)
    else:
        for k, plane in enumerate(weight.unbind(2)):
            moved = slices[:, k : k + depth].flatten(0, 1)  # (B depth, C, H, W)
            part = F.conv2d(moved, plane, bias if found is None else None, padding=padding, groups=groups)
            # ONNX Runtime evaluates what stands second first: so no part has to wait in memory for the others.
            found = part if found is None else part + found
    assert found is not None
    return found.reshape(x.shape[0], depth, *found.shape[1:]).transpose(1, 2)


# F(4, 3) of Winograd's minimal filtering, points 0, 1, -1, 2, -2 and infinity, after Lavin and Gray (arXiv 1509.09308).
_TILE = 4
_OF_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_KERNEL = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # divided by 24
_OF_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _convolve_by_tiles(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """A convolution 3x3x3 of x (B, C, D, H, W) by six 2D ones for each four slices instead of twelve.

    The sums of slices that go in, and the kernels, are such that sums of what comes out are the convolution. Rounding
    errors are some five times those of the plain way, 1e-6 of the largest value.
    """
    batch, depth = x.shape[0], x.shape[2] + 2 * padding - _TAPS + 1
    tiles = (depth + _TILE - 1) // _TILE
    slices = F.pad(x, (0, 0, 0, 0, padding, padding + _TILE - 1)).transpose(1, 2)
    # (B, 6, tiles, C, H, W): of each tile the slices that it sees
    seen = [slices[:, k : k + _TILE * (tiles - 1) + 1 : _TILE] for k in range(_TILE + _TAPS - 1)]
    mixed = torch.tensor(_OF_INPUT).to(x) @ torch.stack(seen, dim=1).flatten(2)
    mixed = mixed.reshape(batch, len(_OF_INPUT), tiles, *slices.shape[2:])
    parts = []
    for k, shares in enumerate(_OF_KERNEL):
        # By one operator: ONNX Runtime forms it beforehand, and keeps what each operator gives until all are formed.
        kernel = torch.einsum("k,ockhw->ochw", torch.tensor(shares).to(x) / 24, weight)
        parts.append(F.conv2d(mixed[:, k].flatten(0, 1), kernel, padding=padding))
    found = torch.tensor(_OF_OUTPUT).to(x) @ torch.stack(parts).flatten(1)  # (4, B tiles out H W)
    found = found.reshape(_TILE, batch, tiles, *parts[0].shape[1:]).permute(1, 3, 2, 0, 4, 5)
    return found.flatten(2, 3)[:, :, :depth]


def convolve_by_slices(network: nn.Module) -> nn.Module:
    """Turn the 3D convolutions of a network that are faster so into 2D ones over slices, in place; for its ONNX graph.

    Parameters, their names and their order stay.

    Returns:
        The same network.
    """
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, JoinedConv3d):
                child.for_processors = True
            elif _is_replaced(child):
                setattr(module, name, SliceConv3d.from_convolution(child))
    return network


def is_convolved_by_slices(network: nn.Module) -> bool:
    """Whether `convolve_by_slices` changes anything of a network."""
    return any(isinstance(module, JoinedConv3d) or _is_replaced(module) for module in network.modules())


def _is_replaced(module: nn.Module) -> TypeGuard[nn.Conv3d]:
    return type(module) is nn.Conv3d and _keeps_size(module) and _is_faster_by_slices(module)


def _is_faster_by_slices(convolution: nn.Conv3d) -> bool:
    """Whether ONNX Runtime's fast kernels take part in a convolution over slices."""
    is_depthwise = convolution.groups == convolution.in_channels > 1
    fills_lanes = not (convolution.in_channels % _LANES or convolution.out_channels % _LANES)
    return convolution.kernel_size[0] > 1 and (is_depthwise or fills_lanes)


def _keeps_size(convolution: nn.Conv3d) -> bool:
    """Whether a convolution has stride 1, an odd cubic kernel, and zero padding that keeps the size."""
    size = convolution.kernel_size[0]
    return (
        size % 2 == 1
        and convolution.kernel_size == (size,) * 3
        and convolution.padding == (size // 2,) * 3
        and convolution.stride == convolution.dilation == (1, 1, 1)
        and convolution.padding_mode == "zeros"
    )
