"""`vfm-transfer data check`: is a data set fit?"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DatasetError
from ..tasks import DEFAULT_TASK
from .shared import Commands, add_command, add_json, add_task, print_json, progress_bar

if TYPE_CHECKING:
    from ..training.check import DataReport

_MARKS = {"error": "ERROR", "warning": "check", "note": "note"}
_SHOWN = 6


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "data", "Check a data set before training on it")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = add_command(actions, "check", "Check sequences, spacing, units, labels, duplicates and leakage")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="a folder for each case, or train/validation/test")
    add_task(check, help=f"what the data are for (default: {DEFAULT_TASK})")
    add_json(check)
    check.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..training.check import check_data

    with progress_bar() as on_progress:
        report = check_data(args.folder, args.task or DEFAULT_TASK, on_progress)
    if args.json:
        print_json(document(report))
    else:
        print("\n".join(lines(report)))
    if not report.is_fit:
        raise DatasetError("The data are not fit yet: correct what is marked ERROR, or leave those cases out.")


def document(report: DataReport) -> dict[str, object]:
    """The report as JSON takes it."""
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
    return {"fit": report.is_fit, "cases": cases, "findings": [asdict(finding) for finding in report.findings]}


def lines(report: DataReport) -> list[str]:
    """The report for people: what is worst first, and what several cases share in one line."""
    shown = []
    counts = dict.fromkeys(_MARKS, 0)
    for severity, mark in _MARKS.items():
        cases_of: dict[str, list[str]] = {}
        for finding in report.findings:
            if finding.severity == severity:
                cases_of.setdefault(finding.sentence, []).append(finding.case)
                counts[severity] += 1
        shown += [f"{mark}: {_named(cases)}{sentence}" for sentence, cases in cases_of.items()]
    total = f"{len(report.cases)} cases read; {counts['error']} errors, {counts['warning']} to check."
    return [*shown, total]


def _named(cases: list[str]) -> str:
    names = [case for case in cases if case]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}: " if names else ""
