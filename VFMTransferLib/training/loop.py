"""The one training loop, of pretraining and fine-tuning: schedule, optimizer, averaged weights, checkpoint and resume.

A run may stop at any moment and goes on as if it had not: what is random comes from a stream of its own, named by the
run's seed and a number, however a step's batch is distributed, and checkpoints are replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..core.decoding import OMITTED, Limits, NotNegative, Share, to_json
from ..core.errors import CheckpointError, DivergedError
from ..core.files import atomic_file
from ..core.terms import OnProgress
from .distributed import DistributedContext

BUNDLE_VERSION = "1.0.0"  # of what is trained here
CHECKPOINT = "checkpoint.pt"
COOL_DOWN = 0.2  # part of the most steps in which the rate of a training with patience falls
# Of the random streams; a checkpoint of another version would go on with other random numbers.
_VERSION = "random streams 2"
# What a stream of random numbers is for; the first key of each, so that no two streams are alike.
_ORDER, _PHANTOMS, _SAMPLE, _PART = range(4)

# The network and what of a batch the step shows it → the loss.
Loss = Callable[..., Tensor]
# Number of a step → this process's parts of its batch, each what the loss takes beside the network.
Batches = Callable[[int], Sequence[tuple[Any, ...]]]
Drawn = TypeVar("Drawn")
Chosen = TypeVar("Chosen")


def random_stream(seed: int, *keys: int) -> np.random.Generator:
    """A source of random numbers that is independent of those of other seeds and other keys."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=keys))


def torch_seed(seed: int, *keys: int) -> int:
    """A seed for PyTorch, which takes 32 bits, from such a source."""
    return int(np.random.SeedSequence(seed, spawn_key=keys).generate_state(1)[0])


def part_seed(seed: int, step: int, part: int) -> int:
    """The seed of what is random in the network and in the loss, for a part of a step's batch."""
    return torch_seed(seed, _PART, step, part)


def draw_samples(
    context: DistributedContext, batch: int, seed: int, step: int, sample: Callable[[int, Generator], Drawn]
) -> list[list[Drawn]]:
    """This process's samples of a step's `batch`, by part; `sample` draws that of a number from a stream of its own."""
    return [
        [sample(number, Generator().manual_seed(torch_seed(seed, _SAMPLE, step, number))) for number in part]
        for part in context.own_samples(batch)
    ]


def choose_case(number: int, seed: int, cases: Sequence[Chosen], phantoms: Sequence[Chosen], share: float) -> Chosen:
    """The case of a run's sample of a number: each case once in an epoch, in random order, phantoms between."""
    epoch, place = divmod(number, len(cases))
    if phantoms:
        drawn = random_stream(seed, _PHANTOMS, number)
        if drawn.random() < share:
            return phantoms[int(drawn.integers(len(phantoms)))]
    return cases[int(random_stream(seed, _ORDER, epoch).permutation(len(cases))[place])]


def run_identity(config: object, context: DistributedContext, *more: object, weights: Mapping[str, Tensor]) -> str:
    """A checksum of all that decides a run, by which its checkpoint is known.

    Where the parts of a batch run does not belong to it; how many there are does, since batch normalization, Dice and
    stochastic depth see a part.
    """
    document = [_VERSION, to_json(config), {"parts": context.parts}, *more]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns."""

    steps: int
    learning_rate: Annotated[float, Limits(above=0.0)] = 2e-3  # the highest
    warm_up: Share = 0.04  # part of the steps in which it rises linearly; then it falls as a half cosine to 0
    weight_decay: NotNegative = 0.05  # of matrices and kernels; not of biases, norms and GRN
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's
    clip: Annotated[float, Limits(above=0.0)] = 1.0  # largest norm of the gradient
    averaging: Share = 0.998  # decay of the exponential moving average of the weights, which is what a run yields
    precision: str = "float32"  # or `bfloat16` for the matrix products and convolutions
    checkpoint_every: int = 200
    # Part of the steps after which a validation score that has not improved ends the training: then `steps` is the most
    # that it may take, and the rate stays at its highest until it falls over `COOL_DOWN` of them. None: all steps.
    patience: float | None = field(default=None, metadata=OMITTED)
    # The highest rate of the encoder, where it differs: a lower one leaves it more of what its pretraining has learned.
    encoder_learning_rate: float | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Precision must be float32 or bfloat16, got '{self.precision}'.")
        if self.steps < 1 or self.checkpoint_every < 1:
            raise ValueError("Steps, and steps between checkpoints, must be at least 1.")
        if self.patience is not None and not 0 < self.patience <= 1:
            raise ValueError(f"Patience must be a part of the steps, above 0 and at most 1, got {self.patience:g}.")
        if self.encoder_learning_rate is not None and not self.encoder_learning_rate > 0:
            raise ValueError(f"The encoder's learning rate must be above 0, got {self.encoder_learning_rate:g}.")

    @property
    def cooling(self) -> int:
        """Steps in which the rate of a training with patience falls to 0."""
        return max(round(COOL_DOWN * self.steps), 1)

    def plateau(self, points: Iterable[tuple[float, float]]) -> int | None:
        """The measured step at which the best score was older than the patience; None where it still improved.

        Args:
            points: Step and score, larger is better, oldest first; a score that is not a number is none.
        """
        if self.patience is None:
            return None
        best, best_step = -math.inf, 0.0
        for step, score in points:
            if step > self.steps - self.cooling:  # there the rate falls in any case
                break
            if score > best:
                best, best_step = score, step
            elif step - best_step >= self.patience * self.steps and math.isfinite(best):
                return int(step)
        return None

    def end(self, plateau: int | None) -> int:
        """The step at which a training ends."""
        return self.steps if plateau is None else min(plateau + self.cooling, self.steps)

    def rate(self, step: int, plateau: int | None = None) -> float:
        """Learning rate of a step, 0 .. steps - 1."""
        rising = max(round(self.warm_up * self.steps), 1)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        start, length = rising, max(self.steps - rising, 1)
        if self.patience is not None:
            start, length = max(self.end(plateau) - self.cooling, rising), self.cooling
            if step < start:
                return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - start) / length))

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def build_optimizer(
    network: nn.Module, schedule: Schedule, encoder: Collection[str] = frozenset()
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only.

    `encoder` are the names of the parameters that have the encoder's rate.
    """
    own = frozenset() if schedule.encoder_learning_rate is None else encoder
    learned = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = _groups((p for name, p in learned if name not in own), schedule)
    if schedule.encoder_learning_rate is not None:
        share = schedule.encoder_learning_rate / schedule.learning_rate
        groups += [{**group, "share": share} for group in _groups((p for name, p in learned if name in own), schedule)]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)


def _groups(parameters: Iterable[nn.Parameter], schedule: Schedule) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if sum(n > 1 for n in parameter.shape) > 1 else others).append(parameter)
    return [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]


class Learner(nn.Module):
    """A network with its loss: one forward pass gives the loss, so that processes can share its gradient."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, *part: Any) -> Tensor:
        return self.loss(self.network, *part)


@dataclass
class Run:
    """Where a training stands."""

    network: nn.Module  # as the optimizer has left it
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    learner: nn.Module  # the network with its loss, as `context` has set it up
    context: DistributedContext
    average: dict[str, Tensor] = field(default_factory=dict)  # by name
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # what was measured on the way, oldest first
    seconds: float = 0.0  # that the steps took on the device (`context.clock`), without measuring and saving
    plateau: int | None = None  # the step at which the validation score had stopped improving, see `Schedule.plateau`
    data: Mapping[str, Any] | None = None  # of `train`

    @property
    def ended(self) -> str:
        """Why a training with patience ended: `plateau`, or `budget` where it still improved; empty of others."""
        if self.schedule.patience is None:
            return ""
        return "budget" if self.plateau is None else "plateau"

    @classmethod
    def start(
        cls,
        network: nn.Module,
        schedule: Schedule,
        loss: Loss,
        context: DistributedContext | None = None,
        encoder: Collection[str] = frozenset(),
    ) -> Run:
        """A run of no step; `encoder` as of `build_optimizer`."""
        context = context or DistributedContext()
        learner = context.set_up(Learner(network, loss))
        average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return cls(network, build_optimizer(network, schedule, encoder), schedule, learner, context, average)

    def train(
        self,
        path: Path,
        identity: str,
        batches: Batches,
        seed: int,
        *,
        measure: Callable[[list[float]], Mapping[str, float]],
        measure_every: int,
        score: Callable[[Mapping[str, float]], float] | None = None,
        data: Mapping[str, Any] | None = None,
        ahead: int = 0,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Train to the end of the schedule, from a checkpoint where there is one.

        `identity` is from `run_identity`, and `data` states in JSON what its cases' names do not; CheckpointError where
        the checkpoint is damaged, or of another run or other data. `measure`
        makes what enters the history every `measure_every` steps, and after the last, from the losses of the steps
        since the last time. `score` gives of such an entry what must improve, larger is better, where the schedule has
        patience. `ahead` threads draw the samples of that many steps while the network learns; as each sample has a
        random stream of its own, what is learned is the same.
        """
        if path.exists():
            self.resume(path, identity, data)
        self.data = data
        with _drawn_ahead(batches, self.step, self.schedule.steps, ahead) as drawn:
            self._train(path, identity, drawn, seed, measure, measure_every, score, on_progress)
        self.average = {name: tensor.cpu() for name, tensor in self.average.items()}

    def _train(
        self,
        path: Path,
        identity: str,
        batches: Batches,
        seed: int,
        measure: Callable[[list[float]], Mapping[str, float]],
        measure_every: int,
        score: Callable[[Mapping[str, float]], float] | None,
        on_progress: OnProgress | None,
    ) -> None:
        losses: list[float] = []
        while self.step < self.schedule.end(self.plateau):
            parts = batches(self.step)  # drawn, and read and prepared by the first run that shows the cases
            began = self.context.clock()
            losses.append(self.learn(parts, seed))
            self.seconds += self.context.clock() - began
            finished = self.step == self.schedule.end(self.plateau)
            if self.step % measure_every == 0 or finished:
                self.history.append({"step": self.step, **measure(losses)})
                losses = []
                if score is not None and self.plateau is None and self.schedule.patience is not None:
                    points = [(point["step"], score(point)) for point in self.history]
                    self.plateau = self.context.of_first(self.schedule.plateau(points))
            if self.step % self.schedule.checkpoint_every == 0 or finished:
                self.save(path, identity)
                if on_progress is not None and self.context.is_first:
                    latest = self.history[-1] if self.history else {}
                    values = ", ".join(f"{key} {value:.3f}" for key, value in latest.items() if key != "step")
                    line = f"step {self.step}" + (f", at {latest['step']:.0f}: {values}" if latest else "")
                    on_progress(line, self.step / self.schedule.end(self.plateau))

    def learn(self, parts: Sequence[tuple[Any, ...]], seed: int) -> float:
        """Go one step down the mean loss of all parts of a batch, average the weights, and return that loss.

        `parts` are this process's: what the loss takes beside the network, for each.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, device = [], self.context.device
        for number, part in enumerate(parts):
            torch.manual_seed(part_seed(seed, self.step, self.context.first_part + number))
            with self.context.without_sync(self.learner, number + 1 < len(parts)):
                with self.schedule.autocast(device):
                    loss = self.learner(*(value.to(device) if hasattr(value, "to") else value for value in part))
                self.context.backward(loss / len(parts))
            losses.append(loss.detach())
        rate = self.schedule.rate(self.step, self.plateau)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        if not torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)):
            also = " or precision float32" if self.schedule.precision == "bfloat16" else ""
            raise DivergedError(
                f"The gradients of a training must be finite, but at step {self.step} they are not: it diverged, and "
                f"would do so again. What was saved before is kept. Train again with a lower learning rate{also}."
            )
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
        return self.context.mean(torch.stack(losses).mean())

    def save(self, path: Path, identity: str) -> None:
        """Write a checkpoint, whole or not at all; of several processes the first one does."""
        if not self.context.is_first:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "identity": identity,
            "data": self.data,
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "plateau": self.plateau,
            "finished": self.step == self.schedule.end(self.plateau),
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(path) as part:
            torch.save(document, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())

    def resume(self, path: Path, identity: str, data: Mapping[str, Any] | None = None) -> None:
        """Go on from a checkpoint; CheckpointError as of `train`."""
        document = read_checkpoint(path)
        if document["identity"] != identity:
            raise CheckpointError(
                f"Checkpoint {path.parent.name}/{path.name} must be of a run with this configuration, but is of "
                "another. Choose another output folder, or remove it to start this training again."
            )
        known = document.get("data")  # those of version 1.0 do not state it
        if known is not None and data is not None and known != data:
            differ = ", ".join(key for key in sorted(known | data) if known.get(key) != data.get(key))
            raise CheckpointError(
                f"Checkpoint {path.parent.name}/{path.name} must be of a training with these data, but is of one with "
                f"other {differ}. Choose another output folder, or remove it to start this training again."
            )
        try:
            self.network.load_state_dict(document["network"])
            self.optimizer.load_state_dict(document["optimizer"])
            self.average = {name: tensor.to(self.context.device) for name, tensor in document["average"].items()}
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(path) from error
        self.step, self.history = document["step"], document["history"]
        self.plateau = document.get("plateau")
        self.seconds = document.get("seconds", 0.0)  # checkpoints of version 1.0 did not count them


@contextmanager
def _drawn_ahead(batches: Batches, first: int, end: int, ahead: int) -> Iterator[Batches]:
    """The batches of the steps from `first` to before `end`, those of the next steps drawn by `ahead` threads."""
    if ahead < 1:
        yield batches
        return
    with ThreadPoolExecutor(ahead, thread_name_prefix="samples") as pool:
        waiting = {step: pool.submit(batches, step) for step in range(first, min(first + ahead, end))}

        def take(step: int) -> Sequence[tuple[Any, ...]]:
            if step + ahead < end:
                waiting[step + ahead] = pool.submit(batches, step + ahead)
            return waiting.pop(step).result()

        try:
            yield take
        finally:
            for future in waiting.values():
                future.cancel()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, as `Run.save` writes it; CheckpointError where it is damaged."""
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, OSError) as error:
        raise _damaged(path) from error
    if not isinstance(document, dict) or not {"identity", "step", "history"} <= document.keys():
        raise _damaged(path)
    return document


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(  # of the folders, those above the training's may bear a patient's name
        f"Checkpoint {path.parent.name}/{path.name} must be whole, but is damaged. Restore it from a copy, or remove "
        "it to start this training again."
    )


def run_record(run: Run) -> dict[str, Any]:
    """How a run went, and over how many devices it was distributed, for a bundle's record."""
    record = {"steps": run.step, "seconds": round(run.seconds, 1), "history": run.history}
    if run.ended:
        record["ended"] = run.ended
    if run.context.parts == 1:
        return record
    return {**record, "devices": run.context.processes, "accumulation": run.context.accumulation}


def checkpoint_folder(bundle_folder: Path) -> Path:
    """Where the training of a bundle keeps its checkpoint: beside the bundle, which is written whole at the end."""
    return bundle_folder.parent / f"{bundle_folder.name}.training"
