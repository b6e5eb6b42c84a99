"""The progress of a sweep as it is shown: lines in a log, a table on a terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from VFMTransferLib.cli.study import ProgressLines, ProgressTable
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.study.config import RunKey, pretraining

TASK = "classification"
FIRST, OTHER = RunKey("profound", TASK, "scratch", 0), RunKey("profound", TASK, "scratch", 1)
START = pretraining("profound")


class Terminal:
    """What `rich.live.Live` shows, kept."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO(), width=100)
        self.shown = ""

    def update(self, table, refresh: bool) -> None:
        drawn = Console(file=io.StringIO(), width=100)
        drawn.print(table)
        self.shown = drawn.file.getvalue()


@pytest.fixture
def sweep():
    return SimpleNamespace(runs=(START, FIRST, OTHER), pending=lambda: [FIRST, OTHER])


def test_a_log_has_a_line_for_each_run_that_ends(sweep, capsys):
    observer = ProgressLines(sweep)
    observer.polled(2)
    observer.started(FIRST)
    observer.progressed(FIRST, "step 4", 0.5)
    observer.finished(FIRST)
    observer.started(OTHER)
    observer.failed(OTHER, DatasetError("Case 'one' must have a mask."))
    assert capsys.readouterr().err.splitlines() == [
        "2/3 classification, profound, scratch, seed 0: done",
        "3/3 classification, profound, scratch, seed 1: failed. Case 'one' must have a mask.",
    ]


def test_a_long_silence_is_broken(sweep, capsys, monkeypatch):
    observer = ProgressLines(sweep)
    observer.started(FIRST)
    observer.progressed(FIRST, "step 4", 0.5)
    observer.shown_s -= 61
    observer.polled(2)
    observer.polled(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("1/3 0:00 h: 1 of 3 runs, 2 workers.")
    assert line.endswith("classification, profound, scratch, seed 0: step 4")


def test_a_terminal_shows_what_is_done_at_work_and_failed(sweep):
    terminal = Terminal()
    observer = ProgressTable(sweep, terminal)
    observer.polled(2)
    assert "profound 0/2" in terminal.shown
    observer.started(FIRST)
    observer.progressed(FIRST, "step 4, at 4: loss [0.5]", 0.5)
    assert "50%  classification, profound, scratch, seed 0: step 4, at 4: loss [0.5]" in terminal.shown
    observer.finished(FIRST)
    assert "profound 1/2" in terminal.shown
    assert "about" in terminal.shown
    observer.failed(OTHER, DatasetError("Case [one] must have a mask."))
    assert "1 failed" in terminal.shown
    assert "Case [one] must have a mask." in terminal.console.file.getvalue()
