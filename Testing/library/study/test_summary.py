"""A study's tables and what follows from them, on small tables whose summary is known by hand."""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.metrics.classification import auroc
from VFMTransferLib.study.intervals import Areas, gain_over_cases
from VFMTransferLib.study.summary import (
    SUMMARY,
    SummaryRow,
    convergence_efficiency,
    gain_against_distance,
    steps_to_reach,
    summarize,
)
from VFMTransferLib.study.tables import (
    RUNS,
    CurveRow,
    DistanceRow,
    MetricRow,
    RunRow,
    StudyTables,
    read_rows,
    read_tables,
    write_tables,
)

SHIPPED = Path(__file__).parents[3] / "Resources" / "Study"
CASES = ("a", "b", "c", "d")
LESIONS = "lesion-segmentation"


def a_run(arm: str, seed: int, value: float, task: str = "adc-translation", encoder: str = "profound") -> RunRow:
    return RunRow(encoder, task, arm, seed, "mae", False, value, 200, 150, 7200.0, 4)


def a_study(task: str = "adc-translation", encoder: str = "profound", gain: float = 0.2) -> StudyTables:
    """Scratch has an error of 100 and 110, pretrained `gain` less; it gets there in half the steps."""
    runs, metrics, curves, distances = [], [], [], []
    for seed, level in ((1, 100.0), (2, 110.0)):
        for arm, value in (("pretrained", level * (1 - gain)), ("scratch", level)):
            runs.append(a_run(arm, seed, value, task, encoder))
            metrics += [MetricRow(encoder, task, arm, seed, "phantom", case, "mae", value) for case in CASES]
        slow = [(0, 300.0), (100, 200.0), (150, level), (200, level + 5)]
        curves += [CurveRow(encoder, task, "scratch", seed, step, value) for step, value in slow]
        curves += [CurveRow(encoder, task, "pretrained", seed, step // 2, value) for step, value in slow[:3]]
        distances.append(DistanceRow(encoder, task, seed, "encoder", 0.1 * seed, 0.01, 0.2, 0.05, 30))
        distances.append(DistanceRow(encoder, task, seed, "stage-1", 9.0, 0.01, 9.0, 9.0, 30))
    return StudyTables(tuple(runs), tuple(metrics), tuple(curves), tuple(distances))


def joined(*studies: StudyTables) -> StudyTables:
    parts = ("runs", "metrics", "curves", "distances")
    return StudyTables(*(tuple(row for study in studies for row in getattr(study, part)) for part in parts))


def test_the_interval_of_an_area_comes_from_what_was_said_of_each_case():
    said = {"pretrained": (0.9, 0.8, 0.2, 0.1, 0.7, 0.3) * 5, "scratch": (0.9, 0.1, 0.8, 0.2, 0.7, 0.3) * 5}
    truth = (1, 1, 0, 0, 1, 0) * 5
    areas = {"pretrained": 1.0, "scratch": 5 / 9}
    runs = tuple(
        replace(a_run(arm, seed, areas[arm], "classification"), metric="auroc", higher_is_better=True)
        for arm in said
        for seed in (1, 2)
    )
    metrics = tuple(
        MetricRow("profound", "classification", arm, seed, "phantom", f"case-{i}", metric, float(value))
        for arm, values in said.items()
        for seed in (1, 2)
        for metric, row in (("p_cspca", values), ("is_cspca", truth))
        for i, value in enumerate(row)
    )
    (row,) = summarize(StudyTables(runs, metrics))
    assert row.rpg_percent == pytest.approx(80)
    assert (row.scratch, row.pretrained) == pytest.approx((5 / 9, 1))
    assert 0 < row.rpg_low < 80 < row.rpg_high
    (blind,) = summarize(StudyTables(runs, tuple(m for m in metrics if m.metric != "is_cspca")))
    assert blind.rpg_percent == pytest.approx(80)
    assert math.isnan(blind.rpg_low)


def test_the_summary_is_what_the_definitions_say():
    (row,) = summarize(a_study())
    assert (row.encoder, row.task, row.metric) == ("profound", "adc-translation", "mae")
    assert (row.rpg_percent, row.rpg_low, row.rpg_high) == pytest.approx((20, 20, 20))
    assert (row.d2p, row.d2p_low_bandwidth, row.d2p_high_bandwidth) == pytest.approx((0.15, 0.2, 0.05))
    assert row.convergence_efficiency == pytest.approx(0.5)
    assert row.device_hours_saved == pytest.approx(2 * 150 / 200 * 0.5)


def test_the_gain_comes_from_the_runs_and_its_interval_needs_every_case():
    study = a_study()
    lacking = replace(study, metrics=study.metrics[1:])
    (row,) = summarize(lacking)
    assert row.rpg_percent == pytest.approx(20)
    assert math.isnan(row.rpg_low)


def test_seeds_of_one_arm_alone_change_no_gain():
    study = a_study()
    for seed, arm in ((3, "scratch"), (4, "pretrained")):
        runs = (*study.runs, a_run(arm, seed, 500.0))
        own = ("profound", "adc-translation", arm, seed, "phantom")
        metrics = (*study.metrics, *(MetricRow(*own, case, "mae", 500.0) for case in CASES))
        study = replace(study, runs=runs, metrics=metrics)
    (row,) = summarize(study)
    assert (row.rpg_percent, row.rpg_low, row.rpg_high) == pytest.approx((20, 20, 20))
    apart = tuple(run for run in study.runs if (run.arm, run.seed) in {("scratch", 3), ("pretrained", 4)})
    (row,) = summarize(replace(study, runs=apart))
    assert all(map(math.isnan, (row.rpg_percent, row.scratch, row.pretrained)))


@pytest.mark.parametrize("flat_seeds", [(1, 2), (2,)])
def test_a_scratch_arm_that_learned_nothing_is_no_success_of_pretraining(flat_seeds):
    study = a_study()
    flat = tuple(replace(row, value=500.0) if row.seed in flat_seeds else row for row in study.curves)
    (row,) = summarize(replace(study, curves=flat))
    assert math.isnan(row.convergence_efficiency)
    assert math.isnan(row.device_hours_saved)


def test_baselines_and_cells_with_one_arm_have_no_row():
    alone = StudyTables((a_run("scratch", 1, 5.0, "super-resolution"), a_run("trivial", 0, 9.0, encoder="mean-adc")))
    assert [row.task for row in summarize(joined(a_study(), alone))] == ["adc-translation"]


def test_tables_come_back_as_they_were_written(tmp_path):
    study = a_study()
    odd = replace(study, runs=(replace(study.runs[0], value=1 / 3), *study.runs[1:]))
    write_tables(odd, tmp_path)
    assert read_tables(tmp_path) == odd


def test_the_rank_correlation_is_spearmans():
    studies = [a_study(f"task-{i}", gain=g) for i, g in enumerate((0.3, -0.1, 0.2, 0.05, 0.25))]
    far = (2.0, 5.0, 1.0, 4.0, 3.0)
    moved = [
        replace(s, distances=tuple(replace(row, d2p=d) for row in s.distances))
        for s, d in zip(studies, far, strict=True)
    ]
    found = gain_against_distance(summarize(joined(*moved)))
    assert found.rho == pytest.approx(stats.spearmanr((0.3, -0.1, 0.2, 0.05, 0.25), far).statistic)
    assert found.low < found.rho < found.high


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arm,", "Arm,", "must have the columns"),
        ("scratch", "scratched", "arm must be one of"),
        (",false,", ",no,", "true or false was expected, got 'no'"),
        (",7200.0,", ",long,", "line 2, cannot be understood"),
        (",7200.0,", ",7200,0,", "runs.csv, line 2, cannot be understood: it has more cells than columns"),
        (",mae,", f",{'m' * 200_000},", "runs.csv, line 2, cannot be understood: field larger than field limit"),
    ],
)
def test_a_table_that_cannot_be_understood_is_named_with_its_line(tmp_path, old, new, message):
    write_tables(a_study(), tmp_path)
    text = (tmp_path / RUNS).read_text()
    (tmp_path / RUNS).write_text(text.replace(old, new))
    with pytest.raises(DatasetError, match=message):
        read_tables(tmp_path)


def test_a_folder_without_runs_is_no_study(tmp_path):
    with pytest.raises(DatasetError, match="Run the study first"):
        read_tables(tmp_path)


def test_gain_in_area_is_that_of_the_means_with_an_interval_over_cases_and_seeds():
    rng = np.random.default_rng(0)
    positives = np.arange(40) < 20
    good, poor = (rng.normal(size=(3, 40)) + shift * positives for shift in (2.0, 0.5))
    gain = gain_over_cases(Areas(good, positives), Areas(poor, positives), True)
    means = [np.mean([auroc(row, positives) for row in values]) for values in (good, poor)]
    assert gain.percent == pytest.approx(100 * (means[0] - means[1]) / means[1])
    assert 0 < gain.low < gain.percent < gain.high
    assert (gain.n_cases, gain.n_seeds) == (40, 3)
    same = gain_over_cases(Areas(good, positives), Areas(good, positives), True)
    assert (same.percent, same.low, same.high) == (0, 0, 0)  # both arms are drawn together
    with pytest.raises(ValueError, match="one value for each seed and case"):
        Areas(good, positives[:5])


def test_a_curve_reaches_a_value_between_its_points():
    assert steps_to_reach([0, 100, 200], [0.1, 0.5, 0.9], 0.7, True) == 150
    assert steps_to_reach([0, 100, 200], [9, 5, 1], 5, False) == 100
    assert steps_to_reach([10, 20], [0.9, 0.8], 0.5, True) == 10
    assert steps_to_reach([0, 100], [0.1, 0.5], 0.7, True) == math.inf


def test_convergence_is_the_share_of_steps_to_the_scratch_arms_best():
    scratch = ([0, 100, 200, 300], [0.1, 0.4, 0.8, 0.7])
    assert convergence_efficiency(([0, 100, 200], [0.2, 1.0, 1.1]), scratch, True) == pytest.approx(75 / 200)


@pytest.mark.parametrize(
    ("values", "higher"),
    [([0.0, 0.0, 0.0], True), ([0.5, 0.4, 0.5], True), ([210.0, 230.0, 210.0], False), ([0.5], True)],
)
def test_a_scratch_arm_that_never_got_better_has_no_convergence(values, higher):
    scratch = (np.arange(1, 1 + len(values)) * 60, np.array(values))
    assert math.isnan(convergence_efficiency(scratch, scratch, higher))


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in SHIPPED.rglob(SUMMARY)),
    ids=lambda folder: folder.name,
)
def test_a_shipped_summary_follows_from_its_tables(folder):
    stated, found = read_rows(folder / SUMMARY, SummaryRow), summarize(read_tables(folder))
    assert [(row.encoder, row.task, row.metric) for row in stated] == [(r.encoder, r.task, r.metric) for r in found]
    for one, other in zip(stated, found, strict=True):
        numbers = [[value for value in vars(row).values() if isinstance(value, float)] for row in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], nan_ok=True)


def test_average_precision_is_of_the_runs_own_candidates_or_without_an_interval():
    tables = read_tables(SHIPPED)
    own = {name: [row for row in getattr(tables, name) if row.task == LESIONS] for name in ("runs", "metrics")}
    known = StudyTables(tuple(own["runs"]), tuple(own["metrics"]), candidates=tables.candidates)
    older = tuple(row for row in tables.candidates if row.seed != 2)  # of before the last seed was trained
    for gain, *others in zip(
        *(summarize(replace(known, candidates=c)) for c in (known.candidates, older, ())), strict=True
    ):
        for other in others:
            values = (other.pretrained, other.scratch, other.rpg_percent)
            assert values == pytest.approx((gain.pretrained, gain.scratch, gain.rpg_percent))
            assert math.isfinite(gain.rpg_low)
            assert math.isnan(other.rpg_low)


def test_a_shipped_value_is_the_mean_over_its_test_cases():
    tables, values = read_tables(SHIPPED), defaultdict(list)
    for row in tables.metrics:
        if row.data == "phantom" and row.case:
            values[row.encoder, row.task, row.arm, row.seed, row.metric].append(row.value)
    of_cases = [run for run in tables.runs if run.metric not in ("auroc", "average_precision")]
    assert of_cases
    for run in of_cases:
        own = values[run.encoder, run.task, run.arm, run.seed, run.metric]
        assert (len(own), run.value) == (run.n_test_cases, pytest.approx(np.mean(own)))
