"""Which random numbers a step's samples and parts draw, so that a stopped run goes on as if it had not been.

Configurations of trainings share four fields that this file reads: `seed`, `batch` (samples a step, of all processes),
`draws`, and through `later` whatever a newer version has added.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn

from ..core.decoding import to_json
from ..core.errors import CheckpointError
from ..core.files import atomic_file
from .distributed import Division

# Of a step's samples: one stream of random numbers for all, in their order, or one for each sample. With one for all,
# every process must draw the whole batch; with one for each, its own samples only.
DRAWS = ("step", "sample")
# Large and odd, so that the generators of two runs with neighboring seeds share no step.
_SEED_STRIDE = 1_000_003
# PyTorch's generator takes the low 32 bits of a seed, and no more.
_SEED_BYTES = 4
_LATER = "later"

Drawn = TypeVar("Drawn")


class Sampled(Protocol):
    """What a configuration says of a step's samples."""

    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def draws(self) -> str: ...


def later(default: Any) -> Any:
    """A field that a configuration has gained: while it is the default, older checkpoints stay valid (`stated`)."""
    return field(default=default, metadata={_LATER: True})


def stated(config: Any, division: Division) -> dict[str, Any]:
    """What of a configuration decides the result, as JSON: for the checksum by which a checkpoint is known.

    Where the parts of a batch run does not belong to it; how many there are does, since batch normalization, Dice and
    stochastic depth see a part.
    """
    document = to_json(config)
    for one in fields(config):
        if one.metadata.get(_LATER) and document[one.name] == one.default:
            del document[one.name]
    return document if division.parts == 1 else {**document, "parts": division.parts}


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's randomness."""
    return seed * _SEED_STRIDE + step


def part_seed(seed: int, step: int, part: int) -> int:
    """The seed of a part of a step's batch; the first part's is the step's."""
    return _scrambled("part", seed, step, part) if part else step_seed(seed, step)


def _scrambled(*words: object) -> int:
    """A seed that no other words are likely to have."""
    digest = hashlib.sha256(" ".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "little")


def step_generator(seed: int, step: int) -> Generator:
    """The source of a step's randomness; also seeds the global one, which stochastic depth uses."""
    torch.manual_seed(step_seed(seed, step))
    return Generator().manual_seed(step_seed(seed, step))


def draw(
    config: Sampled, division: Division, step: int, generator: Generator, sample: Callable[[int, Generator], Drawn]
) -> list[list[Drawn]]:
    """This process's samples of a step, by part.

    Args:
        config: Says how many in all, and how they draw.
        division: This process's share.
        step: Number of the step.
        generator: The step's.
        sample: Draws the sample of a number, 0 .. batch - 1.
    """
    if config.draws not in DRAWS:
        raise ValueError(f"Samples must draw by {' or '.join(DRAWS)}, got '{config.draws}'.")
    own = division.own(config.batch)
    if config.draws == "step":
        drawn = [sample(number, generator) for number in range(config.batch)]
        return [[drawn[number] for number in part] for part in own]
    return [
        [sample(n, Generator().manual_seed(_scrambled("sample", config.seed, step, n))) for n in part] for part in own
    ]


# What pretraining and fine-tuning share: schedule, optimizer, averaged weights, and where a run stands.
#
# A run may stop at any moment and goes on as if it had not: every step draws its randomness from a
# generator seeded by the run's seed and the step's number, and checkpoints are replaced as a whole.
# A step's batch may be divided (`division`); what a network sees in a step does not depend on it.

CHECKPOINT = "checkpoint.pt"
Progress = Callable[[str, float], None]
# What a step asks: the network and what it is shown → the loss.
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns.

    Attributes:
        steps: Optimizer steps; one view each.
        learning_rate: Highest learning rate.
        warm_up: Part of the steps in which it rises linearly; then it falls as a half cosine to 0.
        weight_decay: Of matrices and kernels; not of biases, norms and GRN.
        betas: AdamW's.
        clip: Largest norm of the gradient.
        averaging: Decay of the exponential moving average of the weights, which is what a run yields.
        precision: `float32`, or `bfloat16` for the matrix products and convolutions.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int
    learning_rate: float = 2e-3
    warm_up: float = 0.04
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    averaging: float = 0.998
    precision: str = "float32"
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Precision must be float32 or bfloat16, got '{self.precision}'.")
        if self.steps < 1 or self.checkpoint_every < 1:
            raise ValueError("Steps, and steps between checkpoints, must be at least 1.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0 .. steps - 1."""
        rising = max(round(self.warm_up * self.steps), 1)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(self.steps - rising, 1)))

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which the network runs forward."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def build_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in parameters if sum(n > 1 for n in p.shape) > 1]
    others = [p for p in parameters if sum(n > 1 for n in p.shape) <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)


class Learner(nn.Module):
    """A network with what is asked of it: its forward pass is a loss, which is what processes share a gradient of.

    Args:
        network: The network.
        loss: What is asked.
    """

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, *shown: Any) -> Tensor:
        """The loss on what is shown."""
        return self.loss(self.network, *shown)


@dataclass
class Run:
    """Where training stands.

    Attributes:
        network: The network, as the optimizer has left it.
        optimizer: The optimizer.
        schedule: The schedule.
        learner: The network with its loss, as `division` has set it up.
        division: This process's share of each batch.
        average: Name → averaged tensor.
        step: Steps done.
        history: What was measured on the way, oldest first.
        seconds: Time that the steps took on the device (`Division.clock`), without measuring and saving.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    learner: nn.Module
    division: Division
    average: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def start(cls, network: nn.Module, schedule: Schedule, loss: Loss, division: Division | None = None) -> Run:
        """A run at its beginning."""
        division = division or Division()
        learner = division.set_up(Learner(network, loss))
        average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return cls(network, build_optimizer(network, schedule), schedule, learner, division, average)

    def learn(self, parts: Sequence[tuple[Any, ...]], seed: int) -> float:
        """Show this process's parts of a batch, go one step down the mean loss of all parts, and average the weights.

        Args:
            parts: What the loss takes beside the network, for each part.
            seed: The run's; parts after a batch's first have a seed of their own for stochastic depth.

        Returns:
            The mean loss of all parts, of all processes.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, part in enumerate(parts):
            if self.division.first_part + number:
                torch.manual_seed(part_seed(seed, self.step, self.division.first_part + number))
            with self.division.alone(self.learner, number + 1 < len(parts)):
                with self.schedule.autocast(self.division.device):
                    loss = self.learner(*map(self.division.to_device, part))
                self.division.backward(loss / len(parts))
            losses.append(loss.detach())
        self._descend()
        return self.division.mean(torch.stack(losses).mean())

    def _descend(self) -> None:
        """Go one step down the gradient, clipped, and average the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip, error_if_nonfinite=True)
        self.optimizer.step()
        self.step += 1
        # The average of a young run is of the last tenth of its steps, not of its random start.
        decay = min(self.schedule.averaging, self.step / (self.step + 10))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - decay)
                else:  # a counter, as batch normalization keeps one
                    self.average[name].copy_(tensor)

    def follow(self, path: Path, identity: str, show: Callable[[], float], on_progress: Progress | None = None) -> None:
        """Go on from a checkpoint, where there is one, to the end of the schedule, keeping the mean loss as history.

        Args:
            path: The checkpoint.
            identity: As for `save`.
            show: Does one step and returns its loss.
            on_progress: Called with a line of text and the part that is done.
        """
        if path.exists():
            self.resume(path, identity)
        losses: list[float] = []
        while self.step < self.schedule.steps:
            began = self.division.clock()
            losses.append(show())
            self.seconds += self.division.clock() - began
            if self.step % self.schedule.checkpoint_every == 0 or self.step == self.schedule.steps:
                self.history.append({"step": self.step, "loss": sum(losses) / len(losses)})
                losses.clear()
                self.save(path, identity)
                if on_progress is not None and self.division.is_first:
                    line = f"step {self.step}, loss {self.history[-1]['loss']:.4f}"
                    on_progress(line, self.step / self.schedule.steps)
        self.finish()

    def finish(self) -> None:
        """Bring the averaged weights, which are what the run yields, back from the device."""
        self.average = {name: tensor.cpu() for name, tensor in self.average.items()}

    def save(self, path: Path, identity: str) -> None:
        """Write a checkpoint, whole or not at all; of several processes the first one does.

        Args:
            path: The file.
            identity: What makes this run this run; a checkpoint of another one is not resumed.
        """
        if not self.division.is_first:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {
            "identity": identity,
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(path) as part:
            torch.save(document, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())

    def resume(self, path: Path, identity: str) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: It is damaged, or of a run with another configuration.
        """
        try:
            document = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, OSError) as error:
            raise CheckpointError(f"Checkpoint {path.name} must be readable, but is damaged. Remove it.") from error
        if document["identity"] != identity:
            raise CheckpointError(
                f"Checkpoint {path.name} must be of a run with this configuration, but is of another. "
                "Choose another output folder, or remove it to start anew."
            )
        self.network.load_state_dict(document["network"])
        self.optimizer.load_state_dict(document["optimizer"])
        self.average = {name: tensor.to(self.division.device) for name, tensor in document["average"].items()}
        self.step, self.history = document["step"], document["history"]
        self.seconds = document.get("seconds", 0.0)  # checkpoints of version 1.0 did not count them
