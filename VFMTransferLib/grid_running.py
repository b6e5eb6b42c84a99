"""Who runs a study: a file in its folder while it runs. Workers stop at their next checkpoint when it is gone."""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .atomic import atomic_file
from .errors import OutputError
from .grid_cases import Place

RUNNING = "running.json"


class StoppedError(Exception):
    """The study that a cell belongs to is no longer run; what is done stays."""


@contextmanager
def running(place: Place) -> Iterator[str]:
    """Run a study in its folder, and nobody else.

    Yields:
        A word that only this run has.

    Raises:
        OutputError: Another process runs it.
    """
    path = place.work / RUNNING
    _require_nobody(path)
    token = uuid.uuid4().hex
    with atomic_file(path) as part:
        document = {"token": token, "process": os.getpid(), "machine": platform.node()}
        part.write_text(json.dumps(document), encoding="utf-8")
    try:
        yield token
    finally:
        if is_running(place, token):
            path.unlink(missing_ok=True)


def is_running(place: Place, token: str) -> bool:
    """Whether the run with this word goes on, as a process that sees the folder can tell."""
    return _read(place.work / RUNNING).get("token") == token


def _require_nobody(path: Path) -> None:
    found = _read(path)
    if found and (found.get("machine") != platform.node() or _is_alive(int(found.get("process", 0)))):
        raise OutputError(
            f"The study is run already, by process {found.get('process')} on another terminal or machine. "
            f"Wait for it; if it is no more, remove work/{RUNNING}."
        )


def _read(path: Path) -> dict:
    with suppress(OSError, ValueError):
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if isinstance(document, dict) else {}
    return {}


def _is_alive(process: int) -> bool:
    if process in (0, os.getpid()):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
