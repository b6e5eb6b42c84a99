"""What a radiologist asks for: `vfm-transfer quality`, and results as DICOM beside those of other commands."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.terms import RESEARCH_USE
from .shared import Commands, add_command, add_images, add_json, given_case, print_json, require_images

if TYPE_CHECKING:
    from ..core.case import Case
    from ..core.result import Result

_MARKS = {True: "met", False: "NOT MET", None: "not known"}


def add_quality(commands: Commands) -> None:
    summary = "Check the quality of a case's images, criterion by criterion, before any network runs"
    parser = add_command(commands, "quality", summary, run_quality)
    parser.add_argument("case", nargs="?", type=Path, metavar="CASE", help="folder of a case: files by role, or DICOM")
    add_images(parser)
    add_json(parser)


def run_quality(args: argparse.Namespace) -> None:
    require_images(args, args.case)
    from ..radiology.quality import measure_quality

    case = given_case(args, args.case)
    criteria = measure_quality(case, case.gland)
    if args.json:
        print_json({"case": case.id, "note": RESEARCH_USE, "quality": [asdict(found) for found in criteria]})
        return
    lines = [
        f"{_MARKS[found.is_met]}: {found.title}: {found.text} ({found.threshold}; {found.source}). {found.sentence}"
        for found in criteria
    ]
    if case.gland is None:
        lines.append("Coverage of the prostate and the shift of diffusion need a mask of the prostate (--gland).")
    print("\n".join([*lines, RESEARCH_USE]))


def require_dicom_out(case: Case, task: str) -> None:
    """Raise before the work where DICOM cannot be written of its results.

    Raises:
        ImageError: The image on whose grid they lie was not read from DICOM.
        ModuleNotFoundError: highdicom is not installed.
    """
    import highdicom  # noqa: F401

    from ..io.dicom_out import require_dicom
    from ..tasks import TASKS

    require_dicom(case, TASKS[task].reference)


def save_dicom(result: Result, case: Case, folder: Path) -> None:
    """Write a result as DICOM into `dicom` in its folder."""
    from ..io.dicom_out import FOLDER, write_dicom
    from ..radiology.sectors import SECTOR_CODES

    (folder / FOLDER).mkdir()
    write_dicom(result, case, folder / FOLDER, SECTOR_CODES)
