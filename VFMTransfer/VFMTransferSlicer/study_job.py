"""One run on its way: its nodes go into the files of a job, and what is left of the files stays for the report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from uuid import uuid4

import slicer

from VFMTransferLib.bundles.catalog import find_bundle
from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.terms import Sequence, TaskId
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.worker.messages import ImageFile, Run

from .inputs.handover import handOver
from .inputs.masks import maskOf, referenceOf, roiMask
from .runs import RunInScene
from .workers.steps import Steps

GLAND, REFERENCE, ROI = "gland", "reference", "roi"
_TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}


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


def temporaryFolder() -> str:
    """Where files go for a while: the folder that the user may choose in Slicer's settings."""
    return slicer.app.temporaryPath if hasattr(slicer, "app") else gettempdir()


def _newFolder() -> TemporaryDirectory:
    try:
        return TemporaryDirectory(prefix="VFMTransfer-", dir=temporaryFolder(), ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"A run cannot be written into the temporary folder: {error.strerror or error}. "
            "Free some space on its disk."
        ) from error


@dataclass
class StudyJob:
    """A run, from its nodes to the last file.

    Attributes:
        scene: What it reads and leaves in the scene.
        bundles: Name or folder of each network.
        runtime, device: As in `predict.predict`.
        gland: Where the prostate is: a segmentation or a label map.
        roi: A box that the networks look at.
        name: Of the job.
        request: What the worker is told, once all is handed over.
        isSent: Whether the worker was told.
        error: The first thing that failed.
    """

    scene: RunInScene
    bundles: tuple[str, ...]
    runtime: str = "auto"
    device: str = "auto"
    gland: slicer.vtkMRMLNode | None = None
    roi: slicer.vtkMRMLMarkupsROINode | None = None
    name: str = field(default_factory=lambda: uuid4().hex)
    request: Run | None = None
    isSent: bool = False
    error: Exception | None = None
    _folder: TemporaryDirectory = field(default_factory=_newFolder)

    @property
    def path(self) -> Path:
        """Its folder: images, results, report."""
        return Path(self._folder.name)

    def prepare(self) -> Steps:
        """Write what the worker needs into the folder, an image with each step; then there is a request.

        Raises:
            VFMTransferError: A node cannot be handed over; the message says what to do.
        """
        images: dict[Sequence, ImageFile] = {}
        for sequence, node in self.scene.inputs.items():
            images[sequence] = handOver(node, self.path, sequence)
            yield
        masks: dict[str, ImageFile] = {}
        for name, write in self._masks().items():
            masks[name] = write()
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
            runtime=self.runtime,
            device=self.device,
            **masks,
        )

    def tidy(self) -> None:
        """Delete what nobody needs after the end: all of it, or where there is a report all but that."""
        if self.scene.folder is None:
            self._folder.cleanup()
            return
        leftovers = {f"{arm}-{bundle.bundle}" for arm, bundle in enumerate(self.scene.arms)}
        for path in self.path.iterdir():
            if path.name in leftovers:
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == ".npy":
                path.unlink(missing_ok=True)

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
