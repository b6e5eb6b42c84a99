"""What the module does, without Qt: a case's volumes go to the worker, its results come back into the scene.

A `CaseJob` is one run on volume nodes: they go into the files of the job, and what is left of the files stays for the
report. A `BatchJob` is a folder of cases, which leaves the scene alone.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Generator, Mapping
from collections.abc import Sequence as List
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from uuid import uuid4

import slicer

from VFMTransferLib.bundles.catalog import default_pair, find_bundle
from VFMTransferLib.core import errors
from VFMTransferLib.core.errors import JobError, MissingSequenceError, OutputError, VFMTransferError
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.tasks import TASKS, find_task
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferLib.worker.messages import (
    ArmResult,
    Batch,
    CaseDone,
    Compared,
    Error,
    Exported,
    Finished,
    ImageFile,
    Load,
    Log,
    Progress,
    Reply,
    Run,
)

from .inputs.dicom import dicomFilesOf, theDatabase
from .inputs.exporting import exportVolume, maskOf, referenceOf, roiMask
from .results.dicom import armFolder
from .results.export import PAGE as REPORT_PAGE
from .results.export import REPORT as REPORT_FOLDER
from .results.record import readRecord, writeRecord
from .results.scene import GLAND_FILE, RESULT, loadArmInSteps, loadGland
from .runs import ArmInScene, RunInScene
from .signals import Signal
from .workers.process import theWorker
from .workers.steps import StepQueue, Steps

_BOTH = 2
_DEFAULT = Options()
GLAND, REFERENCE, ROI = "gland", "reference", "roi"
_TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}


def missingInputs(task: str, inputs: Mapping[Sequence, object]) -> str:
    """A sentence on what must still be chosen; empty if nothing.

    Args:
        task: What is wanted.
        inputs: Sequence → volume node, or None where none is chosen.
    """
    wanted = TASKS[task]
    missing = [_TITLES[sequence] for sequence in wanted.sequences if inputs.get(sequence) is None]
    if not missing:
        return ""
    needs = ", ".join(_TITLES[sequence] for sequence in wanted.sequences)
    if len(missing) == len(wanted.sequences):
        return f"{wanted.title} needs {needs}. Select {'a volume for each' if len(missing) > 1 else 'a volume'}."
    return f"{wanted.title} needs {needs}, but lacks {', '.join(missing)}. Select a volume for each."


def temporaryFolder() -> str:
    """Where files go for a while: the folder that the user may choose in Slicer's settings."""
    return slicer.app.temporaryPath if hasattr(slicer, "app") else gettempdir()


def newTemporaryFolder() -> TemporaryDirectory:
    """A folder there, which is deleted with the object.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        return TemporaryDirectory(prefix="VFMTransfer-", dir=temporaryFolder(), ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"A run cannot be written into the temporary folder: {error.strerror or error}. "
            "Free some space on its disk."
        ) from error


# Finished arms, without nodes, and their case → what to call each; None where they cannot be read blinded.
Blind = Callable[[RunInScene], List[str] | None]


@dataclass
class CaseJob:
    """A run, from its nodes to the last file.

    Attributes:
        scene: What it reads and leaves in the scene.
        bundles: Name or folder of each network.
        options: How they are run.
        gland: Where the prostate is: a segmentation or a label map.
        roi: A box around which the networks' window lies.
        name: Of the job.
        request: Sent to the worker, once all inputs are written.
        isSent: Whether the request was sent to the worker.
        blind: As `TransferLogic.blind` was when it began.
        held: Results that wait for the end of a blinded run.
        error: The first thing that failed.
    """

    scene: RunInScene
    bundles: tuple[str, ...]
    options: Options = field(default_factory=Options)
    gland: slicer.vtkMRMLNode | None = None
    roi: slicer.vtkMRMLMarkupsROINode | None = None
    name: str = field(default_factory=lambda: uuid4().hex)
    request: Run | None = None
    isSent: bool = False
    blind: Blind | None = None
    held: list[Reply] = field(default_factory=list)
    error: Exception | None = None
    _folder: TemporaryDirectory = field(default_factory=newTemporaryFolder)

    @property
    def path(self) -> Path:
        """Its folder: images, results, report."""
        return Path(self._folder.name)

    @property
    def nodes(self) -> dict[str, slicer.vtkMRMLNode]:
        """What it reads of the scene, by what each is for."""
        chosen = {GLAND: self.gland, REFERENCE: self.scene.reference, ROI: self.roi}
        chosen |= {str(sequence): node for sequence, node in self.scene.inputs.items()}
        return {role: node for role, node in chosen.items() if node is not None}

    def prepare(self) -> Steps:
        """Write what the worker needs into the folder, an image with each step; then there is a request.

        Raises:
            VFMTransferError: A node cannot be written; the message gives the remedy.
        """
        images: dict[Sequence, ImageFile] = {}
        for sequence, node in self.scene.inputs.items():
            images[sequence] = exportVolume(node, self.path, sequence)
            yield
        masks: dict[str, ImageFile] = {}
        for name, write in self._masks().items():
            masks[name] = write()
            yield
        files = dicomFilesOf(self.scene.inputs, theDatabase())
        self.scene.dicom = None if files is None else Exported(images, dicom=files)
        yield
        areTwo = len(self.bundles) > 1
        self.request = Run(
            self.name,
            self.scene.task,
            str(self.path),
            images,
            self.bundles,
            compare=areTwo,
            report=areTwo,
            dicom=files,
            options=self.options,
            **masks,
        )

    def tidy(self) -> None:
        """Delete what nobody needs after the end: all but the report, and results that can be written as DICOM."""
        if self.scene.dicom is not None and self.scene.arms:
            self.scene.folder = self.path
        if self.scene.folder is None:
            self._folder.cleanup()
            return
        leftovers = set()
        if self.scene.dicom is None:
            leftovers = {armFolder(index, arm.bundle) for index, arm in enumerate(self.scene.arms)}
        with suppress(OSError):  # what a virus scanner holds must not keep results from the scene
            for path in self.path.iterdir():
                if path.name in leftovers:
                    shutil.rmtree(path, ignore_errors=True)
                elif path.suffix == ".npy":
                    path.unlink()

    def delete(self) -> None:
        """Delete all files, also those of the report."""
        self.scene.folder = None
        self._folder.cleanup()

    def _masks(self):
        """Field of the request → what writes its file."""
        about, folder = self.scene.about, self.path
        masks = {}
        if self.gland is not None:
            masks[GLAND] = lambda: maskOf(self.gland, about, folder, GLAND)
        if self.scene.reference is not None:
            spec = find_bundle(self.bundles[0]).spec
            masks[REFERENCE] = lambda: referenceOf(self.scene.reference, about, folder, REFERENCE, spec)
        if self.roi is not None:
            masks[ROI] = lambda: roiMask(self.roi, about, folder, ROI)
        return masks


@dataclass
class BatchJob:
    """A batch; it reads and writes folders, and leaves the scene alone.

    Attributes:
        request: Sent to the worker.
        cases: What became of each case so far.
        isSent: Whether the request was sent to the worker.
        error: The first thing that failed.
    """

    request: Batch
    cases: list[CaseDone] = field(default_factory=list)
    isSent: bool = False
    error: Exception | None = None

    @property
    def name(self) -> str:
        return self.request.job

    def prepare(self) -> Steps:
        """Nothing: the worker reads the folder by itself."""
        yield from ()

    def tidy(self) -> None:
        """Nothing: what is in the output is the user's."""


Volume = slicer.vtkMRMLScalarVolumeNode
Job = CaseJob | BatchJob


class TransferLogic:
    """Runs networks on volume nodes. One run at a time; the worker stays warm between runs.

    Args:
        worker: Does the work; by default the one that all of this application share.

    Attributes:
        started: Emitted with a `RunInScene` when a run begins; it fills while the run goes on.
        progress: Emitted with each `Progress`.
        armLoaded: Emitted with an `ArmInScene` when its nodes are there.
        compared: Emitted with the `RunInScene` when it has its comparison and its report.
        caseDone: Emitted with the `CaseDone` of each case of a folder.
        failed: Emitted with a sentence to show, and details for a bug report.
        logged: Emitted with each `Log`.
        finished: Emitted last, with `done`, `canceled` or `failed`.
        inspected: Emitted with what was found on this computer.
        blind: While set, nothing of a run with two networks reaches the scene before its end; then it is asked what to
            call the arms in the names of their nodes, which are not shown.
        machine: What was found, as `doctor.inspect` gives it; None before the first check.
    """

    def __init__(self, worker: WorkerClient | None = None) -> None:
        self._worker = worker if worker is not None else theWorker()
        self._steps = StepQueue(self._worker.call_soon)
        self._job: Job | None = None
        self._last: RunInScene | None = None
        self._kept: CaseJob | None = None  # its files are those of the last run
        self.started, self.progress, self.armLoaded, self.compared, self.caseDone = (Signal() for _ in range(5))
        self.failed, self.logged, self.finished, self.inspected = (Signal() for _ in range(4))
        self.machine: dict[str, Any] | None = None
        self.blind: Blind | None = None

    @property
    def isRunning(self) -> bool:
        return self._job is not None

    @property
    def nodes(self) -> dict[str, slicer.vtkMRMLNode]:
        """What the run that is on its way reads of the scene, by what each is for; empty without one."""
        return self._job.nodes if isinstance(self._job, CaseJob) else {}

    @property
    def lastRun(self) -> RunInScene | None:
        """The run that is on its way, else the one before; None if there was none, or its case left the scene."""
        if self._last is not None and self._job is None and not self._last.isInScene:
            self._forgetLast()
        return self._last

    def run(
        self,
        task: str,
        t2w: Volume | None = None,
        adc: Volume | None = None,
        hbv: Volume | None = None,
        bundles: List[str | Path] = (),
        options: Options = _DEFAULT,
        waitForCompletion: bool = True,
        gland: slicer.vtkMRMLNode | None = None,
        reference: slicer.vtkMRMLNode | None = None,
        roi: slicer.vtkMRMLMarkupsROINode | None = None,
    ) -> list[ArmInScene]:
        """Run networks on one case, one after the other; the first two are compared.

        Args:
            task: Its id, as in `tasks.TASKS`.
            t2w: T2-weighted volume.
            adc: Apparent diffusion coefficient.
            hbv: Diffusion-weighted volume of the highest b-value.
            bundles: Name or folder of each network; by default the shipped pair for the task.
            options: How they are run: runtime and device, region, PSA, phase axis and more.
            waitForCompletion: Return when all is done; otherwise at once, and the signals report.
            gland: Where the prostate is: a segmentation or a label map.
            reference: The truth: a segmentation or a label map, or for tasks that give images a volume. Without one,
                a synthetic ADC is measured against `adc`.
            roi: A box around which the networks' window lies.

        Returns:
            The result of each network, in the order of `bundles`; without waiting, a list that fills as they finish.

        Raises:
            MissingSequenceError: The task needs a volume that is not given.
            JobError: A run is not finished yet.
            VFMTransferError: It failed; the message gives the remedy. Arms that were done before are in the scene.
        """
        volumes = {Sequence.T2W: t2w, Sequence.HBV: hbv, Sequence.ADC: adc}
        find_task(task)
        self._requireReady(waitForCompletion)
        if missing := missingInputs(task, volumes):
            raise MissingSequenceError(missing)
        inputs = {sequence: volumes[sequence] for sequence in TASKS[task].sequences}
        measured = TASKS[task].measured_by
        if measured is not None and volumes.get(measured) is not None:
            inputs[measured] = volumes[measured]  # no network sees it; it is what they are measured against
        scene = RunInScene(task, inputs, inputs[TASKS[task].reference], reference=reference)
        job = CaseJob(scene, _named(bundles, task), options, gland, roi)
        job.blind = self.blind if len(job.bundles) == _BOTH else None
        self._forgetLast()
        self._job, self._kept, self._last = job, job, scene
        self.started.emit(scene)
        self._do(job, waitForCompletion)
        return scene.arms

    def runFolder(
        self,
        folder: str | Path,
        output: str | Path,
        task: str,
        bundles: List[str | Path] = (),
        options: Options = _DEFAULT,
        waitForCompletion: bool = True,
    ) -> list[CaseDone]:
        """Run networks on each case of a folder, without the scene. What is done already is skipped.

        Args:
            folder: Holds a folder for each case.
            output: Gets `summary.csv`, and a folder of results for each case; new, empty, or that of an earlier call.
            task, bundles, options, waitForCompletion: As for `run`.

        Returns:
            What became of each case; without waiting, a list that fills as they finish. `caseDone` reports it too.

        Raises:
            JobError: A run is not finished yet.
            VFMTransferError: A case failed, or all; the message gives the remedy. What is done is in the output.
        """
        self._requireReady(waitForCompletion)
        find_task(task)
        names = _named(bundles, task)
        cases, output = str(Path(folder).absolute()), str(Path(output).absolute())
        job = self._job = BatchJob(Batch(uuid4().hex, task, cases, output, names, options))
        self._do(job, waitForCompletion)
        return job.cases

    def prepare(self, bundles: List[str | Path], runtime: str = "auto", device: str = "auto") -> None:
        """Have the worker load networks that the next run is likely to need, so that it only runs them.

        Nothing is emitted; a network that cannot be loaded is reported by the run. During a run, nothing is done, nor
        where the same was asked of the worker before.

        Args:
            bundles: Name or folder of each network.
            runtime, device: As for `run`.

        Raises:
            ValueError: `bundles` is empty, or `runtime` is no known word.
        """
        if not self.isRunning and not self._worker.is_busy:
            self._worker.prepare(Load(tuple(map(str, bundles)), runtime, device))

    def restore(self, scene: slicer.vtkMRMLScene) -> RunInScene | None:
        """Take the results that a saved scene brought along as those of the last run, where there is no other one.

        During a run nothing changes; at its end the scene is read, if the run left no results.

        Returns:
            The run; None where the scene holds none.
        """
        if self._job is None and self.lastRun is None:
            self._last = readRecord(scene)
        return self.lastRun

    def keep(self, run: RunInScene) -> None:
        """Write a run into its scene, so that it can be reviewed when the scene was saved and is loaded again."""
        hasResult = any(arm.nodes or not TASKS[run.task].output.has_voxels for arm in run.arms)
        if run.isInScene and hasResult:
            page = run.folder / REPORT_FOLDER / REPORT_PAGE if run.folder is not None else None
            writeRecord(run, page.read_text("utf-8") if page is not None and page.is_file() else "")

    def setMachine(self, machine: dict[str, Any] | None) -> None:
        """Set and emit what was found on this computer; None where nothing could be."""
        self.machine = machine
        self.inspected.emit(machine)

    def cancel(self) -> None:
        """Stop the run; what is finished stays. Answered within about a second by `finished`."""
        job = self._job
        if job is None:
            return
        if job.isSent:
            self._worker.cancel(job.name)
        else:
            self._steps.clear()
            self._end(job, "canceled")

    def close(self) -> None:
        """End the worker, and a run that is on its way; the report of the last run is deleted.

        The logic can be used on: the next run starts another worker.
        """
        job, self._job = self._job, None
        self._steps.clear()
        if job is not None or not self._worker.is_busy:  # busy for another logic, which would wait for ever
            self._worker.close()
        self._forgetLast()

    def _requireReady(self, waitForCompletion: bool) -> None:
        if self._worker.is_blocking and not waitForCompletion:
            raise ValueError("A run must wait for completion outside Slicer.")
        if self._job is not None or self._worker.is_busy:
            raise JobError("A run must be finished before the next one begins. Wait for it, or cancel it.")

    def _do(self, job: Job, isWaited: bool) -> None:
        self._steps.add(self._begin(job), lambda error: self._giveUp(job, error))
        if not isWaited:
            return
        try:
            self._worker.wait(lambda: self._job is not job)
        except BaseException:  # also Ctrl-C
            self.close()
            raise
        if job.error is not None:
            raise job.error

    def _begin(self, job: Job) -> Steps:
        yield from job.prepare()
        job.isSent = True
        self._worker.submit(job.request, lambda reply: self._receive(job, reply))

    def _receive(self, job: Job, reply: Reply) -> None:
        """Take one message of the worker; what takes time, or must keep its order, waits for its turn."""
        if job is not self._job:
            return
        if isinstance(reply, Progress):
            self.progress.emit(reply)
        elif isinstance(reply, Log):
            self.logged.emit(reply)
        elif isinstance(reply, ArmResult | Compared) and job.blind is not None:
            job.held.append(reply)
        elif isinstance(reply, ArmResult):
            self._steps.add(self._load(job, reply), lambda error: self._fail(job, error))
        elif isinstance(reply, CaseDone):
            job.cases.append(reply)
            self.caseDone.emit(reply)
        elif isinstance(reply, Compared | Error | Finished):
            self._steps.add(self._note(job, reply), lambda error: self._fail(job, error))

    def _release(self, job: CaseJob) -> Steps:
        """Bring what a blinded run held back into the scene, if it is whole: one arm alone would name itself."""
        held, job.held = job.held, []
        results = [reply for reply in held if isinstance(reply, ArmResult)]
        if len(results) < _BOTH or not job.scene.isInScene:
            return
        numbers = [json.loads((job.path / result.folder / RESULT).read_text("utf-8")) for result in results]
        arms = [ArmInScene(one["model"]["bundle"], one) for one in numbers]
        isBlinded = self.blind is not None  # the reader may have stopped reading meanwhile
        titles = (job.blind(replace(job.scene, arms=arms)) if isBlinded else None) or ("",) * len(results)
        yield
        # By their titles, which depend on the side alone: the order of the nodes must not name A and B.
        loaded: dict[int, ArmInScene] = {}
        for place in sorted(range(len(results)), key=lambda place: titles[place]):
            loaded[place] = yield from self._loadArm(job, results[place], titles[place])
        for _place, arm in sorted(loaded.items()):
            self._add(job, arm)
        for reply in held:
            if isinstance(reply, Compared):
                yield from self._note(job, reply)

    def _load(self, job: CaseJob, result: ArmResult) -> Steps:
        arm = yield from self._loadArm(job, result)
        self._add(job, arm)

    def _add(self, job: CaseJob, arm: ArmInScene) -> None:
        job.scene.arms.append(arm)
        self.armLoaded.emit(arm)

    def _loadArm(self, job: CaseJob, result: ArmResult, title: str = "") -> Generator[None, None, ArmInScene]:
        if not job.scene.isInScene:
            raise JobError("The volumes of this run are no longer in the scene, so its results were not loaded.")
        folder = job.path / result.folder
        task = TASKS[job.scene.task]
        seen = {sequence: job.scene.inputs[sequence] for sequence in task.sequences}
        return (yield from loadArmInSteps(folder, seen, task.reference, title))

    def _note(self, job: Job, reply: Compared | Error | Finished) -> Steps:
        if isinstance(reply, Finished):
            try:
                if isinstance(job, CaseJob) and job.held:
                    yield from self._release(job)
            except Exception as error:  # the run ends all the same
                self._fail(job, error)
            self._end(job, reply.outcome)
        elif isinstance(reply, Error):
            error = getattr(errors, reply.kind, VFMTransferError)(reply.sentence)
            self._fail(job, error, reply.details)
        elif len(job.scene.arms) > 1:  # with a single one there is nothing to compare
            job.scene.comparison = json.loads((job.path / reply.file).read_text("utf-8"))
            job.scene.folder = job.path
            job.scene.gland = _glandOf(job)
            yield
            self.compared.emit(job.scene)
        yield

    def _fail(self, job: Job, error: Exception, details: str = "") -> None:
        """Report the first failure; what follows is its consequence."""
        if job.error is not None:
            return
        job.error = error
        sentence = str(error)
        if not isinstance(error, VFMTransferError | ValueError):
            sentence = f"An unexpected error stopped the run ({type(error).__name__}). Report it with its details."
        self.failed.emit(sentence, details or "".join(traceback.format_exception(error)))

    def _giveUp(self, job: Job, error: Exception) -> None:
        self._fail(job, error)
        self._end(job, "failed")

    def _end(self, job: Job, outcome: str) -> None:
        if self._job is not job:
            return
        self._job = None
        job.tidy()
        if isinstance(job, CaseJob):
            self.keep(job.scene)
            if not (job.scene.arms and job.scene.isInScene):  # what the scene holds counts: results before, or loaded
                self._forgetLast()
                self.restore(job.scene.about.GetScene() or slicer.mrmlScene)
        self.finished.emit("failed" if job.error is not None else outcome)

    def _forgetLast(self) -> None:
        job, self._kept, self._last = self._kept, None, None
        if job is not None:
            job.delete()


def _glandOf(job: CaseJob) -> slicer.vtkMRMLSegmentationNode | None:
    """The prostate for the views: what the user chose, else what the worker found."""
    if job.gland is not None and job.gland.IsA("vtkMRMLSegmentationNode"):
        return job.gland
    path = job.path / GLAND_FILE
    return loadGland(path, job.scene.about) if path.is_file() and job.scene.isInScene else None


def _named(bundles: List[str | Path], task: str) -> tuple[str, ...]:
    """Names or folders of the networks; by default those of the shipped pair."""
    return tuple(map(str, bundles)) or tuple(str(bundle.folder) for bundle in default_pair(task))
