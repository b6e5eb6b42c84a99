"""ProViCNet's pretext task: telling patches of tissue apart.

As the ProViCNet paper (arXiv 2502.00366) describes its training: cross-entropy and Dice over background, gland,
indolent and clinically significant cancer, and beside them a contrastive loss of patch tokens by cosine similarity with
a margin. The three sequences' networks learn together with their fusion. What is ours: patches take the class that most
of their pixels have, pairs are drawn evenly from the classes in a batch, and all weights learn at one rate, since there
is no DINOv2 start here whose backbone would have to be spared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..layers import tissue_loss
from ..pretext import PretextTask, View
from .network import ProViCNetFusion
from .spec import FUSION_STREAMS

CONTRASTIVE_WEIGHT = 0.05
MARGIN = 0.5


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
            own = tissue_loss(stream.segment(found), classes)
            losses.append(own + CONTRASTIVE_WEIGHT * contrastive_loss(found.flatten(0, 1)[drawn], labels[drawn]))
        fusion = network.get_submodule("fusion")
        losses.append(tissue_loss(fusion(*tokens), classes))
        return torch.stack(losses).mean()

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of them."""
        return dict(weights)


def patch_classes(classes: Tensor, side: int, count: int) -> Tensor:
    """The class that most pixels of each patch have, the greater number where two have as many.

    Of `count` classes (B, H, W), H and W multiples of `side`, to (B, side * side), row by row as tokens are.
    """
    shares = F.adaptive_avg_pool2d(F.one_hot(classes, count).permute(0, 3, 1, 2).float(), side)  # (B, K, side, side)
    shares = shares + 1e-6 * torch.arange(count, device=shares.device)[:, None, None]
    return shares.argmax(dim=1).flatten(1)


def contrastive_loss(tokens: Tensor, labels: Tensor) -> Tensor:
    """Draw patches of one class together, and push those of two classes apart up to a margin.

    The cosine embedding loss over all pairs of different tokens: 1 - cos for equal classes, max(0, cos - margin) for
    different ones; each of the two kinds counts half, however many pairs of tokens (N, C), with labels (N,), it has.
    """
    unit = F.normalize(tokens.float(), dim=1)
    cosine = unit @ unit.T
    same = labels[:, None] == labels
    other = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    together, apart = (1 - cosine)[same & other], F.relu(cosine - MARGIN)[~same]
    kinds = [kind.mean() for kind in (together, apart) if kind.numel()]
    return torch.stack(kinds).mean() if kinds else cosine.sum() * 0


def draw_patches(labels: Tensor, each: int, generator: Generator) -> Tensor:
    """Indices of up to `each` random patches of every class that occurs, so that no class is all of the pairs."""
    drawn = []
    for label in labels.unique().tolist():
        found = torch.nonzero(labels == label)[:, 0]
        drawn.append(found[torch.randperm(len(found), generator=generator)[:each].to(found.device)])
    return torch.cat(drawn)
