"""One arm of the study: fine-tune a network, from a pretrained encoder or from scratch.

The arms differ in the encoder's initial weights and in nothing else: the head starts from the same
seed, and each step shows both the same view of the same case at the same learning rate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from .augment import Augmentation
from .dataset import TARGET_STRIDE, Split, TrainingCase, View, choose_case, require_cases, sample_view
from .fast_convolution import accelerate
from .losses import deep_supervision
from .metrics import dice
from .models.network import build_network
from .optimization import CHECKPOINT, Progress, Run, Schedule, step_generator
from .registry import ModelSpec
from .spec_json import to_json
from .terms import Arm


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what fine-tuning yields, but for the cases and the start.

    Attributes:
        model: The network.
        split: Which cases train; validation and test cases are measured on the way, and choose nothing.
        schedule: How long and how fast.
        augmentation: How far a view may go from its case.
        seed: Of head, order and views.
        drop_path: Stochastic depth of the encoder.
        phantom_share: Part of the steps that show a phantom.
        measure_every: Steps between measurements.
    """

    model: ModelSpec
    split: Split
    schedule: Schedule
    augmentation: Augmentation
    seed: int
    drop_path: float
    phantom_share: float
    measure_every: int


def finetune(
    config: FinetuneConfig,
    arm: Arm,
    cases: Mapping[str, TrainingCase],
    folder: Path,
    *,
    encoder: Mapping[str, Tensor] | None = None,
    phantoms: Sequence[TrainingCase] = (),
    on_progress: Progress | None = None,
) -> Run:
    """Fine-tune one arm, or go on where it was stopped.

    Args:
        config: The configuration, the same for both arms.
        arm: `pretrained` needs `encoder`; `scratch` must not have it.
        cases: Labeled cases by name, at least those of the split.
        folder: Where the checkpoint lies.
        encoder: Pretrained weights of the encoder.
        phantoms: Labeled phantoms.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The finished run; `average` holds the weights to ship.

    Raises:
        DatasetError: A case of the split is missing.
        CheckpointError: The folder holds a checkpoint of another configuration.
    """
    require_cases(cases, [*config.split.train, *config.split.validation, *config.split.test])
    network = initial_network(config, arm, encoder)
    run = Run.start(network, config.schedule)
    folder.mkdir(parents=True, exist_ok=True)
    path, identity = folder / CHECKPOINT, _identity(config, arm, encoder)
    if path.exists():
        run.resume(path, identity)
    training = [cases[name] for name in config.split.train]
    while run.step < config.schedule.steps:
        loss = _step(run, config, training, phantoms)
        finished = run.step == config.schedule.steps
        if run.step % config.measure_every == 0 or finished:
            run.history.append({"step": run.step, "loss": loss, **_measure(run, config, cases)})
        if run.step % config.schedule.checkpoint_every == 0 or finished:
            run.save(path, identity)
            if on_progress is not None:
                on_progress(_line(run), run.step / config.schedule.steps)
    return run


def initial_network(config: FinetuneConfig, arm: Arm, encoder: Mapping[str, Tensor] | None) -> nn.Module:
    """The network before its first step: all of it from the seed, then the encoder from pretraining.

    Raises:
        ValueError: The arm and the encoder's weights do not belong together.
    """
    if (arm is Arm.PRETRAINED) != (encoder is not None):
        raise ValueError("The pretrained arm must start from an encoder's weights, and the scratch arm from none.")
    torch.manual_seed(config.seed)
    network = build_network(config.model, config.drop_path)
    if encoder is not None:
        network.encoder.load_state_dict(dict(encoder))
    return accelerate(network)


def _step(run: Run, config: FinetuneConfig, cases: Sequence[TrainingCase], phantoms: Sequence[TrainingCase]) -> float:
    """Show one view and learn from it; returns the loss."""
    case = choose_case(run.step, config.seed, cases, phantoms, config.phantom_share)
    generator = step_generator(config.seed, run.step)
    view = sample_view(case, config.model.preprocess, generator, config.augmentation)
    run.network.train()
    with config.schedule.autocast(view.image.device):
        outputs = run.network(view.image[None], view.target.shape[1:])
    loss = deep_supervision(outputs, view.target)
    run.advance(loss)
    return float(loss.detach())


def _measure(run: Run, config: FinetuneConfig, cases: Mapping[str, TrainingCase]) -> dict[str, float]:
    """Dice of the gland, by the averaged weights, on each case that does not train."""
    names = [*config.split.validation, *config.split.test]
    if not names:
        return {}
    network = averaged_network(run, config.model)
    found = {}
    for name in names:
        view = sample_view(cases[name], config.model.preprocess, Generator())
        found[f"dice {name}"] = gland_dice(network, view)
    return found


def averaged_network(run: Run, spec: ModelSpec) -> nn.Module:
    """The network with a run's averaged weights, in evaluation mode."""
    network = build_network(spec)
    network.load_state_dict(run.average)
    return network.eval()


def gland_dice(network: nn.Module, view: View) -> float:
    """Dice of the gland on one view, at the target's resolution."""
    with torch.inference_mode():
        size = [n // TARGET_STRIDE for n in view.image.shape[1:]]
        probabilities = network(view.image[None], size)[0].float().softmax(dim=0)
    return dice((probabilities[0] < 0.5).numpy(), (view.target[0] > 0.5).numpy())


def _identity(config: FinetuneConfig, arm: Arm, encoder: Mapping[str, Tensor] | None) -> str:
    """A checksum of all that decides the run."""
    digest = hashlib.sha256(json.dumps([to_json(config), arm], sort_keys=True).encode())
    for name, tensor in sorted((encoder or {}).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _line(run: Run) -> str:
    """One line on where the run stands."""
    if not run.history:
        return f"step {run.step}"
    latest = run.history[-1]
    parts = [f"{key} {value:.3f}" for key, value in latest.items() if key != "step"]
    return f"step {run.step}, at {latest['step']:.0f}: {', '.join(parts)}"
