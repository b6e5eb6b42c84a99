"""How a step's batch is distributed: over processes with a device each, and in each over parts, one after another.

Processes work together through Lightning Fabric (Apache-2.0, package `lightning-fabric`), imported only where several
of them or an accelerator are asked for. Each starts the same command again; they meet in `join_processes`. The gradient
of a step is the mean over all parts, so that only the number of parts can matter to the result.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ..core.errors import DatasetError, RuntimeUnavailableError
from ..inference.torch_runtime import unavailable_reason

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ACCELERATORS = ("auto", "cpu", "cuda")
# The others wait while the first process measures on validation cases and writes.
_TIMEOUT = timedelta(hours=6)


Of = TypeVar("Of")


@dataclass(frozen=True)
class DistributedContext:
    """One process's share of the work; by default all of it, at once, on the CPU.

    `accumulation` is the number of parts of a batch that each process shows the network one after another before a
    step; `fabric` joins the processes.
    """

    accumulation: int = 1
    fabric: Fabric | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise ValueError(f"A batch must be shown in 1 or more parts, got {self.accumulation}.")

    @property
    def processes(self) -> int:
        return 1 if self.fabric is None else self.fabric.world_size

    @property
    def parts(self) -> int:
        """Parts of a step's batch, of all processes."""
        return self.processes * self.accumulation

    @property
    def first_part(self) -> int:
        return 0 if self.fabric is None else self.fabric.global_rank * self.accumulation

    @property
    def is_first(self) -> bool:
        """Whether this is the process that measures, writes and reports."""
        return self.fabric is None or self.fabric.is_global_zero

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.fabric is None else self.fabric.device

    def clock(self) -> float:
        """Seconds that the device has worked; of a CPU its processor time, which other programs do not lengthen."""
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def own_samples(self, batch: int) -> list[range]:
        """Which samples of a batch are this process's, by part; DatasetError where the batch has no such parts."""
        each, left = divmod(batch, self.parts)
        if left or not each:
            raise DatasetError(
                f"The samples of a step must be a multiple of {self.parts} (devices times accumulation), but are "
                f"{batch}. Choose another --batch."
            )
        parts = range(self.first_part, self.first_part + self.accumulation)
        return [range(part * each, (part + 1) * each) for part in parts]

    def set_up(self, module: nn.Module) -> nn.Module:
        """The module on this process's device, its gradients shared with the other processes."""
        return module if self.fabric is None else self.fabric.setup_module(module)

    def without_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager:
        """While open and enabled, gradients gather in this process and are not shared yet."""
        return nullcontext() if self.fabric is None else self.fabric.no_backward_sync(module, enabled)

    def backward(self, loss: Tensor) -> None:
        if self.fabric is None:
            loss.backward()
        else:
            self.fabric.backward(loss)

    def of_first(self, value: Of) -> Of:
        """What the first process has, in all of them."""
        return value if self.fabric is None else self.fabric.broadcast(value)

    def mean(self, value: Tensor) -> float:
        """Mean of a number over the processes."""
        return float(value if self.fabric is None else self.fabric.all_reduce(value, reduce_op="mean"))


def join_processes(devices: int = 1, accelerator: str | None = None, accumulation: int = 1) -> DistributedContext:
    """This process's share; starts the other processes, each of which runs this command up to here.

    One process a device, on CPUs all on one machine. `accelerator` is of `ACCELERATORS`; None is the CPU, and one
    device is then used without Fabric. RuntimeUnavailableError where the machine has no such devices.
    """
    kind = training_device(devices, accelerator)
    if devices == 1 and accelerator is None:
        return DistributedContext(accumulation)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # An encoder has tensors that some pretext tasks do not use, such as its last norm in pretraining.
    strategy = DDPStrategy(timeout=_TIMEOUT, find_unused_parameters=True) if devices > 1 else "auto"
    fabric = Fabric(accelerator=kind, devices=devices, strategy=strategy, precision="32-true")
    fabric.launch()
    return DistributedContext(accumulation, fabric)


def training_device(devices: int = 1, accelerator: str | None = None) -> str:
    """What `join_processes` would train on, `cpu` or `cuda`; RuntimeUnavailableError where there are not so many."""
    if devices < 1:
        raise ValueError(f"Training needs 1 or more devices, got {devices}.")
    if accelerator in (None, "cpu") or (accelerator == "auto" and unavailable_reason("cuda")):
        return "cpu"
    reason = unavailable_reason("cuda") or unavailable_reason(f"cuda:{devices - 1}")
    if reason:
        raise RuntimeUnavailableError(f"{devices} device(s) 'cuda' cannot be used for training: {reason}")
    return "cuda"
