"""The warm worker by `qt.QProcess`: the window goes on while it is heard, and stays if it dies."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import slicer

from VFMTransferLib.core.errors import JobError, VFMTransferError, WorkerError
from VFMTransferLib.worker.messages import (
    Batch,
    Bye,
    Cancel,
    Error,
    Finished,
    Hello,
    Log,
    Ready,
    Reply,
    Run,
    Shutdown,
    read_reply,
    to_line,
)
from VFMTransferLib.worker.process import end_process_tree, how_it_ended, worker_command

from .choice import Hear, requireIdle
from .process import NOT_STARTED, Child, MakeProcess, newProcess, workerPython

START_MS = 60_000
# With what follows, the user's cancel is answered within a second.
CANCEL_MS = 600
_CLOSE_MS = 1000
_SLICE_MS = 20
_LAST_LINES = 60
# What Slicer's launcher says of a program that a signal ended; its own exit code tells nothing of it.
_LAUNCHER_OF_THE_DEAD = "exit abnormally"
# What Python's fault handler says on stderr before a crash ends it.
_FAULTS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating point exception": "SIGFPE",
}


class QtLoop:
    """The event loop of the application."""

    def callLater(self, milliseconds: int, slot: Callable[[], None]) -> None:
        """Call once, on the main thread."""
        import qt

        qt.QTimer.singleShot(milliseconds, slot)

    def processEvents(self) -> None:
        """Let the window and the timers have their turn."""
        slicer.app.processEvents()


class QtWorker:
    """The worker by `qt.QProcess`: all happens on the main thread, nothing holds it up.

    Args:
        loop: The application's event loop.
        makeProcess: Makes a `qt.QProcess`.
        python: Names the Python to use; asked before each run, so that the user may choose another one.
        options: Options of the worker, as `worker.py --help` lists them.
    """

    isWaitedFor = False

    def __init__(
        self,
        loop: Any = None,
        makeProcess: MakeProcess = newProcess,
        python: Callable[[], str] = workerPython,
        options: tuple[str, ...] = (),
    ) -> None:
        self._loop = loop if loop is not None else QtLoop()
        self._makeProcess, self._python, self._options = makeProcess, python, options
        self._command: list[str] = []
        self._child: Child | None = None
        self._ready: Ready | None = None
        self._lastLines: deque[str] = deque(maxlen=_LAST_LINES)
        self._run: Run | Batch | None = None
        self._hear: Hear | None = None
        self._isCanceled = False

    @property
    def ready(self) -> Ready | None:
        """What the worker said of itself; None while there is none."""
        return self._ready

    @property
    def isBusy(self) -> bool:
        return self._run is not None

    def run(self, run: Run | Batch, hear: Hear) -> None:
        requireIdle(self)
        self._run, self._hear, self._isCanceled = run, hear, False
        if self._command != self._wanted():
            self._abandon()
        if self._child is None:
            self._start()
        elif self._ready is not None:
            self._send(run)

    def cancel(self, job: str) -> None:
        run = self._run
        if run is None or run.job != job or self._isCanceled:
            return
        self._isCanceled = True
        if self._ready is None:  # it does not know the job yet, and never will
            self._finish("canceled")
            return
        self._send(Cancel(job))
        self._loop.callLater(CANCEL_MS, lambda: self._endFor(run))

    def wait(self, isDone: Callable[[], bool]) -> None:
        while not isDone():
            if self._child is not None:
                self._child.process.waitForReadyRead(_SLICE_MS)
            else:
                time.sleep(_SLICE_MS / 1000)
            self._loop.processEvents()

    def later(self, step: Callable[[], None]) -> None:
        self._loop.callLater(0, step)

    def close(self) -> None:
        isAtWork = self._run is not None
        self._run = self._hear = None
        child = self._child
        if child is None:
            return
        if not isAtWork:
            child.write(_bytes(Shutdown()))
            child.process.closeWriteChannel()
        if isAtWork or not child.process.waitForFinished(_CLOSE_MS):
            self._abandon()
            child.process.waitForFinished(_CLOSE_MS)

    def _wanted(self) -> list[str]:
        return worker_command(self._python(), *self._options)

    def _start(self) -> None:
        self._lastLines.clear()
        self._ready = None
        self._command = self._wanted()
        child = self._child = Child(
            self._command,
            lambda line: self._hearLine(child, line),
            self._lastLines.append,
            lambda exitCode: self._hearEnd(child, exitCode),
            self._makeProcess,
        )
        child.start()
        child.write(_bytes(Hello()))
        self._loop.callLater(START_MS, lambda: self._giveUpStarting(child))

    def _send(self, message: Any) -> None:
        if self._child is not None:
            self._child.write(_bytes(message))

    def _hearLine(self, child: Child, line: bytes) -> None:
        if child is not self._child:
            return
        try:
            reply = read_reply(line)
        except JobError as error:
            self._giveUp(error)
            return
        if isinstance(reply, Ready):
            self._welcome(reply)
        elif isinstance(reply, Bye):
            self._child = self._ready = None  # it ends by itself
            if self._run is not None:  # it left just before the run came
                self._start()
        elif isinstance(reply, Finished):
            if self._run is not None and reply.job == self._run.job:
                self._finish(reply.outcome)
        elif isinstance(reply, Error) and self._ready is None:
            self._giveUp(JobError(reply.sentence))
        elif isinstance(reply, Log) or (self._run is not None and getattr(reply, "job", None) in (None, self._run.job)):
            self._tell(reply)
            if isinstance(reply, Error) and reply.job is None:  # it did not understand the job, and will not end it
                self._finish("failed")

    def _welcome(self, ready: Ready) -> None:
        self._ready = ready
        if self._run is not None:
            self._send(self._run)

    def _hearEnd(self, child: Child, exitCode: int) -> None:
        if child is not self._child:
            return
        self._child = self._ready = None
        if self._run is not None:
            self._fail(WorkerError(_howItEnded(exitCode, list(self._lastLines))))

    def _giveUpStarting(self, child: Child) -> None:
        if child is self._child and self._ready is None:
            seconds = START_MS // 1000
            self._giveUp(WorkerError(f"The worker must answer within {seconds} s, but did not. Start it again."))

    def _endFor(self, run: Run | Batch) -> None:
        """End the worker, for it did not stop a canceled job in time."""
        if self._run is run:
            self._abandon()
            self._finish("canceled")

    def _giveUp(self, error: VFMTransferError) -> None:
        self._abandon()
        if self._run is not None:
            self._fail(error)

    def _abandon(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._end(child)

    def _end(self, child: Child) -> None:
        child.kill()
        if self._ready is not None:
            end_process_tree(self._ready.process_id)
        self._ready = None

    def _fail(self, error: VFMTransferError) -> None:
        if not self._isCanceled:
            self._tell(Error(type(error).__name__, str(error), "\n".join(self._lastLines), self._run.job))
        self._finish("canceled" if self._isCanceled else "failed")

    def _finish(self, outcome: str) -> None:
        run, hear = self._run, self._hear
        self._run = self._hear = None
        hear(Finished(run.job, outcome))

    def _tell(self, reply: Reply) -> None:
        if self._hear is not None:
            self._hear(reply)


def _bytes(message: Any) -> bytes:
    return to_line(message).encode("ascii")


def _howItEnded(exitCode: int, lastLines: list[str]) -> str:
    """A sentence for a worker that ended while it was needed, also behind Slicer's launcher."""
    if exitCode == NOT_STARTED:
        return "The worker's Python must be a program that can be started, but is not. Choose another Python."
    if exitCode > 0 and any(_LAUNCHER_OF_THE_DEAD in line for line in lastLines):
        faults = [
            name for words, name in _FAULTS.items() if any(f"Fatal Python error: {words}" in s for s in lastLines)
        ]
        exitCode = -getattr(signal, faults[0] if faults else "SIGKILL")
    return how_it_ended(exitCode)
