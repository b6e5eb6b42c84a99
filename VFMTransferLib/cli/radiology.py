"""What a radiologist asks for: `vfm-transfer quality`, `diffusion`, and results of other commands as DICOM."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.terms import RESEARCH_USE
from .shared import (
    Commands,
    add_command,
    add_images,
    add_json,
    add_output,
    given_case,
    print_answer,
    print_json,
    require_images,
)

if TYPE_CHECKING:
    from ..core.case import Case
    from ..core.result import Result

DIFFUSION_RECORD = "diffusion.json"
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


def add_diffusion(commands: Commands) -> None:
    summary = "Fit the ADC of a diffusion series, with its residual, and compute other b values"
    parser = add_command(commands, "diffusion", summary, run_diffusion)
    parser.add_argument("series", type=Path, metavar="SERIES", help="4D file with its .bval, or a folder of DICOM")
    parser.add_argument(
        "--b", type=float, action="append", default=[], dest="b_values", metavar="B", help="b value to compute, s/mm²"
    )
    parser.add_argument("--gland", type=Path, metavar="F", help="mask of the prostate, in which the fit is judged")
    add_output(parser, "folder for the images: new, empty, or an earlier output, which is replaced")
    add_json(parser)


def run_diffusion(args: argparse.Namespace) -> None:
    from ..io import output_folder, read_mask, write_volume
    from ..io.cases import read_diffusion
    from ..radiology.diffusion_fit import FitProblem, fit_diffusion

    fit = fit_diffusion(read_diffusion(args.series))
    images = {"adc": fit.adc, "residual": fit.residual, "fit-problems": fit.problems}
    images |= {f"b{b:g}-computed": fit.at(b) for b in args.b_values}
    gland = None if args.gland is None else read_mask(args.gland, "gland").resample_to(fit.adc.geometry, "nearest")
    shares = fit.shares(None if gland is None else gland.array > 0)
    document = {
        "note": RESEARCH_USE,
        "b_values": list(fit.b_values),
        "problems": {int(problem): problem.words for problem in FitProblem},
        "region": "prostate" if gland is not None else "image",
        "shares": shares,
        "notes": list(fit.notes),
        "files": [f"{name}.nii.gz" for name in images],
    }
    with output_folder(args.output, (DIFFUSION_RECORD,)) as folder:
        for name, volume in images.items():
            write_volume(volume, folder / f"{name}.nii.gz")
        (folder / DIFFUSION_RECORD).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    where = "the prostate" if gland is not None else "the image"
    lines = [f"fitted: b {', '.join(f'{b:g}' for b in fit.b_values)} s/mm²"]
    lines += [f"poor in {share:.1%} of {where}: {words}" for words, share in shares.items()]
    print_answer(args, {"output": str(args.output), **document}, [*lines, *fit.notes, RESEARCH_USE, str(args.output)])


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
