"""ConvNeXt V2 in three dimensions, the encoder of ProFound. Any depths and widths.

Papers: ConvNeXt V2, arXiv 2301.00808; ProFound, arXiv 2603.03961. Tensor names are those of the
authors' files (pipiwang/ProFound, Apache-2.0), so that these load strictly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import NORM_EPS, ConvNeXtBlock, LayerNorm
from ..registry import ConvNeXtSpec

# Kernel and stride of each stage's entry. The last one keeps the resolution: the total is 16, not 32.
STRIDES = (4, 2, 2, 1)
_INIT_STD = 0.02


class ConvNeXtV2(nn.Module):
    """Encoder: an image becomes four maps, at strides 4, 8, 16 and 16.

    Args:
        spec: Blocks and channels of the four stages.
        drop_path: Stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    def __init__(self, spec: ConvNeXtSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dims = spec.dims
        self.downsample_layers = nn.ModuleList(_entries(spec))
        rates = iter(torch.linspace(0, drop_path, sum(spec.depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim, next(rates)) for _ in range(depth)))
            for depth, dim in zip(spec.depths, spec.dims, strict=True)
        )
        self.norm = nn.LayerNorm(spec.dims[-1], eps=NORM_EPS)
        self.apply(_initialize)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Encode x (B, C, D, H, W) to the maps of the four stages, not normalized.

        Returns:
            (B, dims[i], ...) at strides 4, 8, 16, 16; sizes that are no multiple are rounded down.
        """
        maps = []
        for entry, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(entry(x))
            maps.append(x)
        return maps

    def pool(self, last: Tensor) -> Tensor:
        """Average the last map over space and normalize it: (B, dims[3])."""
        return self.norm(last.mean(dim=(2, 3, 4)))

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (B, C, D, H, W) to one normalized feature vector a sample, (B, dims[3])."""
        return self.pool(self.forward_features(x)[-1])


def _entries(spec: ConvNeXtSpec) -> list[nn.Sequential]:
    """The strided convolution before each stage; the stem normalizes after it, the others before."""
    dims = spec.dims
    stem = nn.Sequential(nn.Conv3d(spec.in_channels, dims[0], STRIDES[0], STRIDES[0]), LayerNorm(dims[0]))
    return [
        stem,
        *(
            nn.Sequential(LayerNorm(before), nn.Conv3d(before, after, stride, stride))
            for before, after, stride in zip(dims[:-1], dims[1:], STRIDES[1:], strict=True)
        ),
    ]


def _initialize(module: nn.Module) -> None:
    """Start a network from scratch as the ConvNeXt V2 paper does: truncated normal, no bias."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_INIT_STD)
        nn.init.zeros_(module.bias)
