"""The estimators on a finished study: every encoder that was pretrained, from training cases alone."""

from __future__ import annotations

import json
import math

import pytest
from small_sweeps import a_document, prepared_sweep, write_config

from VFMTransferLib.cli import main
from VFMTransferLib.study import candidates, estimators
from VFMTransferLib.study.cases import training_cases
from VFMTransferLib.study.config import CONFIG, read_config
from VFMTransferLib.study.estimators import ESTIMATORS
from VFMTransferLib.study.forecast import read_estimates, read_forecast
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.tables import RunRow, StudyTables, write_tables
from VFMTransferLib.study.workspace import Workspace

TASKS = {
    "anatomy-segmentation": {"profound": {"steps": 2}, "provicnet": {"steps": 2}},
    "classification": {"profound": {"steps": 2}},
    "distortion-correction": {"profound": {"steps": 2}},
}


@pytest.fixture(scope="module")
def a_finished_study(tmp_path_factory):
    """The pretrainings are made; what the arms came to is written by hand."""
    folder = tmp_path_factory.mktemp("study")
    phantoms = {
        "spacing_mm": [3.0, 3.0, 4.0],
        "train": {"first_seed": 0, "count": 3},
        "validation": {"first_seed": 1000, "count": 1},
        "test": {"first_seed": 2000, "count": 3},
    }
    document = a_document(tasks=TASKS, phantoms=phantoms, real=None)
    for encoder in document["encoders"].values():
        encoder["pretraining"]["phantoms"]["count"] = 3
    config = write_config(folder, document)
    sweep = prepared_sweep(folder / "grid", config)
    for run in sweep.runs:
        if run.arm == "pretraining":
            run_one(run, sweep.config, sweep.workspace)
    runs = [
        RunRow(encoder, task, arm, 0, "dice", True, value, 2, 2, 1.0, 3, "c")
        for number, (task, encoders) in enumerate(TASKS.items())
        for encoder in encoders
        for arm, value in (("pretrained", 1.0 + number / 10), ("scratch", 1.0))
    ]
    write_tables(StudyTables(tuple(runs)), folder / "grid")
    return folder / "grid"


def test_every_pretrained_encoder_is_estimated_and_the_estimators_are_tried(
    a_finished_study, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(estimators, "TRIAL_STEPS", 2)
    out = tmp_path / "out"
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--json"]) == 0
    rows = read_estimates(out)
    pairs = [(encoder, task) for task, encoders in TASKS.items() for encoder in encoders]
    found = [(row.encoder, row.task, row.estimator) for row in rows]
    assert found == [(*pair, name) for pair in pairs for name in ESTIMATORS]
    assert all(math.isfinite(row.value) for row in rows)
    names = [row.estimator for row in read_forecast(out)]
    assert names == [*ESTIMATORS, "chosen", "constant"]
    answer = json.loads(capsys.readouterr().out)
    assert [row["estimator"] for row in answer["forecasts"]] == names
    assert not (a_finished_study / "estimates.csv").exists()
    phantoms = {path.name for path in (a_finished_study / "work" / "phantoms").iterdir()}
    assert not any("phantom-002" in name for name in phantoms)  # no test case was used, or even made

    monkeypatch.setattr(candidates, "estimate", lambda *_: pytest.fail("it is there already"))
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--resume"]) == 0
    assert read_estimates(out) == rows
    assert "rank correlation" in capsys.readouterr().out

    (a_finished_study / "runs.csv").rename(tmp_path / "runs.csv")  # as before any run was done
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--resume"]) == 0
    assert (read_estimates(out), read_forecast(out)) == (rows, ())
    assert "Too few tasks" in capsys.readouterr().out


def test_training_cases_are_the_splits(a_finished_study):
    config = read_config(a_finished_study / CONFIG)
    studies = training_cases(config, "classification", Workspace(a_finished_study))
    assert [study.case.id for study in studies] == ["phantom-0000", "phantom-0001", "phantom-0002"]


def test_a_folder_without_a_study_is_told_so(tmp_path, capsys):
    assert main(["forecast", str(tmp_path)]) == 1
    assert "config.yaml" in capsys.readouterr().err
