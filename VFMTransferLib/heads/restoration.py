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
    """One step up: resize to the skip, join both, convolve."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        # Narrowing before resizing, not after it, saves eight times the work.
        self.narrow = nn.Conv3d(in_channels, out_channels, 1)
        self.skip = nn.Conv3d(skip_channels, out_channels, 1)
        self.join = nn.Conv3d(2 * out_channels, out_channels, 3, padding=1)
        self.refine = nn.Conv3d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join x (B, in, ...) with skip (B, skip, D, H, W) to (B, out, D, H, W)."""
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
