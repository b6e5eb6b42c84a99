"""Who runs the networks: one warm worker for the panel and the console, by Qt in Slicer, by plain means elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import slicer

from VFMTransferLib.core.errors import JobError, VFMTransferError
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferLib.worker.messages import Batch, Error, Finished, Reply, Run

from .process import workerPython

Hear = Callable[[Reply], None]


class Worker(Protocol):
    """Runs one job at a time.

    Attributes:
        isWaitedFor: Whether a job goes on only while somebody is in `wait`.
    """

    isWaitedFor: bool

    @property
    def isBusy(self) -> bool:
        """Whether a job is on its way."""

    def run(self, run: Run | Batch, hear: Hear) -> None:
        """Begin a job; `hear` gets each message about it, `Finished` last, whatever happens.

        Raises:
            JobError: Another job is on its way.
        """

    def cancel(self, job: str) -> None:
        """Stop a job: by message, and where that is not answered in time, by ending the worker."""

    def wait(self, isDone: Callable[[], bool]) -> None:
        """Return when it is so."""

    def later(self, step: Callable[[], None]) -> None:
        """Do a step when the window had its turn; where there is no window, now."""

    def close(self) -> None:
        """End the worker, and a job on its way, of which nobody hears any more. The next run starts another."""


class PlainWorker:
    """The worker where there is no Qt: a job goes on while somebody waits for it.

    Args:
        client: Who speaks with the worker.
    """

    isWaitedFor = True

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._todo: tuple[Run | Batch, Hear] | None = None

    @property
    def isBusy(self) -> bool:
        return self._todo is not None

    def run(self, run: Run | Batch, hear: Hear) -> None:
        requireIdle(self)
        self._todo = run, hear

    def cancel(self, job: str) -> None:
        self._client.cancel(job)

    def wait(self, isDone: Callable[[], bool]) -> None:
        if self._todo is None:
            return
        run, hear = self._todo
        try:
            for reply in self._client.run(run):
                if isinstance(reply, Finished):
                    self._todo = None
                hear(reply)
        except VFMTransferError as error:  # it does not start
            self._todo = None
            hear(Error(type(error).__name__, str(error), job=run.job))
            hear(Finished(run.job, "failed"))
        finally:
            self._todo = None

    def later(self, step: Callable[[], None]) -> None:
        step()

    def close(self) -> None:
        self._todo = None
        self._client.close()


@cache
def theWorker() -> Worker:
    """The one worker of this application, for the panel and the console alike."""
    if not hasattr(slicer, "app"):
        return PlainWorker(WorkerClient(workerPython()))
    from .warm_worker import QtWorker

    return QtWorker()


def requireIdle(worker: Worker) -> None:
    """Refuse a job while another one is on its way.

    Raises:
        JobError: One is.
    """
    if worker.isBusy:
        raise JobError("A run must be finished before the next one begins. Wait for it, or cancel it.")
