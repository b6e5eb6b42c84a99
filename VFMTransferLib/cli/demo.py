"""`vfm-transfer demo`: from nothing to a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from .shared import Commands, add_command, add_output, progress_bar


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "demo", "Compare the shipped pair of networks on a phantom, or on your case")
    parser.add_argument("--case", type=Path, metavar="CASE", help="folder of a case (default: a synthetic phantom)")
    add_output(parser, "folder for the report: new, empty, or an earlier output, which is replaced")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from .side_by_side import run_demo

    with progress_bar() as on_progress:
        page = run_demo(args.output, args.case, on_progress)
    print(page)
