"""ProViCNet's pretext tasks: telling patches of tissue apart, and a masked autoencoder.

The contrast of tissues is as the ProViCNet paper (arXiv 2502.00366) describes its training: cross-entropy and Dice, and
a contrastive loss of patch tokens with a margin; the sequences' networks learn together with their fusion. Defined
here: patches take the class that most of their pixels have, and pairs are drawn evenly from the classes in a batch.

The masked autoencoder is that of SimMIM (arXiv 2111.09886): the token of a hidden patch is the mask token, and one
linear layer gives its pixels, each patch normalized by its own mean and deviation. Each encoder learns alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...layers.blocks import resize, tissue_loss
from ..base import ModelSpec
from ..dense_pretext import CONTRASTIVE_WEIGHT, contrastive_loss, draw_patches
from ..pretext import HIDDEN, MOST_DROPPED, PretextTask, View
from ..synthetic import SYNTHETIC
from .network import ProViCNetEncoders, ProViCNetFusion, SliceEncoder, own_slice
from .spec import FUSION_STREAMS

_EPS = 1e-6


@dataclass(frozen=True)
class TissueContrast(PretextTask):
    """The contrast of tissues as a pretext task; its network is a fusion, whose streams hold the encoders.

    Attributes:
        pairs: Patches drawn from each class for the contrastive loss, in each part of a batch: only these are paired.
        drop_path: Stochastic depth of the encoders.
    """

    name = "contrastive"
    batch = 8
    needs_tissues = True
    limits = MappingProxyType({"pairs": (1, math.inf), "drop_path": (0, MOST_DROPPED)})

    pairs: int = 32
    drop_path: float = 0.1

    def build(self) -> nn.Module:
        """The fusion."""
        return ProViCNetFusion(self.spec, self.drop_path)

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """The slice of each sequence (S, 3, P, P), its position (2,), and the class of each pixel (H, W)."""
        assert view.position is not None
        assert view.tissues is not None
        return view.image, view.position, view.tissues

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """The loss of the fusion, and of each sequence's own network with its contrast."""
        windows, positions, classes = batch
        streams = [getattr(network, name) for name in FUSION_STREAMS.values()]
        labels = patch_classes(classes, streams[0].side, len(self.spec.labels)).flatten()
        drawn = draw_patches(labels, self.pairs, generator)
        losses, tokens = [], []
        for stream, window in zip(streams, windows.unbind(1), strict=True):
            found = stream.patch_tokens(window, positions)
            tokens.append(found)
            own = _loss_at(stream.segment(found), classes)
            losses.append(own + CONTRASTIVE_WEIGHT * contrastive_loss(found.flatten(0, 1)[drawn], labels[drawn]))
        fusion = network.get_submodule("fusion")
        losses.append(_loss_at(fusion(*tokens), classes))
        return torch.stack(losses).mean()

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of them."""
        return dict(weights)


def _loss_at(logits: Tensor, classes: Tensor) -> Tensor:
    """The loss at the size of the classes (B, H, W), of logits that may be coarser or finer."""
    size = classes.shape[1:]
    return tissue_loss(logits if logits.shape[2:] == size else resize(logits, size), classes)


def patch_classes(classes: Tensor, side: int, count: int) -> Tensor:
    """The class that most pixels of each patch have, the greater number where two have as many.

    Of `count` classes (B, H, W), H and W multiples of `side`, to (B, side * side), row by row as tokens are.
    """
    shares = F.adaptive_avg_pool2d(F.one_hot(classes, count).permute(0, 3, 1, 2).float(), side)  # (B, K, side, side)
    shares = shares + 1e-6 * torch.arange(count, device=shares.device)[:, None, None]
    return shares.argmax(dim=1).flatten(1)


@dataclass(frozen=True)
class MaskedSlices(PretextTask):
    """The masked autoencoder of slices; a patch is hidden in the slice and its neighbors, and in all sequences.

    Attributes:
        hidden: Part of the patches that are hidden.
        drop_path: Stochastic depth of the encoders.
    """

    name = "mae"
    batch = 8
    limits = MappingProxyType({"hidden": HIDDEN, "drop_path": (0, MOST_DROPPED)})

    hidden: float = 0.6
    drop_path: float = 0.1

    def build(self) -> nn.Module:
        """The encoders with the linear layers that are dropped afterwards."""
        return MaskedSliceAutoencoder(self.spec, self.drop_path)

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """The slice of each sequence (S, 3, P, P), its position (2,), and which patches are visible (N, 1)."""
        assert view.position is not None
        count = (self.spec.encoder.image_px // self.spec.encoder.patch_px) ** 2
        visible = torch.ones(count, 1)
        visible[torch.randperm(count, generator=generator)[: round(self.hidden * count)]] = 0
        return view.image, view.position, visible

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """Mean squared error on the hidden patches, mean over the sequences."""
        assert isinstance(network, MaskedSliceAutoencoder)
        return network(*batch)

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoders' weights."""
        prefix = "network."
        return {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}


class MaskedSliceAutoencoder(nn.Module):
    """The encoders of all sequences, and for each the linear layer that pretraining needs and then drops."""

    def __init__(self, spec: ModelSpec, drop_path: float) -> None:
        super().__init__()
        self.network = ProViCNetEncoders(spec, drop_path)
        self.patch_px = spec.encoder.patch_px
        sequences = spec.preprocess.images
        self.predictions = nn.ModuleList(nn.Linear(spec.encoder.dim, self.patch_px**2) for _ in sequences)

    def forward(self, windows: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """The loss of windows (B, S, 3, P, P) with positions (B, 2) and visible patches (B, N, 1)."""
        losses = []
        for encoder, prediction, window in zip(
            self.network.encoders.children(), self.predictions, windows.unbind(1), strict=True
        ):
            assert isinstance(encoder, SliceEncoder)
            with _hidden_patches(encoder, visible):
                tokens = encoder.patch_tokens(window, positions)
            patches = F.unfold(own_slice(window, positions), self.patch_px, stride=self.patch_px).transpose(1, 2)
            deviation, mean = torch.std_mean(patches, dim=2, keepdim=True, correction=0)
            error = (prediction(tokens).float() - (patches - mean) / (deviation + _EPS)).square().mean(dim=2)
            hidden = 1 - visible[:, :, 0]
            losses.append((error * hidden).sum() / hidden.sum())
        return torch.stack(losses).mean()


@contextmanager
def _hidden_patches(encoder: SliceEncoder, visible: Tensor) -> Iterator[None]:
    """Replace the embeddings of patches where `visible` (B, N, 1) is 0 by the mask token; positions stay."""
    backbone = encoder.backbone

    def hide(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
        return tokens * visible + backbone.mask_token * (1 - visible)

    handle = backbone.patch_embed.register_forward_hook(hide)
    try:
        yield
    finally:
        handle.remove()


_TASKS: tuple[type[PretextTask], ...] = (TissueContrast, MaskedSlices, *SYNTHETIC)
PRETEXT_TASKS = {task.name: task for task in _TASKS}
"""By name, as `pretext_tasks` of the family lists them."""
