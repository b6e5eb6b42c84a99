"""Small networks for tests: each row of the registry, shrunk; weights and inputs that can be made again."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import torch
from specs import MODELS, PROFOUND_ENCODER, ConvNeXtSpec, ViTSpec
from torch import Tensor, nn

from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.base import ModelSpec

SMALL_CONVNEXT = ConvNeXtSpec(depths=(1, 1, 2, 1), dims=(8, 12, 16, 20))
# 32 x 32 patches as published, but of 2 px.
SMALL_VIT = ViTSpec(depth=2, dim=64, heads=1, registers=4, patch_px=2, image_px=64, pretrained_image_px=74)
SMALL_WIDTHS = {
    "none": 20,
    "classifier": 6,
    "upernet": 16,
    "unetr": 4,
    "restoration": 2,
    "matching": 2,
    "convolution": 8,
    "fusion": 8,
}


def small(spec: ModelSpec) -> ModelSpec:
    """The same architecture with few and narrow layers."""
    width = SMALL_WIDTHS[spec.head.kind]
    channels = width if spec.head.kind == "none" else spec.head.out_channels
    head = replace(spec.head, out_channels=channels, width=width)
    head = replace(head, auxiliary_width=6) if head.kind == "upernet" else head
    return replace(spec, encoder=SMALL_CONVNEXT if spec.family == "profound" else SMALL_VIT, head=head)


SMALL_SPECS = {spec.name: small(spec) for spec in (*MODELS.values(), PROFOUND_ENCODER)}


def small_network(name: str) -> nn.Module:
    """A small network with made-up weights, in evaluation mode."""
    return with_made_up_weights(build_network(SMALL_SPECS[name]))


def with_made_up_weights(network: nn.Module) -> nn.Module:
    """Give each tensor values that follow from its name and shape; evaluation mode."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(made_up(name, tuple(tensor.shape)))
    return network.eval()


def made_up(name: str, shape: tuple[int, ...]) -> Tensor:
    """The values of a tensor by its name, of a size that keeps activations near 1."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(noise)
    elif name.endswith("running_mean"):
        values = 0.05 * noise
    elif len(shape) <= 1 and name.endswith("weight"):
        values = 1 + 0.05 * noise
    elif len(shape) <= 1 and name.endswith("bias"):
        values = 0.02 * noise
    elif "gamma" in name or "beta" in name:
        values = 0.1 * noise + (1 if name.endswith(("ls1.gamma", "ls2.gamma")) else 0)
    elif len(shape) >= 2:
        values = noise / np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.02 * noise
    return torch.from_numpy(np.asarray(values, np.float32))


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal values of a seed."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def inputs(spec: ModelSpec, size: tuple[int, int, int], batch: int = 2) -> list[Tensor]:
    """What the network of a specification takes; `size` (D, H, W) is ProFound's."""
    if isinstance(spec.encoder, ConvNeXtSpec):
        return [noise((batch, spec.encoder.in_channels, *size), 1)]
    side = spec.encoder.image_px
    images = [noise((batch, 3, side, side), seed) for seed, _ in enumerate(spec.preprocess.sequences)]
    return [*images, torch.tensor([[4.0, 20.0]]).repeat(batch, 1)]
