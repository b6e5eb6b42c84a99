"""Child processes of the library, by `qt.QProcess`: Slicer's window goes on while they work.

Qt comes in through one factory, `newProcess`, so that all else runs wherever there is a stand-in for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import slicer

from VFMTransferLib import __file__ as _LIBRARY

LIBRARY = "VFMTransferLib"
PYTHON_SETTING = "VFMTransfer/Python"
_LAUNCHER = "PythonSlicer"
_SLICERS_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE")
# The child did not start at all; a shell says so by the same number.
NOT_STARTED = 127
_FAILED_TO_START = 0  # of QProcess::ProcessError
_CRASH_EXIT = 1  # of QProcess::ExitStatus
_LAST_LINES = 60
_LISTING_S = 5

# What a child writes comes at once and in UTF-8, and the folder it happens to run in offers it no modules.
CHILD_ENVIRONMENT = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
# Runs a module from a folder, whatever paths a launcher sets: the folder, the module's name, its arguments.
_RUN_FROM = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
# A program, and variables to add to its environment → a `qt.QProcess` that is not started yet.
MakeProcess = Callable[[str, Mapping[str, str]], Any]


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


class Child:
    """One child process: its lines as they come, its end, and a way to end it with all that it started.

    Args:
        command: Program and arguments.
        onOutput: Takes each line of stdout.
        onError: Takes each line of stderr.
        onEnd: Takes the exit code, once: as `subprocess` gives it, minus a signal's number; `NOT_STARTED` where the
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

    def start(self) -> None:
        """Start it; whatever becomes of it is heard later."""
        self.process.start(self._command[0], self._command[1:])

    def write(self, line: bytes) -> None:
        """Write to its stdin; that it is gone already is told by `onEnd`."""
        if not self.isEnded:
            self.process.write(line)

    def kill(self) -> None:
        """End it at once, with all that it started: behind a launcher it is the launcher's child that works."""
        processId = 0 if self.isEnded else self.process.processId()
        if processId:
            _endFamily(processId)
            if sys.platform != "win32":  # there `taskkill` ends it too, and needs it alive to find its children
                self.process.kill()

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
        onLine: Takes each line, of stdout and stderr alike, without its line break.
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
        command = [python or workerPython(), *start, *arguments]
        self._onLine, self._onDone = onLine, onDone
        self._output: list[str] = []
        self._lastLines: deque[str] = deque(maxlen=_LAST_LINES)
        self._child = Child(command, self._hearOutput, self._hearError, self._finish, makeProcess)

    @property
    def isRunning(self) -> bool:
        return not self._child.isEnded

    def start(self) -> None:
        """Start it; `onDone` comes in any case, later."""
        self._child.start()

    def cancel(self) -> None:
        """End it now, with all that it started; `onDone` tells when it is gone."""
        self._child.kill()

    def _hearOutput(self, line: bytes) -> None:
        text = _text(line)
        self._output.append(text)
        self._onLine(text)

    def _hearError(self, text: str) -> None:
        self._lastLines.append(text)
        self._onLine(text)

    def _finish(self, exitCode: int) -> None:
        self._onDone(exitCode, "\n".join(self._output), list(self._lastLines))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def _endFamily(processId: int) -> None:
    """End what a process started, and what that started; on Windows the process too."""
    if sys.platform == "win32":  # not waited for: the window must not stand still
        command = ["taskkill", "/T", "/F", "/PID", str(processId)]
        subprocess.Popen(command, creationflags=subprocess.CREATE_NO_WINDOW)
        return
    parents, family = _parents(), [processId]
    for one in family:  # grows on the way
        family += [child for child, parent in parents.items() if parent == one]
    for descendant in family[1:]:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(descendant, signal.SIGKILL)


def _parents() -> dict[int, int]:
    """Process → its parent, of all that run on this computer."""
    if Path("/proc/self/stat").exists():
        return dict(_parentsByProc())
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=", "-o", "ppid="], capture_output=True, text=True, timeout=_LISTING_S, check=True
    )
    pairs = (line.split() for line in listing.stdout.splitlines())
    return {int(child): int(parent) for child, parent in pairs}


def _parentsByProc() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                # The name, in parentheses, may hold anything; state and parent follow it.
                yield int(folder.name), int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
