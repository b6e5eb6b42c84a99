"""The one training loop, of pretraining and fine-tuning: optimizer, averaged weights, checkpoint and resume.

A run may stop at any moment and goes on as if it had not: what is random comes from a stream of its own, named by the
run's seed and a number, however a step's batch is distributed, and checkpoints are replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..core.decoding import to_json
from ..core.errors import CheckpointError, DivergedError
from ..core.files import atomic_file
from ..core.terms import OnProgress
from .config import TrainConfig
from .distributed import DistributedContext

BUNDLE_VERSION = "1.0.0"  # of what is trained here
CHECKPOINT = "checkpoint.pt"
# Of the random streams; a checkpoint of another version would go on with other random numbers.
_VERSION = "random streams 2"
# What a stream of random numbers is for; the first key of each, so that no two streams are alike.
_ORDER, _PHANTOMS, _SAMPLE, _PART = range(4)

# The network and what of a batch the step shows it → the loss.
Loss = Callable[..., Tensor]
# This process's parts of a step's batch, each what the loss takes beside the network.
Parts = Sequence[tuple[Any, ...]]
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
    """The case of a run's sample of a number: each case once in an epoch, in random order, phantoms mixed in."""
    epoch, place = divmod(number, len(cases))
    if phantoms:
        drawn = random_stream(seed, _PHANTOMS, number)
        if drawn.random() < share:
            return phantoms[int(drawn.integers(len(phantoms)))]
    return cases[int(random_stream(seed, _ORDER, epoch).permutation(len(cases))[place])]


def run_identity(document: object, context: DistributedContext, weights: Mapping[str, Tensor]) -> str:
    """A checksum of all that decides a run, by which its checkpoint is known.

    Where the parts of a batch run does not belong to it; how many there are does, since batch normalization, Dice and
    stochastic depth see a part.
    """
    text = json.dumps([_VERSION, to_json(document), {"parts": context.parts}], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_optimizer(
    network: nn.Module, config: TrainConfig, encoder: Collection[str] = frozenset()
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only.

    `encoder` are the names of the parameters that have the encoder's rate.
    """
    share = None if config.encoder_learning_rate is None else config.encoder_learning_rate / config.learning_rate
    learned = [(name in encoder and share is not None, p) for name, p in network.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for is_encoder in (False, True) if share is not None else (False,):
        for is_decayed in (True, False):
            own = [p for of_encoder, p in learned if of_encoder is is_encoder and _is_matrix(p) is is_decayed]
            group = {"params": own, "weight_decay": config.weight_decay if is_decayed else 0.0}
            groups.append(group | ({"share": share} if is_encoder else {}))
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def _is_matrix(parameter: Tensor) -> bool:
    return sum(n > 1 for n in parameter.shape) > 1


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
    config: TrainConfig
    learner: nn.Module  # the network with its loss, as `context` has set it up
    context: DistributedContext
    average: dict[str, Tensor] = field(default_factory=dict)  # by name
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # what was measured on the way, oldest first
    seconds: float = 0.0  # that the steps took on the device (`context.clock`), without measuring and saving
    plateau: int | None = None  # when the validation score had stopped improving, see `TrainConfig.plateau`

    @property
    def ended(self) -> str:
        """Why a training with patience ended: `plateau`, or `budget` where it still improved; empty of others."""
        if self.config.patience is None:
            return ""
        return "budget" if self.plateau is None else "plateau"

    @property
    def end(self) -> int:
        """The step at which it ends, as far as is known."""
        return self.config.end(self.plateau)

    @classmethod
    def start(
        cls,
        network: nn.Module,
        config: TrainConfig,
        loss: Loss,
        context: DistributedContext | None = None,
        encoder: Collection[str] = frozenset(),
    ) -> Run:
        """A run of no step; `encoder` as of `build_optimizer`."""
        context = context or DistributedContext()
        learner = context.set_up(Learner(network, loss))
        average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return cls(network, build_optimizer(network, config, encoder), config, learner, context, average)

    def train(
        self,
        path: Path,
        identity: str,
        batches: Callable[[int], Parts],
        *,
        measure: Callable[[list[float]], Mapping[str, float]],
        measure_every: int,
        score: Callable[[Mapping[str, float]], float] | None = None,
        prefetch: int = 0,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Train to the end, from a checkpoint where there is one.

        Args:
            path: Of the checkpoint.
            identity: From `run_identity`.
            batches: Number of a step → this process's parts of its batch.
            measure: Makes what enters the history every `measure_every` steps, and after the last, from the losses of
                the steps since the last time.
            score: Of such an entry what must improve, larger is better, where the configuration has patience.
            prefetch: Threads that draw the samples of that many steps while the network learns. As each sample has a
                random stream of its own, what is learned is the same.

        Raises:
            CheckpointError: The checkpoint is damaged, or of another run.
            DivergedError: The gradients are not finite any more.
        """
        if path.exists():
            self.resume(path, identity)
        losses: list[float] = []
        pool = ThreadPoolExecutor(max(prefetch, 1), thread_name_prefix="samples")
        waiting: dict[int, Future[Parts]] = {}
        try:
            while self.step < self.end:
                for step in range(self.step, min(self.step + prefetch, self.config.steps)):
                    if step not in waiting:
                        waiting[step] = pool.submit(batches, step)
                parts = waiting.pop(self.step).result() if prefetch else batches(self.step)
                began = self.context.clock()
                losses.append(self.learn(parts))
                self.seconds += self.context.clock() - began
                finished = self.step == self.end
                if self.step % measure_every == 0 or finished:
                    self.history.append({"step": self.step, **measure(losses)})
                    losses = []
                    if score is not None and self.plateau is None and self.config.patience is not None:
                        points = [(point["step"], score(point)) for point in self.history]
                        self.plateau = self.context.of_first(self.config.plateau(points))
                if self.step % self.config.checkpoint_every == 0 or finished:
                    self.save(path, identity)
                    if on_progress is not None and self.context.is_first:
                        on_progress(self._progress_line(), self.step / self.end)
        finally:
            pool.shutdown(cancel_futures=True)
        self.average = {name: tensor.cpu() for name, tensor in self.average.items()}

    def _progress_line(self) -> str:
        if not self.history:
            return f"step {self.step}"
        values = ", ".join(f"{key} {value:.3f}" for key, value in self.history[-1].items() if key != "step")
        return f"step {self.step}, at {self.history[-1]['step']:.0f}: {values}"

    def learn(self, parts: Parts) -> float:
        """Go one step down the mean loss of all parts of a batch, average the weights, and return that loss.

        `parts` are this process's: what the loss takes beside the network, for each.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, device, precision = [], self.context.device, self.config.precision
        for number, part in enumerate(parts):
            torch.manual_seed(part_seed(self.config.seed, self.step, self.context.first_part + number))
            with self.context.without_sync(self.learner, number + 1 < len(parts)):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    loss = self.learner(*(value.to(device) if hasattr(value, "to") else value for value in part))
                self.context.backward(loss / len(parts))
            losses.append(loss.detach())
        rate = self.config.rate(self.step, self.plateau)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        if not torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)):
            also = " or precision float32" if precision == "bfloat16" else ""
            raise DivergedError(
                f"The training diverged: its gradients are not finite at step {self.step}. What was saved before is "
                f"kept. Train again with a lower learning rate{also}."
            )
        self.optimizer.step()
        self.step += 1
        # The average of a young run is of the last tenth of its steps, not of its random start.
        decay = min(self.config.averaging, self.step / (self.step + 10))
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
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "plateau": self.plateau,
            "finished": self.step == self.end,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(path) as part:
            torch.save(document, part)

    def resume(self, path: Path, identity: str) -> None:
        """Go on from a checkpoint; CheckpointError as of `train`."""
        document = read_checkpoint(path)
        if document["identity"] != identity:
            raise CheckpointError(
                f"Checkpoint {path.parent.name}/{path.name} is of another configuration or of other cases. Choose "
                "another output folder, or remove it to start this training again."
            )
        self.network.load_state_dict(document["network"])
        self.optimizer.load_state_dict(document["optimizer"])
        self.average = {name: tensor.to(self.context.device) for name, tensor in document["average"].items()}
        self.step, self.history = document["step"], document["history"]
        self.plateau, self.seconds = document["plateau"], document["seconds"]

    @property
    def record(self) -> dict[str, Any]:
        """How it went, and over how many devices it was distributed, for a bundle's record."""
        record = {"steps": self.step, "seconds": round(self.seconds, 1), "history": self.history}
        if self.ended:
            record["ended"] = self.ended
        if self.context.parts > 1:
            record |= {"devices": self.context.processes, "accumulation": self.context.accumulation}
        return record


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, as `Run.save` writes it; CheckpointError where it is damaged."""
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        if document.keys() >= {"identity", "step", "history", "network", "average", "optimizer"}:
            return document
    except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, OSError, AttributeError):
        pass
    raise CheckpointError(  # names no folder above the training's, which may bear a patient's name
        f"Checkpoint {path.parent.name}/{path.name} is damaged. Restore it from a copy, or remove it to start this "
        "training again."
    )


def checkpoint_folder(bundle_folder: Path) -> Path:
    """Where the training of a bundle keeps its checkpoint: next to the bundle, which is written whole at the end."""
    return bundle_folder.parent / f"{bundle_folder.name}.training"
