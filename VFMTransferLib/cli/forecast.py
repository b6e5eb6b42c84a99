"""`vfm-transfer forecast`: would the estimators have predicted which tasks of a finished study gain?"""

from __future__ import annotations

import argparse
from pathlib import Path

from .shared import Commands, add_command, add_json, print_json, progress_lines


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "forecast", "Try the estimators of advise on a finished transfer study, leave-one-task-out"
    )
    parser.add_argument("study", type=Path, metavar="FOLDER", help="a finished transfer study, with its work folder")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="where estimates.csv and forecast.csv go (default: the study)"
    )
    parser.add_argument("--resume", action="store_true", help="keep estimates that are there already")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ..study.advice import forecast_lines, try_estimators
    from ..study.tables import without_nan

    with progress_lines() as on_progress:
        forecasts = try_estimators(args.study, args.output, resume=args.resume, on_progress=on_progress)
    if args.json:
        print_json({"forecasts": [without_nan(asdict(row)) for row in forecasts]})
    else:
        print("\n".join(forecast_lines(forecasts)))
