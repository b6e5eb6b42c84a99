"""Progress on stderr, for people: nothing is drawn where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[str, float], None]


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A bar that follows `on_progress(stage, fraction)`; it comes with the first call and goes when all is done."""
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    bar = progress.add_task("", total=1.0)

    def on_progress(stage: str, fraction: float) -> None:
        progress.update(bar, description=stage, completed=fraction)
        # Away when a stage ends all, so that a question can be asked; the next call brings it back.
        progress.stop() if fraction >= 1 else progress.start()

    try:
        yield on_progress
    finally:
        progress.stop()


@contextmanager
def progress_lines() -> Iterator[OnProgress]:
    """As `progress_bar`; where stderr is no terminal, a line for each call, for logs of long runs."""
    if sys.stderr.isatty():
        with progress_bar() as on_progress:
            yield on_progress
    else:
        yield lambda stage, fraction: print(f"{fraction:4.0%} {stage}", file=sys.stderr, flush=True)


def _ignore(stage: str, fraction: float) -> None:
    """Nobody watches."""
