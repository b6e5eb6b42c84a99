"""The folder of a study: what lies where, which process runs it, and which version of the library trained in it.

    <workspace>/config.yaml, split.json             what is run, on which cases
    <workspace>/runs.csv, metrics.csv, ...          the results: tables, and `examples/` with pictures
    <workspace>/work/phantoms, pretrained           inputs of the runs: cases, and bundles of the pretrained encoders
    <workspace>/work/cells, results                 each run's checkpoint, and its rows of the tables once it is done
    <workspace>/work/library-version.txt            the version that trained here; no other one goes on

A study is run by one process at a time, which holds the system's lock on `work/lock`. Workers on other machines read
from `work/running.json` whether the sweep that started them still runs; at their next report of progress they stop
otherwise.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import __version__
from ..core.errors import OutputError
from ..core.files import locked, write_file, writing


@dataclass(frozen=True)
class Workspace:
    """Where a study lies.

    Attributes:
        folder: Its results and its work; every worker must see it under this path.
        real: The folder of real cases, where they are at hand.
    """

    folder: Path
    real: Path | None = None

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def phantoms(self) -> Path:
        return self.work / "phantoms"

    @property
    def results(self) -> Path:
        """A file for each run that is done."""
        return self.work / "results"

    def training(self, name: str) -> Path:
        """Where a run keeps its checkpoint, and after the last step its weights."""
        return self.work / "cells" / name  # as version 1 called runs

    def pretrained(self, encoder: str) -> Path:
        """The bundle of an encoder's pretraining."""
        return self.work / "pretrained" / encoder

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Keep every other process from running the study while the context lasts.

        The lock is the system's, so that a killed process leaves none.

        Yields:
            A token that only this sweep has, see `is_running`.

        Raises:
            OutputError: Another process runs the study, or the folder cannot be written.
        """
        with writing(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        running = self.work / "running.json"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.work / "lock"))
            except BlockingIOError as error:
                found = self._running()
                raise OutputError(
                    f"The study is already run by process {found.get('process')} on {found.get('machine')}. "
                    "Wait until it ends, or stop it."
                ) from error
            token = uuid.uuid4().hex
            document = {"token": token, "process": os.getpid(), "machine": platform.node()}
            write_file(running, json.dumps(document))
            try:
                yield token
            finally:
                running.unlink(missing_ok=True)

    def is_running(self, token: str) -> bool:
        """Whether the sweep of a token still runs, as any process that sees the folder can find out."""
        return self._running().get("token") == token

    def require_library(self) -> None:
        """Write the library's version into a new workspace, or require it to be that of an old one.

        Checksums hold the version, so that the runs of another one look like those of other settings; they are refused
        here before anything of them is replaced.

        Raises:
            OutputError: The runs are of another version, or the folder cannot be written.
        """
        path = self.work / "library-version.txt"
        if path.is_file():
            found = f"version {path.read_text(encoding='utf-8').strip()}"
        elif any((self.work / name).is_dir() for name in ("cells", "results", "pretrained")):
            found = "a version that left no mark"
        else:
            write_file(path, __version__ + "\n")
            return
        if found != f"version {__version__}":
            raise OutputError(
                f"The runs in '{self.folder.name}' were trained by {found} of vfm-transfer, and this is version "
                f"{__version__}, whose results may differ. Use that version to resume, or train again in a new folder "
                f"with --config {self.folder.name}/config.yaml; tables and report stay readable."
            )

    def _running(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            document = json.loads((self.work / "running.json").read_text(encoding="utf-8"))
            return document if isinstance(document, dict) else {}
        return {}
