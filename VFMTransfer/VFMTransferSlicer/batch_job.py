"""A folder of cases on its way through the worker. Needs neither Qt nor MRML."""

from __future__ import annotations

from dataclasses import dataclass, field

from VFMTransferLib.worker.messages import Batch, CaseDone

from .workers.steps import Steps


@dataclass
class BatchJob:
    """A batch; it reads and writes folders, and leaves the scene alone.

    Attributes:
        request: What the worker is told.
        cases: What became of each case so far.
        isSent: Whether the worker was told.
        error: The first thing that failed.
    """

    request: Batch
    cases: list[CaseDone] = field(default_factory=list)
    isSent: bool = False
    error: Exception | None = None

    @property
    def name(self) -> str:
        return self.request.job

    def prepare(self) -> Steps:
        """Nothing: the worker reads the folder by itself."""
        yield from ()

    def tidy(self) -> None:
        """Nothing: what is in the output is the user's."""
