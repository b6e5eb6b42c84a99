"""Advice: what a finished study lets expect, in numbers and in words, the command, and the estimators on a study."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache

import pytest
from small_sweeps import a_document, prepared_sweep, write_config
from study_examples import a_phantom
from tiny_commands import use_small_networks

from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.encoders.pretext import pretext_task
from VFMTransferLib.study import advice, estimators
from VFMTransferLib.study.advice import (
    CandidateEstimate,
    advice_document,
    advice_lines,
    advice_of,
    find_checkpoints,
)
from VFMTransferLib.study.config import CONFIG, read_config
from VFMTransferLib.study.forecast import (
    ESTIMATES,
    FORECAST,
    EstimateRow,
    FinishedStudy,
    ForecastRow,
    Point,
    expected_gain,
    gain_to_expect,
    hours_to_save,
    points_of,
    read_finished_study,
    validate,
    write_forecast,
)
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.summary import SummaryRow, summarize
from VFMTransferLib.study.tables import CurveRow, RunRow, StudyTables, read_rows_if_any, read_tables, write_tables
from VFMTransferLib.study.workspace import Workspace, training_cases
from VFMTransferLib.tasks import TASKS, find_task
from VFMTransferLib.training import cases as study_source
from VFMTransferLib.training.pretrain import pretrain, pretrain_config, write_pretrained

NAN, INF = math.nan, math.inf
FAMILIES = ("profound", "provicnet")
ESTIMATORS = ("probe", "logme", "few-steps", "nearness")


def a_summary_row(encoder, task, gain, hours=1.0, convergence=0.5):
    return SummaryRow(encoder, str(task), "dice", gain, gain - 1, gain + 1, 0.1, 0.1, 0.1, convergence, hours)


def gain_of(number, encoder):
    return 4.0 * number + (2.0 if encoder == "provicnet" else 0.0)


def an_experience(knows="logme", **changes):
    """Six tasks, each with a larger gain than the one before; one estimator knows, the others say all the same."""
    pairs = [(e, t, gain_of(i, e)) for e in FAMILIES for i, t in enumerate(TASKS)]
    summary = tuple(a_summary_row(*pair) for pair in pairs)
    estimates = tuple(
        EstimateRow(e, str(t), name, gain / 100 if name == knows else 1.0, 1.0)
        for e, t, gain in pairs
        for name in ESTIMATORS
    )
    runs = tuple(a_run(e, t, "scratch", 1.0) for e, t, _ in pairs)
    return replace(FinishedStudy(runs, summary, estimates, validated(estimates, summary)), **changes)


@lru_cache
def validated(estimates, summary):
    return validate(points_of(estimates, summary))


def a_run(encoder, task, arm, value, seed=0):
    return RunRow(encoder, str(task), arm, seed, "dice", True, value, 100, 100, 50.0, 3, "c")


def an_estimate(finished, name="start", encoder="profound", task="classification", estimate=0.2, **changes):
    estimates = {name: estimate if name == "logme" else 1.0 for name in ESTIMATORS}
    gain = gain_to_expect(finished, encoder, task, estimates)
    hours = hours_to_save(finished, encoder, task)
    candidate = CandidateEstimate(name, encoder, "mae", estimates, gain, hours, finished.row(encoder, task))
    return replace(candidate, **changes)


def advice_on(finished, *estimates):
    return advice_of("classification", "8 cases", 6, estimates, finished)


def test_the_expected_gain_is_the_best_estimators_with_the_reach_of_its_errors():
    finished = an_experience()
    row = finished.best_forecast
    assert row.estimator == "logme"
    found = gain_to_expect(finished, "profound", "classification", {"logme": 0.13, "probe": 9.0})
    points = points_of(finished.estimates, finished.summary)["logme"]
    assert found.percent == expected_gain(Point("profound", "classification", 0.13, NAN), points)
    assert found.high - found.percent == pytest.approx(row.reach_percent)
    assert found.percent - found.low == pytest.approx(row.reach_percent)


def test_without_an_estimator_that_is_better_the_mean_gain_is_expected():
    finished = an_experience(knows="nobody")
    assert finished.best_forecast is None
    found = gain_to_expect(finished, "provicnet", "classification", {"logme": 99.0})
    assert found.percent == pytest.approx(sum(gain_of(i, e) for i in range(6) for e in FAMILIES) / 12)
    assert found.high - found.percent == pytest.approx(finished.forecast("constant").reach_percent)


def test_without_a_study_nothing_is_expected():
    found = gain_to_expect(FinishedStudy(), "profound", "classification", {"logme": 1.0})
    assert math.isnan(found.percent)
    hours = hours_to_save(FinishedStudy(), "profound", "classification")
    assert math.isnan(hours.hours)
    assert "no task of this encoder" in hours.words


def test_hours_are_the_studys_at_the_speed_that_is_measured_here():
    own = an_experience()
    plain = hours_to_save(own, "profound", "classification")
    assert (plain.hours, plain.low, plain.high) == (1.0, 1.0, 1.0)
    faster = hours_to_save(own, "profound", "classification", seconds_per_step=0.25)  # the study's: 50 s / 100
    assert faster.hours == pytest.approx(0.5)
    assert "0.25 s per step measured here" in faster.words


@pytest.mark.parametrize(("convergence", "words"), [(INF, "did not reach"), (NAN, "do not show convergence")])
def test_hours_that_are_no_number_are_said_in_words(convergence, words):
    rows = [a_summary_row("profound", t, 1.0, hours=2.0) for t in TASKS]
    rows[2] = a_summary_row("profound", "classification", 1.0, NAN, convergence)
    found = hours_to_save(FinishedStudy(summary=tuple(rows)), "profound", "classification")
    assert math.isnan(found.hours)
    assert words in found.words
    assert (found.low, found.high) == (2.0, 2.0)


def test_a_task_that_the_study_has_not_gets_the_median_of_the_others():
    rows = tuple(a_summary_row("profound", t, 1.0, hours=h) for t, h in zip(TASKS, (1.0, 5.0, 2.0), strict=False))
    found = hours_to_save(FinishedStudy(summary=rows), "profound", "adc-translation")
    assert (found.hours, found.low, found.high) == (2.0, 1.0, 5.0)
    assert "no such task" in found.words


def test_the_larger_expected_gain_is_recommended_and_its_trust_is_stated():
    finished = an_experience()
    low, high = (an_estimate(finished, name, estimate=e) for name, e in (("low", 0.01), ("high", 0.25)))
    found = advice_on(finished, low, high)
    assert found.recommended == "high"
    text = "\n".join(advice_lines(found))
    assert f"rank correlation with the observed gain {finished.best_forecast.rho:.2f} (95 %:" in text
    assert "12 pairs, 6 tasks, each left out in turn" in text
    assert "picked again without each task" in text
    assert "project's own definition" in text


def test_where_none_beats_the_constant_it_says_so_and_shows_what_the_study_measured():
    finished = an_experience(knows="nobody")
    estimates = [an_estimate(finished, "a"), an_estimate(finished, "b", "provicnet")]
    found = advice_on(finished, *estimates)
    text = "\n".join(advice_lines(found))
    assert "No estimator beats always predicting the mean gain" in text
    assert found.recommended == "b"
    assert "no forecast for these" in found.why
    assert "logme 0.2" in text  # shown all the same


def test_no_gain_is_no_recommendation_to_pretrain():
    finished = an_experience()
    loses = an_estimate(finished, gain=replace(an_estimate(finished).gain, percent=-3.0))
    assert advice_on(finished, loses).recommended == "scratch"
    none = an_experience(knows="nobody")
    lost = an_estimate(none, seen=a_summary_row("profound", "classification", -4.0))
    assert advice_on(none, lost).recommended == "scratch"
    unknown = an_estimate(none, seen=None)
    assert advice_on(none, unknown).recommended == ""


def test_a_measured_gain_that_may_be_none_is_no_recommendation():
    none = an_experience(knows="nobody")
    seen = replace(a_summary_row("profound", "classification", 2.0), rpg_low=-1.0, rpg_high=5.0)
    found = advice_on(none, an_estimate(none, seen=seen))
    assert found.recommended == ""
    assert "+2.0 %, and its interval contains 0" in found.why


def test_two_pretrainings_of_one_encoder_are_not_told_apart_by_what_the_study_measured():
    finished = an_experience(knows="nobody")
    found = advice_on(finished, an_estimate(finished, "a"), an_estimate(finished, "b"))
    assert found.recommended == ""
    assert "a, b have the same encoder" in found.why


def test_an_interval_that_reaches_below_zero_is_pointed_out():
    finished = an_experience()
    unsure = an_estimate(finished, gain=replace(an_estimate(finished).gain, percent=1.0, low=-5.0, high=7.0))
    assert "may as well lose" in advice_on(finished, unsure).why


def test_the_document_holds_null_where_nothing_is_known():
    finished = an_experience(forecasts=())
    candidate = an_estimate(finished, estimates=dict.fromkeys(ESTIMATORS, NAN))
    found = advice_on(finished, candidate)
    document = json.loads(json.dumps(advice_document(found), allow_nan=False))
    assert document["outlooks"][0]["estimates"]["probe"] is None
    assert document["outlooks"][0]["gain"]["percent"] is None
    assert "No forecast" in document["trust"]
    assert "not available" in "\n".join(advice_lines(found))


@pytest.fixture
def small_networks(monkeypatch):
    """The same command with networks, phantoms and trials that take seconds."""
    use_small_networks(monkeypatch.setattr)
    monkeypatch.setattr(study_source, "make_phantom", lambda seed, **_: a_phantom(seed % 5))
    monkeypatch.setattr(advice, "PHANTOM_COUNT", 3)
    monkeypatch.setattr(estimators, "TRIAL_STEPS", 2)


@pytest.fixture
def a_pretraining(tmp_path, small_networks):
    folder = tmp_path / "mae-start"
    config = pretrain_config(pretext_task("mae"), steps=1)
    cases = [a_phantom(0).case]
    run = pretrain(config, cases, folder.with_suffix(".training"))
    return write_pretrained(config, run, folder, data="1 phantoms", cases=cases).folder


@pytest.fixture
def a_study_folder(tmp_path):
    """A finished study with tables, and its estimators tried."""
    runs, curves = [], []
    for encoder in FAMILIES:
        for number, task in enumerate(TASKS):
            pretrained = 1.0 + gain_of(number, encoder) / 100
            for arm, value in (("pretrained", pretrained), ("scratch", 1.0)):
                runs.append(a_run(encoder, task, arm, value))
                curves += [CurveRow(encoder, str(task), arm, 0, step, value * step / 100) for step in (50, 100)]
    folder = tmp_path / "study"
    write_tables(StudyTables(tuple(runs), curves=tuple(curves)), folder)
    finished = an_experience()
    write_forecast(finished.estimates, finished.forecasts, folder)
    write_config(folder, a_document()).rename(folder / CONFIG)
    return folder


def test_a_study_is_read_from_its_tables(a_study_folder, tmp_path):
    found = read_finished_study(a_study_folder)
    assert found.best_forecast.estimator == "logme"
    assert found.row("profound", "classification").rpg_percent == pytest.approx(8.0)
    assert found.summary == pytest.approx(found.summary)
    assert len(found.summary) == len(summarize_again(a_study_folder)) == 12
    assert read_finished_study(tmp_path / "nothing") == FinishedStudy()


def summarize_again(folder):
    return summarize(read_tables(folder))


def test_the_command_answers_for_phantoms(a_pretraining, a_study_folder, capsys, monkeypatch):
    task = type(find_task("adc-translation"))
    widths, plain = [], task.around_gland

    def cut(self, labeled, width_mm):
        widths.append(width_mm)
        return plain(self, labeled, width_mm)

    monkeypatch.setattr(task, "around_gland", cut)
    command = ["advise", "adc-translation", "--phantoms", "4", "--pretrained", str(a_pretraining)]
    assert main([*command, "--study", str(a_study_folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["task"] == "adc-translation"
    assert widths == [120.0] * 3  # as the study's cases were cut
    assert answer["n_cases"] == 3
    candidate = answer["outlooks"][0]
    assert (candidate["name"], candidate["encoder"], candidate["objective"]) == (
        "mae-start",
        "profound",
        "mae",
    )
    assert all(value is not None for value in candidate["estimates"].values())
    assert candidate["gain"]["low"] < candidate["gain"]["percent"] < candidate["gain"]["high"]
    assert answer["recommended"] in ("mae-start", "scratch")
    assert main([*command, "--study", str(a_study_folder)]) == 0
    text = capsys.readouterr().out
    assert "Forecast by `logme`" in text
    assert "not for clinical decisions" in text


def test_of_many_cases_some_are_looked_at_and_the_answer_says_so(a_pretraining, a_study_folder, capsys, monkeypatch):
    assert estimators.evenly_chosen("abcdefg", 3) == ["a", "c", "e"]
    assert estimators.evenly_chosen("abc", 3) == ["a", "b", "c"]
    seen = []
    monkeypatch.setattr(
        advice, "evenly_chosen", lambda studies: seen.append(estimators.evenly_chosen(studies, 3)) or seen[-1]
    )
    command = ["advise", "adc-translation", "--phantoms", "6", "--pretrained", str(a_pretraining)]
    assert main([*command, "--study", str(a_study_folder)]) == 0
    assert "3 of 5 training cases were used, evenly from all of them." in capsys.readouterr().out


def test_the_command_needs_a_pretraining(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(advice, "list_bundles", lambda: [])
    assert main(["advise", "classification", "--study", str(tmp_path)]) == 1
    assert "vfm-transfer pretrain" in capsys.readouterr().err


def test_the_studys_own_pretrainings_are_found(a_pretraining, tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "list_bundles", lambda: [])
    own = tmp_path / "study" / "work" / "pretrained"
    own.mkdir(parents=True)
    a_pretraining.rename(own / "profound")
    found = find_checkpoints([], tmp_path / "study")
    assert [start.bundle.folder for start in found] == [own / "profound"]
    assert len(found[0].cases) == 3
    with pytest.raises(DatasetError, match="none is installed"):
        find_checkpoints([], tmp_path / "elsewhere")


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
    assert all(math.isfinite(row.value) for row in rows)
    names = [row.estimator for row in read_rows_if_any(out / FORECAST, ForecastRow)]
    assert names == [*estimators.ESTIMATORS, "chosen", "constant"]
    answer = json.loads(capsys.readouterr().out)
    assert [row["estimator"] for row in answer["forecasts"]] == names
    assert not (a_finished_study / "estimates.csv").exists()
    phantoms = {path.name for path in (a_finished_study / "work" / "phantoms").iterdir()}
    assert not any("phantom-002" in name for name in phantoms)  # no test case was used, or even made

    monkeypatch.setattr(advice, "estimate", lambda *_: pytest.fail("it is there already"))
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--resume"]) == 0
    assert read_rows_if_any(out / ESTIMATES, EstimateRow) == rows
    assert "rank correlation" in capsys.readouterr().out

    (a_finished_study / "runs.csv").rename(tmp_path / "runs.csv")  # as before any run was done
    assert main(["forecast", str(a_finished_study), "-o", str(out), "--resume"]) == 0
    assert (read_rows_if_any(out / ESTIMATES, EstimateRow), read_rows_if_any(out / FORECAST, ForecastRow)) == (rows, ())
    assert "Too few tasks" in capsys.readouterr().out


def test_training_cases_are_the_splits(a_finished_study):
    config = read_config(a_finished_study / CONFIG)
    studies = training_cases(config, "classification", Workspace(a_finished_study))
    assert [study.case.id for study in studies] == ["phantom-0000", "phantom-0001", "phantom-0002"]


def test_a_folder_without_a_study_is_told_so(tmp_path, capsys):
    assert main(["forecast", str(tmp_path)]) == 1
    assert "config.yaml" in capsys.readouterr().err
