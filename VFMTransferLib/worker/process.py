"""The process of a worker: how it is started, reached, ended, and what its exit code means. Standard library only.

A `Transport` starts processes and delivers what they write as callbacks. `SubprocessTransport` serves Python programs;
Slicer has one by `qt.QProcess`. `client.WorkerClient` works with either.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Protocol

WORKER = Path(__file__).resolve().with_name("__main__.py")
# The exit code of a program that could not be started at all; a shell uses the same number.
NOT_STARTED = 127
_RESTARTS = "It is started again with the next run."
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP")
# What Windows calls them, and what we show.
_WINDOWS_CRASHES = {0xC0000005: "access violation", 0xC000001D: "illegal instruction", 0xC0000409: "stack overrun"}
_WINDOWS_NO_MEMORY = (0xC0000017, 0xC000012D)
_SHELL_SIGNAL = 128  # a shell returns 128 + n for a program that signal n ended
# What Slicer's launcher writes for a program that a signal ended; its own exit code does not name the signal.
_LAUNCHER_OF_A_CRASH = "exit abnormally"
# What Python's fault handler writes to stderr before a crash ends it.
_FAULTS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating point exception": "SIGFPE",
}
_SYSTEM_S = 10.0


class Child(Protocol):
    """A started process."""

    @property
    def process_id(self) -> int:
        """Its number; 0 where it did not start or has ended."""

    def write(self, line: bytes) -> None:
        """Write to its stdin; nothing happens where it has ended, which `on_end` reports."""

    def close_input(self) -> None:
        """Close its stdin."""

    def kill(self, *others: int) -> None:
        """End it at once with all that it started, and other processes with all that they started."""

    def wait_for_end(self, timeout_s: float) -> bool:
        """Whether it ended within a time."""


class Transport(Protocol):
    """Starts processes and calls back, always on the thread that uses it, and never before `start` returned.

    Attributes:
        is_blocking: Whether callbacks come only while somebody is in `wait`.
    """

    is_blocking: bool

    def start(
        self,
        command: Sequence[str],
        on_output: Callable[[bytes], None],
        on_error: Callable[[str], None],
        on_end: Callable[[int], None],
    ) -> Child:
        """Start a process, whose lines on stdout and stderr the functions receive.

        `on_end` receives the exit code, once, after the last line: as `subprocess` returns it, minus a signal's number;
        `NOT_STARTED` where the program cannot be started.
        """

    def call_later(self, delay_s: float, slot: Callable[[], None]) -> None:
        """Call once after a time. May be used from any thread."""

    def wait(self, timeout_s: float) -> None:
        """Let callbacks come, for at most so long."""


class SubprocessTransport:
    """Processes by `subprocess`; threads read what they write, and `wait` delivers it."""

    is_blocking = True

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def start(
        self,
        command: Sequence[str],
        on_output: Callable[[bytes], None],
        on_error: Callable[[str], None],
        on_end: Callable[[int], None],
    ) -> _Subprocess:
        return _Subprocess(
            command,
            self._environment,
            lambda line: self._events.put(lambda: on_output(line)),
            lambda line: self._events.put(lambda: on_error(line.decode("utf-8", "replace").rstrip())),
            lambda exit_code: self._events.put(lambda: on_end(exit_code)),
        )

    def call_later(self, delay_s: float, slot: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + delay_s, slot))

    def wait(self, timeout_s: float) -> None:
        with suppress(queue.Empty):
            if timeout_s > 0:
                self._events.get(timeout=timeout_s)()
            while True:
                self._events.get_nowait()()
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(timer)
            timer[1]()


class _Subprocess:
    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        on_output: Callable[[bytes], None],
        on_error: Callable[[bytes], None],
        on_end: Callable[[int], None],
    ) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[Thread] = []
        self._writing = Lock()
        # A group of its own, so that Ctrl-C ends the caller, which then ends the worker.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, **group)
        except OSError:
            on_end(NOT_STARTED)
            return
        self._process = process

        def read(stream: Iterable[bytes], on_line: Callable[[bytes], None]) -> None:
            for line in stream:
                on_line(line)

        errors = Thread(target=read, args=(process.stderr, on_error), daemon=True)

        def read_to_the_end() -> None:
            read(process.stdout or (), on_output)
            try:
                exit_code = process.wait(_SYSTEM_S)
            except subprocess.TimeoutExpired:  # it closed its stdout, but lives
                self.kill()
                exit_code = process.wait()
            errors.join(_SYSTEM_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                with suppress(OSError, ValueError):  # what was not written is lost
                    stream.close()  # type: ignore[union-attr]
            on_end(exit_code)

        self._threads = [errors, Thread(target=read_to_the_end, daemon=True)]
        for thread in self._threads:
            thread.start()

    @property
    def process_id(self) -> int:
        return 0 if self._process is None or self._process.poll() is not None else self._process.pid

    def write(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with self._writing, suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def kill(self, *others: int) -> None:
        if self.process_id:
            end_process_trees(self.process_id, *others)

    def wait_for_end(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)


def worker_command(python: str = sys.executable, *options: str) -> list[str]:
    """The command line of a worker by a Python that has numpy, scipy, SimpleITK and a runtime; see its `--help`."""
    return [python, str(WORKER), *options]


def end_process_trees(*process_ids: int) -> None:
    """End processes at once, with all that they started; one that has ended already is no error, and 0 is none.

    Without psutil, which Slicer's Python lacks, the system's own list of processes is read.
    """
    try:
        import psutil
    except ImportError:
        _end_without_psutil([process_id for process_id in process_ids if process_id > 1])
        return
    for process_id in process_ids:
        with suppress(psutil.Error):
            parent = psutil.Process(process_id) if process_id > 1 else None
            for process in [parent, *parent.children(recursive=True)] if parent else ():
                with suppress(psutil.Error):
                    process.kill()


def _end_without_psutil(process_ids: Sequence[int]) -> None:
    if sys.platform == "win32":
        for process_id in process_ids:  # not waited for, since a window must not stand still
            command = ["taskkill", "/T", "/F", "/PID", str(process_id)]
            subprocess.Popen(command, creationflags=subprocess.CREATE_NO_WINDOW)
        return
    parents, family = dict(_parents()), list(process_ids)
    for one in family:  # grows on the way
        family += [child for child, parent in parents.items() if parent == one and child not in family]
    for process_id in family:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process_id, signal.SIGKILL)


def _parents() -> Iterator[tuple[int, int]]:
    """Each process of this computer and its parent."""
    if Path("/proc/self/stat").exists():
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):  # it ended meanwhile
                    # The name, in parentheses, may hold anything; state and parent follow it.
                    stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2]
                    yield int(folder.name), int(stat.split()[1])
        return
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=", "-o", "ppid="], capture_output=True, text=True, timeout=_SYSTEM_S, check=True
    )
    for line in listing.stdout.splitlines():
        child, parent = line.split()
        yield int(child), int(parent)


def describe_end(exit_code: int, last_lines: Sequence[str] = ()) -> str:
    """A sentence for a worker that ended while it was needed, by its exit code (on Windows a status) and its stderr."""
    if exit_code == NOT_STARTED:
        return "The worker's Python must be a program that can be started, but is not. Choose another Python."
    if exit_code > 0 and any(_LAUNCHER_OF_A_CRASH in line for line in last_lines):
        text = "\n".join(last_lines)
        names = [name for words, name in _FAULTS.items() if f"Fatal Python error: {words}" in text]
        exit_code = -getattr(signal, names[0] if names else "SIGKILL")
    name = ""
    if sys.platform != "win32":
        number = -exit_code if exit_code < 0 else exit_code - _SHELL_SIGNAL
        name = signal.Signals(number).name if number in {int(s) for s in signal.Signals} else ""
    status = exit_code & 0xFFFFFFFF
    if name == "SIGKILL" or status in _WINDOWS_NO_MEMORY:
        return (
            "The worker was killed: most likely out of memory. Close other programs, crop the images, or choose a "
            f"smaller network. {_RESTARTS}"
        )
    crash = name if name in _CRASHES else _WINDOWS_CRASHES.get(status)
    if crash:
        return (
            f"The worker crashed ({crash}), most likely in a runtime or its driver. Choose another device or runtime. "
            f"{_RESTARTS}"
        )
    if name:
        return f"The worker was ended from outside ({name}). {_RESTARTS}"
    return f"The worker stopped with exit code {exit_code}; see the details. {_RESTARTS}"
