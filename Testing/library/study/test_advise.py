"""Advice: what a finished study lets expect, in numbers and in words, and the command from data to answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache

import pytest
from study_examples import TINY_CONVNEXT, a_phantom, tiny_study_spec
from study_grids import a_document, write_config

from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.encoders.base import HeadSpec
from VFMTransferLib.encoders.demonstration import demonstration_encoder
from VFMTransferLib.study import advice, estimators
from VFMTransferLib.study import advice as starts
from VFMTransferLib.study.advice import find_starts
from VFMTransferLib.study.advice_words import Outlook, advice_document, advice_lines, advice_of
from VFMTransferLib.study.config import CONFIG
from VFMTransferLib.study.forecast import (
    EstimateRow,
    Experience,
    Point,
    expected_gain,
    gain_to_expect,
    hours_to_save,
    points_of,
    read_experience,
    validate,
    write_forecast,
)
from VFMTransferLib.study.summary import SummaryRow, summarize
from VFMTransferLib.study.tables import CurveRow, RunRow, StudyTables, write_tables
from VFMTransferLib.training import arms as study_training
from VFMTransferLib.training import cases as study_source
from VFMTransferLib.training import encoders as study_pretraining
from VFMTransferLib.training.encoders import Pretraining, pretrain_masked

NAN, INF = math.nan, math.inf
FAMILIES = ("profound", "provicnet")
ESTIMATORS = ("probe", "logme", "few-steps", "nearness")


def a_summary_row(encoder, task, gain, hours=1.0, convergence=0.5):
    return SummaryRow(encoder, str(task), "dice", gain, gain - 1, gain + 1, 0.1, 0.1, 0.1, convergence, hours)


def gain_of(number, encoder):
    return 4.0 * number + (2.0 if encoder == "provicnet" else 0.0)


def an_experience(knows="logme", **changes):
    """Six tasks, each with a larger gain than the one before; one estimator knows, the others say all the same."""
    cells = [(e, t, gain_of(i, e)) for e in FAMILIES for i, t in enumerate(TaskId)]
    summary = tuple(a_summary_row(*cell) for cell in cells)
    estimates = tuple(
        EstimateRow(e, str(t), name, gain / 100 if name == knows else 1.0, 1.0)
        for e, t, gain in cells
        for name in ESTIMATORS
    )
    runs = tuple(a_run(e, t, "scratch", 1.0) for e, t, _ in cells)
    return replace(Experience(runs, summary, estimates, validated(estimates, summary)), **changes)


@lru_cache
def validated(estimates, summary):
    return validate(points_of(estimates, summary))


def a_run(encoder, task, arm, value, seed=0):
    return RunRow(encoder, str(task), arm, seed, "dice", True, value, 100, 100, 50.0, 3, "c")


def an_outlook(experience, name="start", encoder="profound", task=TaskId.CLASSIFICATION, estimate=0.2, **changes):
    estimates = {name: estimate if name == "logme" else 1.0 for name in ESTIMATORS}
    gain = gain_to_expect(experience, encoder, task, estimates)
    hours = hours_to_save(experience, encoder, task)
    outlook = Outlook(name, encoder, "mae", estimates, gain, hours, experience.cell(encoder, task))
    return replace(outlook, **changes)


def advice_on(experience, *outlooks):
    return advice_of("classification", "8 cases", 6, outlooks, experience)


def test_the_expected_gain_is_the_best_estimators_with_the_reach_of_its_errors():
    experience = an_experience()
    row = experience.shipped
    assert row.estimator == "logme"
    found = gain_to_expect(experience, "profound", TaskId.CLASSIFICATION, {"logme": 0.13, "probe": 9.0})
    points = points_of(experience.estimates, experience.summary)["logme"]
    assert found.percent == expected_gain(Point("profound", "classification", 0.13, NAN), points)
    assert found.high - found.percent == pytest.approx(row.reach_percent)
    assert found.percent - found.low == pytest.approx(row.reach_percent)


def test_without_an_estimator_that_is_better_the_mean_gain_is_expected():
    experience = an_experience(knows="nobody")
    assert experience.shipped is None
    found = gain_to_expect(experience, "provicnet", TaskId.CLASSIFICATION, {"logme": 99.0})
    assert found.percent == pytest.approx(sum(gain_of(i, e) for i in range(6) for e in FAMILIES) / 12)
    assert found.high - found.percent == pytest.approx(experience.constant.reach_percent)


def test_without_a_study_nothing_is_expected():
    found = gain_to_expect(Experience(), "profound", TaskId.CLASSIFICATION, {"logme": 1.0})
    assert math.isnan(found.percent)
    hours = hours_to_save(Experience(), "profound", TaskId.CLASSIFICATION)
    assert math.isnan(hours.hours)
    assert "no task of this encoder" in hours.words


def test_hours_are_the_studys_at_the_speed_that_is_measured_here():
    own = an_experience()
    plain = hours_to_save(own, "profound", TaskId.CLASSIFICATION)
    assert (plain.hours, plain.low, plain.high) == (1.0, 1.0, 1.0)
    faster = hours_to_save(own, "profound", TaskId.CLASSIFICATION, seconds_per_step=0.25)  # the study's: 50 s / 100
    assert faster.hours == pytest.approx(0.5)
    assert "0.25 s per step measured here" in faster.words


@pytest.mark.parametrize(("convergence", "words"), [(INF, "did not reach"), (NAN, "say nothing of convergence")])
def test_hours_that_are_no_number_are_said_in_words(convergence, words):
    rows = [a_summary_row("profound", t, 1.0, hours=2.0) for t in TaskId]
    rows[2] = a_summary_row("profound", TaskId.CLASSIFICATION, 1.0, NAN, convergence)
    found = hours_to_save(Experience(summary=tuple(rows)), "profound", TaskId.CLASSIFICATION)
    assert math.isnan(found.hours)
    assert words in found.words
    assert (found.low, found.high) == (2.0, 2.0)


def test_a_task_that_the_study_has_not_gets_the_median_of_the_others():
    rows = tuple(a_summary_row("profound", t, 1.0, hours=h) for t, h in zip(TaskId, (1.0, 5.0, 2.0), strict=False))
    found = hours_to_save(Experience(summary=rows), "profound", TaskId.ADC_TRANSLATION)
    assert (found.hours, found.low, found.high) == (2.0, 1.0, 5.0)
    assert "no such task" in found.words


def test_the_larger_expected_gain_is_recommended_and_its_trust_is_stated():
    experience = an_experience()
    low, high = (an_outlook(experience, name, estimate=e) for name, e in (("low", 0.01), ("high", 0.25)))
    found = advice_on(experience, low, high)
    assert found.recommended == "high"
    text = "\n".join(advice_lines(found))
    assert f"rank correlation with the observed gain {experience.shipped.rho:.2f} (95 %:" in text
    assert "12 cells, 6 tasks, each left out in turn" in text
    assert "picked anew without each task" in text
    assert "project's own definition" in text


def test_where_none_beats_the_constant_it_says_so_and_shows_what_the_study_measured():
    experience = an_experience(knows="nobody")
    outlooks = [an_outlook(experience, "a"), an_outlook(experience, "b", "provicnet")]
    found = advice_on(experience, *outlooks)
    text = "\n".join(advice_lines(found))
    assert "No estimator beats always predicting the mean gain" in text
    assert found.recommended == "b"
    assert "no forecast for these" in found.why
    assert "logme 0.2" in text  # shown all the same


def test_no_gain_is_no_recommendation_to_pretrain():
    experience = an_experience()
    loses = an_outlook(experience, gain=replace(an_outlook(experience).gain, percent=-3.0))
    assert advice_on(experience, loses).recommended == "scratch"
    none = an_experience(knows="nobody")
    lost = an_outlook(none, seen=a_summary_row("profound", TaskId.CLASSIFICATION, -4.0))
    assert advice_on(none, lost).recommended == "scratch"
    unknown = an_outlook(none, seen=None)
    assert advice_on(none, unknown).recommended == ""


def test_a_measured_gain_that_may_be_none_is_no_recommendation():
    none = an_experience(knows="nobody")
    seen = replace(a_summary_row("profound", TaskId.CLASSIFICATION, 2.0), rpg_low=-1.0, rpg_high=5.0)
    found = advice_on(none, an_outlook(none, seen=seen))
    assert found.recommended == ""
    assert "+2.0 %, and its interval contains 0" in found.why


def test_two_pretrainings_of_one_encoder_are_not_told_apart_by_what_the_study_measured():
    experience = an_experience(knows="nobody")
    found = advice_on(experience, an_outlook(experience, "a"), an_outlook(experience, "b"))
    assert found.recommended == ""
    assert "a, b have the same encoder" in found.why


def test_an_interval_that_reaches_below_zero_is_pointed_out():
    experience = an_experience()
    unsure = an_outlook(experience, gain=replace(an_outlook(experience).gain, percent=1.0, low=-5.0, high=7.0))
    assert "may as well lose" in advice_on(experience, unsure).why


def test_the_document_holds_null_where_nothing_is_known():
    experience = an_experience(forecasts=())
    outlook = an_outlook(experience, estimates=dict.fromkeys(ESTIMATORS, NAN))
    found = advice_on(experience, outlook)
    document = json.loads(json.dumps(advice_document(found), allow_nan=False))
    assert document["outlooks"][0]["estimates"]["probe"] is None
    assert document["outlooks"][0]["gain"]["percent"] is None
    assert "No forecast" in document["trust"]
    assert "not available" in "\n".join(advice_lines(found))


@pytest.fixture
def small_networks(monkeypatch):
    """The same command with networks, phantoms and trials that take seconds."""
    spec = demonstration_encoder()
    grid = replace(spec.preprocess, spacing_mm=(3.0, 3.0, 4.0), patch=(16, 32, 48))
    tiny = replace(spec, encoder=TINY_CONVNEXT, head=HeadSpec("none", 10, 10), preprocess=grid)
    monkeypatch.setattr(study_training, "demonstration", tiny_study_spec)
    monkeypatch.setattr(study_pretraining, "demonstration_encoder", lambda: tiny)
    monkeypatch.setattr(study_source, "make_phantom", lambda seed, **_: a_phantom(seed % 5))
    monkeypatch.setattr(starts, "PHANTOM_COUNT", 3)
    monkeypatch.setattr(estimators, "TRIAL_STEPS", 2)


@pytest.fixture
def a_pretraining(tmp_path, small_networks):
    folder = tmp_path / "mae-start"
    return pretrain_masked([a_phantom(0).case], folder, Pretraining(1, "1 phantoms")).folder


@pytest.fixture
def a_study_folder(tmp_path):
    """A finished study with tables, and its estimators tried."""
    runs, curves = [], []
    for encoder in FAMILIES:
        for number, task in enumerate(TaskId):
            pretrained = 1.0 + gain_of(number, encoder) / 100
            for arm, value in (("pretrained", pretrained), ("scratch", 1.0)):
                runs.append(a_run(encoder, task, arm, value))
                curves += [CurveRow(encoder, str(task), arm, 0, step, value * step / 100) for step in (50, 100)]
    folder = tmp_path / "study"
    write_tables(StudyTables(tuple(runs), curves=tuple(curves)), folder)
    experience = an_experience()
    write_forecast(experience.estimates, experience.forecasts, folder)
    write_config(folder, a_document()).rename(folder / CONFIG)
    return folder


def test_a_study_is_read_from_its_tables(a_study_folder, tmp_path):
    found = read_experience(a_study_folder)
    assert found.shipped.estimator == "logme"
    assert found.cell("profound", "classification").rpg_percent == pytest.approx(8.0)
    assert found.summary == pytest.approx(found.summary)
    assert len(found.summary) == len(summarize_again(a_study_folder)) == 12
    assert read_experience(tmp_path / "nothing") == Experience()


def summarize_again(folder):
    from VFMTransferLib.study.tables import read_tables

    return summarize(read_tables(folder))


def test_the_command_answers_for_phantoms(a_pretraining, a_study_folder, capsys, monkeypatch):
    widths, plain = [], advice.around_gland
    monkeypatch.setattr(advice, "around_gland", lambda study, width: (widths.append(width), plain(study, width))[1])
    command = ["advise", "adc-translation", "--phantoms", "4", "--pretrained", str(a_pretraining)]
    assert main([*command, "--study", str(a_study_folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["task"] == "adc-translation"
    assert widths == [120.0] * 3  # as the study's cases were cut
    assert answer["n_cases"] == 3
    outlook = answer["outlooks"][0]
    assert (outlook["name"], outlook["encoder"], outlook["objective"]) == ("mae-start", "profound", "mae")
    assert all(value is not None for value in outlook["estimates"].values())
    assert outlook["gain"]["low"] < outlook["gain"]["percent"] < outlook["gain"]["high"]
    assert answer["recommended"] in ("mae-start", "scratch")
    assert main([*command, "--study", str(a_study_folder)]) == 0
    text = capsys.readouterr().out
    assert "Forecast by `logme`" in text
    assert "not for clinical decisions" in text


def test_of_many_cases_some_are_looked_at_and_the_answer_says_so(a_pretraining, a_study_folder, capsys, monkeypatch):
    assert estimators.looked_at("abcdefg", 3) == ["a", "c", "e"]
    assert estimators.looked_at("abc", 3) == ["a", "b", "c"]
    seen = []
    monkeypatch.setattr(advice, "looked_at", lambda studies: seen.append(estimators.looked_at(studies, 3)) or seen[-1])
    command = ["advise", "adc-translation", "--phantoms", "6", "--pretrained", str(a_pretraining)]
    assert main([*command, "--study", str(a_study_folder)]) == 0
    assert "3 of 5 training cases were looked at, evenly from all of them." in capsys.readouterr().out


def test_the_command_needs_a_pretraining(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starts, "list_bundles", lambda: [])
    assert main(["advise", "classification", "--study", str(tmp_path)]) == 1
    assert "vfm-transfer pretrain" in capsys.readouterr().err


def test_the_studys_own_pretrainings_are_found(a_pretraining, tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "list_bundles", lambda: [])
    own = tmp_path / "study" / "work" / "pretrained"
    own.mkdir(parents=True)
    a_pretraining.rename(own / "profound")
    found = find_starts([], tmp_path / "study")
    assert [start.bundle.folder for start in found] == [own / "profound"]
    assert len(found[0].cases) == 3
    with pytest.raises(DatasetError, match="none is installed"):
        find_starts([], tmp_path / "elsewhere")
