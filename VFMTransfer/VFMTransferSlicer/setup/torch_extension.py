"""PyTorch by its own extension, whose installer runs in a second Slicer without a window.

The extension imports torch where it installs it. In this Slicer that must not be: an import can take the application
with it, and what is imported cannot be replaced. In the second Slicer it harms nobody, and this window goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import slicer

from ..workers.process import Child, MakeProcess, chosenPython, newProcess, workerPython
from .install import torchRequirement
from .machine_report import Report

_EXTENSION = "PyTorch"
_MODULE = "pytorchutils"
# What the second Slicer does; its command line takes one line only.
_CODE = f"import {__name__} as torch_extension; torch_extension.installAndExit()"


class TorchInstaller:
    """Runs the extension's installer, after what must go first.

    Args:
        onLine: Takes each line for the log.
        onDone: Takes a sentence about what failed, empty where all is done.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.
    """

    def __init__(
        self,
        onLine: Callable[[str], None],
        onDone: Callable[[str], None],
        makeProcess: MakeProcess = newProcess,
    ) -> None:
        self._onLine, self._onDone, self._makeProcess = onLine, onDone, makeProcess
        self._commands: list[list[str]] = []
        self._child: Child | None = None

    @property
    def isRunning(self) -> bool:
        return self._child is not None

    def start(self, commands: list[list[str]]) -> None:
        """Run these one after the other, see `torchCommands`; `onDone` comes in any case."""
        self._commands = list(commands)
        self._next()

    def detach(self) -> None:
        """Tell nobody any more; what was begun goes on, for half an install is worse than one too many."""
        self._onLine = self._onDone = lambda text: None

    def _next(self) -> None:
        self._child = Child(
            self._commands.pop(0),
            lambda line: self._onLine(line.decode("utf-8", "replace")),
            lambda line: self._onLine(line),
            self._onEnd,
            self._makeProcess,
        )
        self._child.start()

    def _onEnd(self, exitCode: int) -> None:
        if exitCode == 0 and self._commands:
            self._next()
            return
        self._child = None
        failed = (
            "The PyTorch extension could not install it; the log says why. Start Slicer again before you try again."
        )
        self._onDone(failed if exitCode else "")


def whyNotTorchExtension() -> str:
    """A sentence where PyTorch cannot be installed from here; empty where it can."""
    if chosenPython():
        return "Another Python is chosen under Runtime and device: install PyTorch there with its own pip."
    if not hasattr(slicer.modules, _MODULE):
        return (
            f"PyTorch comes by an extension of its own. Open the Extensions Manager, install {_EXTENSION}, start "
            "Slicer again, and press PyTorch… once more."
        )
    return ""


def torchCommands(report: Report) -> list[list[str]]:
    """Removes a PyTorch that is there but does not work, then starts the second Slicer, which installs it and ends.

    pip would take what is broken for installed, and leave it as it is.
    """
    application = slicer.app.launcherExecutableFilePath or slicer.app.applicationFilePath()
    extension = Path(getattr(slicer.modules, _MODULE).path).parent
    # Modules from folders that only this session knows would be missing there.
    folders = [str(Path(__file__).parents[2]), str(extension)]
    window = ["--no-splash", "--no-main-window"]
    install = [application, *window, "--additional-module-paths", *folders, "--python-code", _CODE]
    remove = [workerPython(), "-m", "pip", "uninstall", "--yes", "torch", "torchvision"]
    return [remove, install] if report["packages"]["torch"] else [install]


def installAndExit() -> None:
    """In the second Slicer: install PyTorch, and end; the exit code tells how it went."""
    status = 1
    try:
        from PyTorchUtils import PyTorchUtilsLogic

        PyTorchUtilsLogic().installTorch(torchVersionRequirement=torchRequirement())
        status = 0
    except Exception:  # the edge of a process: whatever happened, it must be told and the process must end
        traceback.print_exc()
    slicer.util.exit(status)


def torchConsent() -> str:
    """What the user is asked before."""
    return (
        f"The PyTorch extension will install torch{torchRequirement()} and torchvision into Slicer's Python, as they "
        "fit the driver of this computer: up to 3 GB to download, up to 6 GB on the disk.\n\n"
        "Only importing checkpoints of the networks' authors, and networks without an ONNX file, need it. The "
        "extension decides what else it changes. What reads checkpoints, safetensors and onnx, follows (20 MB)."
    )
