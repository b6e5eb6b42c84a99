"""Commands around a transfer study: `study` trains and measures it, `study report` summarizes its tables."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import Commands, add_command, add_output, sentence

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..study.config import RunKey
    from ..study.sweep import Sweep

# As in study/config.py, whose imports take time.
KEYS = ("encoder", "task", "arm", "seed", "labelled_cases", "trained_on")
_WORKERS = 2
_LINE_EVERY_S = 60.0


def add_study(commands: Commands) -> None:
    parser = add_command(commands, "study", "Run a transfer study, or report its tables", _show_usage)
    actions = parser.add_subparsers(dest="action", metavar="run | report")
    summary = "Train and measure every encoder, task, arm and seed of a transfer study"
    parser = add_command(actions, "run", summary, run_study)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML; by default config.yaml of the folder, or else the shipped one",
    )
    parser.add_argument("--resume", action="store_true", help="continue in a folder that has results")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="folder of the real cases that the study names")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY=V[,V]",
        help=f"a part of the runs: {', '.join(KEYS)}; of several, runs that fit each key, by any of its values",
    )
    group = parser.add_argument_group("workers", "Of dask.distributed; one training each.")
    group.add_argument("--workers", type=int, metavar="N", help=f"processes of this machine (default: {_WORKERS})")
    group.add_argument("--scheduler", metavar="ADDRESS", help="instead: a cluster, whose workers see OUT's path too")
    add_output(parser, "folder of the study: configuration, tables, and work, where its checkpoints are")
    summary = "Write summary.csv and report.html from a transfer study's tables"
    parser = add_command(actions, "report", summary, run_report)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a transfer study, finished or not")
    add_output(parser, "folder for both files (default: FOLDER)", required=False)


def _show_usage(args: argparse.Namespace) -> None:
    args.parser.error("name an action: run or report")


def run_study(args: argparse.Namespace) -> None:
    if args.scheduler is not None and args.workers is not None:
        args.parser.error("--workers has no effect beside --scheduler, whose workers it has; leave one out")
    only: dict[str, list[str]] = {}
    for text in args.only:
        key, equals, values = text.partition("=")
        if key not in KEYS or not equals or not values:
            args.parser.error(f"--only must be KEY=VALUE[,VALUE] with a key of {', '.join(KEYS)}, got '{text}'")
        only.setdefault(key, []).extend(value.strip() for value in values.split(","))
    count = _WORKERS if args.workers is None else args.workers
    if count < 1:
        args.parser.error(f"--workers must be 1 or more, got {count}")
    from ..core.errors import BatchError
    from ..study.sweep import open_sweep, run_sweep

    opened = open_sweep(args.output, args.config, real=args.real, resume=args.resume, only=only or None)
    with ExitStack() as stack:
        sweep = stack.enter_context(opened)
        observer = stack.enter_context(shown_progress(sweep))
        failures = run_sweep(sweep, scheduler=args.scheduler, count=count, observer=observer)
    print("\n".join([*sweep.notes, str(args.output)]))
    if failures:
        raise BatchError(
            f"{len(failures)} of {len(sweep.runs)} runs failed: {', '.join(run.name for run in failures)}. "
            "The reason of each is above; remove it and continue with --resume."
        )


def run_report(args: argparse.Namespace) -> None:
    from ..report.study_page import write_study_report
    from ..study.overview import gain_text, reached_text
    from ..study.summary import SummaryRow
    from ..study.tables import read_rows

    summary, page = write_study_report(args.folder, args.output)
    lines = []
    for row in read_rows(summary, SummaryRow):
        distance = "" if math.isnan(row.d2p) else f", D2P {row.d2p:.4g}"
        speed = "" if math.isnan(row.convergence_efficiency) else f", convergence {row.convergence_efficiency:.2f}"
        gain = f"RPG of {row.metric} {gain_text(row)}, {reached_text(row)}"
        lines.append(f"{row.encoder}, {row.task}: {gain}{distance}{speed}")
    print("\n".join([*lines, str(summary), str(page)]))


@contextmanager
def shown_progress(sweep: Sweep) -> Iterator[ProgressLines]:
    """Show on stderr how far a sweep is: bars on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield ProgressLines(sweep)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        yield ProgressBars(sweep, bars)


class ProgressLines:
    """A `SweepObserver`: a line for each run that ends, and one on the active ones every minute."""

    def __init__(self, sweep: Sweep) -> None:
        self.count, self.done = len(sweep.runs), len(sweep.runs) - len(sweep.pending())
        self.active: dict[RunKey, str] = {}
        self.shown_s = time.monotonic()

    def started(self, run: RunKey) -> None:
        self.active[run] = f"{run.title}: waits"

    def progressed(self, run: RunKey, line: str, share: float) -> None:
        if run in self.active:
            self.active[run] = f"{run.title}: {line}"

    def finished(self, run: RunKey) -> None:
        self._leave(run)
        self.show(f"{run.title}: done")

    def failed(self, run: RunKey, error: BaseException) -> None:
        self._leave(run)
        self.show(f"{run.title}: failed. {sentence(error)}")

    def polled(self, workers: int) -> None:
        if time.monotonic() - self.shown_s >= _LINE_EVERY_S:
            self.show("; ".join([f"{workers} workers", *self.active.values()]))

    def show(self, line: str) -> None:
        self.shown_s = time.monotonic()
        print(f"{self.done}/{self.count} {line}", file=sys.stderr, flush=True)

    def _leave(self, run: RunKey) -> None:
        self.done += self.active.pop(run, None) is not None


class ProgressBars(ProgressLines):
    """A bar for all runs and one for each active run; lines of failed runs stay above them."""

    def __init__(self, sweep: Sweep, bars: Progress) -> None:
        super().__init__(sweep)
        self.bars = bars
        self.bar_of: dict[RunKey, TaskID] = {}
        self.whole = bars.add_task("runs", total=self.count, completed=self.done)

    def started(self, run: RunKey) -> None:
        super().started(run)
        self.bar_of[run] = self.bars.add_task(_escaped(self.active[run]), total=1.0)

    def progressed(self, run: RunKey, line: str, share: float) -> None:
        super().progressed(run, line, share)
        if run in self.bar_of:
            self.bars.update(self.bar_of[run], description=_escaped(self.active[run]), completed=share)

    def show(self, line: str) -> None:
        if ": failed" in line:
            self.bars.console.print(line, markup=False, highlight=False)

    def _leave(self, run: RunKey) -> None:
        super()._leave(run)
        if run in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(run))
        self.bars.update(self.whole, completed=self.done)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
