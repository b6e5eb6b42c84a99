"""The options of a study, and its progress as it is shown: lines in a log, a table on a terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from VFMTransferLib.cli import main
from VFMTransferLib.cli.study import ProgressBars, ProgressLines
from VFMTransferLib.core.errors import ConfigError, DatasetError
from VFMTransferLib.study.config import RunKey, pretraining

TASK = "classification"
FIRST, OTHER = RunKey("profound", TASK, "scratch", 0), RunKey("profound", TASK, "scratch", 1)
START = pretraining("profound")


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


def test_a_terminal_shows_what_is_done_at_work_and_failed(sweep):
    with Progress(console=Console(file=io.StringIO(), width=100)) as bars:
        observer = ProgressBars(sweep, bars)
        observer.started(FIRST)
        observer.progressed(FIRST, "step 4, at 4: loss [0.5]", 0.5)
        whole, active = bars.tasks
        assert (whole.completed, whole.total, active.percentage) == (1, 3, 50)
        observer.finished(FIRST)
        observer.started(OTHER)
        observer.failed(OTHER, DatasetError("Case [one] must have a mask."))
        assert [task.completed for task in bars.tasks] == [3]
        assert "Case [one] must have a mask." in bars.console.file.getvalue()


def asked(words: list[str], monkeypatch) -> dict[str, Any]:
    """What the command hands to the sweep."""
    given: dict[str, Any] = {}

    def opened(folder, config, **options):
        given.update(options, folder=folder)
        raise ConfigError("Enough.")

    monkeypatch.setattr("VFMTransferLib.study.sweep.open_sweep", opened)
    assert main(["study", "run", "-o", "out", *words]) == 1
    return given


def test_parts_of_the_runs_add_up(monkeypatch):
    words = ["--only", "seed=0", "--only", "arm=scratch, pretrained", "--only", "seed=1"]
    assert asked(words, monkeypatch)["only"] == {"seed": ["0", "1"], "arm": ["scratch", "pretrained"]}
    assert asked([], monkeypatch)["only"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers"),
        (["--workers", "2", "--scheduler", "tcp://head:8786"], "--scheduler"),
        (["--only", "seed"], "KEY=VALUE"),
    ],
)
def test_options_of_a_study_that_have_no_effect_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["study", "run", "-o", "out", *words])
    assert message in capsys.readouterr().err
