"""Inspects the worker's Python and changes its packages, in child processes; how to make one is given from outside."""

from __future__ import annotations

import importlib.util
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import slicer

from ..workers.process import NOT_STARTED, LibraryProcess, chosenPython, workerPython
from .install import Plan, constraints, downloaded, pipVersion, whyPipFailed
from .machine_report import Report

# Two probes of a minute each, on a computer whose disk is asleep.
EXAMINATION_MS = 180_000
_LIST = ["list", "--format=freeze", "--disable-pip-version-check"]
_LAST_LINES = 200

# Arguments of pip, what takes each line, what takes the exit code.
RunPip = Callable[[list[str], Callable[[str], None], Callable[[int], None]], None]


class Inspection:
    """Asks a child process what the worker's Python has. One at a time; a new one takes the place of the former.

    Args:
        onReport: Takes what `doctor.inspect` found.
        onFailed: Takes a sentence and the last lines where it found nothing.
        callLater: Calls a function after milliseconds; `qt.QTimer.singleShot`.
        makeChild: As `LibraryProcess`.
    """

    def __init__(
        self,
        onReport: Callable[[Report], None],
        onFailed: Callable[[str, str], None],
        callLater: Callable[[int, Callable[[], None]], Any],
        makeChild: Callable[..., LibraryProcess] = LibraryProcess,
    ) -> None:
        self._onReport, self._onFailed = onReport, onFailed
        self._callLater, self._makeChild = callLater, makeChild
        self._child: LibraryProcess | None = None
        self._isLate = False

    @property
    def isRunning(self) -> bool:
        return self._child is not None

    def start(self) -> None:
        self.cancel()
        self._isLate = False

        def onDone(exitCode: int, output: str, lastLines: list[str]) -> None:
            if self._child is child:
                self._finish(exitCode, output, lastLines)

        def giveUp() -> None:
            if self._child is child:
                self._isLate = True
                child.cancel()

        child = self._makeChild(["doctor", "--json"], lambda line: None, onDone)
        self._child = child
        child.start()
        self._callLater(EXAMINATION_MS, giveUp)

    def cancel(self) -> None:
        """Stop, without a report."""
        child, self._child = self._child, None
        if child is not None:
            child.cancel()

    def _finish(self, exitCode: int, output: str, lastLines: list[str]) -> None:
        self._child = None
        try:
            self._onReport(parseReport(exitCode, output))
        except ValueError:
            self._onFailed(_whyNoReport(exitCode, lastLines, self._isLate), "\n".join(lastLines))


class Installer:
    """Does a plan with pip, step by step, in the Python that is the worker's when it begins.

    Args:
        onLine: Takes each line for the log.
        onProgress: Takes how much of the present download is done (0..1).
        onDone: Takes a sentence about what failed, empty where all is done.
        makeChild: As `LibraryProcess`.
        runPip: Runs the steps; by default Slicer's own way, see `slicersPip`.
    """

    def __init__(
        self,
        onLine: Callable[[str], None],
        onProgress: Callable[[float], None],
        onDone: Callable[[str], None],
        makeChild: Callable[..., LibraryProcess] = LibraryProcess,
        runPip: RunPip | None = None,
    ) -> None:
        self._sayLine, self._onProgress, self._onDone = onLine, onProgress, onDone
        self._makeChild, self._runPip = makeChild, runPip
        self._runStep: RunPip = self._childPip
        self._plan: Plan | None = None
        self._python = ""
        self._steps: list[list[str]] = []
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._folder: TemporaryDirectory | None = None

    @property
    def isRunning(self) -> bool:
        return self._plan is not None

    def start(self, plan: Plan) -> None:
        """Begin; `onDone` comes in any case.

        Raises:
            ValueError: A plan is on its way.
        """
        if self._plan is not None:
            raise ValueError("An install must be done before the next one begins.")
        self._plan = plan
        self._python = workerPython()
        self._runStep = self._runPip or slicersPip() or self._childPip
        self._lines.clear()
        self._makeChild(_LIST, lambda line: None, self._onListed, module="pip", python=self._python).start()

    def detach(self) -> None:
        """Emit nothing any more; what was begun continues, for half an install is worse than one too many."""
        self._sayLine, self._onProgress, self._onDone = (lambda *_: None for _ in range(3))

    def _onListed(self, exitCode: int, listing: str, lastLines: list[str]) -> None:
        if exitCode != 0:
            self._finish(whyPipFailed(exitCode, lastLines))
            return
        try:
            self._folder = TemporaryDirectory(prefix="VFMTransfer-", ignore_cleanup_errors=True)
            path = Path(self._folder.name) / "constraints.txt"
            path.write_text(constraints(listing, self._plan), encoding="utf-8")
        except OSError as error:
            self._finish(f"The install could not begin: {error}")
            return
        self._steps = self._plan.steps(path, pipVersion(listing))
        self._next()

    def _next(self) -> None:
        if not self._steps:
            self._finish("")
            return
        step = self._steps.pop(0)
        self._onLine(f"pip {' '.join(step)}")
        try:
            self._runStep(step, self._onLine, lambda exitCode: self._onStep(step, exitCode))
        except (OSError, RuntimeError) as error:  # of `slicer.packaging`: somebody else is installing
            self._finish(f"The install could not begin: {error}")

    def _onStep(self, step: list[str], exitCode: int) -> None:
        # What a repair cannot remove, for its record is lost, is written over by what follows.
        if exitCode == 0 or (self._plan.isRepair and step[0] == "uninstall"):
            self._next()
        else:
            self._finish(whyPipFailed(exitCode, self._lines))

    def _onLine(self, line: str) -> None:
        share = downloaded(line)
        if share is not None:
            self._onProgress(share)
            return
        self._lines.append(line)
        self._sayLine(line)

    def _childPip(self, step: list[str], onLine: Callable[[str], None], onEnd: Callable[[int], None]) -> None:
        self._makeChild(step, onLine, lambda exitCode, *_: onEnd(exitCode), module="pip", python=self._python).start()

    def _finish(self, sentence: str) -> None:
        self._plan = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._onDone(sentence)


def slicersPip() -> RunPip | None:
    """Slicer's own way to run pip, by which it registers installs that are running; None where there is none.

    There is none before Slicer 5.12, and it serves Slicer's own Python only. In testing mode it would block the
    window, and never report that it is done.
    """
    if importlib.util.find_spec("slicer.packaging") is None or chosenPython() or slicer.app.testingEnabled():
        return None
    return _packagingPip


def parseReport(exitCode: int, output: str) -> Report:
    """What doctor printed.

    Raises:
        ValueError: It printed no report.
    """
    if exitCode != 0:
        raise ValueError(f"doctor must end with 0, but ended with {exitCode}.")
    report = json.loads(output)
    if not isinstance(report, dict) or "runtimes" not in report:
        raise ValueError("doctor must print a report, but printed something else.")
    return report


def _packagingPip(step: list[str], onLine: Callable[[str], None], onEnd: Callable[[int], None]) -> None:
    import slicer.packaging

    command, *arguments = step
    if command == "uninstall":
        slicer.packaging.pip_uninstall(arguments, blocking=False, logCallback=onLine, completedCallback=onEnd)
    else:
        slicer.packaging.pip_install(
            arguments, blocking=False, show_progress=False, logCallback=onLine, completedCallback=onEnd
        )


def _whyNoReport(exitCode: int, lastLines: list[str], isLate: bool) -> str:
    if isLate:
        return f"Looking at Python took more than {EXAMINATION_MS // 60_000} minutes, and was stopped. Press Check."
    if exitCode == NOT_STARTED:
        return "Python could not be started. Check its path under Runtime and device."
    said = f" Its message: {lastLines[-1][:200]}" if lastLines else ""
    return f"Python could not be inspected; it must be 3.11 or newer.{said}"
