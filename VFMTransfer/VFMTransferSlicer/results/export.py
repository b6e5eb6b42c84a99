"""A run as files for others, each whole or not at all, and why it cannot be. Needs MRML; the rest is handed in."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.files import atomic_file, atomic_folder, spreadsheet_row, writing
from VFMTransferLib.core.terms import RESEARCH_USE
from VFMTransferLib.evaluation.measures import Between

from ..runs import RunInScene
from .numbers import measuresOf

REPORT, PAGE = "report", "report.html"
PAGE_SUFFIXES = (".html", ".htm")
SCENE_SUFFIX = ".mrb"
_COLUMNS = ("case", "task", "subject", "measure", "between", "value", "unit", "note")
_PROVENANCE = "provenance"
_SIDES = (Between.A, Between.B)
_ENCODING = "utf-8-sig"  # with the byte order mark, by which spreadsheets recognize it
_RUN_FIRST = "Run networks first."


def proposedName(run: RunInScene, now: datetime, suffix: str = "") -> str:
    """A file name that differs from run to run, without anything of the patient."""
    return f"vfm-transfer-{run.task}-{now:%Y-%m-%d-%H%M%S}{suffix}"


def whyNoReport(run: RunInScene | None) -> str:
    """Why the report cannot be saved, in a sentence; empty if it can."""
    if run is None or not run.arms:
        return _RUN_FIRST
    if run.comparison is None:
        return "The report needs both networks. Choose two, and run them to the end."
    if not _hasFolder(run) and not _pageOf(run):
        return "The report of this run is no longer there. Run again."
    return ""


def whyNoNumbers(run: RunInScene | None) -> str:
    """Why the numbers cannot be saved, in a sentence; empty if they can."""
    return "" if run is not None and run.arms else _RUN_FIRST


def saveReport(run: RunInScene, target: Path) -> None:
    """Save the library's report.

    Args:
        run: With its report still there.
        target: Named `.html` for the page alone, which needs no other file and replaces what is there; else a new
            folder, for the page with its picture and tables. A scene that was saved brings the page alone.

    Raises:
        OutputError: The report is gone, the place cannot be written, or the folder is there already.
    """
    if why := whyNoReport(run):
        raise OutputError(why)
    if target.suffix.lower() in PAGE_SUFFIXES:
        with atomic_file(target) as part:
            _writePage(run, part)
    else:
        with atomic_folder(target) as work:
            if _hasFolder(run):
                shutil.copytree(run.folder / REPORT, work, dirs_exist_ok=True)
            else:
                _writePage(run, work / PAGE)


def _hasFolder(run: RunInScene) -> bool:
    return run.folder is not None and (run.folder / REPORT / PAGE).is_file()


def _pageOf(run: RunInScene) -> str:
    """The page of the report as the scene holds it; empty where it does not."""
    return run.page.GetText() or "" if run.page is not None and run.page.GetScene() is not None else ""


def _writePage(run: RunInScene, path: Path) -> None:
    if _hasFolder(run):
        shutil.copyfile(run.folder / REPORT / PAGE, path)
    else:
        path.write_text(_pageOf(run), encoding="utf-8")


def saveNumbers(run: RunInScene, target: Path) -> None:
    """Save all measures as CSV, a row each, and what they come from in the same columns.

    Raises:
        OutputError: The file cannot be written.
    """
    rows = [*measuresOf(run), *_provenanceRows(run)]
    with atomic_file(target) as part, part.open("w", encoding=_ENCODING, newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(spreadsheet_row({"case": "study", "task": str(run.task), **row}) for row in rows)


def saveScene(target: Path, save: Callable[[str], bool]) -> None:
    """Save the scene, with all that is in it, as one file.

    Args:
        target: Named `.mrb`.
        save: Slicer's own `slicer.util.saveScene`, which returns whether it succeeded.

    Raises:
        OutputError: It could not; what was at `target` is still there.
    """
    with _besides(target.parent, target.name) as work:
        if not save(str(work / target.name)):
            raise OutputError(
                f"Slicer could not save the scene as '{target.name}'. Its log has the reason; is the disk full?"
            )
        (work / target.name).replace(target)


def _provenanceRows(run: RunInScene) -> Iterator[dict[str, str]]:
    """Which weights, options and versions gave it, and how long it took."""
    yield {"subject": _PROVENANCE, "measure": "research use", "value": RESEARCH_USE}
    for side, arm in zip(_SIDES, run.arms, strict=False):
        about = {"subject": _PROVENANCE, "between": str(side)}
        for name, value in arm.numbers["model"].items():
            yield {**about, "measure": name.replace("_", " "), "value": str(value)}
        for package, version in arm.numbers["versions"].items():
            yield {**about, "measure": f"version of {package}", "value": version}
        for stage, seconds in arm.numbers["seconds"].items():
            yield {**about, "measure": f"time to {stage}", "value": f"{seconds:.3f}", "unit": "s"}


@contextmanager
def _besides(folder: Path, name: str) -> Iterator[Path]:
    """A temporary folder in `folder`, from which files come to their place in one step.

    Raises:
        OutputError: `folder` cannot be written; the sentence names `name`.
    """
    with writing(folder / name), TemporaryDirectory(prefix=".vfm-transfer-", dir=folder) as work:
        yield Path(work)
