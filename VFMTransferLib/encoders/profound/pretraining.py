"""ProFound's pretext task: a masked autoencoder, without labels.

As the ProFound paper (arXiv 2603.03961) describes it, after masked autoencoders (arXiv 2111.06377) and
ConvNeXt V2 (arXiv 2301.00808): cubes of 16 voxels are hidden, the encoder sees the others only, and a
decoder of one block predicts the hidden ones, each normalized by its own mean and deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..base import ModelSpec
from ..layers import ConvNeXtBlock, accelerate, channels_last
from ..pretext import PretextTask, View
from .network import ConvNeXtV2
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

    hidden: float = 0.6
    decoder_width: int = 64

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
        """Predict every cube from the visible ones.

        Args:
            x: Images (B, C, D, H, W), sizes multiples of `CUBE`.
            visible: (B, 1, D, H, W) / `CUBE`, 1 where a cube is visible, else 0.

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

    A dense form of the sparse convolutions that the paper trains with: after each entry and each block, and before each
    global response, places where `visible` (B, 1, d, h, w), of the last map's size, is not 1 are set to zero.
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
