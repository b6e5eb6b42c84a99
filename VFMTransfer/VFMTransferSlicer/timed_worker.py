"""The worker while Slicer's window goes on: a thread listens to it, a timer brings its messages to the main thread.

The thread knows messages only; nodes and widgets are touched by whoever hears them, on the main thread.
"""

from __future__ import annotations

import queue
import traceback
from collections.abc import Callable
from threading import Thread
from typing import Any, Protocol

from VFMTransferLib.errors import VFMTransferError
from VFMTransferLib.job import Error, Finished, Progress, Reply, Run
from VFMTransferLib.worker_client import WorkerClient

PUMP_MS = 50
# How long the main thread listens each time. It lets go of Python's lock meanwhile, without which no other thread runs.
LISTEN_S = 0.005
_END_S = 5.0


class Timer(Protocol):
    """What is needed of a `qt.QTimer`."""

    def setInterval(self, milliseconds: int) -> Any: ...

    def connect(self, signal: str, slot: Callable[[], None]) -> Any: ...

    def start(self) -> Any: ...

    def stop(self) -> Any: ...


class TimedWorker:
    """Runs one job at a time, and tells of it whenever the timer fires.

    Args:
        client: Who speaks with the worker; not to be used by others while a job runs.
        timer: A `qt.QTimer` of the main thread.
    """

    def __init__(self, client: WorkerClient, timer: Timer) -> None:
        self._client = client
        self._timer = timer
        self._heard: queue.Queue[Reply] = queue.Queue()
        self._thread: Thread | None = None
        self._run: Run | None = None
        self._hear: Callable[[Reply], None] | None = None
        self._isCanceled = False
        timer.setInterval(PUMP_MS)
        timer.connect("timeout()", self.pump)

    def run(self, run: Run, hear: Callable[[Reply], None]) -> None:
        """Begin a job; `hear` gets each message about it on the timer's thread, `Finished` last, whatever happens."""
        self._run, self._hear, self._isCanceled = run, hear, False
        self._thread = Thread(target=self._work, args=(run,), name="VFMTransfer worker", daemon=True)
        self._thread.start()
        self._timer.start()

    def cancel(self, job: str) -> None:
        """Stop a job: by message, and where that is not answered in time, by ending the worker."""
        if self._run is not None and self._run.job == job:
            self._isCanceled = True
            self._client.cancel(job)

    def close(self) -> None:
        """Stop listening, and stop the job if there is one; nobody hears of it."""
        self._timer.stop()
        if self._run is not None:
            self.cancel(self._run.job)
            self._thread.join(_END_S)
            self._forget()

    def pump(self) -> None:
        """Hand on what was heard so far."""
        while self._hear is not None:
            try:
                reply = self._heard.get(timeout=LISTEN_S)
            except queue.Empty:
                return
            if self._isCanceled and isinstance(reply, Progress):
                self._client.cancel(reply.job)  # the first word came before the worker knew the job
            hear = self._hear
            if isinstance(reply, Finished):
                self._timer.stop()
                self._forget()
            hear(reply)

    def _work(self, run: Run) -> None:
        try:
            for reply in self._client.run(run):
                self._heard.put(reply)
        except VFMTransferError as error:
            self._endWith(run, Error(type(error).__name__, str(error), job=run.job))
        except Exception as error:  # the edge of a thread: without a word the panel would wait for ever
            sentence = f"An unexpected error stopped the run ({type(error).__name__}). Report it with its details."
            self._endWith(run, Error("UnexpectedError", sentence, traceback.format_exc(), run.job))

    def _endWith(self, run: Run, error: Error) -> None:
        self._heard.put(error)
        self._heard.put(Finished(run.job, "failed"))

    def _forget(self) -> None:
        self._run = self._hear = self._thread = None
        self._heard = queue.Queue()
