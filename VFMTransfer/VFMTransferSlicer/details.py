"""What a report of a fault needs, without a word of the patient, the user or the computer's folders."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir

from VFMTransferLib import __file__ as _LIBRARY

from .runs import RunInScene
from .study_job import temporaryFolder

_JOB_FOLDER = re.compile(r"VFMTransfer-[A-Za-z0-9_]{8,}")


def detailsOf(facts: Mapping[str, str], run: RunInScene | None, log: Sequence[str], error: str) -> str:
    """A text to send.

    Args:
        facts: What is told at the top: versions, networks, runtime.
        run: The run it is about, if there was one; names of its volumes are left out.
        log: What was said so far.
        error: Details of what failed; empty if nothing did.
    """
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += ["", "Log:", *log]
    if error:
        lines += ["", "Details:", error]
    return withoutNames("\n".join(lines), namesIn(run))


def namesIn(run: RunInScene | None) -> dict[str, str]:
    """What may name a patient in a run → what to say instead."""
    if run is None:
        return {}
    nodes = {str(sequence): node for sequence, node in run.inputs.items()} | {"reference": run.reference}
    return {node.GetName(): f"<{role}>" for role, node in nodes.items() if node is not None and node.GetName()}


def withoutNames(text: str, names: Mapping[str, str] | None = None) -> str:
    """The text without names of volumes and folders.

    Args:
        text: Of the log or an error.
        names: What else must not be said → what to say instead.
    """
    folders = {
        str(Path(_LIBRARY).resolve().parents[1]): "<module>",
        gettempdir(): "<temporary>",
        temporaryFolder(): "<temporary>",
        sys.prefix: "<python>",
        str(Path.home()): "~",
    }
    for path in sorted(folders, key=len, reverse=True):
        if len(path) > 1:  # the home folder of a server may be the root
            text = text.replace(path, folders[path])
    text = _JOB_FOLDER.sub("<job>", text)
    for name in sorted(names or {}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text)
    return text
