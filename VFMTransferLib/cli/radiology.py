"""What a radiologist measures without a network: `vfm-transfer quality`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ..core.terms import RESEARCH_USE
from .shared import Commands, add_command, add_images, add_json, given_case, print_json, require_images

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
