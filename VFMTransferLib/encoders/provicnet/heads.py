"""ProViCNet's heads: a grid of patch tokens becomes logits at eight times its size.

Paper: arXiv 2502.00366. Tensor names are those of the authors' files (pimed/ProViCNet, MIT).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def token_grid(tokens: Tensor, side: int) -> Tensor:
    """View patch tokens (B, side * side, C), which run row by row, as a map (B, C, side, side)."""
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _double(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(in_channels, out_channels, 3, padding=1)]


def _double_and_normalize(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [*_double(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU()]


class ConvolutionHead(nn.Module):
    """Three doublings, for one sequence: channels to width to half of it to the logits."""

    def __init__(self, channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.segmentation_conv = nn.Sequential(
            *_double_and_normalize(channels, width),
            *_double_and_normalize(width, width // 2),
            *_double(width // 2, out_channels),
        )

    def forward(self, grid: Tensor) -> Tensor:
        """Map the grid (B, channels, S, S) to logits (B, out, 8S, 8S)."""
        return self.segmentation_conv(grid)


class _Stream(nn.Module):
    """What one sequence brings into the fusion: its grid, doubled and narrowed."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        # Upstream's name, as it stands in the files' tensor names.
        self.UpsampleModule = nn.Sequential(*_double_and_normalize(channels, width))

    def forward(self, grid: Tensor) -> Tensor:
        """Map the grid (B, channels, S, S) to (B, width, 2S, 2S)."""
        return self.UpsampleModule(grid)


class FusionHead(nn.Module):
    """Joins the three sequences after their first doubling.

    Args:
        channels: Channels of a token.
        width: Channels of each stream, and of the joined map.
        out_channels: Channels of the logits.
        side: Patches along each side of the image.
    """

    def __init__(self, channels: int, width: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.Stream_T2W = _Stream(channels, width)
        self.Stream_ADC = _Stream(channels, width)
        self.Stream_DWI = _Stream(channels, width)
        self.FusionSegmentation = nn.Sequential(
            *_double_and_normalize(3 * width, width),
            *_double(width, out_channels),
        )

    def forward(self, t2w: Tensor, adc: Tensor, dwi: Tensor) -> Tensor:
        """Fuse the patch tokens of the three sequences, each (B, side * side, channels).

        Returns:
            Logits (B, out, 8 * side, 8 * side).
        """
        streams = ((self.Stream_T2W, t2w), (self.Stream_ADC, adc), (self.Stream_DWI, dwi))
        joined = torch.cat([stream(token_grid(tokens, self.side)) for stream, tokens in streams], dim=1)
        return self.FusionSegmentation(joined)
