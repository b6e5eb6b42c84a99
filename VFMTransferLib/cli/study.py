"""`vfm-transfer study`: the whole study, from its configuration to its tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from . import study_report
from .shared import Commands, add_command, add_output

KEYS = ("encoder", "task", "arm", "seed")  # as in study/grid_cells.py, which imports numpy


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "study", "Train and measure every encoder, task, arm and seed of a study")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML; by default config.yaml of the folder, or else the shipped one",
    )
    parser.add_argument("--resume", action="store_true", help="go on in a folder that has results")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="where the real cases lie that the study names")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY=V[,V]",
        help=f"run a part of the cells: {', '.join(KEYS)}; may be given several times",
    )
    group = parser.add_argument_group("workers", "Of dask.distributed; one training each.")
    group.add_argument("--workers", type=int, default=2, metavar="N", help="processes of this machine (default: 2)")
    group.add_argument("--scheduler", metavar="ADDRESS", help="instead: a cluster, whose workers see OUT's path too")
    add_output(parser, "folder of the study: configuration, tables, and work, where its checkpoints are", False)
    parser.set_defaults(run=run)
    study_report.add_parser(parser.add_subparsers(dest="action", metavar="report"))


def run(args: argparse.Namespace) -> None:
    if args.output is None:  # which `report` does not need
        args.parser.error("the following arguments are required: -o/--output")
    only = _only(args)
    if args.workers < 1:
        args.parser.error(f"--workers must be 1 or more, got {args.workers}")
    from ..core.errors import BatchError
    from ..study.sweep import open_study, run_study
    from .study_watch import watching

    opened = open_study(args.output, args.config, real=args.real, resume=args.resume, only=only)
    with opened as study, watching(study) as watcher:
        failures = run_study(study, scheduler=args.scheduler, count=args.workers, watcher=watcher)
    print("\n".join([*study.notes, str(args.output)]))
    if failures:
        raise BatchError(
            f"{len(failures)} of {len(study.cells)} cells failed: {', '.join(cell.name for cell in failures)}. "
            "What each said stands above; mend it and go on with --resume."
        )


def _only(args: argparse.Namespace) -> dict[str, Iterable[str]] | None:
    chosen: dict[str, Iterable[str]] = {}
    for text in args.only:
        key, equals, values = text.partition("=")
        if key not in KEYS or not equals or not values:
            args.parser.error(f"--only must be KEY=VALUE[,VALUE] with a key of {', '.join(KEYS)}, got '{text}'")
        chosen[key] = values.split(",")
    return chosen or None
