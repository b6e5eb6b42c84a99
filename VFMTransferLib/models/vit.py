"""DINOv2 vision transformer with registers, the backbone of ProViCNet. Any depth and width.

Papers: ViT, arXiv 2010.11929; DINOv2, arXiv 2304.07193; registers, arXiv 2309.16588. Tensor names are
those of facebookresearch/dinov2 (Apache-2.0), so that the authors' files load strictly.
Axes: N tokens, C channels of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import NORM_EPS, DropPath
from ..registry import ViTSpec

_MLP_RATIO = 4
# CaiT's value for up to 18 blocks (arXiv 2103.17239, section 2). At DINOv2's 1e-5 the blocks of a network that starts
# from scratch stay silent for hundreds of steps.
_LAYER_SCALE = 0.1
_INIT_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens x (B, N, C)."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # each (B, heads, N, C / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # (B, N, C)


class LayerScale(nn.Module):
    """One learned factor a channel on a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of x (..., C)."""
        return x * self.gamma


class Mlp(nn.Module):
    """The perceptron of a block, the same for each token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, _MLP_RATIO * dim)
        self.fc2 = nn.Linear(_MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token of x (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-normalized transformer block with scaled residual branches."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)
        self.ls2 = LayerScale(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Refine the tokens x (B, N, C)."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PatchEmbed(nn.Module):
    """One token for each square patch of the image."""

    def __init__(self, in_channels: int, dim: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_px, stride=patch_px)

    def forward(self, x: Tensor) -> Tensor:
        """Turn x (B, C, H, W) into tokens (B, N, dim), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Backbone: an image and further tokens become normalized tokens.

    Args:
        spec: Sizes. `image_px` fixes the number of patches; the stored position embedding is the one
            of `pretrained_image_px` and is scaled on the way.
        drop_path: Stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    def __init__(self, spec: ViTSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.stored_grid = spec.pretrained_image_px // spec.patch_px
        dim = spec.dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.stored_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, spec.registers, dim))
        # Serves DINOv2's own pre-training only; the files carry it.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(spec.in_channels, dim, spec.patch_px)
        rates = torch.linspace(0, drop_path, spec.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(dim, spec.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        scaling = _bicubic_matrix(self.stored_grid, spec.image_px // spec.patch_px)
        self.register_buffer("position_scaling", scaling, persistent=False)
        self.apply(_initialize)
        for token in (self.cls_token, self.pos_embed, self.register_tokens):
            nn.init.trunc_normal_(token, std=_INIT_STD)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Encode an image.

        Args:
            x: (B, C, image_px, image_px).
            extra: Tokens (B, E, dim) that join without a position embedding.

        Returns:
            Normalized tokens (B, 1 + registers + E + patches, dim): cls, registers, extra, patches.
        """
        patches = self.patch_embed(x) + self._patch_positions()
        batch = x.shape[0]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens = torch.cat([cls, self.register_tokens.expand(batch, -1, -1), extra, patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _patch_positions(self) -> Tensor:
        """Scale the stored position embedding to the image's patches: (1, patches, dim)."""
        stored = self.pos_embed[:, 1:].unflatten(1, (self.stored_grid, self.stored_grid))  # (1, h, w, C)
        rows = self.position_scaling @ stored.flatten(2)  # (1, H, w * C)
        columns = self.position_scaling @ rows.unflatten(2, (self.stored_grid, -1))  # (1, H, W, C)
        return columns.flatten(1, 2)


def _bicubic_matrix(stored: int, wanted: int) -> Tensor:
    """Matrix (wanted, stored) that scales one axis as PyTorch's bicubic interpolation with antialias.

    The filter is separable and linear, so its response to unit vectors is all of it. ONNX has no
    operator that reproduces it, but a matrix product exports anywhere.
    """
    # The device is stated because the network may be built on the meta device.
    units = torch.eye(stored, device="cpu")[None, None]
    scaled = F.interpolate(units, size=(wanted, stored), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0, 0]


def _initialize(module: nn.Module) -> None:
    """Start from scratch as DINOv2 does: truncated normal weights, no bias, in linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_INIT_STD)
        nn.init.zeros_(module.bias)
