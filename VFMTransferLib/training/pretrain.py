"""A starting point: pretrain ProFound's encoder as a masked autoencoder, without labels.

As the ProFound paper (arXiv 2603.03961) describes it, after masked autoencoders (arXiv 2111.06377) and
ConvNeXt V2 (arXiv 2301.00808): cubes of 16 voxels are hidden, the encoder sees the others only, and a
decoder of one block predicts the hidden ones, each normalized by its own mean and deviation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from ..encoders.base import ModelSpec
from ..encoders.layers import ConvNeXtBlock, accelerate, channels_last
from ..encoders.profound.network import ConvNeXtV2
from .augmentation import Augmentation
from .dataset import TrainingCase, choose_case, require_cases, sample_view
from .distributed import Division
from .optimization import CHECKPOINT, Progress, Run, Schedule, draw, later, stated, step_generator

# Edge of a hidden cube in voxels; equal to the encoder's stride, so that a cube is one place of its last map.
CUBE = 16
_EPS = 1e-6
_INIT_STD = 0.02


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides what pretraining yields, but for the cases.

    Attributes:
        model: The network whose encoder is pretrained; names grid, patch and sequences.
        cases: Which cases it sees; labels are not used.
        schedule: How long and how fast.
        augmentation: How far a view may go from its case.
        seed: Of the weights, the order, the views and the hidden cubes.
        hidden: Part of the cubes that are hidden.
        decoder_width: Channels of the decoder.
        phantom_share: Part of the samples that show a phantom.
        batch: Views a step, of all processes.
        draws: As `sampling.DRAWS`.
    """

    model: ModelSpec
    cases: tuple[str, ...]
    schedule: Schedule
    augmentation: Augmentation
    seed: int
    hidden: float
    decoder_width: int
    phantom_share: float
    batch: int = later(1)
    draws: str = later("step")


class MaskedAutoencoder(nn.Module):
    """The encoder, and the decoder that pretraining needs and then drops.

    Args:
        spec: The network whose encoder it is.
        width: Channels of the decoder.
    """

    def __init__(self, spec: ModelSpec, width: int) -> None:
        super().__init__()
        self.channels = [k for k, sequence in enumerate(spec.preprocess.sequences) if sequence is not None]
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
    """Keep hidden places empty at every depth, so that nothing flows into or out of them.

    A dense form of the sparse convolutions that the paper trains with: after each entry and each block,
    and before each global response, hidden places are set to zero.

    Args:
        encoder: The encoder; its weights stay.
        visible: (B, 1, d, h, w), 1 where a place of the last map is visible.
    """

    def keep(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        return output * enlarge(visible, output.shape[2:])

    def keep_before(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * channels_last(enlarge(visible, inputs[0].shape[1:4])),)

    handles = [entry.register_forward_hook(keep) for entry in encoder.downsample_layers]
    for block in (block for stage in encoder.stages for block in stage):
        handles += [block.register_forward_hook(keep), block.grn.register_forward_pre_hook(keep_before)]
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
    """Choose which cubes of a patch are visible.

    Args:
        shape: Cubes along (D, H, W).
        hidden: Part of them to hide; the number is rounded.
        generator: Source of the choice.

    Returns:
        (1, 1, D, H, W), 1 where visible.
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


def pretrain(
    config: PretrainConfig,
    cases: Mapping[str, TrainingCase],
    folder: Path,
    *,
    phantoms: Sequence[TrainingCase] = (),
    division: Division | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Pretrain an encoder, or go on where it was stopped.

    Args:
        config: The configuration.
        cases: Cases by name, at least those that it names.
        folder: Where the checkpoint lies.
        phantoms: Phantoms.
        division: This process's share of each batch; all of it by default.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The finished run; `encoder_weights` gives what fine-tuning starts from.

    Raises:
        DatasetError: A case is missing, or the batch cannot be divided so.
        CheckpointError: The folder holds a checkpoint of another configuration.
    """
    require_cases(cases, config.cases)
    torch.manual_seed(config.seed)
    network = accelerate(MaskedAutoencoder(config.model, config.decoder_width))
    run = Run.start(network, config.schedule, MaskedAutoencoder.loss, division)
    identity = hashlib.sha256(json.dumps(stated(config, run.division), sort_keys=True).encode()).hexdigest()
    seen = [cases[name] for name in config.cases]
    run.follow(folder / CHECKPOINT, identity, lambda: _step(run, config, seen, phantoms), on_progress)
    return run


def encoder_weights(run: Run) -> dict[str, Tensor]:
    """Averaged weights of a pretrained encoder by the encoder's own tensor names."""
    prefix = "encoder."
    return {name.removeprefix(prefix): t for name, t in run.average.items() if name.startswith(prefix)}


def _step(run: Run, config: PretrainConfig, cases: Sequence[TrainingCase], phantoms: Sequence[TrainingCase]) -> float:
    """Show one batch and learn from it; returns the loss."""
    first, spec = run.step * config.batch, config.model.preprocess

    def sample(number: int, generator: Generator) -> tuple[Tensor, Tensor]:
        case = choose_case(first + number, config.seed, cases, phantoms, config.phantom_share)
        image = sample_view(case, spec, generator, config.augmentation).image
        return image, random_visible([n // CUBE for n in spec.patch], config.hidden, generator)[0]

    generator = step_generator(config.seed, run.step)
    parts = draw(config, run.division, run.step, generator, sample)
    return run.learn([tuple(torch.stack(kind) for kind in zip(*part, strict=True)) for part in parts], config.seed)
