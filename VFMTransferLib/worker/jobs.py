"""A job of the worker, whole: one case through its networks arm by arm, or a batch of cases.

The images of a case come from the job's folder, and results go there; a batch reads and writes folders of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..batch.batch import BatchProgress, CaseReport, require_all_done, run_batch
from ..bundles.bundle import Bundle
from ..bundles.catalog import find_bundle
from ..core.case import Case
from ..core.errors import JobError, OutOfMemoryError
from ..core.placement import within_roi
from ..core.result import Result
from ..core.volume import Geometry, Volume
from ..evaluation.comparison import compare, save_comparison
from ..inference.predict import CasePredictor, memory_checked, require_fit
from ..inference.runtimes import LoadedNetworks, Session
from ..io.cases import ExportedImage, read_exported_case, read_exported_mask, read_exported_volume
from ..io.images import write_volume
from ..io.results import save_result
from ..tasks import TASKS
from .messages import (
    ArmResult,
    Batch,
    CaseDone,
    Compared,
    DicomFiles,
    Exported,
    ImageFile,
    Log,
    Progress,
    Reply,
    Run,
)

REFERENCE = "reference"
ROI = "region of interest"
REPORT = "report"
GLAND_FILE = "gland.nii.gz"


class JobCanceledError(Exception):
    """The job was canceled; what was finished is kept."""


def exported_image(image: ImageFile, folder: Path) -> ExportedImage:
    """An image of a message, in its folder."""
    grid = image.grid
    geometry = None if grid is None else Geometry(grid.size, grid.spacing_mm, grid.origin_mm, grid.direction)
    return ExportedImage(folder / image.file, geometry)


def read_images(case_id: str, folder: Path, given: Run | Exported) -> Case:
    """The case that a program exported, with what its DICOM files state where they are known."""
    images = {sequence: exported_image(image, folder) for sequence, image in given.images.items()}
    gland = None if given.gland is None else exported_image(given.gland, folder)
    known = given.dicom or DicomFiles({})
    files = {sequence: [Path(file) for file in several] for sequence, several in known.files.items()}
    return read_exported_case(case_id, images, gland, files, [Path(file) for file in known.others])


@dataclass
class Job:
    """A job at work.

    Attributes:
        is_canceled: Asked after each window.
        arm: The arm that is at work; None before the first and after the last, and in a batch, whose replies name it.
    """

    request: Run | Batch
    networks: LoadedNetworks
    send: Callable[[Reply], None]
    is_canceled: Callable[[], bool]
    arm: int | None = None

    def execute(self) -> None:
        """Do all of it; where that fails or is canceled (JobCanceledError), arms and cases before are kept."""
        if isinstance(self.request, Batch):
            self._run_batch(self.request)
            return
        try:
            with memory_checked():
                self._run_arms(self.request)
        except OutOfMemoryError:
            self.networks.clear()
            raise
        finally:
            self.networks.make_room()

    def _run_arms(self, run: Run) -> None:
        """Do each arm, sending its result when its files are there, then compare where that is asked for."""
        folder = Path(run.folder)
        bundles = [find_bundle(name) for name in run.bundles]
        self._progress(0, bundles[0], "images", 0.0)
        case, reference = self._read_images(run, folder)
        for bundle in bundles:
            require_fit(case, bundle, run.task)

        def open_network(bundle: Bundle) -> Session:
            return self.networks.open(bundle, **run.options.engine)

        predictor = CasePredictor(case, run.options, open_network, self.networks.case_cache)
        kept: list[Result] = []
        for self.arm, bundle in enumerate(bundles):
            loads_before = self.networks.loads
            result = predictor.predict(bundle, partial(self._progress, self.arm, bundle))
            self._progress(self.arm, bundle, "write", 1.0)
            name = f"{self.arm}-{bundle.name}"
            save_result(result, folder / name)
            self.send(ArmResult(run.job, self.arm, bundle.name, name, self.networks.loads - loads_before))
            kept += [result] if run.compare and self.arm < 2 else []
        self.arm = None
        if not run.compare:
            return
        self._progress(1, bundles[1], "compare", 1.0)
        placed = predictor.case_with_gland(run.task)
        if placed.gland is not None:
            write_volume(placed.gland, folder / GLAND_FILE)  # for whoever shows the results
        comparison = compare(placed, kept[0], kept[1], reference)
        path, _ = save_comparison(comparison, folder)
        report = None
        try:  # a report that fails leaves the numbers
            if run.report:
                self._progress(1, bundles[1], REPORT, 1.0)
                from ..report import write_report

                write_report(comparison, folder / REPORT, (bundles[0], bundles[1]))
                report = REPORT
        finally:
            self.send(Compared(run.job, path.name, report))

    def _read_images(self, run: Run, folder: Path) -> tuple[Case, Volume | None]:
        """The case, with its region of interest, and the reference."""
        if not (folder.is_absolute() and folder.is_dir()):
            raise JobError("The job's folder must exist and be named absolutely, but is not. Make it before the run.")

        def exported(image: ImageFile) -> ExportedImage:
            return exported_image(image, folder)

        case = read_images(run.case, folder, run)
        if run.roi is not None:
            case = replace(case, roi=read_exported_mask(exported(run.roi), ROI))
        if run.reference is None:
            return case, None
        if not run.compare:
            self.send(Log("warning", "The reference was not used, since nothing is compared with a single network."))
            return case, None
        if not TASKS[run.task].marks_voxels:
            return case, read_exported_volume(exported(run.reference), REFERENCE)
        reference = read_exported_mask(exported(run.reference), REFERENCE)
        return within_roi(case, reference)

    def _run_batch(self, batch: Batch) -> None:
        if not (Path(batch.cases).is_absolute() and Path(batch.output).is_absolute()):
            raise JobError("The folders of a batch must be named absolutely, but are not. Name them whole.")

        def on_progress(at: BatchProgress) -> None:
            self._require_wanted()
            self.send(Progress(batch.job, at.arm, at.bundle, at.stage, at.fraction, at.case, at.cases))

        def on_case(report: CaseReport) -> None:
            self.send(CaseDone(batch.job, report.name, report.case, report.cases, report.outcome, report.message))
            self._require_wanted()

        rows = run_batch(
            batch.cases,
            batch.output,
            batch.bundles,
            on_progress,
            options=batch.options,
            task=batch.task,
            on_case=on_case,
            networks=self.networks,
        )
        require_all_done(rows)

    def _progress(self, arm: int, bundle: Bundle, stage: str, fraction: float) -> None:
        """Report how far an arm is, or stop here if the job was canceled."""
        self._require_wanted()
        self.send(Progress(self.request.job, arm, bundle.name, stage, min(max(fraction, 0.0), 1.0)))

    def _require_wanted(self) -> None:
        if self.is_canceled():
            raise JobCanceledError
