"""What a program says to the worker. Standard library only; `job.py` makes lines of it.

Each class is one message, or part of one; `schemas/job.schema.json` describes them for other languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .terms import Sequence, TaskId

ARRAY_SUFFIX = ".npy"

RuntimeName = Literal["auto", "onnx", "torch"]
PrecisionName = Literal["auto", "fp32", "fp16", "bf16"]
CropName = Literal["auto", "gland", "center"]
PhaseAxis = Literal["left-right", "anterior-posterior"]


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
        grid: Where the voxels of a `.npy` lie; None for an image file, which says so itself.
    """

    file: str
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if not self.file or self.file in (".", "..") or set(self.file) & set("/\\:\0"):
            raise ValueError(f"An image must be named by a plain file name in the job's folder, got {self.file!r:.60}.")
        if (self.grid is not None) != self.file.lower().endswith(ARRAY_SUFFIX):
            raise ValueError(f"'{self.file}' must come with a grid if it is a {ARRAY_SUFFIX} file, and only then.")


@dataclass(frozen=True)
class Hello:
    """To the worker: who is there? It answers with `Ready`."""


@dataclass(frozen=True)
class Run:
    """To the worker: run networks on one study, in the order given. Jobs wait for one another.

    Attributes:
        job: Name of the job, by which all answers name it; unique while the job is not finished.
        task: What is wanted; a bundle for another task is refused.
        folder: The job's folder, absolute; images come from it, results go into it. The sender deletes it.
        images: Sequence → image.
        bundles: Name or folder of each network: the arms of the job, counted from 0.
        case: What to call the study in results; never a patient's name.
        gland: Mask of the prostate.
        roi: Mask of a region of interest: where networks look, and outside of which nothing counts.
        compare: Compare the first two arms; numbers go into the file that `Compared` names.
        reference: The truth for `compare`: a label map or an image. Unused without `compare`, and a `Log` says so.
        report: Also write the report of the comparison, into the folder that `Compared` names.
        runtime, device, precision, crop, threshold, only_cspca, phase_axis: As in `predict.predict`.
    """

    job: str
    task: TaskId
    folder: str
    images: dict[Sequence, ImageFile]
    bundles: tuple[str, ...]
    case: str = "study"
    gland: ImageFile | None = None
    roi: ImageFile | None = None
    compare: bool = False
    reference: ImageFile | None = None
    report: bool = False
    runtime: RuntimeName = "auto"
    device: str = "auto"
    precision: PrecisionName = "auto"
    crop: CropName = "auto"
    threshold: float | None = None
    only_cspca: bool = False
    phase_axis: PhaseAxis = "left-right"

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
        runtime, device, precision, crop, threshold, only_cspca, phase_axis: As in `predict.predict`.
    """

    job: str
    task: TaskId
    cases: str
    output: str
    bundles: tuple[str, ...]
    runtime: RuntimeName = "auto"
    device: str = "auto"
    precision: PrecisionName = "auto"
    crop: CropName = "auto"
    threshold: float | None = None
    only_cspca: bool = False
    phase_axis: PhaseAxis = "left-right"

    def __post_init__(self) -> None:
        empty = [name for name in ("job", "cases", "output", "bundles") if not getattr(self, name)]
        if empty:
            raise ValueError(f"A batch must name its {', '.join(empty)}, but leaves it empty.")


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


Request = Hello | Run | Batch | Cancel | Ping | Shutdown
