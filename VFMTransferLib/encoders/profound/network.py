"""ProFound: ConvNeXt V2 in three dimensions, with one of several heads. Any depths and widths.

Papers: ConvNeXt V2, arXiv 2301.00808; UPerNet, arXiv 1807.10221; UNETR, arXiv 2103.10504; ProFound, arXiv 2603.03961.
Tensor names are those of the authors' files (pipiwang/ProFound, Apache-2.0), so that these load strictly.
Input of each network: x (B, 3, D, H, W), channels T2w, high-b DWI, ADC (or T2w and two of zeros).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.blocks import (
    NORM_EPS,
    ClassifierHead,
    ConvNeXtBlock,
    LayerNorm,
    channels_first,
    channels_last,
    resize,
)
from ...layers.convolutions import Region
from ...layers.decoders import AuxiliaryHead, UNETRDecoder, UPerNetHead
from ...layers.image_heads import CostVolumeHead, ImageToImageHead
from ..base import ModelSpec
from .spec import ConvNeXtSpec

# Kernel and stride of each stage's entry. The last one keeps the resolution: the total is 16, not 32.
STRIDES = (4, 2, 2, 1)
_AUXILIARY_MAP = 2
_STRIDE = 16
_INIT_STD = 0.02
SECOND = 1  # of the stages: its map's places are the patches


class ConvNeXtV2(nn.Module):
    """Encoder: an image becomes four maps, at strides 4, 8, 16 and 16; `drop_path` is of the last block."""

    def __init__(self, spec: ConvNeXtSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dims = spec.dims
        # The strided convolution before each stage; the stem normalizes after it, the others before.
        first, *_ = dims = spec.dims
        stem = nn.Sequential(nn.Conv3d(spec.in_channels, first, STRIDES[0], STRIDES[0]), LayerNorm(first))
        entries = (
            nn.Sequential(LayerNorm(before), nn.Conv3d(before, after, stride, stride))
            for before, after, stride in zip(dims[:-1], dims[1:], STRIDES[1:], strict=True)
        )
        self.downsample_layers = nn.ModuleList([stem, *entries])
        rates = iter(torch.linspace(0, drop_path, sum(spec.depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim, next(rates)) for _ in range(depth)))
            for depth, dim in zip(spec.depths, spec.dims, strict=True)
        )
        self.norm = nn.LayerNorm(spec.dims[-1], eps=NORM_EPS)
        for module in self.modules():  # from scratch as the ConvNeXt V2 paper does
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Encode x (B, C, D, H, W) to the maps (B, dims[i], ...) of the four stages, not normalized, sizes rounded
        down.
        """
        maps = []
        for entry, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(entry(x))
            maps.append(x)
        return maps

    def pool(self, last: Tensor) -> Tensor:
        """Average the last map over space and normalize it: (B, dims[3])."""
        return self.norm(last.mean(dim=(2, 3, 4)))

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (B, C, D, H, W) to one normalized feature vector a sample, (B, dims[3])."""
        return self.pool(self.forward_features(x)[-1])


class ProFoundEncoder(ConvNeXtV2):
    """The encoder alone: one normalized feature vector a sample, and no head."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec.encoder, drop_path)


class _WithHead(nn.Module):
    """An encoder with a head."""

    hidden_norm: nn.ModuleList

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = ConvNeXtV2(spec.encoder, drop_path)

    def normalized_maps(self, x: Tensor) -> list[Tensor]:
        """The encoder's four maps of x (B, C, D, H, W), by the head's own norms."""
        return [norm(found) for norm, found in zip(self.hidden_norm, self.encoder.forward_features(x), strict=True)]


class ProFoundClassifier(_WithHead):
    """Encoder and perceptron: logits of one class a case."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        self.head = ClassifierHead(spec.encoder.dims[-1], spec.head.width, spec.head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Classify x: logits (B, out)."""
        return self.head(self.encoder(x))


class ProFoundUPerNet(_WithHead):
    """Encoder and UPerNet: logits at the input's size."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        dims, head = spec.encoder.dims, spec.head
        self.decode_head = UPerNetHead(dims, head.width, head.out_channels)
        self.auxiliary_head = AuxiliaryHead(dims[_AUXILIARY_MAP], head.auxiliary_width, head.out_channels)
        self.hidden_norm = nn.ModuleList(LayerNorm(dim) for dim in dims)

    def forward(self, x: Tensor, size: Sequence[int] | None = None, box: Tensor | None = None) -> Tensor | list[Tensor]:
        """Segment x (B, C, D, H, W).

        Args:
            size: Size of the logits, if not the input's; training saves most of its time at a smaller one.
            box: First voxel (D, H, W) of x, and the one after the last, (2, 3): only these are decoded, in evaluation
                mode.

        Returns:
            Logits (B, out, D, H, W); in training mode a list of these and the auxiliary head's.
        """
        size = x.shape[2:] if size is None else size
        maps = self.normalized_maps(x)
        if box is not None:
            fine = Region(tuple(box[0]), tuple(box[1]), x.shape[2:])
            region = fine.coarser(maps[0].shape[2:])
            return fine.resized(self.decode_head(maps, region), region)
        logits = resize(self.decode_head(maps), size)
        if not self.training:
            return logits
        return [logits, resize(self.auxiliary_head(maps[_AUXILIARY_MAP]), size)]


class ProFoundUNETR(_WithHead):
    """Encoder and UNETR-like decoder: logits at the input's size."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        encoder, head = spec.encoder, spec.head
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dim) for dim in encoder.dims[:-1])
        self.decoder = UNETRDecoder(encoder.in_channels, encoder.dims, head.width, head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Segment x: logits (B, out, D, H, W); ValueError where a size is no multiple of 16."""
        is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        if not is_tracing and any(n % _STRIDE for n in x.shape[2:]):
            raise ValueError(
                f"The input's size must be a multiple of {_STRIDE} in each axis, got {tuple(x.shape[2:])}."
            )
        first, second, third, last = self.encoder.forward_features(x)
        # The last map's norm is the encoder's own, as in the authors' files.
        last = channels_first(self.encoder.norm(channels_last(last)))
        return self.decoder(x, [self.norm1(first), self.norm2(second), self.norm3(third), last])


class ProFoundImageToImage(_WithHead):
    """Encoder and image-to-image head: an image at the input's size."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        encoder, head = spec.encoder, spec.head
        self.hidden_norm = nn.ModuleList(LayerNorm(dim) for dim in encoder.dims)
        self.head = ImageToImageHead(encoder.in_channels, encoder.dims, head.width, head.out_channels, initial_output)

    def forward(self, x: Tensor) -> Tensor:
        """The image (B, out, D, H, W) of x (B, C, D, H, W), in the unit that the task states."""
        return self.head(x, self.normalized_maps(x))


class ProFoundCostVolume(_WithHead):
    """Encoder and cost-volume head: the displacement of diffusion against T2w, the first sequence."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        encoder, (step_mm, _, _) = spec.encoder, spec.preprocess.spacing_mm
        self.hidden_norm = nn.ModuleList(LayerNorm(dim) for dim in encoder.dims)
        self.head = CostVolumeHead(encoder.dims, encoder.in_channels - 1, spec.head.width, step_mm)

    def forward(self, x: Tensor) -> Tensor:
        """Displacement (B, 1, D, H, W) in mm along x, see `CostVolumeHead`."""
        maps = self.normalized_maps(x)
        return self.head(x[:, :1], x[:, 1:], maps)


_BUILDERS: dict[str, type[nn.Module]] = {
    "none": ProFoundEncoder,
    "classifier": ProFoundClassifier,
    "upernet": ProFoundUPerNet,
    "unetr": ProFoundUNETR,
    "matching": ProFoundCostVolume,
}


def build(spec: ModelSpec, drop_path: float, initial_output: float) -> nn.Module:
    """See `EncoderFamily.build`."""
    if spec.head.kind == "restoration":
        return ProFoundImageToImage(spec, drop_path, initial_output)
    return _BUILDERS[spec.head.kind](spec, drop_path)


def encoder_in(network: nn.Module) -> ConvNeXtV2:
    """The encoder of a network of this family."""
    return network if isinstance(network, ConvNeXtV2) else cast(ConvNeXtV2, network.encoder)


def stage_features(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """See `ProFoundFamily.features`."""
    encoder = encoder_in(network)
    maps = encoder.forward_features(x)
    stages = {f"stage-{i}": stage.mean(dim=(2, 3, 4)) for i, stage in enumerate(maps, start=1)}
    return {**stages, "encoder": encoder.pool(maps[-1])}


def patch_features(network: nn.Module, x: Tensor) -> Tensor:
    """See `ProFoundFamily.patch_features`."""
    stages = encoder_in(network).forward_features(x)
    depth, height, width = stages[SECOND].shape[2:]
    size = (depth, height, width)
    fine = [F.adaptive_avg_pool3d(stage, size) for stage in stages[:SECOND]]
    coarse = [F.interpolate(stage, size, mode="nearest") for stage in stages[SECOND + 1 :]]
    return torch.cat([*fine, stages[SECOND], *coarse], dim=1)[0]
