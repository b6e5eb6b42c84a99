"""Head for image-to-image tasks: up to the input's size, with skips from the image itself.

Nobody has published weights for these tasks, so the head is this project's own. It carries no
normalization at the finer levels: what it restores is intensity, and normalizing costs accuracy there
(EDSR, arXiv 1707.02921).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import resize


class RefineStep(nn.Module):
    """One step up: resize to the skip, join both, convolve.

    Args:
        in_channels: Channels of the coarser map.
        skip_channels: Channels of the skip.
        out_channels: Channels of the result.
        convolution: `nn.Conv3d`, or `nn.Conv2d` for maps of slices.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, convolution: type[nn.Module] = nn.Conv3d
    ) -> None:
        super().__init__()
        # Narrowing before resizing, not after it, saves the work of all places but every eighth, or fourth.
        self.narrow = convolution(in_channels, out_channels, 1)
        self.skip = convolution(skip_channels, out_channels, 1)
        self.join = convolution(2 * out_channels, out_channels, 3, padding=1)
        self.refine = convolution(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join x (B, in, ...) with skip (B, skip, [D,] H, W) to (B, out, [D,] H, W)."""
        x = resize(self.narrow(x), skip.shape[2:])
        x = F.gelu(self.join(torch.cat([x, self.skip(skip)], dim=1)))
        return x + F.gelu(self.refine(x))


class RestorationHead(nn.Module):
    """Decoder over the image and the encoder's four normalized maps.

    The last convolution starts at zero, so that an untrained network changes nothing.

    Args:
        in_channels: Channels of the image.
        dims: Channels of the encoder's four maps, at strides 4, 8, 16, 16.
        width: Channels at the image's size; they double with each halving of the size.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, dims: tuple[int, ...], width: int, out_channels: int) -> None:
        super().__init__()
        self.image_full = nn.Conv3d(in_channels, width, 3, padding=1)
        self.image_half = nn.Conv3d(width, 2 * width, 3, stride=2, padding=1)
        self.bottom = nn.Conv3d(dims[2] + dims[3], 16 * width, 1)
        self.steps = nn.ModuleList(
            [
                RefineStep(16 * width, dims[1], 8 * width),
                RefineStep(8 * width, dims[0], 4 * width),
                RefineStep(4 * width, 2 * width, 2 * width),
                RefineStep(2 * width, width, width),
            ]
        )
        self.out = nn.Conv3d(width, out_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Decode to (B, out, D, H, W) at the image's size."""
        full = F.gelu(self.image_full(image))
        half = F.gelu(self.image_half(full))
        x = F.gelu(self.bottom(torch.cat(maps[2:], dim=1)))  # stride 16
        for step, skip in zip(self.steps, (maps[1], maps[0], half, full), strict=True):
            x = step(x, skip)
        return self.out(x)


class SliceRestorationHead(nn.Module):
    """Decoder over a slice and the patch tokens of its sequences, up to eight times the tokens' grid.

    The last convolution starts at zero, as above.

    Args:
        image_channels: Channels of the slices that the skips come from.
        token_channels: Channels of the tokens of all sequences together.
        width: Channels at the output's size; they double with each halving.
        out_channels: Channels of the output.
    """

    def __init__(self, image_channels: int, token_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.image_full = nn.Conv2d(image_channels, width, 3, padding=1)
        self.image_half = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.image_quarter = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(token_channels, 8 * width, 1)
        self.steps = nn.ModuleList(
            [
                RefineStep(8 * width, 4 * width, 4 * width, nn.Conv2d),
                RefineStep(4 * width, 2 * width, 2 * width, nn.Conv2d),
                RefineStep(2 * width, width, width, nn.Conv2d),
            ]
        )
        self.out = nn.Conv2d(width, out_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        """Decode to (B, out, 8S, 8S).

        Args:
            image: Slices (B, image_channels, 8S, 8S).
            grid: Tokens of all sequences as a map (B, token_channels, S, S).
        """
        full = F.gelu(self.image_full(image))
        half = F.gelu(self.image_half(full))
        quarter = F.gelu(self.image_quarter(half))
        x = F.gelu(self.bottom(grid))
        for step, skip in zip(self.steps, (quarter, half, full), strict=True):
            x = step(x, skip)
        return self.out(x)
