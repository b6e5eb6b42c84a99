"""How far a running study is, on stderr: a table that is drawn anew, or lines where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..study.sweep import Study, Watcher
from ..study.tables import PRETRAINING, Cell
from .shared import sentence

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_LINE_EVERY_S = 60.0
_ARMS = ("trivial", "specialised", "scratch", "pretrained")


@contextmanager
def watching(study: Study) -> Iterator[Watcher]:
    """What listens to a study while the context lasts."""
    if not sys.stderr.isatty():
        yield LineWatcher(study)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield TableWatcher(study, live)


class LineWatcher(Watcher):
    """A line for each cell that ends, and now and then one on all."""

    def __init__(self, study: Study) -> None:
        self.cells = study.cells
        self.left = set(study.pending())
        self.at_start = len(self.left)
        self.working: dict[Cell, tuple[str, float]] = {}
        self.broken: dict[Cell, str] = {}
        self.workers = 0
        self.began_s = self.told_s = time.monotonic()

    def began(self, cell: Cell) -> None:
        self.working[cell] = ("waits", 0.0)

    def at(self, cell: Cell, line: str, part: float) -> None:
        if cell in self.working:
            self.working[cell] = (line, part)

    def ended(self, cell: Cell) -> None:
        self._leave(cell)
        self.show(f"{title(cell)}: done")

    def failed(self, cell: Cell, error: BaseException) -> None:
        self._leave(cell)
        self.broken[cell] = sentence(error)
        self.show(f"{title(cell)}: failed. {self.broken[cell]}")

    def looked(self, workers: int) -> None:
        self.workers = workers
        if time.monotonic() - self.told_s >= _LINE_EVERY_S:
            running = "; ".join(f"{title(cell)}: {line}" for cell, (line, _) in self.working.items())
            self.show(f"{self.headline()}. {running}")

    def show(self, line: str) -> None:
        self.told_s = time.monotonic()
        done = len(self.cells) - len(self.left)
        print(f"{done}/{len(self.cells)} {line}", file=sys.stderr, flush=True)

    def headline(self) -> str:
        """Where the whole study stands."""
        spent_s = time.monotonic() - self.began_s
        done = self.at_start - len(self.left)
        parts = [f"{len(self.cells) - len(self.left)} of {len(self.cells)} cells", f"{self.workers} workers"]
        if done:
            parts.append(f"about {_duration(spent_s / done * len(self.left))} left")
        if self.broken:
            parts.append(f"{len(self.broken)} failed")
        return f"{_duration(spent_s)}: {', '.join(parts)}"

    def _leave(self, cell: Cell) -> None:
        self.working.pop(cell, None)
        self.left.discard(cell)


class TableWatcher(LineWatcher):
    """A table of encoders, tasks and arms, and below it what is at work."""

    def __init__(self, study: Study, live: Live) -> None:
        super().__init__(study)
        self.live = live

    def at(self, cell: Cell, line: str, part: float) -> None:
        super().at(cell, line, part)
        self._draw()

    def looked(self, workers: int) -> None:
        self.workers = workers
        self._draw()

    def show(self, line: str) -> None:
        if ": failed" in line:
            self.live.console.print(line, markup=False, highlight=False)  # what a cell said is no markup
        self._draw()

    def _draw(self) -> None:
        self.live.update(self._table(), refresh=True)

    def _table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.headline(), title_justify="left")
        for name in ("task", *_ARMS):
            table.add_column(name)
        for task in dict.fromkeys(cell.task for cell in self.cells if cell.task):
            of_task = [cell for cell in self.cells if cell.task == task]
            table.add_row(task, *("\n".join(self._counts(of_task, arm)) for arm in _ARMS))
        lines = [Text(f"{part:4.0%}  {title(cell)}: {line}") for cell, (line, part) in self.working.items()]
        return Group(table, *lines)

    def _counts(self, cells: list[Cell], arm: str) -> Iterator[str]:
        for encoder in dict.fromkeys(cell.encoder for cell in cells if cell.arm == arm):
            own = [cell for cell in cells if (cell.arm, cell.encoder) == (arm, encoder)]
            done = sum(cell not in self.left for cell in own)
            broken = sum(cell in self.broken for cell in own)
            yield f"{encoder} {done - broken}/{len(own)}" + (f" [red]{broken} failed[/red]" if broken else "")


def title(cell: Cell) -> str:
    """A cell in words."""
    if cell.arm == PRETRAINING:
        return f"pretraining of {cell.encoder}"
    return f"{cell.task}, {cell.encoder}, {cell.arm}, seed {cell.seed}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
