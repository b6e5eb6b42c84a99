"""The client of a worker, for Python programs and for Slicer: starts it when needed, again when it died.

Standard library only. What differs between the two is the transport; see `process.Transport`.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..core.errors import JobError, VFMTransferError, WorkerError
from .messages import (
    Batch,
    Bye,
    Cancel,
    Error,
    Finished,
    Hello,
    Load,
    Outcome,
    Ready,
    Reply,
    Request,
    Run,
    Shutdown,
    read_reply,
    to_line,
)
from .process import Child, SubprocessTransport, Transport, describe_end, worker_command

START_S = 60.0
# With what follows, a user's cancel is answered within a second.
CANCEL_S = 0.6
CLOSE_S = 1.0
_SLICE_S = 0.02
_DETAIL_LINES = 60

OnReply = Callable[[Reply], None]


class WorkerClient:
    """Runs one job at a time on one worker, which stays warm between jobs.

    Use it from one thread; only `cancel` and `send` may come from any. As a context it ends the worker on leaving.
    Python programs iterate over `run`. A program with an event loop uses `submit`, and receives replies while the
    transport's loop turns.

    Args:
        python: The Python that runs the worker. A function is asked before each job, and another answer ends the
            former worker.
        options: Options of the worker, as `python -m VFMTransferLib.worker --help` lists them.
        environment: Of the worker; by default that of this process.
        transport: Starts and reaches the worker's process; by default `subprocess`.
    """

    def __init__(
        self,
        python: str | Callable[[], str] = sys.executable,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._python, self._options = python, tuple(options)
        self._transport = transport or SubprocessTransport(environment)
        self._command: list[str] = []
        # Without a child nothing runs; a child without `ready` is starting; a job is at work, or waits for `ready`.
        self._child: Child | None = None
        self._ready: Ready | None = None
        self._job: Run | Batch | None = None
        self._submissions = 0  # so far, by which jobs are told apart whose messages are equal or the same
        self._on_reply: OnReply | None = None
        self._is_canceled = False
        self._load: Load | None = None  # what the present child was last asked to load
        self._unclaimed: deque[Reply] = deque()  # what came while no job was at work
        self._failure: VFMTransferError | None = None  # why the last worker is gone
        self._last_lines: deque[str] = deque(maxlen=_DETAIL_LINES)

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def ready(self) -> Ready | None:
        """What the worker reported of itself; None while there is none."""
        return self._ready

    @property
    def is_busy(self) -> bool:
        return self._job is not None

    @property
    def is_blocking(self) -> bool:
        """Whether a job goes on only while somebody is in `wait`, `run` or `receive`."""
        return self._transport.is_blocking

    @property
    def details(self) -> str:
        """The last lines that the worker wrote to stderr."""
        return "\n".join(self._last_lines)

    def start(self) -> Ready:
        """What the worker reports of itself; one is started where none is alive.

        Raises:
            WorkerError: It does not start, or does not answer.
            JobError: It is of another protocol.
        """
        self._transport.wait(0.0)  # a former one may have left
        self._prepare_child()
        self.wait(lambda: self._ready is not None or self._child is None)
        if self._ready is None:
            raise self._failure or WorkerError("The worker ended while it was started. Start it again.")
        return self._ready

    def run(self, job: Run | Batch) -> Iterator[Reply]:
        """Run a job and yield each message about it as it comes; the last one is always `Finished`.

        A worker that dies is an `Error`, one that was ended for `cancel` is none, and `Finished` comes all the same;
        what was finished before is in the job's folder, or a batch's output.

        Raises:
            WorkerError: The worker does not start.
            JobError: It is of another protocol, or another job is at work.
        """
        self.start()
        replies: deque[Reply] = deque()
        self.submit(job, replies.append)
        own = self._submissions
        try:
            while True:
                self.wait(lambda: bool(replies))
                reply = replies.popleft()
                yield reply
                if isinstance(reply, Finished):
                    return
        finally:
            if self._is_at_work(own):  # the caller left; what still comes is for `receive`
                self._job = self._on_reply = None
                self._unclaimed.extend(replies)

    def submit(self, job: Run | Batch, on_reply: OnReply) -> None:
        """Begin a job; `on_reply` receives each message about it, `Finished` last. JobError where one is at work."""
        if self._job is not None:
            raise JobError("A run must be finished before the next one begins. Wait for it, or cancel it.")
        self._job, self._on_reply, self._is_canceled = job, on_reply, False
        self._submissions += 1
        self._unclaimed.clear()
        self._prepare_child()
        if self._ready is not None:
            self.send(job)

    def prepare(self, networks: Load) -> None:
        """Have a worker load networks that the next job is likely to need; one is started where none is alive.

        Nothing is answered or raised: what fails is reported by the job. Nothing is done while a job is at work, where
        the same networks were asked for last, or where the last worker failed, which a job would report.
        """
        if self._job is not None:
            return
        if self._child is None:
            if self._failure is not None:
                return
            self._prepare_child()
        if networks != self._load:
            self._load = networks
            self.send(networks)

    def cancel(self, job: str, within_s: float = CANCEL_S) -> None:
        """Stop a job: by message, and where that is not answered in time, by ending the worker."""
        current = self._job
        if current is None or current.job != job:
            self.send(Cancel(job))
        elif not self._is_canceled:
            self._is_canceled = True
            if self._ready is None:  # it was not sent yet, and never will be
                self._finish("canceled")
                return
            self.send(Cancel(job))
            canceled = self._submissions

            def end() -> None:  # it did not stop in time
                if self._is_at_work(canceled):
                    self._abandon()
                    self._finish("canceled")

            self._transport.call_later(within_s, end)

    def _is_at_work(self, submission: int) -> bool:
        return self._job is not None and self._submissions == submission

    def send(self, message: Request) -> None:
        """Write one message; a worker that is gone is reported by `receive`."""
        if self._child is not None:
            self._child.write(to_line(message).encode("ascii"))

    def receive(self, timeout_s: float | None = None) -> Reply:
        """The next message of the worker that belongs to no job at work.

        Raises:
            WorkerError: It ended, or did not answer in time.
            JobError: It wrote something that is no message.
        """
        self.wait(lambda: bool(self._unclaimed) or self._child is None, timeout_s)
        if self._unclaimed:
            return self._unclaimed.popleft()
        if self._child is not None:
            raise _unanswered(timeout_s or 0.0)
        raise self._failure or WorkerError("The worker must be started first. Call start().")

    def wait(self, is_done: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Let replies come until something is so, or the time is over."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not is_done():
            if deadline is not None and time.monotonic() >= deadline:
                return
            self._transport.wait(_SLICE_S)

    def call_soon(self, step: Callable[[], None]) -> None:
        """Do a step after the event loop had its turn; without an event loop, now."""
        if self._transport.is_blocking:
            step()
        else:
            self._transport.call_later(0.0, step)

    def close(self, within_s: float = CLOSE_S) -> None:
        """End the worker, and without further messages a job at work. The next job starts another worker."""
        was_at_work = self._job is not None
        child, ready = self._child, self._ready
        self._job = self._on_reply = self._child = self._ready = None
        if child is None:
            return
        if not was_at_work:
            child.write(to_line(Shutdown()).encode("ascii"))
            child.close_input()
        if was_at_work or not child.wait_for_end(within_s):
            child.kill(ready.process_id if ready else 0)
            child.wait_for_end(within_s)

    def _prepare_child(self) -> None:
        """Start a worker where there is none of the Python that is wanted."""
        python = self._python if isinstance(self._python, str) else self._python()
        command = worker_command(python, *self._options)
        if self._child is not None and command != self._command:
            self._abandon()
        if self._child is None:
            self._command = command
            self._start_child()

    def _start_child(self) -> None:
        self._last_lines.clear()
        self._ready = self._failure = self._load = None

        # A child that was abandoned may still deliver lines; only those of the present one count.
        def on_output(line: bytes) -> None:
            if child is self._child:
                self._receive_line(line)

        def on_end(exit_code: int) -> None:
            if child is self._child:
                self._child = self._ready = None
                self._fail(WorkerError(describe_end(exit_code, self._last_lines)))

        def give_up() -> None:
            if child is self._child and self._ready is None:
                self._give_up(_unanswered(START_S))

        child = self._child = self._transport.start(self._command, on_output, self._last_lines.append, on_end)
        self.send(Hello())
        self._transport.call_later(START_S, give_up)

    def _receive_line(self, line: bytes) -> None:
        try:
            reply = read_reply(line)
        except JobError as error:
            self._give_up(error)
            return
        job = self._job
        if isinstance(reply, Ready):
            self._ready = reply
            if job is not None:
                self.send(job)
        elif self._ready is None and isinstance(reply, Error):
            self._give_up(JobError(reply.sentence))
        elif isinstance(reply, Bye):  # it ends by itself
            self._child = self._ready = None
            if job is None:
                self._unclaimed.append(reply)
            else:  # it left just before the job came
                self._start_child()
        elif job is None:
            self._unclaimed.append(reply)
        elif isinstance(reply, Finished) and reply.job == job.job:
            self._finish(reply.outcome)
        elif getattr(reply, "job", None) in (None, job.job):
            if self._on_reply is not None:
                self._on_reply(reply)
            if isinstance(reply, Error) and reply.job is None:  # it did not accept the job, and will not end it
                self._finish("failed")

    def _give_up(self, error: VFMTransferError) -> None:
        self._abandon()
        self._fail(error)

    def _abandon(self) -> None:
        child, ready = self._child, self._ready
        self._child = self._ready = None
        if child is not None:
            child.kill(ready.process_id if ready else 0)

    def _fail(self, error: VFMTransferError) -> None:
        if self._job is None:
            self._failure = error
            return
        if not self._is_canceled and self._on_reply is not None:
            self._on_reply(Error(type(error).__name__, str(error), self.details, self._job.job))
        self._finish("canceled" if self._is_canceled else "failed")

    def _finish(self, outcome: Outcome) -> None:
        job, on_reply = self._job, self._on_reply
        self._job = self._on_reply = None
        if job is not None and on_reply is not None:
            on_reply(Finished(job.job, outcome))


def _unanswered(seconds: float) -> WorkerError:
    return WorkerError(f"The worker must answer within {seconds:.0f} s, but did not. Start it again.")
