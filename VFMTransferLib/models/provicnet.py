"""ProViCNet: a DINOv2 backbone on three neighboring slices of one sequence; and the fusion of three.

Paper: arXiv 2502.00366. Tensor names are those of the authors' files (pimed/ProViCNet, MIT).
Input of a sequence's network: x (B, 3, image_px, image_px), channels slices z - 1, z, z + 1; positions
(B, 2), the slice's index z and the number of slices, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..heads.classification import ClassifierHead
from ..heads.convolution import ConvolutionHead, FusionHead, token_grid
from ..heads.matching import MatchingHead
from ..heads.restoration import SliceRestorationHead, start_of
from ..layers import resize
from ..registry import ModelSpec, ViTSpec
from .vit import VisionTransformer

_POSITION_TOKENS = 2
_NEIGHBORS = 3
_TOKENS_TO_OUTPUT = 8


class SliceEncoder(nn.Module):
    """The backbone of one sequence, told where in the volume its slice lies.

    Args:
        encoder: Sizes of the backbone.
        drop_path: Its stochastic depth, in training.
    """

    def __init__(self, encoder: ViTSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.side = encoder.image_px // encoder.patch_px
        self.leading_tokens = 1 + encoder.registers + _POSITION_TOKENS
        self.backbone = VisionTransformer(encoder, drop_path)
        self.axis_pos = nn.Linear(1, encoder.dim)
        self.axis_max = nn.Linear(1, encoder.dim)

    def patch_tokens(self, x: Tensor, positions: Tensor) -> Tensor:
        """Encode a slice: normalized patch tokens (B, side * side, dim), row by row."""
        positions = positions.to(x.dtype)  # counts are whole numbers, and may come as such
        extra = torch.stack([self.axis_pos(positions[:, :1]), self.axis_max(positions[:, 1:])], dim=1)
        return self.backbone(x, extra)[:, self.leading_tokens :]


class ProViCNet(SliceEncoder):
    """The network of one sequence.

    Args:
        spec: Sizes of backbone and head.
        drop_path: Stochastic depth of the backbone, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec.encoder, drop_path)
        self.head = ConvolutionHead(spec.encoder.dim, spec.head.width, spec.head.out_channels)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Segment a slice: logits (B, out, 8 * side, 8 * side)."""
        return self.segment(self.patch_tokens(x, positions))

    def segment(self, tokens: Tensor) -> Tensor:
        """Logits (B, out, 8 * side, 8 * side) from a slice's patch tokens."""
        return self.head(token_grid(tokens, self.side))


class ProViCNetFusion(nn.Module):
    """The networks of three sequences, and the head that joins their tokens.

    The sequence networks keep their own heads: each is whole, and can be run alone.

    Args:
        spec: Sizes of backbones and head.
        drop_path: Stochastic depth of the backbones, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        encoder, head = spec.encoder, spec.head
        self.t2w, self.adc, self.dwi = (ProViCNet(spec, drop_path) for _ in range(3))
        side = encoder.image_px // encoder.patch_px
        self.fusion = FusionHead(encoder.dim, head.width, head.out_channels, side)

    def forward(self, t2w: Tensor, adc: Tensor, dwi: Tensor, positions: Tensor) -> Tensor:
        """Segment a slice from the windows of its three sequences: logits (B, out, 8 * side, 8 * side)."""
        return self.fusion(
            self.t2w.patch_tokens(t2w, positions),
            self.adc.patch_tokens(adc, positions),
            self.dwi.patch_tokens(dwi, positions),
        )


class ProViCNetClassifier(nn.Module):
    """One encoder a sequence, and a perceptron over what their tokens have in common and what stands out.

    Nobody has published such a head; it is this project's own. It speaks of one slice; the logits of a study are the
    mean over the slices that hold the gland (`preprocess.prepare`, `inference.infer`).

    Args:
        spec: Sizes; its sequences say which encoders there are.
        drop_path: Stochastic depth of the encoders, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoders = _encoders(spec, drop_path)
        self.head = ClassifierHead(2 * len(self.encoders) * spec.encoder.dim, spec.head.width, spec.head.out_channels)

    def forward(self, *windows_and_positions: Tensor) -> Tensor:
        """Classify a slice: logits (B, out).

        Args:
            windows_and_positions: For each sequence its window (B, 3, image_px, image_px), then the positions (B, 2).
        """
        *windows, positions = windows_and_positions
        pooled = []
        for encoder, window in zip(self.encoders.values(), windows, strict=True):
            tokens = encoder.patch_tokens(window, positions)
            pooled += [tokens.mean(dim=1), tokens.amax(dim=1)]  # a lesion covers few of the patches
        return self.head(torch.cat(pooled, dim=1))


class ProViCNetRestoration(nn.Module):
    """One encoder a sequence, and a decoder to an image with skips from the slices themselves.

    Nobody has published such a head; it is this project's own.

    Args:
        spec: Sizes; its sequences say which encoders there are.
        drop_path: Stochastic depth of the encoders, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.side = spec.encoder.image_px // spec.encoder.patch_px
        self.encoders = _encoders(spec, drop_path)
        count = len(self.encoders)
        channels, tokens = count * (_NEIGHBORS + 1), count * spec.encoder.dim
        width, out = spec.head.width, spec.head.out_channels
        self.head = SliceRestorationHead(channels, tokens, width, out, start_of(spec))

    def forward(self, *windows_and_positions: Tensor) -> Tensor:
        """Restore a slice: (B, out, 8 * side, 8 * side), in the unit that the model's registry row states.

        Args:
            windows_and_positions: For each sequence its window (B, 3, image_px, image_px), then the positions (B, 2).
        """
        *windows, positions = windows_and_positions
        grid = _joint_grid(self.encoders, windows, positions, self.side)
        slices = torch.cat([*windows, *(own_slice(window, positions) for window in windows)], dim=1)
        size = 2 * [_TOKENS_TO_OUTPUT * self.side]
        return self.head(resize(slices, size), grid)


class ProViCNetMatching(nn.Module):
    """One encoder a sequence, and a matching head: the displacement of diffusion against T2w in a slice.

    Args:
        spec: Sizes; its sequences say which encoders there are, T2w first.
        drop_path: Stochastic depth of the encoders, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.side = spec.encoder.image_px // spec.encoder.patch_px
        self.encoders = _encoders(spec, drop_path)
        count, (step_mm, _, _) = len(self.encoders), spec.preprocess.spacing_mm
        self.head = MatchingHead([count * spec.encoder.dim], count - 1, spec.head.width, step_mm, is_flat=True)

    def forward(self, *windows_and_positions: Tensor) -> Tensor:
        """Displacement (B, 1, 8 * side, 8 * side) in mm along x, see `MatchingHead`.

        Args:
            windows_and_positions: For each sequence its window (B, 3, image_px, image_px), then the positions (B, 2).
        """
        *windows, positions = windows_and_positions
        grid = _joint_grid(self.encoders, windows, positions, self.side)
        size = 2 * [_TOKENS_TO_OUTPUT * self.side]
        t2w, *diffusion = (resize(own_slice(window, positions), size) for window in windows)
        return self.head(t2w, torch.cat(diffusion, dim=1), [grid])


def _joint_grid(encoders: nn.ModuleDict, windows: Sequence[Tensor], positions: Tensor, side: int) -> Tensor:
    """Tokens of all sequences as one map (B, channels, side, side)."""
    tokens = [
        encoder.patch_tokens(window, positions) for encoder, window in zip(encoders.values(), windows, strict=True)
    ]
    return torch.cat([token_grid(found, side) for found in tokens], dim=1)


def _encoders(spec: ModelSpec, drop_path: float) -> nn.ModuleDict:
    """An encoder for each sequence, under its name."""
    return nn.ModuleDict({str(s): SliceEncoder(spec.encoder, drop_path) for s in spec.preprocess.sequences})


def own_slice(window: Tensor, positions: Tensor) -> Tensor:
    """The slice (B, 1, H, W) of a window (B, 3, H, W) that the answer is about.

    It is the middle one, but at a volume's ends, where the window has moved inwards: see `slices.neighbor_slices`.
    """
    z, count = positions.to(window.dtype)[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    first, last = (z < 1).to(window.dtype), (z > count - 2).to(window.dtype)
    below, middle, above = window.split(1, dim=1)
    return first * below + last * (1 - first) * above + (1 - first) * (1 - last) * middle
