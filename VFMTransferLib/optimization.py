"""What pretraining and fine-tuning share: schedule, optimizer, averaged weights, and where a run stands.

A run may stop at any moment and goes on as if it had not: every step draws its randomness from a
generator seeded by the run's seed and the step's number, and checkpoints are replaced as a whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .atomic import atomic_file
from .errors import CheckpointError

CHECKPOINT = "checkpoint.pt"
Progress = Callable[[str, float], None]
# Large and odd, so that the generators of two runs with neighboring seeds share no step.
_SEED_STRIDE = 1_000_003


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


def step_generator(seed: int, step: int) -> Generator:
    """The source of a step's randomness; also seeds the global one, which stochastic depth uses."""
    torch.manual_seed(seed * _SEED_STRIDE + step)
    return Generator().manual_seed(seed * _SEED_STRIDE + step)


def build_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in parameters if sum(n > 1 for n in p.shape) > 1]
    others = [p for p in parameters if sum(n > 1 for n in p.shape) <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)


@dataclass
class Run:
    """Where training stands.

    Attributes:
        network: The network, as the optimizer has left it.
        optimizer: The optimizer.
        schedule: The schedule.
        average: Name → averaged tensor.
        step: Steps done.
        history: What was measured on the way, oldest first.
        seconds: Time that the steps took, without measuring and saving.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    average: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def start(cls, network: nn.Module, schedule: Schedule) -> Run:
        """A run at its beginning."""
        average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return cls(network, build_optimizer(network, schedule), schedule, average)

    def advance(self, loss: Tensor) -> float:
        """Go one step down a loss's gradient and average the weights.

        Returns:
            The gradient's norm before it was clipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip, error_if_nonfinite=True)
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
        return float(norm)

    def save(self, path: Path, identity: str) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            path: The file.
            identity: What makes this run this run; a checkpoint of another one is not resumed.
        """
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
        self.average, self.step, self.history = document["average"], document["step"], document["history"]
        self.seconds = document.get("seconds", 0.0)  # checkpoints of version 1.0 did not count them
