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
    from rich.live import Live

    from ..study.config import RunKey
    from ..study.sweep import Sweep

# As in study/config.py, whose imports take time.
KEYS = ("encoder", "task", "arm", "seed", "labelled_cases", "trained_on")
_WORKERS = 2
_LINE_EVERY_S = 60.0
_ARMS = ("trivial", "specialised", "scratch", "pretrained")


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
    """Show on stderr how far a sweep is: a table on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield ProgressLines(sweep)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield ProgressTable(sweep, live)


class ProgressLines:
    """A `SweepObserver`: a line for each run that ends, and one on all of them every minute."""

    def __init__(self, sweep: Sweep) -> None:
        self.runs = sweep.runs
        self.left = set(sweep.pending())
        self.at_start = len(self.left)
        self.active: dict[RunKey, tuple[str, float]] = {}
        self.errors: dict[RunKey, str] = {}
        self.workers = 0
        self.began_s = self.shown_s = time.monotonic()

    def started(self, run: RunKey) -> None:
        self.active[run] = ("waits", 0.0)

    def progressed(self, run: RunKey, line: str, share: float) -> None:
        if run in self.active:
            self.active[run] = (line, share)

    def finished(self, run: RunKey) -> None:
        self._leave(run)
        self.show(f"{run.title}: done")

    def failed(self, run: RunKey, error: BaseException) -> None:
        self._leave(run)
        self.errors[run] = sentence(error)
        self.show(f"{run.title}: failed. {self.errors[run]}")

    def polled(self, workers: int) -> None:
        self.workers = workers
        if time.monotonic() - self.shown_s >= _LINE_EVERY_S:
            running = "; ".join(f"{run.title}: {line}" for run, (line, _) in self.active.items())
            self.show(f"{self.headline()}. {running}")

    def show(self, line: str) -> None:
        self.shown_s = time.monotonic()
        print(f"{len(self.runs) - len(self.left)}/{len(self.runs)} {line}", file=sys.stderr, flush=True)

    def headline(self) -> str:
        spent_s = time.monotonic() - self.began_s
        done = self.at_start - len(self.left)
        parts = [f"{len(self.runs) - len(self.left)} of {len(self.runs)} runs", f"{self.workers} workers"]
        if done:
            parts.append(f"about {_duration(spent_s / done * len(self.left))} left")
        if self.errors:
            parts.append(f"{len(self.errors)} failed")
        return f"{_duration(spent_s)}: {', '.join(parts)}"

    def _leave(self, run: RunKey) -> None:
        self.active.pop(run, None)
        self.left.discard(run)


class ProgressTable(ProgressLines):
    """A table of encoders, tasks and arms, drawn again with each event, and the active runs below it."""

    def __init__(self, sweep: Sweep, live: Live) -> None:
        super().__init__(sweep)
        self.live = live

    def progressed(self, run: RunKey, line: str, share: float) -> None:
        super().progressed(run, line, share)
        self._draw()

    def polled(self, workers: int) -> None:
        self.workers = workers
        self._draw()

    def show(self, line: str) -> None:
        if ": failed" in line:
            self.live.console.print(line, markup=False, highlight=False)  # an error's text is no markup
        self._draw()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.headline(), title_justify="left")
        for name in ("task", *_ARMS):
            table.add_column(name)
        for task in dict.fromkeys(run.task for run in self.runs if run.task):
            of_task = [run for run in self.runs if run.task == task]
            table.add_row(task, *("\n".join(self._counts(of_task, arm)) for arm in _ARMS))
        lines = [Text(f"{share:4.0%}  {run.title}: {line}") for run, (line, share) in self.active.items()]
        self.live.update(Group(table, *lines), refresh=True)

    def _counts(self, runs: list[RunKey], arm: str) -> Iterator[str]:
        of_arm = [run for run in runs if run.arm == arm or run.arm.startswith(f"{arm}-")]
        for encoder in dict.fromkeys(run.label for run in of_arm):
            own = [run for run in of_arm if run.label == encoder]
            failed = sum(run in self.errors for run in own)
            done = sum(run not in self.left for run in own) - failed
            yield f"{encoder} {done}/{len(own)}" + (f" [red]{failed} failed[/red]" if failed else "")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
