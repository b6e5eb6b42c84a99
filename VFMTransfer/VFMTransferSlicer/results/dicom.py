"""A run as DICOM, by the library in a child process: segmentations, structured reports, derived images. Needs MRML.

A run of this session has the files that the worker wrote. Of a run that a saved scene brought along they are written
again from its nodes, and Slicer's DICOM database has the exam's files by the instances that the volumes name: the scene
holds no path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicer

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.files import writing
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.worker.messages import DicomFiles, Exported, Grid, ImageFile

from ..inputs.dicom import UIDS, dicomFilesOf, theDatabase
from ..inputs.exporting import gridInWorld, mergedLabels, writeExported
from ..runs import ArmInScene, RunInScene
from ..workers.steps import Steps
from .nifti import writeNifti
from .nodes import isOtherVolume
from .scene import DISPLACEMENT, IMAGE_SUFFIX, LABELS, PROBABILITIES, RESULT

DICOM_SUFFIX = "dicom"
_RUN_FIRST = "Run networks first."
_FILES_GONE = (
    "The exam's DICOM files are no longer where Slicer's DICOM database had them, or it is another database. "
    "Add the exam to the DICOM database again."
)


def whyNoDicom(run: RunInScene | None) -> str:
    """Why a run cannot be written as DICOM, in a sentence; empty if it can."""
    if run is None or not run.arms:
        return _RUN_FIRST
    if run.dicom is None:
        return _whyNotFromScene(run)
    if run.folder is None or not all(folder.is_dir() for folder in armFolders(run, run.folder)):
        return "The files of this run are no longer there. Run again."
    return ""


def _whyNotFromScene(run: RunInScene) -> str:
    """Of what is asked again and again the first slice alone; `writeExam` looks for all."""
    instances = (run.about.GetAttribute(UIDS) or "").split() if run.isInScene else []
    if not instances:
        return "The images must have been loaded from Slicer's DICOM database, whose patient and slices are taken over."
    database = theDatabase()
    if database is None:
        return "DICOM is written beside the exam's files, but Slicer's DICOM database is not open. Open it."
    file = database.fileForInstance(instances[0])
    return "" if file and Path(file).is_file() else _FILES_GONE


def armFolders(run: RunInScene, folder: Path) -> list[Path]:
    """The folders of A's and B's results in a folder, as the worker calls them."""
    return [folder / armFolder(index, arm.bundle) for index, arm in enumerate(run.arms)]


def armFolder(index: int, bundle: str) -> str:
    """The name of an arm's folder, as the worker calls it."""
    return f"{index}-{bundle}"


def writeExam(run: RunInScene, folder: Path) -> Steps:
    """Write what `vfm-transfer dicom --exported` reads: which files a run's images are of, and results where needed.

    Args:
        run: One for which `whyNoDicom` finds nothing.
        folder: Empty.

    Raises:
        OutputError: The exam's files are gone, the results were changed since, or it cannot be written.
        GeometryError: A parent transform bends a volume.
    """
    if run.dicom is not None:
        yield from _requireUnchanged(run)
        writeExported(run.dicom, folder)
        yield
        return
    files = _presentFiles(run)
    images = {sequence: ImageFile(f"{sequence}.npy", gridInWorld(node)) for sequence, node in run.inputs.items()}
    writeExported(Exported(images, dicom=files), folder)
    yield
    for arm, target in zip(run.arms, armFolders(run, folder), strict=True):
        yield from _writeArm(arm, run.about, target)


def _requireUnchanged(run: RunInScene) -> Steps:
    """OutputError where the user edited a segmentation, which the worker's files do not show.

    Where the volume lies elsewhere by now, the segments cannot be compared voxel by voxel.
    """
    reference = TASKS[run.task].reference
    if run.isInScene and gridInWorld(run.about) == run.dicom.images[reference].grid:
        for arm in run.arms:
            if arm.segmentation in arm.nodes:
                _labelsOf(arm, run.about)
                yield


def _presentFiles(run: RunInScene) -> DicomFiles:
    files = dicomFilesOf(run.inputs, theDatabase())
    reference = TASKS[run.task].reference
    if files is None or reference not in files.files:
        raise OutputError(_FILES_GONE)
    if not all(Path(file).is_file() for several in files.files.values() for file in several):
        raise OutputError(_FILES_GONE)
    return files


def _writeArm(arm: ArmInScene, about: slicer.vtkMRMLScalarVolumeNode, folder: Path) -> Steps:
    """Write an arm's nodes as the worker wrote them; what it knew of probabilities and displacement is not needed."""
    others = (LABELS, PROBABILITIES, DISPLACEMENT)
    names = [name.removesuffix(IMAGE_SUFFIX) for name in arm.numbers["files"] if name.endswith(IMAGE_SUFFIX)]
    images = [name for name in names if name not in others]
    present = [*arm.images.values(), *([] if arm.segmentation is None else [arm.segmentation])]
    isWhole = set(images) <= set(arm.images) and (LABELS not in names or arm.segmentation is not None)
    if not isWhole or any(node.GetScene() is None for node in present):
        raise OutputError(f"The results of '{arm.bundle}' are no longer whole in the scene. Run again.")
    with writing(folder):
        folder.mkdir()
    if LABELS in names:
        labels = _labelsOf(arm, about)
        yield
        writeNifti(folder / f"{LABELS}{IMAGE_SUFFIX}", labels, _rasOf(gridInWorld(about)))
        yield
    for name in images:
        node = arm.images[name]
        writeNifti(folder / f"{name}{IMAGE_SUFFIX}", slicer.util.arrayFromVolume(node), _rasOf(gridInWorld(node)))
        yield
    kept = [f"{name}{IMAGE_SUFFIX}" for name in names if name in images or name == LABELS]
    with writing(folder / RESULT):
        (folder / RESULT).write_text(json.dumps({**arm.numbers, "files": kept}), encoding="utf-8")


def _labelsOf(arm: ArmInScene, about: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """An arm's label map; OutputError where its segments are no longer what the network gave.

    Its measurements would be of something else, and the file would name the network as its author.
    """
    values = {row["name"]: row["value"] for row in arm.numbers["labels"]}
    present = set(arm.segmentation.GetSegmentation().GetSegmentIDs())
    labels = mergedLabels(arm.segmentation, about, {name: value for name, value in values.items() if name in present})
    voxel_ml = float(np.prod(gridInWorld(about).spacing_mm)) / 1000
    for name, value in values.items():
        found_ml, expected_ml = int((labels == value).sum()) * voxel_ml, arm.numbers["volumes_ml"].get(name)
        if expected_ml is not None and isOtherVolume(found_ml, expected_ml):
            raise OutputError(
                f"Segmentation '{arm.segmentation.GetName()}' was changed since the network gave it, so that its "
                "measurements are of another. Run again."
            )
    return labels


def _rasOf(grid: Grid) -> np.ndarray:
    """4x4, voxel index to RAS millimeters of the world."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_mm)
    affine[:3, 3] = grid.origin_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def dicomCommand(run: RunInScene, exported: Path, target: Path) -> Sequence[str]:
    """The arguments of the command.

    Args:
        run: One for which `whyNoDicom` finds nothing.
        exported: The document of `writeExam`.
        target: New folder.
    """
    results = armFolders(run, exported.parent if run.dicom is None else run.folder)
    return ["dicom", *map(str, results), "--exported", str(exported), "--output", str(target), "--json"]
