"""What pretext tasks with a dense head share, whatever the family: the network that learns, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core.terms import Sequence
from ..core.volume import Geometry, Triple, Volume
from . import build_network
from .base import ModelSpec, family_of
from .weights import encoder_weights, load_encoder

CONTRASTIVE_WEIGHT = 0.05
MARGIN = 0.5


@dataclass(frozen=True)
class _DenseTask:
    """A pretext task as an encoder sees a task; see `TaskInput`."""

    id: str
    labels: tuple[str, ...]
    sequences: tuple[Sequence, ...]
    network_title: str = "pretraining"
    reference: Sequence = Sequence.T2W
    marks_voxels: bool = True
    head: str = "dense"
    activation: str = "none"
    finds_gland: bool = False
    uses_gland_slices: bool = False
    works_within_slices: bool = False
    initial_output: float = 0.0

    def network_grid(self, seen: Geometry, spacing_mm: Triple) -> Geometry:
        return seen.with_spacing(spacing_mm)

    def place(self, volume: Volume, grid: Geometry) -> Volume:
        return volume.resample_to(grid)


def dense_network(spec: ModelSpec, name: str, outputs: tuple[str, ...]) -> ModelSpec:
    """The network that learns dense outputs with the encoders of `spec`: the family's own decoder, of small width.

    It takes the sequences of `spec`, of slices in the order of the family's own network of them.
    """
    task, family = _DenseTask(name, outputs, spec.preprocess.images), family_of(spec)
    small = family.demonstration(family.new_network(task), task)
    own = small if spec.is_slice_based else spec
    grid = replace(spec.preprocess, sequences=own.preprocess.sequences)
    return replace(small, encoder=spec.encoder, preprocess=grid)


def with_encoders_of(spec: ModelSpec, weights: Mapping[str, Tensor], learned: ModelSpec) -> dict[str, Tensor]:
    """Weights of a network of `spec` whose encoders are those of a network of `learned`; what else it has is new."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(spec)
    load_encoder(network, spec, encoder_weights(weights, learned))
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


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
