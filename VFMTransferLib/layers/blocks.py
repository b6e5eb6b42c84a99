"""The blocks and losses that networks share. Axes: B batch, C channels, K classes, D H W.

Sources: ConvNeXt V2 (arXiv 2301.00808), UPerNet (arXiv 1807.10221), stochastic depth (arXiv 1603.09382).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
_SMOOTH = 1.0
# As published for ProViCNet; background and gland would drown the cancers otherwise.
CLASS_WEIGHTS = (0.02, 0.04, 0.5, 0.5)


def channels_last(x: Tensor) -> Tensor:
    """View (B, C, D, H, W) as (B, D, H, W, C)."""
    # Not movedim: the ONNX exporter writes its -1 as it stands, which ONNX forbids.
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """View (B, D, H, W, C) as (B, C, D, H, W)."""
    return x.permute(0, 4, 1, 2, 3)


class LayerNorm(nn.LayerNorm):
    """Layer normalization over the channels of a channels-first map (B, C, D, H, W)."""

    def __init__(self, channels: int, eps: float = NORM_EPS) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each voxel's channels; the shape stays."""
        # Contiguous, since convolutions of PyTorch copy a permuted input anyway, and slower.
        return channels_first(super().forward(channels_last(x))).contiguous()


class GRN(nn.Module):
    """Global response normalization of ConvNeXt V2 (section 3.3), on channels-last maps.

    A channel's response is its L2 norm over the whole map, so the output depends on the crop.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of x (B, D, H, W, C) by their share of the response."""
        # vector_norm has a gradient of zero, not NaN, where a channel is zero everywhere. Axis by axis, since ONNX
        # Runtime takes six times as long for all of them at once.
        response = x
        for axis in (3, 2, 1):
            response = torch.linalg.vector_norm(response, dim=axis, keepdim=True)  # (B, 1, 1, 1, C) in the end
        share = response / (response.mean(dim=-1, keepdim=True) + NORM_EPS)
        # The paper's gamma * (x * share) + beta + x, with fewer passes over the map.
        return x * (1 + self.gamma * share) + self.beta


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for a whole sample, in training only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"A drop path rate must lie in [0, 1), got {rate}.")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero some samples of x (B, ...) and scale up the others, so that the expectation stays."""
        if not self.training or self.rate == 0:
            return x
        kept = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(kept)
        return x * mask / kept


class ConvNeXtBlock(nn.Module):
    """ConvNeXt V2 block in three dimensions: depthwise 7x7x7, then a per-voxel perceptron with GRN."""

    def __init__(self, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = GRN(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, D, H, W); the shape stays."""
        residual = channels_last(self.dwconv(x))  # (B, D, H, W, C)
        residual = self.act(self.pwconv1(self.norm(residual)))  # (B, D, H, W, 4C)
        residual = channels_first(self.pwconv2(self.grn(residual)))  # (B, C, D, H, W)
        return x + self.drop_path(residual)


class ConvModule(nn.Module):
    """UPerNet's unit in ProFound: convolution without bias, layer norm, GELU.

    The norm bears the name `batch_norm` because the authors' files call it so.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.batch_norm = LayerNorm(out_channels)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in, D, H, W) to (B, out, D, H, W)."""
        return self.activation(self.batch_norm(self.conv(x)))


class AdaptiveAveragePool(nn.Module):
    """`nn.AdaptiveAvgPool3d` to a cube, written as one averaging matrix an axis.

    The ONNX exporter refuses adaptive pooling where the input is no multiple of the output, or is
    dynamic. A mean over a box is separable, so three small matrix products are the same function.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Pool x (B, C, D, H, W) to (B, C, size, size, size)."""
        depth, height, width = (_averaging_matrix(n, self.size, x) for n in x.shape[2:])
        x = height @ (x @ width.T)  # (B, C, D, size, size)
        x = depth @ x.flatten(3)  # (B, C, size, size * size)
        return x.unflatten(3, (self.size, self.size))


def _averaging_matrix(length: int, size: int, like: Tensor) -> Tensor:
    """Matrix (size, length) whose row i averages the places floor(i n / s) .. ceil((i + 1) n / s)."""
    row = torch.arange(size, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)[None]
    first = (row * length).div(size, rounding_mode="trunc")  # of what is never negative, as in `Region.coarser`
    end = ((row + 1) * length + size - 1).div(size, rounding_mode="trunc")
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


class ClassifierHead(nn.Sequential):
    """Two-layer perceptron of ProFound's classifier: (B, channels) to logits (B, classes).

    A plain sequence, so that its tensors are `0.*`, `1.*` and `3.*` as in the authors' file
    (pipiwang/ProFound, Apache-2.0). In training mode a batch must hold two samples or more.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__(
            nn.Linear(channels, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Scale a map (B, C, D, H, W) or (B, C, H, W) linearly to `size`; voxel corners, not centers, are aligned."""
    mode = "trilinear" if x.ndim == 5 else "bilinear"
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def soft_dice_loss(probability: Tensor, target: Tensor, smooth: float = _SMOOTH) -> Tensor:
    """1 - Dice of two maps (D, H, W) of probabilities, in the form with squares, least at equality.

    `smooth` voxels are added to overlap and size.
    """
    overlap = 2 * (probability * target).sum() + smooth
    return 1 - overlap / (probability.square().sum() + target.square().sum() + smooth)


def tissue_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Weighted cross-entropy plus the mean Dice loss of all classes but the background.

    Logits (B, K, H, W) or (B, K, D, H, W) are compared with classes (B, H, W) or (B, D, H, W).
    """
    logits = logits.float()
    entropy = F.cross_entropy(logits, classes, torch.tensor(CLASS_WEIGHTS, device=logits.device))
    probabilities = logits.softmax(dim=1)[:, 1:]
    truth = F.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    axes = (0, *range(2, logits.ndim))
    overlap = 2 * (probabilities * truth).sum(axes) + _SMOOTH
    dice = overlap / (probabilities.square().sum(axes) + truth.square().sum(axes) + _SMOOTH)
    return entropy + (1 - dice).mean()
