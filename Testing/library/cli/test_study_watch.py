"""What is seen of a running study: lines in a log, a table on a terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from VFMTransferLib.cli.study_watch import LineWatcher, TableWatcher
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.study.tables import Cell, pretraining

TASK = "classification"
FIRST, OTHER = Cell("profound", TASK, "scratch", 0), Cell("profound", TASK, "scratch", 1)
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
def study():
    return SimpleNamespace(cells=(START, FIRST, OTHER), pending=lambda: [FIRST, OTHER])


def test_a_log_has_a_line_for_each_cell_that_ends(study, capsys):
    watcher = LineWatcher(study)
    watcher.looked(2)
    watcher.began(FIRST)
    watcher.at(FIRST, "step 4", 0.5)
    watcher.ended(FIRST)
    watcher.began(OTHER)
    watcher.failed(OTHER, DatasetError("Case 'one' must have a mask."))
    assert capsys.readouterr().err.splitlines() == [
        "2/3 classification, profound, scratch, seed 0: done",
        "3/3 classification, profound, scratch, seed 1: failed. Case 'one' must have a mask.",
    ]


def test_a_long_silence_is_broken(study, capsys, monkeypatch):
    watcher = LineWatcher(study)
    watcher.began(FIRST)
    watcher.at(FIRST, "step 4", 0.5)
    watcher.told_s -= 61
    watcher.looked(2)
    watcher.looked(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("1/3 0:00 h: 1 of 3 cells, 2 workers.")
    assert line.endswith("classification, profound, scratch, seed 0: step 4")


def test_a_terminal_shows_what_is_done_at_work_and_failed(study):
    terminal = Terminal()
    watcher = TableWatcher(study, terminal)
    watcher.looked(2)
    assert "profound 0/2" in terminal.shown
    watcher.began(FIRST)
    watcher.at(FIRST, "step 4, at 4: loss [0.5]", 0.5)
    assert "50%  classification, profound, scratch, seed 0: step 4, at 4: loss [0.5]" in terminal.shown
    watcher.ended(FIRST)
    assert "profound 1/2" in terminal.shown
    assert "about" in terminal.shown
    watcher.failed(OTHER, DatasetError("Case [one] must have a mask."))
    assert "1 failed" in terminal.shown
    assert "Case [one] must have a mask." in terminal.console.file.getvalue()
