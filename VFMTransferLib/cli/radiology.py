"""What a radiologist asks for: `vfm-transfer quality`, `diffusion`, and `dicom`, also of other commands' results."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.notes import texts, warning_text
from ..core.terms import RESEARCH_USE
from .shared import (
    Commands,
    add_command,
    add_images,
    add_json,
    add_mixed_exams,
    add_output,
    given_case,
    print_answer,
    print_json,
    require_images,
    require_output_outside,
)

if TYPE_CHECKING:
    from ..core.case import Case
    from ..core.result import Result
    from ..core.volume import Volume
    from ..worker.messages import Exported

DIFFUSION_RECORD = "diffusion.json"
_MARKS = {True: "met", False: "NOT MET", None: "not known"}


def add_quality(commands: Commands) -> None:
    summary = "Check the quality of a case's images, criterion by criterion, before any network runs"
    parser = add_command(commands, "quality", summary, run_quality)
    parser.add_argument("case", nargs="?", type=Path, metavar="CASE", help="folder of a case: files by role, or DICOM")
    add_images(parser)
    _add_exported(parser)
    add_json(parser)


def run_quality(args: argparse.Namespace) -> None:
    if args.exported is None:
        require_images(args, args.case)
    from ..radiology.quality import measure_quality

    case = given_case(args, args.case) if args.exported is None else _exported_case(args.exported)
    criteria = measure_quality(case, case.gland)
    if args.json:
        found = {"quality": [asdict(found) for found in criteria], "notes": [asdict(note) for note in case.notes]}
        print_json({"case": case.id, "note": RESEARCH_USE, **found})
        return
    warning = warning_text(case.notes)
    lines = [f"WARNING: {warning}"] if warning else []
    lines += [
        f"{_MARKS[found.is_met]}: {found.title}: {found.text} ({found.threshold}; {found.source}). {found.sentence}"
        for found in criteria
    ]
    if case.gland is None:
        lines.append("Coverage of the prostate and the shift of diffusion need a mask of the prostate (--gland).")
    print("\n".join([*lines, *texts(case.notes), RESEARCH_USE]))


def add_diffusion(commands: Commands) -> None:
    summary = "Fit the ADC of a diffusion series, with its residual, and compute other b values"
    parser = add_command(commands, "diffusion", summary, run_diffusion)
    parser.add_argument(
        "series", nargs="?", type=Path, metavar="SERIES", help="4D file with its .bval, or a folder of DICOM"
    )
    _add_exported(parser)
    parser.add_argument(
        "--b", type=float, action="append", default=[], dest="b_values", metavar="B", help="b value to compute, s/mm²"
    )
    parser.add_argument("--gland", type=Path, metavar="F", help="mask of the prostate, in which the fit is judged")
    add_output(parser, "folder for the images: new, empty, or an earlier output, which is replaced")
    add_json(parser)


def run_diffusion(args: argparse.Namespace) -> None:
    from ..io import output_folder, read_mask, write_volume
    from ..io.cases import checked_gland, read_diffusion
    from ..radiology.diffusion_fit import FitProblem, fit_diffusion

    if args.exported is None and args.series is None:
        args.parser.error("name a SERIES")
    names = {f"b{b:g}-computed": b for b in args.b_values}
    require_output_outside(args.output, [args.series])
    if args.exported is None:
        by_b, reading = read_diffusion(args.series)
        mask = None if args.gland is None else checked_gland(read_mask(args.gland, "gland"), args.gland.name)
    else:
        (by_b, mask), reading = _exported_series(args.exported), []
    fit = fit_diffusion(by_b)
    images = {"adc": fit.adc, "residual": fit.residual, "fit-problems": fit.problems}
    images |= {name: fit.at(b) for name, b in names.items()}
    gland = None if mask is None else mask.resample_to(fit.adc.geometry, "nearest")
    shares = fit.shares(None if gland is None else gland.array > 0)
    notes = [*reading, *fit.notes]
    document = {
        "note": RESEARCH_USE,
        "b_values": list(fit.b_values),
        "problems": {int(problem): problem.words for problem in FitProblem},
        "region": "prostate" if gland is not None else "image",
        "shares": shares,
        "notes": [asdict(note) for note in notes],
        "files": [f"{name}.nii.gz" for name in images],
    }
    with output_folder(args.output, (DIFFUSION_RECORD,)) as folder:
        for name, volume in images.items():
            write_volume(volume, folder / f"{name}.nii.gz")
        (folder / DIFFUSION_RECORD).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    where = "the prostate" if gland is not None else "the image"
    lines = [f"fitted: b {', '.join(f'{b:g}' for b in fit.b_values)} s/mm²"]
    lines += [f"poor fit in {share:.1%} of {where}: {words}" for words, share in shares.items()]
    print_answer(
        args, {"output": str(args.output), **document}, [*lines, *texts(notes), RESEARCH_USE, str(args.output)]
    )


def _add_exported(parser: argparse.ArgumentParser) -> None:
    """The images that a program, as Slicer, wrote for a command; for programs, so that the help is silent on it."""
    parser.add_argument("--exported", type=Path, help=argparse.SUPPRESS)


def _read_exported(file: Path) -> Exported:
    from ..core.decoding import from_json, parse_json
    from ..core.errors import JobError
    from ..core.files import read_small
    from ..worker.messages import Exported

    try:
        return from_json(Exported, parse_json(read_small(file).decode("utf-8")), file.name)
    except ValueError as error:
        raise JobError(f"The exported images cannot be understood: {error}") from error


def _exported_case(file: Path) -> Case:
    from ..worker.jobs import read_images

    return read_images("study", file.parent, _read_exported(file))


def _exported_series(file: Path) -> tuple[dict[float, Volume], Volume | None]:
    """Images of a series by b value, and a mask of the prostate."""
    from ..io.cases import checked_gland, read_exported_mask, read_exported_volume
    from ..worker.jobs import exported_image

    exported = _read_exported(file)
    by_b = {
        float(b): read_exported_volume(exported_image(image, file.parent), f"b{b}")
        for b, image in (exported.series or {}).items()
    }
    if exported.gland is None:
        return by_b, None
    return by_b, checked_gland(read_exported_mask(exported_image(exported.gland, file.parent), "gland"), "gland")


def add_dicom(commands: Commands) -> None:
    summary = "Write earlier results as DICOM: segmentation, structured report, derived images"
    parser = add_command(commands, "dicom", summary, run_dicom)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="folder of one network's result")
    parser.add_argument("--exam", type=Path, metavar="FOLDER", help="the DICOM exam that the results are of")
    add_mixed_exams(parser)
    _add_exported(parser)
    add_output(parser, "new folder; with several results one in it for each")
    add_json(parser)


def run_dicom(args: argparse.Namespace) -> None:
    if (args.exam is None) == (args.exported is None):
        args.parser.error("name the exam's folder with --exam")
    from ..core.files import atomic_folder, given_name
    from ..io.cases import read_case_for
    from ..io.dicom_out import write_dicom
    from ..io.results import read_result
    from ..radiology.sectors import SECTOR_CODES
    from ..tasks import find_task

    require_output_outside(args.output, [args.exam])
    results = {given_name(folder): read_result(folder) for folder in args.results}
    if len(results) < len(args.results):
        args.parser.error("results must be in folders of different names, which the folders of their files get")
    tasks = [find_task(result.task) for result in results.values()]
    needed = {sequence for task in tasks for sequence in (*task.sequences, task.reference)}
    if args.exported is None:
        case = read_case_for(needed, args.exam, allow_mixed_exams=args.allow_mixed_exams)
    else:
        case = _case_of_files(args.exported)
    for result in results.values():
        require_dicom_out(case, result.task)
    with atomic_folder(args.output) as work:
        for name, result in results.items():
            target = work if len(results) == 1 else work / name
            target.mkdir(exist_ok=True)
            write_dicom(result, case, target, SECTOR_CODES)
        files = sorted(str(file.relative_to(work)) for file in work.rglob("*.dcm"))
    document = {"output": str(args.output), "note": RESEARCH_USE, "files": files}
    print_answer(args, document, [f"{len(files)} files", RESEARCH_USE, str(args.output)])


def _case_of_files(file: Path) -> Case:
    """The case of exported images whose voxels are no longer there: where they lie, and their DICOM files.

    Raises:
        GeometryError: An image does not lie where its files state.
    """
    import numpy as np

    from ..core.case import Case
    from ..core.errors import GeometryError
    from ..core.volume import Volume
    from ..io.dicom import read_origin
    from ..worker.jobs import exported_image

    exported = _read_exported(file)
    grids = {role: exported_image(image, file.parent).geometry for role, image in exported.images.items()}
    known = {role: grid for role, grid in grids.items() if grid is not None}
    files = {} if exported.dicom is None else exported.dicom.files
    origin = read_origin(known, {role: [Path(name) for name in several] for role, several in files.items()})
    if origin.notes:
        raise GeometryError(f"The images are not those of one exam. {origin.notes[0]} Load them again.")
    volumes = {role: Volume(np.zeros(grid.shape, np.uint8), grid, str(role)) for role, grid in known.items()}
    return Case("study", volumes, acquisitions=origin.acquisitions, files=origin.files)


def require_dicom_out(case: Case, task: str) -> None:
    """Raise before the work where DICOM cannot be written of its results.

    Raises:
        ImageError, GeometryError: An image that they lie on or derive from was not read from DICOM, or states no frame
            of reference.
        ModuleNotFoundError: highdicom is not installed.
    """
    import highdicom  # noqa: F401

    from ..io.dicom_out import require_dicom_of_outputs
    from ..tasks import TASKS

    require_dicom_of_outputs(case, TASKS[task].reference, getattr(TASKS[task], "outputs", ()))


def save_dicom(result: Result, case: Case, folder: Path) -> None:
    """Write a result as DICOM into `dicom` in its folder, with the sites of lesions as sectors of PI-RADS."""
    from ..io.dicom_out import FOLDER, write_dicom
    from ..radiology.sectors import SECTOR_CODES

    (folder / FOLDER).mkdir()
    write_dicom(result, case, folder / FOLDER, SECTOR_CODES)
