"""Heads that turn an encoder's maps into one logit map at the input's size.

Papers: UPerNet, arXiv 1807.10221; ProFound, arXiv 2603.03961. Tensor names are those of the authors'
files (pipiwang/ProFound, Apache-2.0).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
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
    if out_channels == 1 and layer.bias is not None:
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


# UNETR-like decoder of ProFound: transposed convolutions and residual blocks up to the input's size.
#
# Papers: UNETR, arXiv 2103.10504; ProFound, arXiv 2603.03961. The blocks are the same functions as
# MONAI's UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock and UnetOutBlock (Apache-2.0) and bear their
# tensor names; they are written here so that running a network needs no MONAI.

_LEAK = 0.01


def _named(convolution: nn.Module) -> nn.Sequential:
    """Put a convolution under the name `conv`, where the files have it."""
    return nn.Sequential(OrderedDict(conv=convolution))


def _convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return _named(nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False))


def _doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    return _named(nn.ConvTranspose3d(in_channels, out_channels, kernel_size=2, stride=2, bias=False))


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions beside a 1x1x1 one, each instance-normalized without parameters."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels, 3)
        self.conv2 = _convolution(out_channels, out_channels, 3)
        self.conv3 = _convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in, D, H, W) to (B, out, D, H, W)."""
        residual = F.leaky_relu(F.instance_norm(self.conv1(x)), _LEAK)
        residual = F.instance_norm(self.conv2(residual))
        return F.leaky_relu(residual + F.instance_norm(self.conv3(x)), _LEAK)


class InputBlock(nn.Module):
    """The skip from the image itself."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer = ResidualBlock(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map the image (B, in, D, H, W) to (B, out, D, H, W)."""
        return self.layer(x)


class SkipBlock(nn.Module):
    """The skip from an encoder's map, at twice that map's size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv_init = _doubling(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in, D, H, W) to (B, out, 2D, 2H, 2W)."""
        return self.transp_conv_init(x)


class UpBlock(nn.Module):
    """One step of the decoder: double the size, join the skip, refine."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = _doubling(in_channels, out_channels)
        self.conv_block = ResidualBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join x (B, in, D, H, W) with skip (B, out, 2D, 2H, 2W) to (B, out, 2D, 2H, 2W)."""
        return self.conv_block(torch.cat([self.transp_conv(x), skip], dim=1))


class UNETRDecoder(nn.Module):
    """Decoder over the image and the encoder's four maps.

    Args:
        in_channels: Channels of the image.
        dims: Channels of the encoder's four maps, at strides 4, 8, 16, 16.
        width: Channels at the image's size; they double with each halving of the size.
        out_channels: Channels of the logits.
    """

    def __init__(self, in_channels: int, dims: tuple[int, ...], width: int, out_channels: int) -> None:
        super().__init__()
        self.encoder1 = InputBlock(in_channels, width)
        self.encoder2 = SkipBlock(dims[0], 2 * width)
        self.encoder3 = SkipBlock(dims[1], 4 * width)
        self.encoder4 = SkipBlock(dims[2], 8 * width)
        self.decoder5 = UpBlock(dims[3], 8 * width)
        self.decoder4 = UpBlock(8 * width, 4 * width)
        self.decoder3 = UpBlock(4 * width, 2 * width)
        self.decoder2 = UpBlock(2 * width, width)
        self.out = nn.Sequential(OrderedDict(conv=_named(nn.Conv3d(width, out_channels, 1))))

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Decode to logits (B, out, D, H, W) at the image's size, whose axes divide by 16."""
        x = self.decoder5(maps[3], self.encoder4(maps[2]))  # stride 8
        x = self.decoder4(x, self.encoder3(maps[1]))  # stride 4
        x = self.decoder3(x, self.encoder2(maps[0]))  # stride 2
        x = self.decoder2(x, self.encoder1(image))
        return self.out(x)
