"""One job of the worker: the images in its folder through its networks, arm by arm, results into the same folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..bundles.bundle import Bundle
from ..bundles.catalog import find_bundle
from ..core.case import Case
from ..core.errors import JobError, OutOfMemoryError
from ..core.region import within_roi
from ..core.result import Result
from ..core.volume import Geometry, Volume
from ..evaluation.comparison import Comparison, compare, save_comparison
from ..inference.predict import CasePredictor, PredictOptions, memory_checked, require_fit, save_result
from ..inference.runtimes import LoadedNetworks
from ..io.exported_inputs import HandedOver, read_handed_over, read_mask_handed_over, read_volume_handed_over
from ..tasks.base import TASKS
from .messages import ArmResult, Compared, ImageFile, Log, Progress, Reply, Run

REFERENCE = "reference"
ROI = "region of interest"
REPORT = "report"


@dataclass(frozen=True)
class _Study:
    """What a job reads: the case, and where they were handed over the region of interest and the truth."""

    case: Case
    roi: Volume | None
    reference: Volume | None


class JobCanceledError(Exception):
    """The job was canceled; what was finished is kept."""


@dataclass
class JobRun:
    """A job that is being done.

    Attributes:
        run: What is wanted.
        networks: Where loaded networks are kept.
        send: Takes each message about the job.
        is_canceled: Asked after each window.
        arm: The arm that is at work; None before the first and after the last.
    """

    run: Run
    networks: LoadedNetworks
    send: Callable[[Reply], None]
    is_canceled: Callable[[], bool]
    arm: int | None = None

    def execute(self) -> None:
        """Do all arms, and compare where that is wanted; each arm's result is sent when its files are there.

        Raises:
            JobCanceledError: The job was canceled on the way.
            VFMTransferError: An arm cannot be done; those before it are kept.
        """
        try:
            with memory_checked():
                self._execute()
        except OutOfMemoryError:
            self.networks.clear()
            raise
        finally:
            self.networks.make_room()

    def _execute(self) -> None:
        bundles = [find_bundle(name) for name in self.run.bundles]
        self._tell(0, bundles[0], "images", 0.0)
        study = self._read()
        for bundle in bundles:
            require_fit(study.case, bundle, self.run.task)
        predictor = self._predictor(study)
        kept = []
        for self.arm, bundle in enumerate(bundles):
            before = self.networks.loads
            result = predictor.predict(bundle, partial(self._tell, self.arm, bundle))
            self._keep(self.arm, bundle, result, before)
            kept += [result] if self.run.compare and self.arm < 2 else []
        self.arm = None
        if self.run.compare:
            self._compare(study, kept, bundles)

    def _read(self) -> _Study:
        folder = Path(self.run.folder)
        if not (folder.is_absolute() and folder.is_dir()):
            raise JobError("The job's folder must exist and be named absolutely, but is not. Make it before the run.")
        images = {sequence: _handed_over(folder, image) for sequence, image in self.run.images.items()}
        gland = None if self.run.gland is None else _handed_over(folder, self.run.gland)
        case = read_handed_over(self.run.case, images, gland)
        roi = None if self.run.roi is None else read_mask_handed_over(_handed_over(folder, self.run.roi), ROI)
        reference = self._read_reference(folder)
        if reference is not None and roi is not None and self._is_segmentation:
            case, reference = within_roi(case, reference, roi)
        return _Study(case, roi, reference)

    def _read_reference(self, folder: Path) -> Volume | None:
        if self.run.reference is None:
            return None
        if not self.run.compare:
            self.send(Log("warning", "The reference was not used, since nothing is compared with a single network."))
            return None
        read = read_mask_handed_over if self._is_segmentation else read_volume_handed_over
        return read(_handed_over(folder, self.run.reference), REFERENCE)

    @property
    def _is_segmentation(self) -> bool:
        return TASKS[self.run.task].output == "segmentation"

    def _predictor(self, study: _Study) -> CasePredictor:
        run = self.run
        options = PredictOptions(
            runtime=run.runtime,
            device=run.device,
            precision=run.precision,
            roi=study.roi,
            crop=run.crop,
            threshold=run.threshold,
            only_cspca=run.only_cspca,
            phase_axis=run.phase_axis,
        )
        opening = partial(self.networks.open, runtime=run.runtime, device=run.device, precision=run.precision)
        return CasePredictor(study.case, options, opening)

    def _keep(self, arm: int, bundle: Bundle, result: Result, loads_before: int) -> None:
        self._tell(arm, bundle, "write", 1.0)
        folder = f"{arm}-{bundle.name}"
        save_result(result, Path(self.run.folder) / folder)
        self.send(ArmResult(self.run.job, arm, bundle.name, folder, self.networks.loads - loads_before))

    def _compare(self, study: _Study, kept: list[Result], bundles: list[Bundle]) -> None:
        """Write the numbers, and where it is wanted the report; a report that fails does not take them away."""
        self._tell(1, bundles[1], "compare", 1.0)
        comparison = compare(study.case, kept[0], kept[1], study.reference)
        path, _ = save_comparison(comparison, Path(self.run.folder))
        report = None
        try:
            if self.run.report:
                report = self._report(comparison, (bundles[0], bundles[1]))
        finally:
            self.send(Compared(self.run.job, path.name, report))

    def _report(self, comparison: Comparison, pair: tuple[Bundle, Bundle]) -> str:
        self._tell(1, pair[1], REPORT, 1.0)
        from ..report import write_report

        write_report(comparison, Path(self.run.folder) / REPORT, pair)
        return REPORT

    def _tell(self, arm: int, bundle: Bundle, stage: str, fraction: float) -> None:
        """Report how far an arm is, and stop here if nobody wants it any more."""
        if self.is_canceled():
            raise JobCanceledError
        self.send(Progress(self.run.job, arm, bundle.name, stage, min(max(fraction, 0.0), 1.0)))


def _handed_over(folder: Path, image: ImageFile) -> HandedOver:
    grid = image.grid
    geometry = None if grid is None else Geometry(grid.size, grid.spacing_mm, grid.origin_mm, grid.direction)
    return HandedOver(folder / image.file, geometry)
