"""`vfm-transfer compare`: two networks on the same case, or on several; `demo`: from nothing to a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..core.files import given_name
from ..tasks import DEFAULT_TASK
from .shared import (
    Commands,
    add_command,
    add_json,
    add_output,
    add_prediction,
    add_task,
    print_answer,
    progress_bar,
    require_images,
    require_output_outside,
)

_OUTPUT = "folder for the report: new, empty, or an earlier output, which is replaced"


def add_demo(commands: Commands) -> None:
    summary = "Compare the shipped pair of networks on a phantom, or on your case"
    parser = add_command(commands, "demo", summary, run_demo)
    parser.add_argument("--case", type=Path, metavar="CASE", help="folder of a case (default: a synthetic phantom)")
    add_output(parser, _OUTPUT)


def run_demo(args: argparse.Namespace) -> None:
    from .side_by_side import demonstrate

    require_output_outside(args.output, [args.case])
    with progress_bar() as on_progress:
        page = demonstrate(args.output, args.case, on_progress)
    print(page)


def add_compare(commands: Commands) -> None:
    summary = "Run two networks on one case or several, and report them side by side"
    parser = add_command(commands, "compare", summary, run_compare)
    parser.add_argument("cases", nargs="*", type=Path, metavar="CASE", help="folder of a case: files by role, or DICOM")
    parser.add_argument(
        "--bundle",
        action="append",
        default=[],
        dest="bundles",
        metavar="B",
        help="name or folder of a bundle; give two, A first (default: the shipped pair of --task)",
    )
    add_task(parser, help=f"whose pair to take where no --bundle is given (default: {DEFAULT_TASK})")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        dest="references",
        metavar="F",
        help="the truth: a label map, an image, or the name of a class; one for each CASE, in the same order",
    )
    add_output(parser, _OUTPUT)
    add_prediction(parser)
    add_json(parser)


def run_compare(args: argparse.Namespace) -> None:
    require_images(args, *args.cases)
    count = max(len(args.cases), 1)
    if count > 1 and (args.t2w or args.hbv or args.adc or args.gland or args.roi or args.psa_ng_ml):
        args.parser.error("--t2w, --hbv, --adc, --gland, --psa and --roi belong to one case; give one CASE with them")
    if len(set(map(given_name, args.cases))) < len(args.cases):
        args.parser.error("the CASE folders must have different names, since the report calls them by these")
    if len(args.bundles) not in (0, 2):
        args.parser.error(f"give --bundle twice, or not at all; got {len(args.bundles)}")
    if len(args.references) not in (0, count):
        args.parser.error(f"give one --reference for each of {count} cases; got {len(args.references)}")
    from .side_by_side import compare_cases

    with progress_bar() as on_progress:
        document, lines = compare_cases(args, on_progress)
    print_answer(args, {"output": str(args.output), **document}, lines)
