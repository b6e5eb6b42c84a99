"""Child processes by `qt.QProcess`, so that Slicer's window goes on while they work: the worker, and commands.

Qt comes in through two arguments, an event loop and a factory of `qt.QProcess`, so that all else runs wherever there
are stand-ins for them.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import slicer

from VFMTransferLib import __file__ as _LIBRARY
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferLib.worker.process import NOT_STARTED, end_process_trees

LIBRARY = "VFMTransferLib"
PYTHON_SETTING = "VFMTransfer/Python"
_LAUNCHER = "PythonSlicer"
_SLICERS_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE")
_FAILED_TO_START = 0  # of QProcess::ProcessError
_CRASH_EXIT = 1  # of QProcess::ExitStatus
_LAST_LINES = 60
_OPTIONS = ("--background",)  # the window needs a core of its own

# What a child writes comes at once and in UTF-8, and the folder it happens to run in offers it no modules.
CHILD_ENVIRONMENT = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
# Runs a module from a folder, whatever paths a launcher sets: the folder, the module's name, its arguments.
_RUN_FROM = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
# A program, and variables to add to its environment → a `qt.QProcess` that is not started yet.
MakeProcess = Callable[[str, Mapping[str, str]], Any]


@cache
def theWorker() -> WorkerClient:
    """The one worker of this application, for the panel and the console alike."""
    if hasattr(slicer, "app"):
        return WorkerClient(workerPython, _OPTIONS, transport=QtTransport())
    return WorkerClient(workerPython)


def workerPython() -> str:
    """The Python that runs the networks: the user's choice, else Slicer's own, or outside Slicer that of the caller."""
    return chosenPython() or shutil.which(_LAUNCHER) or sys.executable


def chosenPython() -> str:
    """The Python that the user chose instead of Slicer's; empty for none."""
    return slicer.util.settingsValue(PYTHON_SETTING, "") if hasattr(slicer, "app") else ""


def newProcess(program: str, additions: Mapping[str, str]) -> Any:
    """A `qt.QProcess` for this program, not started yet.

    It belongs to the application, for Python must not delete it in the middle of one of its own signals. A Python of
    the user's own gets the environment that Slicer was started with: in Slicer's it would look for its packages in
    the wrong place.
    """
    import qt

    if Path(program).stem == _LAUNCHER:
        environment = qt.QProcessEnvironment.systemEnvironment()
    else:
        environment = slicer.app.startupEnvironment()
        for name in _SLICERS_PYTHON:  # there still, if Slicer was started by other means than its launcher
            environment.remove(name)
    for name, value in additions.items():
        environment.insert(name, value)
    process = qt.QProcess(slicer.app)
    process.setProcessEnvironment(environment)
    return process


class QtLoop:
    """The event loop of the application."""

    def callLater(self, milliseconds: int, slot: Callable[[], None]) -> None:
        """Call once, on the main thread."""
        import qt

        qt.QTimer.singleShot(milliseconds, slot)

    def processEvents(self) -> None:
        """Let the window and the timers have their turn."""
        slicer.app.processEvents()


class QtTransport:
    """The worker's process by `qt.QProcess`: all happens on the main thread, nothing holds it up.

    The names of its methods are those of `VFMTransferLib.worker.process.Transport`.

    Args:
        loop: The application's event loop.
        makeProcess: Makes a `qt.QProcess`.
    """

    is_blocking = False

    def __init__(self, loop: Any = None, makeProcess: MakeProcess = newProcess) -> None:
        self._loop = loop if loop is not None else QtLoop()
        self._makeProcess = makeProcess
        self._child: Child | None = None

    def start(self, command, on_output, on_error, on_end) -> Child:
        # On Windows Qt reports within `start` that a program does not start.
        def endLater(exitCode: int) -> None:
            self._loop.callLater(0, lambda: on_end(exitCode))

        self._child = Child(command, on_output, on_error, endLater, self._makeProcess)
        self._child.start()
        return self._child

    def call_later(self, delay_s: float, slot: Callable[[], None]) -> None:
        self._loop.callLater(round(1000 * delay_s), slot)

    def wait(self, timeout_s: float) -> None:
        if timeout_s > 0:
            if self._child is not None and not self._child.isEnded:
                self._child.process.waitForReadyRead(round(1000 * timeout_s))
            else:
                time.sleep(timeout_s)
        self._loop.processEvents()


class Child:
    """One child process: its lines as they come, its end, and a way to end it with all that it started.

    Args:
        command: Program and arguments.
        onOutput: Receives each line of stdout.
        onError: Receives each line of stderr.
        onEnd: Receives the exit code, once: as `subprocess` gives it, minus a signal's number; `NOT_STARTED` where the
            program cannot be started.
        makeProcess: Makes a `qt.QProcess`; see `newProcess`.
    """

    def __init__(
        self,
        command: Sequence[str],
        onOutput: Callable[[bytes], None],
        onError: Callable[[str], None],
        onEnd: Callable[[int], None],
        makeProcess: MakeProcess = newProcess,
    ) -> None:
        self._command = list(command)
        self._onOutput, self._onError, self._onEnd = onOutput, onError, onEnd
        self._restOfOutput, self._restOfErrors = b"", b""
        self.isEnded = False
        self.process = makeProcess(command[0], CHILD_ENVIRONMENT)
        self.process.connect("readyReadStandardOutput()", self._readOutput)
        self.process.connect("readyReadStandardError()", self._readErrors)
        self.process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self.process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)

    @property
    def process_id(self) -> int:
        """Its number; 0 where it did not start or has ended."""
        return 0 if self.isEnded else self.process.processId()

    def start(self) -> None:
        """Start it; what becomes of it is reported later."""
        self.process.start(self._command[0], self._command[1:])

    def write(self, line: bytes) -> None:
        """Write to its stdin; that it is gone already is reported by `onEnd`."""
        if not self.isEnded:
            self.process.write(line)

    def close_input(self) -> None:
        """Close its stdin."""
        if not self.isEnded:
            self.process.closeWriteChannel()

    def kill(self, *others: int) -> None:
        """End it at once, with all that it started: behind a launcher it is the launcher's child that works."""
        if self.process_id:
            end_process_trees(self.process_id, *others)

    def wait_for_end(self, timeout_s: float) -> bool:
        """Whether it ended within a time."""
        return self.isEnded or self.process.waitForFinished(round(1000 * timeout_s))

    def _readOutput(self) -> None:
        *lines, self._restOfOutput = (self._restOfOutput + self._bytes("readAllStandardOutput")).split(b"\n")
        for line in lines:
            self._onOutput(line)

    def _readErrors(self) -> None:
        *lines, self._restOfErrors = (self._restOfErrors + self._bytes("readAllStandardError")).split(b"\n")
        for line in lines:
            self._onError(_text(line))

    def _bytes(self, reader: str) -> bytes:
        return bytes(getattr(self.process, reader)().data())

    def _onFinished(self, exitCode: int, exitStatus: int) -> None:
        self._readOutput()
        self._readErrors()
        if self._restOfOutput:
            self._onOutput(self._restOfOutput)
        if self._restOfErrors:
            self._onError(_text(self._restOfErrors))
        # Qt gives the signal's number as the exit code of a process that crashed, and on Windows its status.
        hasSignal = int(exitStatus) == _CRASH_EXIT and sys.platform != "win32"
        self._end(-exitCode if hasSignal else exitCode)

    def _onProcessError(self, error: int) -> None:
        if int(error) == _FAILED_TO_START:  # the other errors are followed by `finished`
            self._end(NOT_STARTED)

    def _end(self, exitCode: int) -> None:
        if not self.isEnded:
            self.isEnded = True
            self.process.deleteLater()
            self._onEnd(exitCode)


class LibraryProcess:
    """One command of the library, as `PythonSlicer -m VFMTransferLib ARGUMENTS`.

    Args:
        arguments: As for the command line `vfm-transfer`.
        onLine: Receives each line, of stdout and stderr alike, without its line break.
        onDone: Called once at the end with the exit code, all of stdout, and the last lines of stderr. The exit code
            is as `Child` gives it.
        makeProcess: Makes a `qt.QProcess`; see `newProcess`.
        module: Another module to run in the same way, for example `pip`.
        python: The Python to run it; by default that of the worker.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        onLine: Callable[[str], None],
        onDone: Callable[[int, str, list[str]], None],
        makeProcess: MakeProcess = newProcess,
        *,
        module: str = LIBRARY,
        python: str = "",
    ) -> None:
        folder = str(Path(_LIBRARY).resolve().parents[1])
        start = ["-c", _RUN_FROM, folder, LIBRARY] if module == LIBRARY else ["-m", module]
        output: list[str] = []
        lastLines: deque[str] = deque(maxlen=_LAST_LINES)

        def onOutput(line: bytes) -> None:
            output.append(_text(line))
            onLine(output[-1])

        def onError(line: str) -> None:
            lastLines.append(line)
            onLine(line)

        self._child = Child(
            [python or workerPython(), *start, *arguments],
            onOutput,
            onError,
            lambda exitCode: onDone(exitCode, "\n".join(output), list(lastLines)),
            makeProcess,
        )

    @property
    def isRunning(self) -> bool:
        return not self._child.isEnded

    def start(self) -> None:
        """Start it; `onDone` comes in any case, later."""
        self._child.start()

    def cancel(self) -> None:
        """End it now, with all that it started; `onDone` reports when it is gone."""
        self._child.kill()


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
