"""What the worker says. Standard library only; `job.py` reads it from lines.

Each class is one message, or part of one; `schemas/job.schema.json` describes them for other languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .job_requests import RuntimeName
from .terms import TaskId

Outcome = Literal["done", "canceled", "failed"]
CaseOutcome = Literal["done", "skipped", "failed"]
Reason = Literal["shutdown", "idle", "stdin closed"]
Level = Literal["info", "warning"]


@dataclass(frozen=True)
class Capabilities:
    """What a worker can do.

    Attributes:
        tasks: The tasks it knows.
        runtimes: The runtimes whose packages are there; whether a device works, `vfm-transfer doctor` tells.
        missing: Packages that every job needs, but that are not there.
    """

    tasks: tuple[TaskId, ...]
    runtimes: tuple[RuntimeName, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """From the worker, the answer to `Hello`.

    Attributes:
        version: Of VFM Transfer.
        python: Version of Python.
        process_id: The worker's; behind a launcher it is not the process that was started. Its group has this number.
        capabilities: What it can do.
    """

    version: str
    python: str
    process_id: int
    capabilities: Capabilities


@dataclass(frozen=True)
class Pong:
    """From the worker, the answer to `Ping`.

    Attributes:
        token: That of the ping.
        networks: Bundles that are loaded, the one used last at the end.
    """

    token: int
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """From the worker: how far an arm is.

    Attributes:
        stage: `images`, `read`, `preprocess`, `infer`, `postprocess`, `write`, `compare` or `report`.
        fraction: How much of the arm is done, 0..1.
        case: Number of the case, from 0, in a batch.
        cases: How many cases there are.
    """

    job: str
    arm: int
    bundle: str
    stage: str
    fraction: float
    case: int = 0
    cases: int = 1


@dataclass(frozen=True)
class ArmResult:
    """From the worker: an arm is finished, and its files are there, whole.

    Attributes:
        folder: Its folder, below the job's; `result.json` in it names the files.
        networks_loaded: How many networks had to be loaded for it; 0 if they were still there from an earlier run.
    """

    job: str
    arm: int
    bundle: str
    folder: str
    networks_loaded: int


@dataclass(frozen=True)
class Compared:
    """From the worker: the first two arms were compared.

    Attributes:
        file: The numbers, as JSON, below the job's folder; a CSV of the same stem lies beside it.
        report: Folder of the report, below the job's; None where none was asked for, or an `Error` says why it failed.
    """

    job: str
    file: str
    report: str | None = None


@dataclass(frozen=True)
class CaseDone:
    """From the worker: a case of a batch is finished with; `summary.csv` in the output has its numbers.

    Attributes:
        name: Name of the case's folder, for the screen and not for a log: it may be a patient's.
        case: Its number, from 0.
        cases: How many there are.
        outcome: `skipped` where all was there from an earlier batch.
        sentence: Why it failed; else empty.
    """

    job: str
    name: str
    case: int
    cases: int
    outcome: CaseOutcome
    sentence: str = ""


@dataclass(frozen=True)
class Finished:
    """From the worker, the last word on a job: all done, or canceled, or failed, which an `Error` explained."""

    job: str
    outcome: Outcome


@dataclass(frozen=True)
class Error:
    """From the worker: something failed.

    Attributes:
        kind: Name of a class in `errors.py`, or `UnexpectedError`.
        sentence: What to show.
        details: For a bug report; may be empty. It names files, so it is shown only when asked for.
        job: The job that failed; None if a message could not be understood.
        arm: The arm that failed; None if it was no arm's fault.
    """

    kind: str
    sentence: str
    details: str = ""
    job: str | None = None
    arm: int | None = None


@dataclass(frozen=True)
class Log:
    """From the worker: a line for the log."""

    level: Level
    text: str


@dataclass(frozen=True)
class Bye:
    """From the worker, its last word; a run that is still unanswered must be sent to the next one."""

    reason: Reason


Reply = Ready | Pong | Progress | ArmResult | Compared | CaseDone | Finished | Error | Log | Bye
