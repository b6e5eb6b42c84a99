"""ProViCNet: a DINOv2 backbone on three neighboring slices of one sequence; and the fusion of three.

Paper: arXiv 2502.00366. Tensor names are those of the authors' files (pimed/ProViCNet, MIT).
Input of a sequence's network: x (B, 3, image_px, image_px), channels slices z - 1, z, z + 1; positions
(B, 2), the slice's index z and the number of slices, as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..heads.convolution import ConvolutionHead, FusionHead, token_grid
from ..registry import ModelSpec
from .vit import VisionTransformer

_POSITION_TOKENS = 2


class ProViCNet(nn.Module):
    """The network of one sequence.

    Args:
        spec: Sizes of backbone and head.
        drop_path: Stochastic depth of the backbone, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        encoder, head = spec.encoder, spec.head
        self.side = encoder.image_px // encoder.patch_px
        self.leading_tokens = 1 + encoder.registers + _POSITION_TOKENS
        self.backbone = VisionTransformer(encoder, drop_path)
        self.head = ConvolutionHead(encoder.dim, head.width, head.out_channels)
        self.axis_pos = nn.Linear(1, encoder.dim)
        self.axis_max = nn.Linear(1, encoder.dim)

    def patch_tokens(self, x: Tensor, positions: Tensor) -> Tensor:
        """Encode a slice: normalized patch tokens (B, side * side, dim), row by row."""
        positions = positions.to(x.dtype)  # counts are whole numbers, and may come as such
        extra = torch.stack([self.axis_pos(positions[:, :1]), self.axis_max(positions[:, 1:])], dim=1)
        return self.backbone(x, extra)[:, self.leading_tokens :]

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Segment a slice: logits (B, out, 8 * side, 8 * side)."""
        return self.head(token_grid(self.patch_tokens(x, positions), self.side))


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
