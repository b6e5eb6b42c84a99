"""ProFound's pretext tasks: a masked autoencoder, without labels, and the contrast of tissues.

The masked autoencoder is as the ProFound paper (arXiv 2603.03961) describes it, after arXiv 2111.06377 and 2301.00808:
cubes of 16 voxels are hidden, the encoder sees the others only, and a decoder of one block predicts the hidden ones,
each normalized by its own mean and deviation. The contrast of tissues is ProViCNet's (arXiv 2502.00366) on crops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...layers.blocks import ConvNeXtBlock, channels_last, resize, tissue_loss
from ...layers.convolutions import accelerate
from ..base import ModelSpec
from ..dense_pretext import CONTRASTIVE_WEIGHT, contrastive_loss, dense_network, draw_patches, with_encoders_of
from ..pretext import HIDDEN, MOST_DROPPED, TISSUES, PretextTask, View
from ..synthetic import SYNTHETIC
from .network import SECOND, ConvNeXtV2, ProFoundUPerNet, build
from .spec import ConvNeXtSpec

# Edge of a hidden cube in voxels; equal to the encoder's stride, so that a cube is one place of its last map.
CUBE = 16
_EPS = 1e-6
_INIT_STD = 0.02
_ENCODER = "encoder."


@dataclass(frozen=True)
class MaskedAutoencoding(PretextTask):
    """The masked autoencoder as a pretext task.

    Attributes:
        hidden: Part of the cubes that are hidden.
        decoder_width: Channels of the decoder.
    """

    name = "mae"
    batch = 1
    limits = MappingProxyType({"hidden": HIDDEN, "decoder_width": (1, math.inf)})

    hidden: float = 0.6
    decoder_width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(n % CUBE for n in self.spec.preprocess.patch):
            size = " x ".join(map(str, self.spec.preprocess.patch))
            raise ValueError(
                f"The crop of a masked autoencoder must be a multiple of {CUBE} voxels along each axis, got {size}."
            )

    def build(self) -> nn.Module:
        """The encoder with the decoder that is dropped afterwards."""
        return accelerate(MaskedAutoencoder(self.spec, self.decoder_width))

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """The crop (C, D, H, W), and which of its cubes are visible (1, D, H, W) / `CUBE`."""
        cubes = [n // CUBE for n in self.spec.preprocess.patch]
        return view.image, random_visible(cubes, self.hidden, generator)[0]

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """Mean squared error on the hidden cubes."""
        assert isinstance(network, MaskedAutoencoder)
        return network.loss(*batch)

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's weights by its own names."""
        return {name.removeprefix(_ENCODER): t for name, t in weights.items() if name.startswith(_ENCODER)}


@dataclass(frozen=True)
class TissueContrast(PretextTask):
    """The contrast of tissues as a pretext task.

    Attributes:
        pairs: Places drawn from each class for the contrastive loss, in each part of a batch: only these are paired.
        drop_path: Stochastic depth of the encoder.
    """

    name = "contrastive"
    batch = 1
    needs_tissues = True
    limits = MappingProxyType({"pairs": (1, math.inf), "drop_path": (0, MOST_DROPPED)})

    pairs: int = 32
    drop_path: float = 0.1

    @property
    def learned(self) -> ModelSpec:
        """The network that learns."""
        return dense_network(self.spec, self.name, TISSUES)

    def build(self) -> nn.Module:
        """The encoder with UPerNet, which is dropped afterwards."""
        return accelerate(build(self.learned, self.drop_path, 0.0))

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """The crop (C, D, H, W), and the class of each voxel at half its size."""
        assert view.tissues is not None
        return view.image, view.tissues

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """The loss of UPerNet, with the contrast of the encoder's second map."""
        images, classes = batch
        assert isinstance(network, ProFoundUPerNet)
        maps = network.encoder.forward_features(images)
        normalized = [norm(found) for norm, found in zip(network.hidden_norm, maps, strict=True)]
        logits = resize(network.decode_head(normalized), classes.shape[1:])
        second = maps[SECOND]
        shares = F.one_hot(classes, len(TISSUES)).movedim(-1, 1).float()
        # Of two classes that have as many voxels of a place it takes the graver one.
        depth, height, width = second.shape[2:]
        shares = F.adaptive_avg_pool3d(shares, (depth, height, width))
        graver = 1e-6 * torch.arange(len(TISSUES), device=shares.device)[:, None, None, None]
        labels = (shares + graver).argmax(dim=1).flatten()
        drawn = draw_patches(labels, self.pairs, generator)
        tokens = second.movedim(1, -1).flatten(0, 3)
        return tissue_loss(logits, classes) + CONTRASTIVE_WEIGHT * contrastive_loss(tokens[drawn], labels[drawn])

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder alone."""
        return with_encoders_of(self.spec, weights, self.learned)


class MaskedAutoencoder(nn.Module):
    """The encoder, and the decoder, of `width` channels, that pretraining needs and then drops."""

    def __init__(self, spec: ModelSpec, width: int) -> None:
        super().__init__()
        self.channels = [k for k, sequence in enumerate(spec.preprocess.sequences) if sequence is not None]
        assert isinstance(spec.encoder, ConvNeXtSpec)
        self.encoder = ConvNeXtV2(spec.encoder)
        self.projection = nn.Conv3d(spec.encoder.dims[-1], width, 1)
        self.hidden_token = nn.Parameter(torch.zeros(1, width, 1, 1, 1))
        self.decoder = ConvNeXtBlock(width)
        self.prediction = nn.Conv3d(width, len(self.channels) * CUBE**3, 1)
        nn.init.trunc_normal_(self.hidden_token, std=_INIT_STD)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Predict every cube of images (B, C, D, H, W) from the visible ones, `visible` (B, 1, D, H, W) / `CUBE`.

        Returns:
            Normalized voxels (B, C' CUBE³, D, H, W) / `CUBE`, C' the channels that bear an image.
        """
        with visible_only(self.encoder, visible):
            last = self.encoder.forward_features(x * enlarge(visible, x.shape[2:]))[-1]
        projected = self.projection(last)
        tokens = projected * visible + self.hidden_token * (1 - visible)
        return self.prediction(self.decoder(tokens))

    def loss(self, x: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error on the hidden cubes."""
        predicted = self(x, visible).float()
        error = (predicted - normalized_cubes(x[:, self.channels])).square().mean(dim=1, keepdim=True)
        hidden = 1 - visible
        return (error * hidden).sum() / hidden.sum()


@contextmanager
def visible_only(encoder: ConvNeXtV2, visible: Tensor) -> Iterator[None]:
    """Keep hidden places empty at every depth, so that nothing flows into or out of them; the weights stay.

    A dense form of the paper's sparse convolutions: after each entry and block, and before each global response, places
    where `visible` (B, 1, d, h, w) is not 1 are set to zero.
    """

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * enlarge(visible, output.shape[2:])

    def keep_before(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * channels_last(enlarge(visible, inputs[0].shape[1:4])),)

    handles = [entry.register_forward_hook(keep) for entry in encoder.downsample_layers]
    for block in (block for stage in encoder.stages for block in stage.children()):
        handles += [
            block.register_forward_hook(keep),
            block.get_submodule("grn").register_forward_pre_hook(keep_before),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def enlarge(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (B, 1, d, h, w) repeated to `size`, a whole multiple of its own."""
    for axis, (n, target) in enumerate(zip(mask.shape[2:], size, strict=True), start=2):
        mask = mask.repeat_interleave(target // n, dim=axis)
    return mask


def random_visible(shape: Sequence[int], hidden: float, generator: Generator) -> Tensor:
    """Choose which cubes of a patch are visible: (1, 1, D, H, W), 1 where they are.

    Of the cubes, `shape` (D, H, W), the part `hidden` is not; its number is rounded.
    """
    count = int(torch.tensor(shape).prod())
    visible = torch.ones(count)
    visible[torch.randperm(count, generator=generator)[: round(hidden * count)]] = 0
    return visible.reshape(1, 1, *shape)


def normalized_cubes(x: Tensor) -> Tensor:
    """The cubes of images (B, C, D, H, W), each with mean 0 and deviation 1: (B, C CUBE³, D, H, W) / `CUBE`."""
    batch, channels, *size = x.shape
    depth, height, width = (n // CUBE for n in size)
    cubes = x.reshape(batch, channels, depth, CUBE, height, CUBE, width, CUBE)
    cubes = cubes.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * CUBE**3, depth, height, width)
    deviation, mean = torch.std_mean(cubes, dim=1, keepdim=True, correction=0)
    return (cubes - mean) / (deviation + _EPS)


_TASKS: tuple[type[PretextTask], ...] = (MaskedAutoencoding, TissueContrast, *SYNTHETIC)
PRETEXT_TASKS = {task.name: task for task in _TASKS}
"""By name, as `pretext_tasks` of the family lists them."""
