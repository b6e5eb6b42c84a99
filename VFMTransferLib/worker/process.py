"""The worker as a process: how to start it, speak to it, end it, and say how it ended. Standard library only."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any

from ..core.errors import JobError, WorkerError
from .messages import Bye, Ready, Reply, Request, read_reply, to_line

WORKER = Path(__file__).resolve().with_name("__main__.py")
_AGAIN = "It starts anew with the next run."
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP")
# What Windows calls them, and what we show.
_WINDOWS_CRASHES = {0xC0000005: "access violation", 0xC000001D: "illegal instruction", 0xC0000409: "stack overrun"}
_WINDOWS_NO_MEMORY = (0xC0000017, 0xC000012D)
_BY_SHELL = 128  # a launcher passes on signal n as 128 + n
_TASKKILL_S = 10
_REAP_S = 10.0
_DETAIL_LINES = 60

_Heard = Reply | JobError | None  # None: stdout closed


def worker_command(python: str = sys.executable, *options: str) -> list[str]:
    """The command line of a worker.

    Args:
        python: The Python that has numpy, scipy, SimpleITK and a runtime; in Slicer a launcher, `PythonSlicer`.
        options: As `worker.py --help` lists them.
    """
    return [python, str(WORKER), *options]


def end_process_tree(*process_ids: int) -> None:
    """End processes at once, with all that they started; those that are gone already are no error.

    Args:
        process_ids: The process that was started, and behind a launcher also `Ready.process_id`. Each leads its own
            process group, or is no process any more.
    """
    for process_id in process_ids:
        if sys.platform == "win32":
            command = ["taskkill", "/T", "/F", "/PID", str(process_id)]
            subprocess.run(command, capture_output=True, timeout=_TASKKILL_S, check=False)
        elif process_id > 1:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process_id, signal.SIGKILL)


def how_it_ended(exit_code: int) -> str:
    """A sentence for a worker that ended while it was needed.

    Args:
        exit_code: As `subprocess` gives it: minus the signal's number on Unix, a status on Windows.
    """
    name = _signal_name(exit_code)
    status = exit_code & 0xFFFFFFFF
    if name == "SIGKILL" or status in _WINDOWS_NO_MEMORY:
        return (
            "The worker was killed: most likely out of memory. Close other programs, crop the images, or choose a "
            f"smaller network. {_AGAIN}"
        )
    crash = name if name in _CRASHES else _WINDOWS_CRASHES.get(status)
    if crash:
        return (
            f"The worker crashed ({crash}), most likely in a runtime or its driver. Choose another device or runtime. "
            f"{_AGAIN}"
        )
    if name:
        return f"The worker was ended from outside ({name}). {_AGAIN}"
    return f"The worker stopped with exit code {exit_code}; the details say more. {_AGAIN}"


class WorkerProcess:
    """One worker, with the threads that read what it writes.

    Attributes:
        ready: What it answered to `Hello`, once it did.
        is_leaving: Whether it said `Bye`; it takes no more jobs then.

    Raises:
        WorkerError: It cannot be started.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str] | None) -> None:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, **_own_group()
            )
        except OSError as error:
            raise WorkerError(
                f"The worker's Python must be a program that can be started, but is not: {error.strerror or error}. "
                "Choose another Python."
            ) from error
        self.ready: Ready | None = None
        self.is_leaving = False
        self._heard: queue.Queue[_Heard] = queue.Queue()
        self._last_lines: deque[str] = deque(maxlen=_DETAIL_LINES)
        self._threads = [Thread(target=target, daemon=True) for target in (self._hear, self._keep_last_lines)]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def details(self) -> str:
        """The last lines that it wrote to stderr."""
        return "\n".join(self._last_lines)

    def send(self, message: Request) -> None:
        """Write one message; that the worker is gone is told by `receive`."""
        stdin = _stream(self._process.stdin)
        with suppress(OSError, ValueError):  # it is gone, or its stdin was closed; `receive` tells
            stdin.write(to_line(message).encode("ascii"))
            stdin.flush()

    def receive(self, timeout_s: float | None) -> Reply:
        """The next message.

        Raises:
            WorkerError: The worker ended, or said nothing for so long.
            JobError: It wrote something that is no message.
        """
        try:
            heard = self._heard.get(timeout=timeout_s)
        except queue.Empty:
            raise WorkerError(
                f"The worker must answer within {timeout_s:.0f} s, but did not. Start it again."
            ) from None
        if heard is None:
            self._heard.put(None)  # for whoever asks again
            raise WorkerError(how_it_ended(self._exit_code()))
        if isinstance(heard, JobError):
            raise heard
        self.is_leaving |= isinstance(heard, Bye)
        return heard

    def end(self) -> None:
        """End it and all that it started, now."""
        if self.is_alive:
            end_process_tree(self._process.pid, *([self.ready.process_id] if self.ready else []))

    def close(self, within_s: float) -> None:
        """Let it end by itself within a time, else end it; then leave nothing open."""
        with suppress(OSError):
            _stream(self._process.stdin).close()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.end()
            self._process.wait(_REAP_S)
        for thread in self._threads:
            thread.join(_REAP_S)
        for stream in (self._process.stdout, self._process.stderr):
            _stream(stream).close()

    def _exit_code(self) -> int:
        try:
            return self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:  # it closed its stdout, but lives
            self.end()
            return self._process.wait(_REAP_S)

    def _hear(self) -> None:
        for line in _stream(self._process.stdout):
            try:
                self._heard.put(read_reply(line))
            except JobError as error:
                self._heard.put(error)
        self._heard.put(None)

    def _keep_last_lines(self) -> None:
        for line in _stream(self._process.stderr):
            self._last_lines.append(line.decode("utf-8", "replace").rstrip())


def _own_group() -> dict[str, Any]:
    """What makes a new process lead a group of its own, with no window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # a pipe was asked for
    return stream


def _signal_name(exit_code: int) -> str:
    if sys.platform == "win32":
        return ""
    number = -exit_code if exit_code < 0 else exit_code - _BY_SHELL
    return signal.Signals(number).name if number in {int(s) for s in signal.Signals} else ""
