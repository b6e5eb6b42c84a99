"""What Slicer and the worker, a child process, say to each other: one message a line, as JSON. Standard library only.

Every line is an object with `protocol`, `type` and the fields of the message's class, which are in `job_requests.py`
and `job_replies.py`; `schemas/job.schema.json` describes them for other languages. Voxels go through files in a folder
of the job, never through a line.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from .errors import JobError
from .job_replies import (
    ArmResult,
    Bye,
    Capabilities,
    CaseDone,
    CaseOutcome,
    Compared,
    Error,
    Finished,
    Level,
    Log,
    Outcome,
    Pong,
    Progress,
    Ready,
    Reason,
    Reply,
)
from .job_requests import (
    ARRAY_SUFFIX,
    Batch,
    Cancel,
    CropName,
    Grid,
    Hello,
    ImageFile,
    PhaseAxis,
    Ping,
    PrecisionName,
    Request,
    Run,
    RuntimeName,
    Shutdown,
)
from .strict_json import from_json

__all__ = [
    "ARRAY_SUFFIX",
    "PROTOCOL",
    "REPLIES",
    "REQUESTS",
    "ArmResult",
    "Batch",
    "Bye",
    "Cancel",
    "Capabilities",
    "CaseDone",
    "CaseOutcome",
    "Compared",
    "CropName",
    "Error",
    "Finished",
    "Grid",
    "Hello",
    "ImageFile",
    "Level",
    "Log",
    "Outcome",
    "PhaseAxis",
    "Ping",
    "Pong",
    "PrecisionName",
    "Progress",
    "Ready",
    "Reason",
    "Reply",
    "Request",
    "Run",
    "RuntimeName",
    "Shutdown",
    "read_reply",
    "read_request",
    "to_line",
]

PROTOCOL = 2
_UPDATE = "Update VFM Transfer, so that the module and the worker are of one version."

REQUESTS: dict[str, type] = {
    "hello": Hello,
    "run": Run,
    "batch": Batch,
    "cancel": Cancel,
    "ping": Ping,
    "shutdown": Shutdown,
}
REPLIES: dict[str, type] = {
    "ready": Ready,
    "pong": Pong,
    "progress": Progress,
    "result": ArmResult,
    "compared": Compared,
    "case-done": CaseDone,
    "finished": Finished,
    "error": Error,
    "log": Log,
    "bye": Bye,
}
_NAMES = {kind: name for name, kind in {**REQUESTS, **REPLIES}.items()}


def to_line(message: Request | Reply) -> str:
    """A message as one line of ASCII, with its line break."""
    document = {"protocol": PROTOCOL, "type": _NAMES[type(message)], **asdict(message)}
    return json.dumps(document, allow_nan=False) + "\n"


def read_request(line: str | bytes) -> Request:
    """What a line tells the worker.

    Raises:
        JobError: It is no message to a worker of this protocol; the sentence says why.
    """
    return _read(line, REQUESTS)


def read_reply(line: str | bytes) -> Reply:
    """What a line of the worker says.

    Raises:
        JobError: It is no message from a worker of this protocol; the sentence says why.
    """
    return _read(line, REPLIES)


def _read(line: str | bytes, kinds: dict[str, type]) -> Any:
    text = line if isinstance(line, str) else line.decode("utf-8", "replace")
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise JobError(f"A message must be one line of JSON, got {text.strip()!r:.40}.") from error
    if not isinstance(document, dict) or "protocol" not in document or "type" not in document:
        raise JobError(f"A message must be an object with protocol and type, got {text.strip()!r:.40}.")
    protocol, name = document.pop("protocol"), document.pop("type")
    if protocol != PROTOCOL or isinstance(protocol, bool):
        raise JobError(f"A message must be of protocol {PROTOCOL}, but is of {protocol!r:.20}. {_UPDATE}")
    if not isinstance(name, str) or name not in kinds:
        raise JobError(f"A message's type must be one of {', '.join(kinds)}, got {name!r:.40}. {_UPDATE}")
    try:
        return from_json(kinds[name], document, name)
    except (ValueError, OverflowError) as error:
        raise JobError(f"A message cannot be understood: {error}") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")
