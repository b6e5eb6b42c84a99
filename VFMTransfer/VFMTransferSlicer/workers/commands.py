"""A command of the library on what is in the scene: written into a folder, done by a child process, taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from VFMTransferLib.core.errors import VFMTransferError

from ..signals import Signal
from .process import NOT_STARTED, LibraryProcess, MakeProcess, newProcess
from .steps import StepQueue, Steps

_LAST_LINES = 10


class LibraryCommand:
    """One command at a time; the window goes on meanwhile.

    Args:
        later: Calls a function when the window had its turn.
        newFolder: Makes the temporary folder.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.

    Attributes:
        finished: Emitted when all is done.
        failed: Emitted with a sentence to show, and details for a bug report.
    """

    def __init__(
        self,
        later: Callable[[Callable[[], None]], None],
        newFolder: Callable[[], TemporaryDirectory],
        makeProcess: MakeProcess = newProcess,
    ) -> None:
        self._steps = StepQueue(later)
        self._newFolder, self._makeProcess = newFolder, makeProcess
        self._folder: TemporaryDirectory | None = None
        self._process: LibraryProcess | None = None
        self.finished, self.failed = Signal(), Signal()

    @property
    def isBusy(self) -> bool:
        return self._folder is not None

    def start(
        self,
        write: Callable[[Path], Steps],
        arguments: Callable[[Path], Sequence[str]],
        take: Callable[[dict[str, Any], Path], Steps],
    ) -> None:
        """Begin; what was on its way is canceled.

        Args:
            write: Writes the inputs into a folder.
            arguments: Of the command.
            take: Takes the answer in JSON, where there is one; the folder is deleted afterwards.

        Raises:
            OutputError: There is no room for the folder.
        """
        self.cancel()
        folder = self._folder = self._newFolder()
        self._steps.add(self._begin(folder, write, arguments, take), lambda error: self._fail(folder, error))

    def cancel(self) -> None:
        """Stop, and leave nothing, without a signal."""
        if self._process is not None and self._process.isRunning:
            self._process.cancel()
        self._steps.clear()
        self._tidy()

    def _begin(self, folder: TemporaryDirectory, write, arguments, take) -> Steps:
        path = Path(folder.name)
        yield from write(path)
        self._process = LibraryProcess(
            arguments(path),
            onLine=lambda line: None,
            onDone=lambda code, output, errors: self._onDone(folder, take, code, output, errors),
            makeProcess=self._makeProcess,
        )
        self._process.start()

    def _onDone(self, folder: TemporaryDirectory, take, code: int, output: str, errors: list[str]) -> None:
        if folder is not self._folder:  # canceled
            return
        if code:
            why = "its Python could not be started" if code == NOT_STARTED else f"it ended with exit code {code}"
            sentence = next((line for line in reversed(errors) if line.strip()), f"The command failed: {why}.")
            self._tidy()
            self.failed.emit(sentence, "\n".join(errors[-_LAST_LINES:]))
            return
        self._steps.add(self._finish(folder, take, output), lambda error: self._fail(folder, error))

    def _finish(self, folder: TemporaryDirectory, take, output: str) -> Steps:
        answer = json.loads(output) if output.startswith("{") else {}
        yield from take(answer, Path(folder.name))
        self._tidy()
        self.finished.emit()

    def _fail(self, folder: TemporaryDirectory, error: Exception) -> None:
        if folder is not self._folder:
            return
        self._tidy()
        known = isinstance(error, VFMTransferError | ValueError)
        self.failed.emit(
            str(error) if known else f"An unexpected error occurred ({type(error).__name__}).", repr(error)
        )

    def _tidy(self) -> None:
        folder, self._folder, self._process = self._folder, None, None
        if folder is not None:
            folder.cleanup()
