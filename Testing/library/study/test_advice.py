"""Advice: what a finished study tells, in one screen, and the estimators on a study."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from small_sweeps import a_document, prepared_sweep, write_config

from VFMTransferLib.cli import main
from VFMTransferLib.study import estimators
from VFMTransferLib.study.advice import advice_lines, advise, forecast_lines, shipped_study, verdict
from VFMTransferLib.study.config import CONFIG, read_config
from VFMTransferLib.study.forecast import (
    ESTIMATES,
    FEW_LABELS,
    FORECAST,
    EstimateRow,
    FinishedStudy,
    ForecastRow,
    judge,
    points_of,
    read_finished_study,
    write_forecast,
)
from VFMTransferLib.study.label_efficiency import label_efficiency, write_label_efficiency
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.summary import SummaryRow, write_summary
from VFMTransferLib.study.tables import RunRow, StudyTables, read_rows, read_rows_if_any, write_tables
from VFMTransferLib.study.workspace import Workspace, training_cases
from VFMTransferLib.tasks import TASKS

NAN = math.nan
SCREEN = 24  # lines
KNOWS = ForecastRow("logme", 12, 6, 0.9, 0.9, 0.002, 720)
GUESSES = ForecastRow("probe", 12, 6, 0.1, 0.1, 0.4, 720)


def a_summary_row(encoder, gain, task="classification", low=-1.0, high=1.0):
    return SummaryRow(encoder, task, "auroc", gain, low, high, 0.1, 0.1, 0.1, 0.5, 1.0)


def test_where_no_estimator_beats_chance_only_that_is_said():
    study = FinishedStudy(
        (a_summary_row("profound", 2.0), a_summary_row("provicnet", 9.0, "adc-translation")), (GUESSES,)
    )
    found = advise("classification", study)
    assert found.verdict.startswith("No estimator predicts the gain from pretraining better than chance")
    assert "1 estimators on 12 pairs" in found.verdict
    assert found.measured == study.summary[:1]
    text = "\n".join(advice_lines(found))
    assert "recommend" not in text.lower()
    assert "Exact p: probe 0.400" in text.splitlines()
    assert "probe         12          0.10    0.400" in "\n".join(forecast_lines(study.forecasts))
    assert "+2.0 % (-1.0 to 1.0), contains 0" in text


def test_a_gain_that_is_not_known_has_words():
    row = a_summary_row("profound", NAN, low=NAN, high=NAN)
    (line,) = (line for line in advice_lines(advise("classification", FinishedStudy((row,)))) if "profound" in line)
    assert line.split() == ["profound", "all", "AUROC", "n/a", "n/a"]


def test_a_gain_of_hundredths_of_a_percent_is_no_zero():
    found = advise("classification", FinishedStudy((a_summary_row("profound", 0.03, low=0.01, high=0.1),)))
    assert "+0.03 % (0.01 to 0.10)" in "\n".join(advice_lines(found))


def test_an_estimator_that_beats_chance_is_named():
    found = advise(
        "classification", FinishedStudy((a_summary_row("profound", 2.0, low=1.0, high=3.0),), (KNOWS, GUESSES))
    )
    assert found.verdict == (
        "Better than chance in this study, of 2 estimators on 12 pairs of encoder and task: logme (p = 0.002, "
        "rank correlation 0.90). Whether that holds for other data is not known; measure both arms."
    )
    assert "contains 0" not in "\n".join(advice_lines(found))


def test_of_a_study_that_lacks_seeds_it_is_stated_that_all_may_change(tmp_path):
    def runs_of(task, seeds, arms=("pretrained-mae", "scratch")):
        return [
            RunRow("profound", task, arm, seed, "auroc", True, 1.0, 2, 2, 1.0, 3, "c") for seed in seeds for arm in arms
        ]

    whole = [*runs_of("adc-translation", (0, 1)), *runs_of("classification", (0, 1))]
    few = [replace(run, labelled_cases=4, trained_on="phantoms") for run in runs_of("classification", (0,))]
    baseline = runs_of("classification", (0,), arms=("specialised",))
    write_forecast((), (KNOWS, GUESSES), tmp_path)
    lacking = " The study is not finished: seeds of classification are missing, with which all of this may change."
    for runs, is_finished in (([*whole, *few, *baseline], True), (whole[:-1], False), (whole[:-2], False)):
        write_tables(StudyTables(tuple(runs)), tmp_path)
        stated = advise("adc-translation", read_finished_study(tmp_path, "adc-translation")).verdict
        assert stated.endswith(lacking) == (not is_finished)
        assert stated.startswith("Better than chance in this study")
    (tmp_path / "forecast.csv").unlink()
    assert advise("adc-translation", read_finished_study(tmp_path)).verdict == verdict(())


@pytest.mark.parametrize(("estimators", "is_enough"), [(1, True), (2, False)])
def test_of_few_tasks_it_is_stated_that_nothing_could_be_found(estimators, is_enough):
    best_of_four = ForecastRow("logme", 4, 4, 1.0, 1.0, 1 / 24, 24)
    found = advise("classification", FinishedStudy((), estimators * (best_of_four,))).verdict
    assert found.startswith("Better than chance" if is_enough else "Not known: too few tasks to tell")
    assert is_enough or "With 4 tasks even the best order of them comes by chance one time in 24" in found


def test_without_a_study_nothing_is_known():
    found = advise("classification", FinishedStudy())
    assert found.verdict.startswith("Not known: no estimator was tried")
    assert advice_lines(found)[-1] == "  nothing"


@pytest.mark.parametrize("task", list(TASKS))
def test_the_shipped_study_answers_in_one_screen(task, capsys):
    assert main(["advise", task]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREEN
    rows = read_rows(shipped_study() / FORECAST, ForecastRow)
    assert lines[0] == verdict(rows)
    assert {row.n_cells for row in rows} == {36}


def test_the_shipped_judgment_follows_from_the_shipped_estimates():
    folder = shipped_study()
    estimates = read_rows(folder / ESTIMATES, EstimateRow)
    rows = judge(points_of(estimates, read_rows(folder / "summary.csv", SummaryRow)))
    assert rows == read_rows(folder / FORECAST, ForecastRow)


def test_the_command_answers_in_json(tmp_path, capsys):
    runs = [
        RunRow("profound", "classification", arm, 0, "dice", True, value, 2, 2, 1.0, 3, "c")
        for arm, value in (("pretrained", 1.1), ("scratch", 1.0))
    ]
    write_tables(StudyTables(tuple(runs)), tmp_path)
    write_forecast((), (GUESSES, KNOWS), tmp_path)
    assert main(["advise", "classification", "--study", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["estimator"] for row in answer["forecasts"]] == ["probe", "logme"]
    assert answer["measured"][0]["rpg_percent"] == pytest.approx(10)
    assert answer["measured"][0]["rpg_low"] is None


def runs_from(size, pretrained, encoder="profound", task="classification"):
    few = {"labelled_cases": size, "trained_on": "phantoms"}
    return [
        RunRow(encoder, task, arm, 0, "dice", True, value, 2, 2, 1.0, 3, "c", **few)
        for arm, value in (("pretrained", pretrained), ("scratch", 1.0))
    ]


def test_gains_with_few_labels_are_the_studys_and_those_of_studies_beside_it(tmp_path, capsys):
    write_tables(StudyTables((*runs_from(0, 1.1), *runs_from(4, 1.2))), tmp_path)
    for folder, size in (("", 1), ("one-task", 2)):
        others = runs_from(size, 9.0, task="adc-translation")
        further = StudyTables((*runs_from(size, 1.0 + size, "provicnet"), *others))
        (tmp_path / FEW_LABELS / folder).mkdir(exist_ok=True)
        write_label_efficiency(label_efficiency(further), tmp_path / FEW_LABELS / folder)
    assert main(["advise", "classification", "--study", str(tmp_path), "--json"]) == 0
    few = json.loads(capsys.readouterr().out)["few_labels"]
    found = [(row["encoder"], row["labelled_cases"], round(row["rpg_percent"])) for row in few]
    assert found == [("profound", 4, 20), ("provicnet", 1, 100), ("provicnet", 2, 200)]
    assert main(["advise", "classification", "--study", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    below = lines[lines.index("With few labeled cases") + 1 :]
    assert below[0].split() == ["profound", "4", "phantoms", "Dice", "1.000", "to", "1.200", "+20.0", "%"]


def test_the_shipped_study_tells_which_gains_with_few_labels_are_certain(capsys):
    assert main(["advise", "lesion-segmentation", "--json"]) == 0
    few = {row["metric"]: row for row in json.loads(capsys.readouterr().out)["few_labels"]}
    assert few["average_precision"]["rpg_low"] > 0
    assert few["dice"]["rpg_low"] == 0
    assert few["dice"]["rpg_high"] is None  # infinite
    assert main(["advise", "lesion-segmentation"]) == 0
    few_labels = capsys.readouterr().out.split("With few labeled cases")[1].splitlines()
    certain = [line for line in few_labels if "Average precision" in line]
    assert [line.endswith("0.234 to 0.283   +21.2 % (4.7 to 41.8)") for line in certain] == [True]


def test_of_image_tasks_the_shipped_study_has_a_certain_gain_with_few_labels_alone(capsys):
    found = {}
    for task in ("super-resolution", "distortion-correction", "adc-translation"):
        assert main(["advise", task, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert not [row for row in document["measured"] if row["rpg_low"] > 0]
        found[task] = [
            (row["encoder"], row["labelled_cases"], row["n_seeds"])
            for row in document["few_labels"]
            if row["rpg_low"] > 0
        ]
    assert found == {
        "super-resolution": [],
        "distortion-correction": [],
        "adc-translation": [("profound-synthetic", 4, 16)],
    }


def test_a_study_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["advise", "classification", "--study", str(tmp_path / "nothing")]) == 1
    assert "must be the folder of a finished study, but has no runs.csv" in capsys.readouterr().err


def test_the_tables_count_not_a_summary_of_former_ones(tmp_path):
    write_tables(StudyTables(()), tmp_path)
    write_summary([a_summary_row("profound", 3.0)], tmp_path)
    assert read_finished_study(tmp_path) == FinishedStudy()
    assert read_finished_study(tmp_path / "nothing") == FinishedStudy()


TRAINED = {
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
    document = a_document(tasks=TRAINED, phantoms=phantoms, real=None)
    for encoder in document["encoders"].values():
        encoder["pretraining"]["phantoms"]["count"] = 3
    config = write_config(folder, document)
    sweep = prepared_sweep(folder / "grid", config)
    for run in sweep.runs:
        if run.arm == "pretraining":
            run_one(run, sweep.config, sweep.workspace)
    runs = [
        RunRow(encoder, task, arm, 0, "dice", True, value, 2, 2, 1.0, 3, "c")
        for number, (task, encoders) in enumerate(TRAINED.items())
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
    rows = read_rows_if_any(out / ESTIMATES, EstimateRow)
    pairs = [(encoder, task) for task, encoders in TRAINED.items() for encoder in encoders]
    found = [(row.encoder, row.task, row.estimator) for row in rows]
    assert found == [(*pair, name) for pair in pairs for name in estimators.ESTIMATORS]
    # Three cases of a classification have no class of two.
    assert {(r.task, r.estimator) for r in rows if not math.isfinite(r.value)} <= {("classification", "gbc")}
    names = [row.estimator for row in read_rows_if_any(out / FORECAST, ForecastRow)]
    assert names == [name for name in estimators.ESTIMATORS if name != "gbc"]  # which has a value for two tasks only
    answer = json.loads(capsys.readouterr().out)
    assert [row["estimator"] for row in answer["forecasts"]] == names
    assert not (a_finished_study / "estimates.csv").exists()
    phantoms = {path.name for path in (a_finished_study / "work" / "phantoms").iterdir()}
    assert not any("phantom-002" in name for name in phantoms)  # no test case was used, or even made

    monkeypatch.setattr(estimators, "estimate", lambda *_: pytest.fail("it is there already"))
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--resume"]) == 0
    assert repr(read_rows_if_any(out / ESTIMATES, EstimateRow)) == repr(rows)  # some may be `nan`
    assert "weighted tau" in capsys.readouterr().out

    (a_finished_study / "runs.csv").rename(tmp_path / "runs.csv")  # as before any run was done
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--resume"]) == 0
    assert repr(read_rows_if_any(out / ESTIMATES, EstimateRow)) == repr(rows)
    assert read_rows_if_any(out / FORECAST, ForecastRow) == ()
    assert "Too few tasks" in capsys.readouterr().out


def test_training_cases_are_the_splits(a_finished_study):
    config = read_config(a_finished_study / CONFIG)
    studies = training_cases(config, "classification", Workspace(a_finished_study))
    assert [study.case.id for study in studies] == ["phantom-0000", "phantom-0001", "phantom-0002"]


def test_a_folder_without_a_study_is_told_so(tmp_path, capsys):
    assert main(["forecast", str(tmp_path)]) == 1
    assert "config.yaml" in capsys.readouterr().err
