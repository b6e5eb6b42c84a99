"""A study's tables and what follows from them, on small tables whose summary is known by hand."""

import csv
import math
from dataclasses import replace

import pytest
from scipy import stats

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.study.summary import gain_against_distance, summarize, write_summary
from VFMTransferLib.study.tables import (
    RUNS,
    CurveRow,
    DistanceRow,
    MetricRow,
    RunRow,
    StudyTables,
    read_tables,
    write_tables,
)

CASES = ("a", "b", "c", "d")


def a_run(arm: str, seed: int, value: float, task: str = "adc-translation", encoder: str = "profound") -> RunRow:
    return RunRow(encoder, task, arm, seed, "mae", False, value, 200, 150, 7200.0, 4, "0" * 64)


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


def test_a_negative_gain_stays():
    assert summarize(a_study(gain=-0.1))[0].rpg_percent == pytest.approx(-10)


def test_the_gain_comes_from_the_runs_and_its_interval_needs_every_case():
    study = a_study()
    lacking = replace(study, metrics=study.metrics[1:])
    (row,) = summarize(lacking)
    assert row.rpg_percent == pytest.approx(20)
    assert math.isnan(row.rpg_low)


def test_an_arm_that_never_gets_there_saves_nothing_that_can_be_told():
    study = a_study()
    worse = tuple(replace(row, value=row.value + 400) if row.arm == "pretrained" else row for row in study.curves)
    (row,) = summarize(replace(study, curves=worse))
    assert row.convergence_efficiency == math.inf
    assert math.isnan(row.device_hours_saved)


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


def test_the_summary_has_the_columns_that_others_compute_from(tmp_path):
    with write_summary(summarize(a_study()), tmp_path).open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert ",".join(row) == (
        "encoder,task,metric,rpg_percent,rpg_low,rpg_high,d2p,d2p_low_bandwidth,d2p_high_bandwidth,"
        "convergence_efficiency,device_hours_saved"
    )
    assert float(row["rpg_percent"]) == pytest.approx(20)


def test_gain_falls_with_distance_within_each_encoder():
    studies = []
    for encoder, scale in (("profound", 1.0), ("provicnet", 100.0)):
        for i in range(5):
            study = a_study(f"task-{i}", encoder, gain=0.3 - 0.05 * i)
            far = tuple(replace(row, d2p=scale * (1 + i)) for row in study.distances)
            studies.append(replace(study, distances=far))
    found = gain_against_distance(summarize(joined(*studies)))
    assert found.rho == pytest.approx(-1)
    assert (found.n_pairs, found.high) == (10, pytest.approx(-1))
    assert found.low == pytest.approx(-1)
    assert math.isnan(gain_against_distance(summarize(studies[0])).rho)


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
