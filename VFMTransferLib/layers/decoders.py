"""The decoders of ProFound: UPerNet (arXiv 1807.10221) and UNETR (arXiv 2103.10504), on an encoder's four maps.

Tensor names are those of the authors' files (pipiwang/ProFound, Apache-2.0).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AdaptiveAveragePool, ConvModule, resize
from .convolutions import Doubled, JoinedConv3d, JoinedConvModule, Region

POOL_SIZES = (1, 2, 3, 6)
RARE = -3.0  # logit of 5 %
_LEAK = 0.01


class UPerNetHead(nn.Module):
    """Pyramid pooling on the last map of `dims` channels, then a feature pyramid of `width` down to the first."""

    def __init__(self, dims: tuple[int, ...], width: int, out_channels: int) -> None:
        super().__init__()
        *finer, last = dims
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AdaptiveAveragePool(size), ConvModule(last, width, 1)) for size in POOL_SIZES
        )
        self.bottleneck = JoinedConvModule((last, *len(POOL_SIZES) * (width,)), width)
        self.lateral_convs = nn.ModuleList(ConvModule(dim, width, 1) for dim in finer)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in finer)
        self.fpn_bottleneck = JoinedConvModule(len(dims) * (width,), width)
        self.classifier = _classifier(width, out_channels)

    def forward(self, maps: list[Tensor], region: Region | None = None) -> Tensor:
        """Fuse the four maps to logits (B, out, D, H, W) at the first map's size, or of a region of that grid."""
        last = maps[-1]
        coarser = self.bottleneck(last, *(pool(last) for pool in self.psp_modules))
        levels = [coarser]
        for lateral, feature in zip(reversed(self.lateral_convs), reversed(maps[:-1]), strict=True):
            coarser = lateral(feature) + resize(coarser, feature.shape[2:])
            levels.insert(0, coarser)
        # The finest level costs most by far. Each of two convolutions of a region spoils one voxel at its sides, except
        # at the sides of the grid, beyond which there are zeros indeed.
        wide = None if region is None else region.widened(2)
        finest = levels[0] if wide is None else wide.crop(levels[0])
        fused = [conv(level) for conv, level in zip(self.fpn_convs, [finest, *levels[1:-1]], strict=True)]
        logits = self.classifier(self.fpn_bottleneck(*fused, levels[-1], region=wide))
        return logits if region is None or wide is None else region.crop(logits, wide.start)


def _classifier(width: int, out_channels: int) -> nn.Conv3d:
    """The last layer. One lesion channel begins with few lesions (Lin et al., arXiv 1708.02002, section 4.1).

    Otherwise the first steps, which unlearn that half of all voxels are cancer, also unlearn what distinguishes them.
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


def _named(**module: nn.Module) -> nn.Sequential:
    """A module under a name that the files' tensor names have."""
    return nn.Sequential(OrderedDict(module))


def _convolution(channels: Sequence[int], out_channels: int, kernel_size: int) -> nn.Sequential:
    return _named(conv=JoinedConv3d(channels, out_channels, kernel_size))


def _doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    return _named(conv=nn.ConvTranspose3d(in_channels, out_channels, kernel_size=2, stride=2, bias=False))


def _doubled(doubling: nn.Sequential, x: Tensor) -> Doubled:
    return Doubled(x, next(doubling.parameters()))


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions beside a 1x1x1 one, each instance-normalized without parameters."""

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv1 = _convolution(channels, out_channels, 3)
        self.conv2 = _convolution((out_channels,), out_channels, 3)
        self.conv3 = _convolution(channels, out_channels, 1)

    def forward(self, *maps: Tensor | Doubled) -> Tensor:
        """Map maps (B, channels[i], D, H, W), as if joined, to (B, out, D, H, W)."""
        residual = F.leaky_relu(self._normalized(self.conv1[0](*maps)), _LEAK)
        residual = self._normalized(self.conv2(residual))
        return F.leaky_relu(residual + self._normalized(self.conv3[0](*maps)), _LEAK)

    def _normalized(self, x: Tensor) -> Tensor:
        ones = x.new_ones(self.out_channels)  # without them the ONNX exporter must know x's size
        return F.instance_norm(x, weight=ones, bias=torch.zeros_like(ones))


class UpBlock(nn.Module):
    """One step of the decoder: double the size, join the skip, refine."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = _doubling(in_channels, out_channels)
        self.conv_block = ResidualBlock((out_channels, out_channels), out_channels)

    def forward(self, x: Tensor, skip: Tensor | Doubled) -> Tensor:
        """Join x (B, in, D, H, W) with skip (B, out, 2D, 2H, 2W) to (B, out, 2D, 2H, 2W)."""
        return self.conv_block(_doubled(self.transp_conv, x), skip)


class UNETRDecoder(nn.Module):
    """UNETR-like decoder: transposed convolutions and residual blocks from the encoder's maps up to the image.

    The blocks are MONAI's UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock and UnetOutBlock (Apache-2.0) and bear their
    tensor names; written here so that running a network needs no MONAI. `width` doubles with each halving of the size.
    """

    def __init__(self, in_channels: int, dims: tuple[int, ...], width: int, out_channels: int) -> None:
        super().__init__()
        self.encoder1 = _named(layer=ResidualBlock((in_channels,), width))
        self.encoder2 = _named(transp_conv_init=_doubling(dims[0], 2 * width))
        self.encoder3 = _named(transp_conv_init=_doubling(dims[1], 4 * width))
        self.encoder4 = _named(transp_conv_init=_doubling(dims[2], 8 * width))
        self.decoder5 = UpBlock(dims[3], 8 * width)
        self.decoder4 = UpBlock(8 * width, 4 * width)
        self.decoder3 = UpBlock(4 * width, 2 * width)
        self.decoder2 = UpBlock(2 * width, width)
        self.out = _named(conv=_named(conv=nn.Conv3d(width, out_channels, 1)))

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Decode to logits (B, out, D, H, W) at the image's size, whose axes divide by 16."""
        x = self.decoder5(maps[3], _doubled(self.encoder4, maps[2]))  # stride 8
        x = self.decoder4(x, _doubled(self.encoder3, maps[1]))  # stride 4
        x = self.decoder3(x, _doubled(self.encoder2, maps[0]))  # stride 2
        x = self.decoder2(x, self.encoder1(image))
        return self.out(x)
