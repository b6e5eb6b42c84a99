"""`vfm-transfer data check`: is a data set fit? `vfm-transfer phantom`: synthetic cases with their truth."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.decoding import from_json, parse_json
from ..core.errors import DatasetError
from ..core.files import read_small
from ..tasks import DEFAULT_TASK
from .shared import Commands, add_command, add_json, add_output, add_task, print_answer, progress_bar

if TYPE_CHECKING:
    from ..phantom import Conditions, PhantomRange
    from ..training.check import DataReport

_MARKS = {"error": "ERROR", "warning": "check", "note": "note"}
_SHOWN = 6


def add_data(commands: Commands) -> None:
    parser = add_command(commands, "data", "Check a data set before training on it", None)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    summary = "Check sequences, spacing, units, labels, duplicates and leakage"
    check = add_command(actions, "check", summary, run_check)
    check.add_argument("folder", type=Path, metavar="FOLDER", help="a folder for each case, or train/validation/test")
    add_task(check, help=f"what the data are for (default: {DEFAULT_TASK})")
    add_json(check)


def run_check(args: argparse.Namespace) -> None:
    from ..training.check import check_data

    with progress_bar() as on_progress:
        report = check_data(args.folder, args.task or DEFAULT_TASK, on_progress)
    cases = [
        {
            "name": case.name,
            "split": case.split,
            "sequences": [str(sequence) for sequence in case.sequences],
            "spacing_mm": {str(sequence): list(spacing) for sequence, spacing in case.spacing_mm.items()},
            "labels": {stem: list(values) for stem, values in case.labels.items()},
        }
        for case in report.cases
    ]
    document = {"fit": report.is_fit, "cases": cases, "findings": [asdict(finding) for finding in report.findings]}
    print_answer(args, document, _lines(report))
    if not report.is_fit:
        raise DatasetError("The data are not fit yet: correct what is marked ERROR, or leave those cases out.")


def _lines(report: DataReport) -> list[str]:
    """The report for people: what is worst first, and what several cases share in one line."""
    shown = []
    for severity, mark in _MARKS.items():
        cases_of: dict[str, list[str]] = {}
        for finding in report.findings:
            if finding.severity == severity:
                cases_of.setdefault(finding.sentence, []).append(finding.case)
        for sentence, cases in cases_of.items():
            names = [case for case in cases if case]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            shown.append(f"{mark}: " + (f"{'; '.join(names[:_SHOWN])}{more}: " if names else "") + sentence)
    counts = Counter(finding.severity for finding in report.findings)
    return [*shown, f"{len(report.cases)} cases read; {counts['error']} errors, {counts['warning']} to check."]


def add_phantom(commands: Commands) -> None:
    summary = "Write synthetic multiparametric cases whose truth is known"
    parser = add_command(commands, "phantom", summary, run_phantom)
    parser.add_argument("-n", "--number", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first; the next has S+1 (default: 0)"
    )
    parser.add_argument(
        "--full-resolution",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write the T2w with twice the matrix; most of the time goes there, and a seed is another patient "
        "without it",
    )
    parser.add_argument(
        "--range",
        metavar="FILE|wide",
        help="draw body, coil and scanner from a range: 'wide', or a JSON file as in a recipe's phantoms.conditions",
    )
    parser.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one condition for all cases, e.g. endorectal_coil=true or vendor=ge; again for more",
    )
    add_output(parser, "folder for the cases, one folder each")
    add_json(parser)


def run_phantom(args: argparse.Namespace) -> None:
    if args.number < 1 or args.seed < 0:
        args.parser.error("-n must be 1 or more, and --seed 0 or more")
    from ..phantom import make_phantoms

    options = {"full_resolution": args.full_resolution, "conditions": _conditions(args)}
    with progress_bar() as on_progress:
        folders = make_phantoms(args.number, args.seed, args.output, on_progress, **options)
    names = [str(folder) for folder in folders]
    print_answer(args, {"phantoms": names}, names)


def _conditions(args: argparse.Namespace) -> Conditions | PhantomRange | None:
    """The conditions that the options name; wrong ones end as wrong usage."""
    from ..phantom import Conditions, PhantomRange

    if args.range and args.condition:
        args.parser.error("--range and --condition exclude each other")
    try:
        if args.range:
            found = {} if args.range == "wide" else parse_json(read_small(Path(args.range)))
            return from_json(PhantomRange, found, "range")
        pairs = [item.partition("=") for item in args.condition]
        values = {name: _condition(value) if equals else True for name, equals, value in pairs}
        return from_json(Conditions, values, "--condition") if values else None
    except (ValueError, OSError) as error:
        raise SystemExit(args.parser.error(str(error))) from error


def _condition(text: str) -> Any:
    """A number, `true` or `false`; else a word, which `from_json` refuses where none may stand."""
    try:
        return parse_json(text)
    except ValueError:
        return text
