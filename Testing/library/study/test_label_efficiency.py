"""Both arms with few labeled cases: which cases train and test, gains at each size, and the cases that are replaced."""

import math
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_sweeps import PROFOUND, a_document, prepared_sweep, write_config, write_real_cases

from VFMTransferLib.core.errors import ConfigError, DatasetError
from VFMTransferLib.metrics.classification import auroc
from VFMTransferLib.metrics.detection import Candidate, average_precision
from VFMTransferLib.report.study_page import write_study_report
from VFMTransferLib.study.config import CONFIG, PHANTOMS, REAL, RunKey, planned_runs, read_config
from VFMTransferLib.study.label_efficiency import EFFICIENCY, EfficiencyRow, label_efficiency, replaced_cases
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.summary import AREA, LESIONS, PRECISION, SAID, TRUE, summarize
from VFMTransferLib.study.tables import (
    CANDIDATES,
    CandidateRow,
    MetricRow,
    RunRow,
    StudyTables,
    read_rows,
    read_tables,
    write_tables,
)
from VFMTransferLib.study.workspace import run_cases, split_of_run

SHIPPED = Path(__file__).parents[3] / "Resources" / "Study" / "label-efficiency"
TASK = "anatomy-segmentation"
REAL_NAMES = ("a", "b", "c")
ENCODERS = {
    "profound": {
        "pretraining": {"objective": "mae", "steps": 2, "phantoms": {"first_seed": 100_000, "count": 2}},
        "size": PROFOUND,
    }
}


def few_labels(**changes):
    document = {
        "encoders": ENCODERS,
        "tasks": {TASK: {"profound": {"steps": 2}}},
        "labelled_cases": [1, 2],
        "real": {"cases": {}, "gland": ["gland"], "leave_out": {TASK: list(REAL_NAMES)}},
    }
    phantoms = {
        "spacing_mm": [3.0, 3.0, 4.0],
        "train": {"first_seed": 0, "count": 4},
        "validation": {"first_seed": 1000, "count": 1},
        "test": {"first_seed": 2000, "count": 3},
    }
    return a_document(**{**document, "phantoms": phantoms, **changes})


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory) -> Path:
    """Three "real" cases on disk."""
    return write_real_cases(tmp_path_factory.mktemp("real"), *REAL_NAMES)


@pytest.fixture(scope="module")
def done(tmp_path_factory, real_folder) -> Path:
    """The folder of a study with one size: 2 of 4 phantoms, and the 2 real cases beside the one left out."""
    folder = tmp_path_factory.mktemp("studies")
    sweep = prepared_sweep(folder / "study", write_config(folder, few_labels(labelled_cases=[2])), real=real_folder)
    for run in sweep.pending():
        if run.labelled_cases or run.seed == 0:
            run_one(run, sweep.config, sweep.workspace)
    assert not any(run.labelled_cases for run in sweep.pending())
    sweep.collect()
    return folder / "study"


def of_sizes(config):
    return [run for run in planned_runs(config) if run.labelled_cases]


def test_both_arms_train_on_the_same_cases_of_each_size(tmp_path):
    config = read_config(write_config(tmp_path, few_labels()))
    runs = of_sizes(config)
    assert {(run.trained_on, run.labelled_cases) for run in runs} == {
        (PHANTOMS, 1),
        (PHANTOMS, 2),
        (REAL, 1),
        (REAL, 2),
    }
    splits = {run: split_of_run(run, config) for run in runs}
    for run, split in splits.items():
        assert len(split.train) == run.labelled_cases
        other = RunKey(run.encoder, run.task, "scratch", run.seed, run.labelled_cases, run.trained_on)
        assert splits[other] == split
        smaller = RunKey(run.encoder, run.task, run.arm, run.seed, 1, run.trained_on)
        assert set(splits[smaller].train) <= set(split.train)
    firsts = {splits[run].train for run in runs if (run.arm, run.labelled_cases) == ("scratch", 1)}
    assert len(firsts) > 2  # the seed draws which


def test_each_real_case_is_left_out_by_one_seed(tmp_path):
    config = read_config(write_config(tmp_path, few_labels()))
    runs = [run for run in of_sizes(config) if (run.trained_on, run.labelled_cases, run.arm) == (REAL, 2, "scratch")]
    splits = [split_of_run(run, config) for run in runs]
    assert sorted(name for split in splits for name in split.test) == list(REAL_NAMES)
    for split in splits:
        assert not set(split.train) & set(split.test)
        assert set(split.train) | set(split.test) == set(REAL_NAMES)
        assert split.validation == ("phantom-1000",)


def test_the_tables_keep_sizes_apart_from_the_rest_of_the_study(done):
    tables = read_tables(done)
    whole = tables.of_size()
    assert {run.labelled_cases for run in whole.runs} == {0}
    assert len(tables.runs) == len(whole.runs) + 3 * 2 * 2
    assert [row.n_test_cases for row in tables.of_size(2, REAL).runs] == [1] * 6
    assert {row.data for row in tables.of_size(2, REAL).metrics} == {"real"}
    assert {row.data for row in tables.of_size(2, PHANTOMS).metrics} == {"phantom"}
    rows = summarize(tables)
    assert [(row.encoder, row.task) for row in rows] == [("profound", TASK)]
    assert repr(rows) == repr(summarize(whole))  # some are `nan`


def test_the_report_has_every_size_with_chart_and_numbers(done, tmp_path):
    _, page = write_study_report(done, tmp_path)
    rows = read_rows(tmp_path / EFFICIENCY, EfficiencyRow)
    sizes = [(row.trained_on, row.labelled_cases) for row in rows]
    assert sizes == [(PHANTOMS, 2), (PHANTOMS, 4), (REAL, 2)]
    assert [(row.n_cases, row.n_seeds) for row in rows] == [(3, 3), (3, 1), (3, 1)]
    for row in rows:
        dice = [r for r in read_tables(done).metrics if r.metric == "dice" and r.arm == "pretrained" and r.case]
        part = [r.value for r in dice if (r.trained_on, r.labelled_cases) == (row.trained_on, row.labelled_cases)]
        if part:
            assert row.pretrained == pytest.approx(np.mean(part))
        assert row.pretrained_low <= row.pretrained <= row.pretrained_high
    text = page.read_text()
    marks = [re.findall(rf'<use [^>]*fill="var\(--{arm}\)"', text) for arm in ("arm-a", "arm-b")]
    assert [len(found) for found in marks] == [len(rows)] * 2
    assert "Label efficiency of ProFound, Anatomy segmentation, Dice: both arms with 2, 4 labeled cases" in text
    assert "real cases, some left out" in text


def test_the_page_of_runs_with_few_labels_alone_has_no_empty_parts(done, tmp_path):
    tables = read_tables(done)
    sized = replace(
        tables,
        runs=tuple(run for run in tables.runs if run.labelled_cases),
        metrics=tuple(row for row in tables.metrics if row.labelled_cases),
        curves=tuple(row for row in tables.curves if row.labelled_cases),
        distances=(),
    )
    write_tables(sized, tmp_path)
    shutil.copy(done / CONFIG, tmp_path)
    text = write_study_report(tmp_path)[1].read_text()
    assert re.findall(r'<section id="(\w+)"', text) == ["about", "labels", "definitions"]
    assert re.findall(r'<a href="#(\w+)"', text) == ["about", "labels", "definitions"]
    assert f"only the trainings with few labeled cases were run: {len(sized.runs)} of them" in text
    assert " · ".join(("Label efficiency", "ProFound", "Anatomy segmentation", "3 test cases")) in text
    assert "This study is incomplete" not in text

    kept = tuple(run for run in sized.runs if (run.arm, run.seed) != ("pretrained", 2))
    write_tables(replace(sized, runs=kept), tmp_path)
    text = write_study_report(tmp_path)[1].read_text()
    assert "Of what its configuration plans something is missing" in text
    lacking = "No training with few labeled cases: ProFound on Anatomy segmentation from 2 labeled "
    assert lacking in text
    assert "(pretrained: seed 2)" in text
    assert "Not trained" not in text


@pytest.mark.parametrize("are_whole", [True, False], ids=["whole study", "few labels alone"])
def test_the_page_states_how_often_each_rate_was_chosen(done, tmp_path, are_whole):
    tables = read_tables(done)

    def with_rates(run):
        if run.arm == "trivial" or run.labelled_cases not in (0, 2):
            return run
        encoder_rate = 0.002 if run.arm == "scratch" or run.seed == 0 else 0.0001
        return replace(run, learning_rate=0.002, encoder_learning_rate=encoder_rate)

    runs = tuple(with_rates(run) for run in tables.runs if are_whole or run.labelled_cases)
    write_tables(replace(tables, runs=runs, distances=()), tmp_path)
    shutil.copy(done / CONFIG, tmp_path)
    text = write_study_report(tmp_path)[1].read_text()
    assert '<a href="#rates">' in text
    section = text[text.index('<section id="rates"') :].split("</section>")[0]
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in section.split("<tr>")[2:]]
    found = {tuple(row[1:]) for row in cells}
    expected = {
        (f"ProFound, {arm}", cases, "0.002", rate, count)
        for cases in ("2 phantoms", "2 real cases")
        for arm, rate, count in (
            ("pretrained", "0.0001", "2 of 3"),
            ("pretrained", "0.002", "1 of 3"),
            ("from scratch", "0.002", "3 of 3"),
        )
    }
    assert {row for row in found if row[1] != "all"} == expected
    assert any(row[1] == "all" for row in found) == are_whole


@pytest.mark.parametrize(
    ("folder", "trained_on"),
    [(SHIPPED, REAL), *((SHIPPED / task, PHANTOMS) for task in ("adc-translation", "classification", "lesions"))],
)
def test_the_shipped_tables_follow_from_their_runs_and_cases(folder, trained_on):
    config, tables = read_config(folder / CONFIG), read_tables(folder)
    columns = ("encoder", "task", "arm", "seed", "labelled_cases", "trained_on")
    planned = {run for run in planned_runs(config) if run.trained_on == trained_on}
    runs = {RunKey(*(getattr(row, column) for column in columns)): row for row in tables.runs}
    assert set(runs) == planned
    for key, run in runs.items():
        names = split_of_run(key, config).test
        own: dict[str, dict[str, float]] = defaultdict(dict)
        for row in tables.metrics:
            if row.case and RunKey(*(getattr(row, c) for c in columns)) == key:
                own[row.metric][row.case] = row.value
        if run.task == "lesion-segmentation":  # Dice is of cases with a lesion, average precision of all
            assert set(own[LESIONS]) == set(names)
            ranked = [
                Candidate(row.confidence, row.is_hit)
                for row in tables.candidates
                if RunKey(*(getattr(row, c) for c in columns)) == key
            ]
            (stated,) = (
                row.value
                for row in tables.metrics
                if row.metric == PRECISION and RunKey(*(getattr(row, c) for c in columns)) == key
            )
            assert stated == pytest.approx(average_precision(ranked, int(sum(own[LESIONS].values()))))
            names = [name for name in names if own[LESIONS][name]]
        # An AUROC is of all cases, by what of each it is made of.
        needed = (run.metric,) if run.metric != AREA else (SAID, TRUE)
        assert all(set(own[metric]) == set(names) for metric in needed)
        assert len(names) == run.n_test_cases
        found = [[own[metric][name] for name in names] for metric in needed]
        value = np.mean(found[0]) if run.metric != AREA else auroc(found[0], np.array(found[1]) > 0)
        assert run.value == pytest.approx(value)
    assert label_efficiency(tables) == read_rows(folder / EFFICIENCY, EfficiencyRow)


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_shipped_configuration_plans_both_arms_with_few_labels(path):
    config = read_config(path)
    runs = [run for run in planned_runs(config) if run.labelled_cases]
    seeds = set(config.seeds)
    assert len(seeds) >= 3
    arms = {(run.seed, run.arm.split("-")[0]) for run in runs}
    assert arms == {(seed, arm) for seed in seeds for arm in ("scratch", "pretrained")}


def test_without_the_folder_nothing_is_trained_on_real_cases(tmp_path):
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, few_labels()))
    assert {run.trained_on for run in sweep.pending()} == {"", PHANTOMS}
    assert sweep.notes == ("Real cases are not measured and train nothing: --real does not name their folder.",)
    run = next(run for run in sweep.runs if run.trained_on == REAL)
    with pytest.raises(DatasetError, match="needs the folder of real cases"):
        run_cases(run, sweep.config, sweep.workspace)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"labelled_cases": [1, 4]},
            "labelled_cases of anatomy-segmentation must be different numbers from 1 to below",
        ),
        ({"labelled_cases": [2, 2]}, "got .2, 2."),
        ({"labelled_cases": [0]}, "got .0."),
        ({"labelled_cases": [3]}, "real.leave_out.anatomy-segmentation must name different cases"),
        ({"seeds": [0, 1, 2, 3]}, "at least one for each seed, .* got 3."),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path, changes, error):
    with pytest.raises(ConfigError, match=error):
        read_config(write_config(tmp_path, few_labels(**changes)))


def test_replaced_cases_are_read_off_the_curve_from_scratch():
    scratch = {2: 0.5, 4: 0.6, 16: 0.8}
    assert replaced_cases(2, 0.6, scratch, True) == pytest.approx(2)
    assert replaced_cases(2, 0.7, scratch, True) == pytest.approx(6)  # half way from 4 to 16 is 8
    assert replaced_cases(4, 0.5, scratch, True) == pytest.approx(-2)
    assert math.isnan(replaced_cases(4, 0.4, scratch, True))  # fewer than 2 would do, how few is not known
    assert replaced_cases(4, 0.81, scratch, True) == math.inf
    assert math.isnan(replaced_cases(4, math.nan, scratch, True))
    assert replaced_cases(2, 3.0, {2: 4.0, 8: 3.0}, False) == pytest.approx(6)
    assert replaced_cases(4, 0.55, {2: 0.5, 4: 0.6, 8: 0.4, 16: 0.7}, True) == pytest.approx(2**1.5 - 4)  # the first


def rows_of(size, arm, values, source=PHANTOMS):
    seeds, cases = values.shape
    runs = [
        RunRow("e", TASK, arm, s, "dice", True, float(values[s].mean()), 1, 1, 1.0, cases, "", size, source)
        for s in range(seeds)
    ]
    metrics = [
        MetricRow("e", TASK, arm, s, "phantom", f"c{c}", "dice", float(values[s, c]), size, source)
        for s in range(seeds)
        for c in range(cases)
    ]
    return runs, metrics


def lesion_rows(arm: str, seed: int, confidence_of_hits: float, marks: bool = True) -> StudyTables:
    """Twelve cases, every other with a lesion that is a candidate, each with a false candidate of 0.5."""
    columns, size = ("e", "lesion-segmentation", arm, seed), {"labelled_cases": 4, "trained_on": PHANTOMS}
    run = RunRow(*columns, "dice", True, 0.0, 1, 1, 1.0, 6, "", **size)
    metrics, candidates = [], []
    for i in range(12):
        case = ("phantom", f"c{i}")
        metrics.append(MetricRow(*columns, *case, "lesions", float(i % 2), **size))
        metrics += [MetricRow(*columns, *case, "dice", 0.0, **size)] * (i % 2)
        candidates.append(CandidateRow(*columns, *case, 0.5, False, **size))
        candidates += [CandidateRow(*columns, *case, confidence_of_hits, True, **size)] * (i % 2)
    return StudyTables((run,), tuple(metrics), candidates=tuple(candidates) if marks else ())


def joined(*parts: StudyTables) -> StudyTables:
    names = ("runs", "metrics", "curves", "distances", "candidates")
    return StudyTables(*(tuple(row for part in parts for row in getattr(part, name)) for name in names))


def test_lesions_have_the_gain_of_their_average_precision_beside_that_of_the_threshold(tmp_path):
    parts = [lesion_rows("scratch", s, 0.4) for s in (1, 2)] + [lesion_rows("pretrained", s, 0.9) for s in (1, 2)]
    tables = joined(*parts)
    write_tables(tables, tmp_path)
    assert read_tables(tmp_path) == tables
    by_dice, by_precision = label_efficiency(read_tables(tmp_path))
    assert (by_dice.metric, by_precision.metric) == ("dice", "average_precision")
    assert math.isnan(by_dice.rpg_percent)  # of 0
    # From scratch each lesion comes after all false candidates: 6 of 18.
    assert (by_precision.scratch, by_precision.pretrained) == pytest.approx((1 / 3, 1))
    assert by_precision.rpg_percent == pytest.approx(200)
    assert 0 < by_precision.rpg_low <= 200
    assert (by_precision.n_cases, by_precision.n_seeds) == (12, 2)

    write_tables(replace(tables, candidates=()), tmp_path)
    assert not (tmp_path / CANDIDATES).exists()


@pytest.mark.parametrize(("large", "replaced"), [((0, 1), 2), ((0,), 2), ((2,), math.nan)])
def test_sizes_are_compared_by_the_seeds_that_all_have(large, replaced):
    """Each seed tests other patients, and those of seed 1 are easier; a size may lack seeds."""
    level = {0: 0.4, 1: 0.8, 2: 0.6}
    runs, metrics = [], []
    for size, seeds in ((2, (0, 1)), (4, large)):
        for arm in ("scratch", "pretrained"):
            for seed in seeds:
                value = level[seed] + 0.1 * (size == 4 or arm == "pretrained")
                runs.append(RunRow("e", TASK, arm, seed, "dice", True, value, 1, 1, 1.0, 3, "", size, REAL))
                metrics += [
                    MetricRow("e", TASK, arm, seed, "real", f"{seed}{case}", "dice", value, size, REAL)
                    for case in "abc"
                ]
    small, _ = label_efficiency(StudyTables(tuple(runs), tuple(metrics)))
    assert small.replaced_cases == pytest.approx(replaced, nan_ok=True)
