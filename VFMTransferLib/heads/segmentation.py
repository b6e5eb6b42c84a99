"""Heads that turn an encoder's maps into one logit map at the input's size.

Papers: UPerNet, arXiv 1807.10221; ProFound, arXiv 2603.03961. Tensor names are those of the authors'
files (pipiwang/ProFound, Apache-2.0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import AdaptiveAveragePool, ConvModule, resize

POOL_SIZES = (1, 2, 3, 6)
RARE = -3.0  # logit of 5 %


class UPerNetHead(nn.Module):
    """Pyramid pooling on the last map, then a feature pyramid down to the first.

    Args:
        dims: Channels of the encoder's four maps.
        width: Channels of every map in the head.
        out_channels: Channels of the logits.
    """

    def __init__(self, dims: tuple[int, ...], width: int, out_channels: int) -> None:
        super().__init__()
        *finer, last = dims
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AdaptiveAveragePool(size), ConvModule(last, width, 1)) for size in POOL_SIZES
        )
        self.bottleneck = ConvModule(last + len(POOL_SIZES) * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(dim, width, 1) for dim in finer)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in finer)
        self.fpn_bottleneck = ConvModule(len(dims) * width, width, 3)
        self.classifier = _classifier(width, out_channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Fuse the four maps to logits (B, out, D, H, W) at the first map's size."""
        coarser = self._pool_pyramid(maps[-1])
        levels = [coarser]
        for lateral, feature in zip(reversed(self.lateral_convs), reversed(maps[:-1]), strict=True):
            coarser = lateral(feature) + resize(coarser, feature.shape[2:])
            levels.insert(0, coarser)
        fused = [conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)]
        fused.append(levels[-1])
        size = maps[0].shape[2:]
        fused = [fused[0], *(resize(level, size) for level in fused[1:])]
        return self.classifier(self.fpn_bottleneck(torch.cat(fused, dim=1)))

    def _pool_pyramid(self, last: Tensor) -> Tensor:
        """Widen the last map's view to the whole image, at four scales: (B, width, ...)."""
        size = last.shape[2:]
        scales = [resize(pool(last), size) for pool in self.psp_modules]
        return self.bottleneck(torch.cat([last, *scales], dim=1))


def _classifier(width: int, out_channels: int) -> nn.Conv3d:
    """The last layer. One lesion channel begins with few lesions (Lin et al., arXiv 1708.02002, section 4.1).

    Otherwise the first steps, which unlearn that half of all voxels are cancer, unlearn what tells them apart as well.
    """
    layer = nn.Conv3d(width, out_channels, 1)
    if out_channels == 1:
        nn.init.constant_(layer.bias, RARE)
    return layer


class AuxiliaryHead(nn.Module):
    """A shallow head on the third map; its loss speeds up training and prediction leaves it out."""

    def __init__(self, channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvModule(channels, width, 3))
        self.classifier = _classifier(width, out_channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Map the feature (B, channels, D, H, W) to logits (B, out, D, H, W)."""
        return self.classifier(self.convs(feature))
