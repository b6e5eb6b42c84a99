"""One arm of the study: fine-tune a network, from a pretrained encoder or from scratch.

The arms differ in the encoder's initial weights and in nothing else: the head starts from the same
seed, and each step shows both the same samples of the same cases at the same learning rate. One engine
trains every task and both encoders: a lesson says what is shown, an objective what is asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from ..core.terms import Arm, TaskId
from ..encoders.base import ModelSpec
from ..encoders.dynunet.network import specialised_network
from ..encoders.layers import accelerate
from ..encoders.network import build_network
from ..encoders.weights import load_encoder
from ..metrics.arrays import dice
from ..tasks.losses import Objective, Sample, class_weights, collate
from .augmentation import Augmentation
from .dataset import TARGET_STRIDE, Split, TrainingCase, View, choose_case, require_cases, sample_view
from .distributed import Division
from .optimization import CHECKPOINT, Progress, Run, Schedule, draw, later, stated, step_generator
from .samples import Lesson

# Names of measures and their values, of a network in evaluation mode.
Examine = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what fine-tuning yields, but for the cases and the start.

    Attributes:
        model: The network.
        split: Which cases train; the others choose nothing.
        schedule: How long and how fast.
        augmentation: How far a view may go from its case.
        seed: Of head, order and views.
        drop_path: Stochastic depth of the encoder.
        phantom_share: Part of the steps that show a phantom.
        measure_every: Steps between measurements.
        batch: Samples a step, of all processes.
        specialised: Whether a specialised network of the same size is trained in the place of the model: the study's
            third row, from scratch.
        draws: As `sampling.DRAWS`.
    """

    model: ModelSpec
    split: Split
    schedule: Schedule
    augmentation: Augmentation
    seed: int
    drop_path: float
    phantom_share: float
    measure_every: int
    batch: int = 1
    specialised: bool = False
    draws: str = later("step")


def finetune(
    config: FinetuneConfig,
    arm: Arm,
    lessons: Mapping[str, Lesson],
    folder: Path,
    *,
    encoder: Mapping[str, Tensor] | None = None,
    phantoms: Sequence[Lesson] = (),
    examine: Examine | None = None,
    division: Division | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Fine-tune one arm, or go on where it was stopped.

    Args:
        config: The configuration, the same for both arms.
        arm: `pretrained` needs `encoder`; `scratch` must not have it.
        lessons: Cases by name, at least the training cases of the split.
        folder: Where the checkpoint lies.
        encoder: Pretrained weights of the encoders, from `encoders.encoder_weights`.
        phantoms: Further cases, shown in `config.phantom_share` of the samples.
        examine: What to measure of the averaged weights on the way; it chooses nothing. The first process does it.
        division: This process's share of each batch; all of it by default.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The finished run; `average` holds the weights to ship.

    Raises:
        DatasetError: A case of the split is missing, or the batch cannot be divided so.
        CheckpointError: The folder holds a checkpoint of another configuration, or the encoders do not fit.
    """
    require_cases(lessons, config.split.train)
    training = [lessons[name] for name in config.split.train]
    objective = _objective(config.model, [*training, *phantoms])
    run = Run.start(initial_network(config, arm, encoder), config.schedule, objective.loss, division)
    path, identity = folder / CHECKPOINT, _identity(config, arm, encoder, run.division)
    if path.exists():
        run.resume(path, identity)
    while run.step < config.schedule.steps:
        began = run.division.clock()
        loss = _step(run, config, training, phantoms)
        run.seconds += run.division.clock() - began
        finished = run.step == config.schedule.steps
        if run.step % config.measure_every == 0 or finished:
            measured = examine(_measured_network(run, config)) if examine and run.division.is_first else {}
            run.history.append({"step": run.step, "loss": loss, **measured})
        if run.step % config.schedule.checkpoint_every == 0 or finished:
            run.save(path, identity)
            if on_progress is not None and run.division.is_first:
                on_progress(_line(run), run.step / config.schedule.steps)
    run.finish()
    return run


def initial_network(config: FinetuneConfig, arm: Arm, encoder: Mapping[str, Tensor] | None) -> nn.Module:
    """The network before its first step: all of it from the seed, then the encoders from pretraining.

    Raises:
        ValueError: The arm and the encoders' weights do not belong together.
        CheckpointError: The encoders do not fit.
    """
    if (arm is Arm.PRETRAINED) != (encoder is not None):
        raise ValueError("The pretrained arm must start from an encoder's weights, and the scratch arm from none.")
    torch.manual_seed(config.seed)
    if config.specialised:
        if encoder is not None:
            raise ValueError("A specialised network must start from scratch, since no pretraining fits it.")
        return specialised_network(config.model)
    network = build_network(config.model, config.drop_path)
    if encoder is not None:
        load_encoder(network, config.model, encoder)
    return accelerate(network)


def _objective(spec: ModelSpec, lessons: Sequence[Lesson]) -> Objective:
    """What the task asks, classes balanced over the cases that train."""
    if spec.task is not TaskId.CLASSIFICATION:
        return Objective(spec)
    categories = [lesson.category for lesson in lessons if lesson.category is not None]
    return Objective(spec, class_weights(categories, spec.head.out_channels))


def _step(run: Run, config: FinetuneConfig, lessons: Sequence[Lesson], phantoms: Sequence[Lesson]) -> float:
    """Show one batch and learn from it; returns the loss."""
    first = run.step * config.batch

    def sample(number: int, generator: Generator) -> Sample:
        lesson = choose_case(first + number, config.seed, lessons, phantoms, config.phantom_share)
        return lesson.sample(generator, config.augmentation)

    generator = step_generator(config.seed, run.step)
    parts = draw(config, run.division, run.step, generator, sample)
    return run.learn([(collate(samples),) for samples in parts], config.seed)


def gland_examination(cases: Mapping[str, TrainingCase], spec: ModelSpec) -> Examine:
    """Dice of the gland on the crop of each case."""
    views = {name: sample_view(case, spec.preprocess, Generator()) for name, case in cases.items()}
    return lambda network: {f"dice {name}": gland_dice(network, view) for name, view in views.items()}


def averaged_network(run: Run, spec: ModelSpec, specialised: bool = False) -> nn.Module:
    """The network with a run's averaged weights, in evaluation mode."""
    network = specialised_network(spec) if specialised else build_network(spec)
    network.load_state_dict(run.average)
    return network.eval()


def gland_dice(network: nn.Module, view: View) -> float:
    """Dice of the gland on one view, at the target's resolution."""
    with torch.inference_mode():
        size = [n // TARGET_STRIDE for n in view.image.shape[1:]]
        probabilities = network(view.image[None], size)[0].float().softmax(dim=0)
    return dice((probabilities[0] < 0.5).numpy(), (view.target[0] > 0.5).numpy())


def _measured_network(run: Run, config: FinetuneConfig) -> nn.Module:
    """The averaged network where it trains."""
    return averaged_network(run, config.model, config.specialised).to(run.division.device)


def _identity(config: FinetuneConfig, arm: Arm, encoder: Mapping[str, Tensor] | None, division: Division) -> str:
    """A checksum of all that decides the run."""
    digest = hashlib.sha256(json.dumps([stated(config, division), arm], sort_keys=True).encode())
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
