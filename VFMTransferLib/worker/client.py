"""A worker for Python programs: started when needed, spoken to in messages, started anew when it died.

Slicer drives the same worker by `qt.QProcess`. Standard library only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Timer
from types import TracebackType

from ..core.errors import JobError, WorkerError
from .messages import Batch, Bye, Cancel, Error, Finished, Hello, Ready, Reply, Request, Run, Shutdown
from .process import WorkerProcess, worker_command

START_S = 60.0
CANCEL_S = 1.0
CLOSE_S = 3.0


class WorkerClient:
    """Speaks to one worker at a time.

    Use it from one thread, and as a context: leaving it ends the worker. `cancel` may come from any thread.

    Args:
        python: The Python that runs the worker.
        options: Options of the worker, as `worker.py --help` lists them.
        environment: Environment of the worker; by default that of this process.
    """

    def __init__(
        self,
        python: str = sys.executable,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = worker_command(python, *options)
        self._environment = environment
        self._child: WorkerProcess | None = None
        self._at_work: str | None = None
        self._ended_for: str | None = None
        self._deadline: Timer | None = None

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Ready:
        """What the worker says of itself; one is started where none is alive.

        Raises:
            WorkerError: It does not start, or does not answer.
            JobError: It speaks another protocol.
        """
        child = self._child
        if child is None or not child.is_alive or child.is_leaving or child.ready is None:
            self._abandon()
            child = self._child = WorkerProcess(self._command, self._environment)
            child.send(Hello())
            child.ready = self._await_ready(child)
        return child.ready

    def run(self, run: Run | Batch) -> Iterator[Reply]:
        """Run a job and give each message about it as it comes; the last one is always `Finished`.

        A worker that dies, or that was ended for `cancel`, is an `Error` or none, and `Finished` all the same; what
        was finished before is in the job's folder, or a batch's output.

        Raises:
            WorkerError: The worker does not start.
            JobError: It speaks another protocol.
        """
        self.start()
        self._at_work, self._ended_for = run.job, None
        try:
            self.send(run)
            yield from self._about(run)
        except WorkerError as error:
            is_canceled = self._ended_for == run.job
            if not is_canceled:
                details = self._child.details if self._child else ""
                yield Error(type(error).__name__, str(error), details, run.job)
            yield Finished(run.job, "canceled" if is_canceled else "failed")
        finally:
            self._at_work = None
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    def send(self, message: Request) -> None:
        """Write one message; that the worker is gone is told by `receive`."""
        if self._child is not None:
            self._child.send(message)

    def receive(self, timeout_s: float | None = None) -> Reply:
        """The next message of the worker.

        Raises:
            WorkerError: It ended, or said nothing for so long.
            JobError: It wrote something that is no message.
        """
        if self._child is None:
            raise WorkerError("The worker must be started first. Call start().")
        return self._child.receive(timeout_s)

    def cancel(self, job: str, within_s: float = CANCEL_S) -> None:
        """Stop a job: by message, and where that is not answered in time, by ending the worker."""
        self.send(Cancel(job))
        if self._at_work == job and self._deadline is None:
            self._deadline = Timer(within_s, self._end_for, (job,))
            self._deadline.daemon = True
            self._deadline.start()

    def close(self, within_s: float = CLOSE_S) -> None:
        """End the worker, kindly at first."""
        if self._child is not None:
            self._child.send(Shutdown())
            self._child.close(within_s)
            self._child = None

    def _about(self, run: Run | Batch) -> Iterator[Reply]:
        while True:
            reply = self.receive()
            if isinstance(reply, Bye):  # it left just before the run came
                self._abandon()
                self.start()
                self.send(run)
            elif getattr(reply, "job", None) in (None, run.job):
                yield reply
                if isinstance(reply, Finished):
                    return

    def _await_ready(self, child: WorkerProcess) -> Ready:
        deadline = time.monotonic() + START_S
        while True:
            try:
                reply = child.receive(max(deadline - time.monotonic(), 0.0))
            except (WorkerError, JobError):
                self._abandon()
                raise
            if isinstance(reply, Ready):
                return reply
            if isinstance(reply, Error):
                self._abandon()
                raise JobError(reply.sentence)

    def _end_for(self, job: str) -> None:
        child = self._child
        if self._at_work == job and child is not None and child.is_alive:
            self._ended_for = job
            child.end()

    def _abandon(self) -> None:
        if self._child is not None:
            self._child.close(0.0)
            self._child = None
