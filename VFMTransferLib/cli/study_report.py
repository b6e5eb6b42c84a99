"""`vfm-transfer study report`: what a study's tables come to, as a summary and a page."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import Commands, add_command, add_output

if TYPE_CHECKING:
    from ..study.summary import SummaryRow


def add_parser(actions: Commands) -> None:
    parser = add_command(actions, "report", "Write summary.csv and report.html from a study's tables")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a study, finished or not")
    add_output(parser, "folder for both files (default: FOLDER)", required=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..report.study_page import write_study_report
    from ..study.summary import SummaryRow
    from ..study.tables import read_rows

    summary, page = write_study_report(args.folder, args.output)
    rows = read_rows(summary, SummaryRow)
    print("\n".join([*(line(row) for row in rows), str(summary), str(page)]))


def line(row: SummaryRow) -> str:
    """One encoder and task in a line."""
    gain = "n/a" if math.isnan(row.rpg_percent) else f"{row.rpg_percent:+.1f} %"
    interval = "" if math.isnan(row.rpg_low) else f" [{row.rpg_low:+.1f}, {row.rpg_high:+.1f}]"
    distance = "" if math.isnan(row.d2p) else f", D2P {row.d2p:.4g}"
    speed = "" if math.isnan(row.convergence_efficiency) else f", convergence {row.convergence_efficiency:.2f}"
    return f"{row.encoder}, {row.task}: RPG of {row.metric} {gain}{interval}{distance}{speed}"
