"""What the module does, without Qt: a study's volumes go to the worker, its results come back into the scene."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from uuid import uuid4

import slicer

from VFMTransferLib import errors
from VFMTransferLib.catalog import default_pair
from VFMTransferLib.errors import JobError, MissingSequenceError, VFMTransferError
from VFMTransferLib.job import ArmResult, Error, Finished, Log, Progress, Reply, Run
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.terms import Sequence, TaskId
from VFMTransferLib.worker_client import WorkerClient

from .runs import ArmInScene
from .scene import handOver, loadArm
from .signals import Signal

_TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}


class BackgroundWorker(Protocol):
    """A worker that is heard while the caller goes on; see `process.TimedWorker`."""

    def run(self, run: Run, hear: Callable[[Reply], None]) -> None: ...

    def cancel(self, job: str) -> None: ...

    def close(self) -> None: ...


@dataclass
class _Job:
    """A run on its way.

    Attributes:
        run: What the worker was told.
        folder: Holds its files, and is deleted at its end.
        inputs: What the networks see; the user may close the scene meanwhile.
        worker: Who does it.
        arms: What came back.
        error: The first thing that failed.
    """

    run: Run
    folder: TemporaryDirectory
    inputs: dict[Sequence, slicer.vtkMRMLScalarVolumeNode]
    worker: WorkerClient | BackgroundWorker
    arms: list[ArmInScene] = field(default_factory=list)
    error: VFMTransferError | None = None


def missingInputs(task: TaskId | str, inputs: Mapping[Sequence, object]) -> str:
    """A sentence that says what must still be chosen; empty if nothing.

    Args:
        task: What is wanted.
        inputs: Sequence → volume node, or None where none is chosen.
    """
    wanted = TASKS[TaskId(task)]
    missing = [_TITLES[sequence] for sequence in wanted.sequences if inputs.get(sequence) is None]
    if not missing:
        return ""
    needs = ", ".join(_TITLES[sequence] for sequence in wanted.sequences)
    return f"{wanted.title} needs {needs}, but lacks {', '.join(missing)}. Select a volume for each."


def workerPython() -> str:
    """The Python that runs the worker: Slicer's own, or outside Slicer the one that runs this."""
    return shutil.which("PythonSlicer") or sys.executable


class TransferLogic:
    """Runs networks on volume nodes. One run at a time; the worker stays warm between runs.

    Args:
        client: Worker for runs that wait; by default one under `workerPython()`, started with the first run.
        process: Worker for runs that do not wait; without one every run must wait.

    Attributes:
        progress: Emitted with each `Progress`.
        armLoaded: Emitted with an `ArmInScene` when its nodes are there.
        failed: Emitted with a sentence to show, and details for a bug report.
        logged: Emitted with each `Log`.
        finished: Emitted last, with `done`, `canceled` or `failed`.
    """

    def __init__(self, client: WorkerClient | None = None, process: BackgroundWorker | None = None) -> None:
        self._client = client if client is not None else WorkerClient(workerPython())
        self._process = process
        self._job: _Job | None = None
        self.progress, self.armLoaded, self.failed, self.logged, self.finished = (Signal() for _ in range(5))

    @property
    def isRunning(self) -> bool:
        return self._job is not None

    def run(
        self,
        task: TaskId | str,
        t2w: slicer.vtkMRMLScalarVolumeNode | None = None,
        adc: slicer.vtkMRMLScalarVolumeNode | None = None,
        hbv: slicer.vtkMRMLScalarVolumeNode | None = None,
        bundles: List[str | Path] = (),
        runtime: str = "auto",
        device: str = "auto",
        waitForCompletion: bool = True,
    ) -> list[ArmInScene]:
        """Run networks on one study, one after the other.

        Args:
            task: As `terms.TaskId` names it.
            t2w: T2-weighted volume.
            adc: Apparent diffusion coefficient.
            hbv: Diffusion-weighted volume of the highest b-value.
            bundles: Name or folder of each network; by default the shipped pair for the task.
            runtime: `auto`, `onnx` or `torch`.
            device: As the runtime names it.
            waitForCompletion: Return when all is done; otherwise at once, and the signals tell.

        Returns:
            What each network says, in the order of `bundles`; without waiting, a list that fills as they finish.

        Raises:
            MissingSequenceError: The task needs a volume that is not given.
            JobError: A run is not finished yet.
            VFMTransferError: It failed; the message says what to do. Arms that were done before are in the scene.
        """
        volumes = {Sequence.T2W: t2w, Sequence.HBV: hbv, Sequence.ADC: adc}
        chosen = {sequence: volumes[sequence] for sequence in TASKS[TaskId(task)].sequences if volumes[sequence]}
        if not waitForCompletion and self._process is None:
            raise ValueError("A run must wait for completion where the logic was given no process.")
        if self._job is not None:
            raise JobError("A run must be finished before the next one begins. Wait for it, or cancel it.")
        if missing := missingInputs(task, chosen):
            raise MissingSequenceError(missing)
        run, folder = _newRun(TaskId(task), chosen, bundles, runtime, device)
        job = self._job = _Job(run, folder, chosen, self._client if waitForCompletion else self._process)
        self._begin(job)
        return job.arms

    def cancel(self) -> None:
        """Stop the run; what is finished stays. Answered within about a second by `finished`."""
        if self._job is not None:
            self._job.worker.cancel(self._job.run.job)

    def close(self) -> None:
        """End the worker, and a run that is on its way."""
        if self._process is not None:
            self._process.close()
        self._client.close()
        self._end()

    def _begin(self, job: _Job) -> None:
        try:
            if job.worker is self._process:
                self._process.run(job.run, self._hear)
                return
            for reply in self._client.run(job.run):
                self._hear(reply)
        except BaseException:
            self._end()
            raise
        if job.error is not None:
            raise job.error

    def _hear(self, reply: Reply) -> None:
        """Take one message of the worker; it is about the run that is on its way."""
        job = self._job
        if job is None:
            return
        if isinstance(reply, Progress):
            self.progress.emit(reply)
        elif isinstance(reply, ArmResult):
            self._load(job, reply)
        elif isinstance(reply, Error):
            self._fail(job, getattr(errors, reply.kind, VFMTransferError)(reply.sentence), reply.details)
        elif isinstance(reply, Log):
            self.logged.emit(reply)
        elif isinstance(reply, Finished):
            self._end()
            self.finished.emit("failed" if job.error else reply.outcome)

    def _load(self, job: _Job, result: ArmResult) -> None:
        try:
            if any(node.GetScene() is None for node in job.inputs.values()):
                raise JobError("The volumes of this run are no longer in the scene, so its results were not loaded.")
            arm = loadArm(Path(job.folder.name) / result.folder, job.inputs, TASKS[job.run.task].reference)
        except VFMTransferError as error:
            self._fail(job, error, "")
            return
        job.arms.append(arm)
        self.armLoaded.emit(arm)

    def _fail(self, job: _Job, error: VFMTransferError, details: str) -> None:
        job.error = job.error or error
        self.failed.emit(str(error), details)

    def _end(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.folder.cleanup()


def _newRun(
    task: TaskId,
    inputs: dict[Sequence, slicer.vtkMRMLScalarVolumeNode],
    bundles: List[str | Path],
    runtime: str,
    device: str,
) -> tuple[Run, TemporaryDirectory]:
    """A run with its images in a folder of its own, which goes when it is not used any more."""
    names = tuple(map(str, bundles)) or tuple(str(bundle.folder) for bundle in default_pair(task))
    folder = TemporaryDirectory(prefix="VFMTransfer-")
    try:
        images = {sequence: handOver(node, Path(folder.name), sequence) for sequence, node in inputs.items()}
        run = Run(uuid4().hex, task, folder.name, images, names, runtime=runtime, device=device)
    except BaseException:
        folder.cleanup()
        raise
    return run, folder
