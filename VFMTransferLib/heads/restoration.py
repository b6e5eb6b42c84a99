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
from ..registry import ModelSpec
from ..terms import TaskId

_BLOCK = 4  # pixels of a block
_FINE = 3
_TYPICAL_ADC = 1.2  # 1e-3 mm²/s


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

    Its finest level sees blocks of 2 x 2 pixels as channels (ESPCN, arXiv 1609.05158): so each of its convolutions
    costs a quarter and sees twice as far, and what it adds to a pixel depends on where in the block that lies. The last
    convolution's weights start at zero, so that an untrained network gives `start` everywhere.

    Args:
        in_channels: Channels of the image.
        dims: Channels of the encoder's four maps, at strides 4, 8, 16, 16.
        width: A third of the channels of the two finest levels; the others have 4, 8 and 16 times as many.
        out_channels: Channels of the output.
        start: Output of the untrained network.
    """

    def __init__(
        self, in_channels: int, dims: tuple[int, ...], width: int, out_channels: int, start: float = 0.0
    ) -> None:
        super().__init__()
        fine = _FINE * width
        self.image_full = nn.Conv3d(_BLOCK * in_channels, fine, 3, padding=1)
        self.image_half = nn.Conv3d(fine, fine, 3, stride=(2, 1, 1), padding=1)
        self.bottom = nn.Conv3d(dims[2] + dims[3], 16 * width, 1)
        self.steps = nn.ModuleList(
            [
                RefineStep(16 * width, dims[1], 8 * width),
                RefineStep(8 * width, dims[0], 4 * width),
                RefineStep(4 * width, fine, fine),
                RefineStep(fine, fine, fine),
            ]
        )
        self.out = _last(nn.Conv3d(fine, _BLOCK * out_channels, 3, padding=1), start)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Decode to (B, out, D, H, W) at the image's size."""
        full = F.gelu(self.image_full(fold_blocks(image)))  # (B, fine, D, H / 2, W / 2)
        half = F.gelu(self.image_half(full))  # (B, fine, D / 2, H / 2, W / 2)
        x = F.gelu(self.bottom(torch.cat(maps[2:], dim=1)))  # stride 16
        for step, skip in zip(self.steps, (maps[1], maps[0], half, full), strict=True):
            x = step(x, skip)
        return unfold_blocks(self.out(x))[..., : image.shape[-2], : image.shape[-1]]


class SliceRestorationHead(nn.Module):
    """Decoder over a slice and the patch tokens of its sequences, up to eight times the tokens' grid.

    Blocks of pixels and the start are as above.

    Args:
        image_channels: Channels of the slices that the skips come from.
        token_channels: Channels of the tokens of all sequences together.
        width: A third of the channels of the finest level; the others have 4 and 8 times as many.
        out_channels: Channels of the output.
        start: Output of the untrained network.
    """

    def __init__(
        self, image_channels: int, token_channels: int, width: int, out_channels: int, start: float = 0.0
    ) -> None:
        super().__init__()
        fine = _FINE * width
        self.image_full = nn.Conv2d(_BLOCK * image_channels, fine, 3, padding=1)
        self.image_half = nn.Conv2d(fine, 4 * width, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(token_channels, 8 * width, 1)
        self.steps = nn.ModuleList(
            [
                RefineStep(8 * width, 4 * width, 4 * width, nn.Conv2d),
                RefineStep(4 * width, fine, fine, nn.Conv2d),
            ]
        )
        self.refine = nn.Conv2d(fine, fine, 3, padding=1)
        self.out = _last(nn.Conv2d(fine, _BLOCK * out_channels, 3, padding=1), start)

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        """Decode to (B, out, 8S, 8S).

        Args:
            image: Slices (B, image_channels, 8S, 8S).
            grid: Tokens of all sequences as a map (B, token_channels, S, S).
        """
        full = F.gelu(self.image_full(fold_blocks(image)))  # (B, fine, 4S, 4S)
        half = F.gelu(self.image_half(full))  # (B, 4 width, 2S, 2S)
        x = F.gelu(self.bottom(grid))
        for step, skip in zip(self.steps, (half, full), strict=True):
            x = step(x, skip)
        return unfold_blocks(self.out(x + F.gelu(self.refine(x))))


def start_of(spec: ModelSpec) -> float:
    """What an untrained head gives: the ADC that is typical of tissue, and no change where an image is changed."""
    return _TYPICAL_ADC if spec.task is TaskId.ADC_TRANSLATION else 0.0


def fold_blocks(x: Tensor) -> Tensor:
    """Blocks of 2 x 2 pixels in plane as channels: (B, C, ..., H, W) → (B, 4 C, ..., H / 2, W / 2).

    An odd row or column is filled up with zeros.
    """
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    *outer, height, width = x.shape
    x = x.reshape(*outer, height // 2, 2, width // 2, 2)
    # Not movedim: the ONNX exporter writes negative axes as they stand, which ONNX forbids.
    last = x.ndim - 1
    x = x.permute(0, 1, last - 2, last, *range(2, last - 3), last - 3, last - 1)  # (B, C, 2, 2, ..., H / 2, W / 2)
    return x.flatten(1, 3)


def unfold_blocks(x: Tensor) -> Tensor:
    """The inverse: (B, 4 C, ..., H, W) → (B, C, ..., 2 H, 2 W)."""
    x = x.unflatten(1, (-1, 2, 2))  # (B, C, 2, 2, ..., H, W)
    last = x.ndim - 1
    x = x.permute(0, 1, *range(4, last - 1), last - 1, 2, last, 3)  # (B, C, ..., H, 2, W, 2)
    return x.flatten(last - 3, last - 2).flatten(last - 2, last - 1)


def _last(convolution: nn.Conv2d | nn.Conv3d, start: float) -> nn.Conv2d | nn.Conv3d:
    """A convolution that gives `start` until it is trained."""
    nn.init.zeros_(convolution.weight)
    nn.init.constant_(convolution.bias, start)
    return convolution
