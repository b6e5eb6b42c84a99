"""A starting point: pretrain ProViCNet's encoders by telling patches of tissue apart.

As the ProViCNet paper (arXiv 2502.00366) describes its training: cross-entropy and Dice over background, gland,
indolent and clinically significant cancer, and beside them a contrast of patch tokens by cosine similarity with a
margin. The three sequences' networks learn together with their fusion. What is ours: patches take the class that most
of their pixels have, pairs are drawn evenly from the classes in a batch, and all weights learn at one rate, since there
is no DINOv2 start here whose backbone would have to be spared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..core.errors import DatasetError
from ..encoders.base import ModelSpec
from ..encoders.network import build_network
from ..tasks.losses import tissue_loss
from .augmentation import Augmentation
from .distributed import Division
from .optimization import CHECKPOINT, Progress, Run, Schedule, draw, later, part_seed, stated, step_generator
from .slices import SliceCase, SliceSample, batch_of, sample_slice

CONTRAST_WEIGHT = 0.05
MARGIN = 0.5
STREAMS = ("t2w", "adc", "dwi")


@dataclass(frozen=True)
class ContrastConfig:
    """Everything that decides what pretraining yields, but for the cases.

    Attributes:
        model: A ProViCNet fusion; its three sequence networks hold the encoders.
        schedule: How long and how fast.
        augmentation: How far a slice may go from its case.
        seed: Of weights, order, slices and pairs.
        batch: Slices a step, of all processes.
        pairs: Patches drawn from each class for the contrast, in each part of the batch: only these are contrasted.
        drop_path: Stochastic depth of the encoders.
        draws: As `sampling.DRAWS`.
    """

    model: ModelSpec
    schedule: Schedule
    augmentation: Augmentation
    seed: int
    batch: int = 4
    pairs: int = 32
    drop_path: float = 0.0
    draws: str = later("step")


def patch_classes(classes: Tensor, side: int, count: int) -> Tensor:
    """The class that most pixels of each patch have, the greater number where two have as many.

    Args:
        classes: (B, H, W) numbers; H and W are multiples of `side`.
        side: Patches along each side.
        count: Number of classes.

    Returns:
        (B, side * side), row by row as tokens are.
    """
    shares = F.adaptive_avg_pool2d(F.one_hot(classes, count).permute(0, 3, 1, 2).float(), side)  # (B, K, side, side)
    shares = shares + 1e-6 * torch.arange(count, device=shares.device)[:, None, None]
    return shares.argmax(dim=1).flatten(1)


def contrast_loss(tokens: Tensor, labels: Tensor) -> Tensor:
    """Draw patches of one class together, and push those of two classes apart up to a margin.

    The cosine embedding loss over all pairs of different tokens: 1 - cos for equal classes, max(0, cos - margin) for
    different ones; each of the two kinds counts half, however many pairs it has.

    Args:
        tokens: (N, C).
        labels: (N,) class of each.
    """
    unit = F.normalize(tokens.float(), dim=1)
    cosine = unit @ unit.T
    same = labels[:, None] == labels
    other = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    together, apart = (1 - cosine)[same & other], F.relu(cosine - MARGIN)[~same]
    kinds = [kind.mean() for kind in (together, apart) if kind.numel()]
    return torch.stack(kinds).mean() if kinds else cosine.sum() * 0


def draw_patches(labels: Tensor, each: int, generator: Generator) -> Tensor:
    """Indices of up to `each` random patches of every class that is there, so that no class is all of the pairs."""
    drawn = []
    for label in labels.unique().tolist():
        found = torch.nonzero(labels == label)[:, 0]
        drawn.append(found[torch.randperm(len(found), generator=generator)[:each].to(found.device)])
    return torch.cat(drawn)


def pretrain_contrast(
    config: ContrastConfig,
    cases: Sequence[SliceCase],
    folder: Path,
    *,
    division: Division | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Pretrain the encoders of all sequences, or go on where it was stopped.

    Args:
        config: The configuration.
        cases: Cases with the class of each voxel.
        folder: Where the checkpoint lies.
        division: This process's share of each batch; all of it by default.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The finished run; `average` holds the whole network's weights.

    Raises:
        DatasetError: There are no cases, or the batch cannot be divided so.
        CheckpointError: The folder holds a checkpoint of another configuration.
    """
    if not cases:
        raise DatasetError("Pretraining needs at least one case with the class of each voxel, got none.")
    torch.manual_seed(config.seed)
    network = build_network(config.model, config.drop_path)
    run = Run.start(network, config.schedule, partial(_loss, config=config), division)
    path, identity = folder / CHECKPOINT, _identity(config, cases, run.division)
    run.follow(path, identity, lambda: _step(run, config, cases), on_progress)
    return run


def _step(run: Run, config: ContrastConfig, cases: Sequence[SliceCase]) -> float:
    """Show one batch and learn from it; returns the loss."""
    step_draws = step_generator(config.seed, run.step)
    chosen = torch.randint(len(cases), (config.batch,), generator=step_draws).tolist()

    def sample(number: int, generator: Generator) -> SliceSample:
        return sample_slice(cases[chosen[number]], config.model, generator, config.augmentation)

    parts = []
    for number, samples in enumerate(draw(config, run.division, run.step, step_draws, sample)):
        batch, part = batch_of(samples), run.division.first_part + number
        pairs = Generator().manual_seed(part_seed(config.seed, run.step, part)) if part else step_draws
        parts.append((batch["windows"], batch["positions"], batch["classes"], pairs))
    return run.learn(parts, config.seed)


def _loss(
    network: nn.Module,
    windows: Tensor,
    positions: Tensor,
    classes: Tensor,
    generator: Generator,
    *,
    config: ContrastConfig,
) -> Tensor:
    """The loss of the fusion, and of each sequence's own network with its contrast."""
    streams = [getattr(network, name) for name in STREAMS]
    labels = patch_classes(classes, streams[0].side, len(config.model.labels)).flatten()
    drawn = draw_patches(labels, config.pairs, generator)
    losses, tokens = [], []
    for stream, window in zip(streams, windows.unbind(1), strict=True):
        found = stream.patch_tokens(window, positions)
        tokens.append(found)
        own = tissue_loss(stream.segment(found), classes)
        losses.append(own + CONTRAST_WEIGHT * contrast_loss(found.flatten(0, 1)[drawn], labels[drawn]))
    losses.append(tissue_loss(network.fusion(*tokens), classes))
    return torch.stack(losses).mean()


def _identity(config: ContrastConfig, cases: Sequence[SliceCase], division: Division) -> str:
    """A checksum of all that decides the run."""
    document = [stated(config, division), [case.id for case in cases]]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
