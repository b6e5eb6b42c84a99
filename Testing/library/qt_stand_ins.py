"""Stands for what Qt gives to child processes: a process with Qt's words, which is a real one, and an event loop."""

import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Thread

from VFMTransferLib.worker.client import WorkerClient

FAILED_TO_START, CRASHED = 0, 1
NORMAL_EXIT, CRASH_EXIT = 0, 1


class AnEventLoop:
    """Calls slots on the thread that turns it, as Qt does."""

    def __init__(self) -> None:
        self._events: queue.Queue[Callable[[], None]] = queue.Queue()
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def post(self, event: Callable[[], None]) -> None:
        self._events.put(event)

    def callLater(self, milliseconds: int, slot: Callable[[], None]) -> None:  # noqa: N802  (the module's word)
        self._timers.append((time.monotonic() + milliseconds / 1000, slot))

    def processEvents(self, wait_s: float = 0.0) -> None:  # noqa: N802
        """Do what is due; wait so long for something to do."""
        try:
            self._events.get(timeout=wait_s)() if wait_s else self._events.get_nowait()()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            pass
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for _, slot in due:
            slot()

    def turn_until(self, is_reached: Callable[[], object], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not is_reached():
            assert time.monotonic() < deadline, "nothing came in time"
            self.processEvents(0.02)

    def make_process(self, program: str, additions: Mapping[str, str]) -> "AQProcess":
        return AQProcess(self, {**os.environ, "OMP_NUM_THREADS": "1", **additions})


class Bytes(bytes):
    """A QByteArray: its content is `data()`."""

    def data(self) -> bytes:
        return bytes(self)


class AQProcess:
    """What the module uses of `qt.QProcess`, and nothing else."""

    def __init__(self, loop: AnEventLoop, environment: Mapping[str, str]) -> None:
        self._loop, self._environment = loop, dict(environment)
        self._slots: dict[str, list[Callable]] = {}
        self._read = {"Output": queue.Queue(), "Error": queue.Queue()}
        self._child: subprocess.Popen | None = None

    def connect(self, signal: str, slot: Callable) -> None:
        self._slots.setdefault(signal, []).append(slot)

    def start(self, program: str, arguments: list[str]) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        try:
            self._child = subprocess.Popen([program, *arguments], env=self._environment, **pipes)
        except OSError:
            self._emit("errorOccurred(QProcess::ProcessError)", FAILED_TO_START)
            return
        streams = {"Output": self._child.stdout, "Error": self._child.stderr}
        readers = [Thread(target=self._forward, args=pair, daemon=True) for pair in streams.items()]
        for reader in readers:
            reader.start()
        Thread(target=self._wait, args=(self._child, readers), daemon=True).start()

    def processId(self) -> int:  # noqa: N802  (Qt's names, here and below)
        return 0 if self._child is None else self._child.pid

    def write(self, line: bytes) -> None:
        with suppress(OSError, AttributeError, ValueError):  # Qt buffers what it cannot write, and drops it at the end
            self._child.stdin.write(line)
            self._child.stdin.flush()

    def closeWriteChannel(self) -> None:  # noqa: N802
        self._child.stdin.close()

    def kill(self) -> None:
        self._child.kill()

    def waitForReadyRead(self, milliseconds: int) -> bool:  # noqa: N802
        self._loop.processEvents(milliseconds / 1000)
        return True

    def waitForFinished(self, milliseconds: int) -> bool:  # noqa: N802
        deadline = time.monotonic() + milliseconds / 1000
        while self._child.poll() is None and time.monotonic() < deadline:
            self._loop.processEvents(0.01)
        self._loop.processEvents(0.01)
        return self._child.poll() is not None

    def readAllStandardOutput(self) -> Bytes:  # noqa: N802
        return self._all("Output")

    def readAllStandardError(self) -> Bytes:  # noqa: N802
        return self._all("Error")

    def deleteLater(self) -> None:  # noqa: N802
        self._loop.post(self._slots.clear)

    def _all(self, channel: str) -> Bytes:
        chunks = []
        while not self._read[channel].empty():
            chunks.append(self._read[channel].get())
        return Bytes(b"".join(chunks))

    def _forward(self, channel: str, stream) -> None:
        while chunk := os.read(stream.fileno(), 1 << 16):
            self._read[channel].put(chunk)
            self._emit(f"readyReadStandard{channel}()")

    def _wait(self, child: subprocess.Popen, readers: list[Thread]) -> None:
        for reader in readers:
            reader.join()
        code = child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            with suppress(OSError):  # what was not written stays unwritten
                stream.close()
        self._emit("finished(int,QProcess::ExitStatus)", abs(code), CRASH_EXIT if code < 0 else NORMAL_EXIT)

    def _emit(self, signal: str, *arguments) -> None:
        def call() -> None:
            for slot in list(self._slots.get(signal, ())):
                slot(*arguments)

        self._loop.post(call)


def a_qt_worker(loop: AnEventLoop, python=sys.executable, options: tuple[str, ...] = ()) -> WorkerClient:
    """A worker as Slicer has it, behind these stand-ins."""
    from VFMTransferSlicer.workers.process import QtTransport

    return WorkerClient(python, options, transport=QtTransport(loop, loop.make_process))
