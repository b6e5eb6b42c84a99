"""The messages between a program and its worker, one a line, as JSON. Standard library only.

Each class is one message, or part of one: first the requests to the worker, then its replies. A line is an object with
`protocol`, `type` and the fields of the class; `job.schema.json`, generated from the classes, describes them for other
languages. Voxels go through files in a folder of the job, never through a line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..core.decoding import from_json, parse_json
from ..core.errors import JobError
from ..core.options import Options, PrecisionName, RuntimeName
from ..core.terms import Sequence
from ..tasks import TaskName

ARRAY_SUFFIX = ".npy"


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array (D, H, W) lie; the terms are those of `volume.Geometry`, LPS millimeters."""

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]


@dataclass(frozen=True)
class ImageFile:
    """One image in the folder of a job.

    Attributes:
        file: Its name there: an image file as NRRD, or a `.npy` array.
        grid: Where the voxels of a `.npy` lie; None for an image file, which holds it itself.
    """

    file: str
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if not self.file or self.file in (".", "..") or set(self.file) & set("/\\:\0"):
            raise ValueError(f"An image must be named by a plain file name in the job's folder, got {self.file!r:.60}.")
        if (self.grid is not None) != self.file.lower().endswith(ARRAY_SUFFIX):
            raise ValueError(f"'{self.file}' must come with a grid if it is a {ARRAY_SUFFIX} file, and only then.")


@dataclass(frozen=True)
class DicomFiles:
    """The DICOM files behind the images of a case, by their whole paths; never logged.

    Attributes:
        files: Sequence → files of its slices, in any order.
        others: Files of the exam's further series, for its b values and planes.
    """

    files: dict[Sequence, tuple[str, ...]]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """Images that a program wrote into a folder for a command (`--exported`), as the document beside them.

    Attributes:
        images: Sequence → image.
        gland: Mask of the prostate.
        dicom: The files that the images were made from, where they were.
        series: b value in s/mm², as text → image of a diffusion series.
    """

    images: dict[Sequence, ImageFile]
    gland: ImageFile | None = None
    dicom: DicomFiles | None = None
    series: dict[str, ImageFile] | None = None


@dataclass(frozen=True)
class Hello:
    """To the worker: what are you? Answered by `Ready`."""


@dataclass(frozen=True)
class Run:
    """To the worker: run networks on one case, in the order given. Jobs wait for one another.

    Attributes:
        job: Name of the job, by which all answers name it; unique while the job is not finished.
        task: What is wanted; a bundle for another task is refused.
        folder: The job's folder, absolute; images come from it, results go into it. The sender deletes it.
        images: Sequence → image.
        bundles: Name or folder of each network: the arms of the job, counted from 0.
        case: What to call the case in results; never a patient's name.
        gland: Mask of the prostate.
        roi: Mask of a region of interest: where networks look, and outside of which nothing counts.
        compare: Compare the first two arms; numbers go into the file that `Compared` names.
        reference: The truth for `compare`: a label map or an image. Unused without `compare`, which a `Log` reports.
        report: Also write the report of the comparison, into the folder that `Compared` names.
        dicom: The files that the images were made from, where they were.
        options: How the networks are run.
    """

    job: str
    task: TaskName
    folder: str
    images: dict[Sequence, ImageFile]
    bundles: tuple[str, ...]
    case: str = "study"
    gland: ImageFile | None = None
    roi: ImageFile | None = None
    compare: bool = False
    reference: ImageFile | None = None
    report: bool = False
    dicom: DicomFiles | None = None
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        empty = [name for name in ("job", "folder", "images", "bundles", "case") if not getattr(self, name)]
        if empty:
            raise ValueError(f"A run must name its {', '.join(empty)}, but leaves it empty.")
        if self.compare and len(self.bundles) < 2:
            raise ValueError("A run that compares must name two bundles, got one.")
        if self.report and not self.compare:
            raise ValueError("A run that reports must compare two bundles, but does not compare.")


@dataclass(frozen=True)
class Batch:
    """To the worker: run networks on each case of a folder; see `batch.run_batch`. A job like a `Run`.

    Attributes:
        job: Name of the job, as of a run.
        task: What is wanted; a bundle for another task is refused.
        cases: The folder that holds a folder for each case, absolute.
        output: Where results go, absolute: new, empty, or the output of an earlier batch, which is gone on with.
        bundles: Name or folder of each network; two are compared.
        options: How the networks are run.
    """

    job: str
    task: TaskName
    cases: str
    output: str
    bundles: tuple[str, ...]
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        empty = [name for name in ("job", "cases", "output", "bundles") if not getattr(self, name)]
        if empty:
            raise ValueError(f"A batch must name its {', '.join(empty)}, but leaves it empty.")


@dataclass(frozen=True)
class Load:
    """To the worker: load networks that a job is likely to need, as soon as nothing else is to be done.

    Not answered; what fails here fails again in the job, and is reported there.

    Attributes:
        bundles: Name or folder of each network.
        runtime, device, precision: As of the job; networks are kept for these.
    """

    bundles: tuple[str, ...]
    runtime: RuntimeName = "auto"
    device: str = "auto"
    precision: PrecisionName = "auto"

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ValueError("A request to load must name networks, but names none.")
        for value, known in ((self.runtime, RuntimeName), (self.precision, PrecisionName)):
            if value not in get_args(known):
                raise ValueError(f"A request to load must name one of {', '.join(get_args(known))}, got '{value}'.")


@dataclass(frozen=True)
class Cancel:
    """To the worker: stop a job between two windows, keep its finished arms or cases. A finished job is left alone."""

    job: str


@dataclass(frozen=True)
class Ping:
    """To the worker: are you alive? Answered at once, also while a network runs."""

    token: int


@dataclass(frozen=True)
class Shutdown:
    """To the worker: cancel what runs, and end."""


Request = Hello | Run | Batch | Load | Cancel | Ping | Shutdown

Outcome = Literal["done", "canceled", "failed"]
CaseOutcome = Literal["done", "skipped", "failed"]
Reason = Literal["shutdown", "idle", "stdin closed"]
Level = Literal["info", "warning"]


@dataclass(frozen=True)
class Capabilities:
    """What a worker can do.

    Attributes:
        tasks: The tasks it has.
        runtimes: The runtimes whose packages are there; `vfm-transfer doctor` finds whether a device works.
        missing: Packages that every job needs, but that are not there.
    """

    tasks: tuple[TaskName, ...]
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
        networks_loaded: How many networks had to be loaded for it; 0 if they were
            there already, from an earlier run or by `Load`.
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
        report: Folder of the report, below the job's; None without one, or where it failed, see `Error`.
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
    """From the worker, its last message on a job: all done, or canceled, or failed, which an `Error` explained."""

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
    """From the worker, its last message; a run that is still unanswered must be sent to the next one."""

    reason: Reason


Reply = Ready | Pong | Progress | ArmResult | Compared | CaseDone | Finished | Error | Log | Bye

PROTOCOL = 3
_UPDATE = "Update VFM Transfer, so that the module and the worker are of one version."

_TYPES: dict[type, str] = {ArmResult: "result", CaseDone: "case-done"}  # of the others it is the class's name
REQUESTS, REPLIES = (
    {_TYPES.get(kind, kind.__name__.lower()): kind for kind in get_args(union)} for union in (Request, Reply)
)
_NAMES = {kind: name for name, kind in {**REQUESTS, **REPLIES}.items()}


def to_line(message: Request | Reply) -> str:
    """A message as one line of ASCII, with its line break."""
    document = {"protocol": PROTOCOL, "type": _NAMES[type(message)], **asdict(message)}
    return json.dumps(document, allow_nan=False) + "\n"


def read_request(line: str | bytes) -> Request:
    """The request in a line; JobError where it is no message to a worker of this protocol."""
    return _read(line, REQUESTS)


def read_reply(line: str | bytes) -> Reply:
    """The reply in a line; JobError where it is no message from a worker of this protocol."""
    return _read(line, REPLIES)


def _read(line: str | bytes, kinds: dict[str, type]) -> Any:
    text = line if isinstance(line, str) else line.decode("utf-8", "replace")
    try:
        document = parse_json(text)
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
    except ValueError as error:
        raise JobError(f"A message cannot be understood: {error}") from error
