"""A run as DICOM, by the library in a child process: segmentations, structured reports, derived images. Needs MRML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..inputs.dicom import UIDS
from ..inputs.exporting import writeExported
from ..runs import RunInScene
from ..workers.steps import Steps

DICOM_SUFFIX = "dicom"
_RUN_FIRST = "Run networks first."


def whyNoDicom(run: RunInScene | None) -> str:
    """Why a run cannot be written as DICOM, in a sentence; empty if it can."""
    if run is None or not run.arms:
        return _RUN_FIRST
    if run.dicom is None and run.isInScene and run.about.GetAttribute(UIDS):
        return "DICOM is written of a run of this session, of images whose files the DICOM database has. Run again."
    if run.dicom is None:
        return "The images must have been loaded from Slicer's DICOM database, whose patient and slices are taken over."
    if run.folder is None or not all(folder.is_dir() for folder in armFolders(run)):
        return "The files of this run are no longer there. Run again."
    return ""


def armFolders(run: RunInScene) -> list[Path]:
    """The folders that the worker wrote, of A and B."""
    return (
        [] if run.folder is None else [run.folder / armFolder(index, arm.bundle) for index, arm in enumerate(run.arms)]
    )


def armFolder(index: int, bundle: str) -> str:
    """The name of an arm's folder, as the worker calls it."""
    return f"{index}-{bundle}"


def writeExam(run: RunInScene, folder: Path) -> Steps:
    """Write which files a run's images are of, for `vfm-transfer dicom --exported`."""
    writeExported(run.dicom, folder)
    yield


def dicomCommand(run: RunInScene, exported: Path, target: Path) -> Sequence[str]:
    """The arguments of the command.

    Args:
        run: One for which `whyNoDicom` finds nothing.
        exported: The document of `writeExam`.
        target: New folder.
    """
    return ["dicom", *map(str, armFolders(run)), "--exported", str(exported), "--output", str(target), "--json"]
