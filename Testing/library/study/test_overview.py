"""A study's summary by a second, plain way, and what its overview counts, on a whole made-up study and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from whole_study import ENCODERS, PATIENTS, SEEDS, a_grid

from VFMTransferLib.study.config import read_config
from VFMTransferLib.study.overview import (
    MissingRuns,
    Plan,
    arm_values,
    best_arm,
    cases_better,
    missing_runs,
    naive_arm,
    plan_of,
    real_rows,
    whole_study,
)
from VFMTransferLib.study.summary import summarize
from VFMTransferLib.study.tables import MetricRow, RunRow, StudyTables, read_rows, write_rows
from VFMTransferLib.tasks import TASKS

GRID = a_grid()


def a_run(encoder: str, arm: str, seed: int, value: float, seconds: float = 0.0) -> RunRow:
    return RunRow(encoder, "adc-translation", arm, seed, "mae", False, value, 10, 5, seconds, 3)


def plain_average(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def plain_efficiency(cell: tuple[str, str], seed: int, higher: bool) -> float:
    """Steps of the pretrained curve to the scratch curve's best, walked point by point."""
    curves = {
        arm: sorted(
            (row.step, row.value if higher else -row.value)
            for row in GRID.curves
            if (row.encoder, row.task) == cell and (row.arm, row.seed) == (arm, seed)
        )
        for arm in ("pretrained", "scratch")
    }
    best_step, best = max(curves["scratch"], key=lambda point: point[1])
    before = None
    for step, value in curves["pretrained"]:
        if value >= best:
            if before is None:
                return step / best_step
            return (before[0] + (best - before[1]) / (value - before[1]) * (step - before[0])) / best_step
        before = (step, value)
    return math.inf


@pytest.mark.parametrize("row", summarize(GRID), ids=lambda row: f"{row.encoder} {row.task}")
def test_the_summary_of_a_whole_study_agrees_with_a_plain_second_way(row):
    cell = (row.encoder, row.task)
    runs = [run for run in GRID.runs if (run.encoder, run.task) == cell]
    a, b = (plain_average([run.value for run in runs if run.arm == arm]) for arm in ("pretrained", "scratch"))
    higher = runs[0].higher_is_better
    assert row.rpg_percent == pytest.approx((a / b - 1) * 100 if higher else (1 - a / b) * 100)
    moved = [d for d in GRID.distances if (d.encoder, d.task, d.layer) == (*cell, "encoder")]
    assert row.d2p == pytest.approx(plain_average([d.d2p for d in moved]))
    assert row.d2p_low_bandwidth == pytest.approx(plain_average([d.d2p_low_bandwidth for d in moved]))
    assert row.d2p_high_bandwidth == pytest.approx(plain_average([d.d2p_high_bandwidth for d in moved]))
    efficiencies = [plain_efficiency(cell, seed, higher) for seed in SEEDS]
    assert row.convergence_efficiency == pytest.approx(plain_average(efficiencies))
    hours = [
        run.device_seconds * 150 / 200 * (1 - efficiencies[run.seed]) / 3600 for run in runs if run.arm == "scratch"
    ]
    expected = plain_average(hours) if math.isfinite(plain_average(hours)) else math.nan
    assert row.device_hours_saved == pytest.approx(expected, nan_ok=True)
    if row.task in ("classification", "lesion-segmentation"):  # a statistic of all cases, which the grid has not
        assert math.isnan(row.rpg_low)
    else:
        assert row.rpg_low < row.rpg_percent < row.rpg_high


def test_the_best_arm_and_who_beats_the_trivial_one_follow_the_measures_direction():
    runs = [a_run("profound", "scratch", seed, value) for seed, value in enumerate((4.0, 6.0, 8.0))]
    runs += [a_run("profound", "pretrained", 0, 5.0), a_run("profound", "pretrained", 1, math.nan)]
    runs += [a_run("mean-adc", "trivial", 0, 6.0)]
    values = arm_values(runs, "adc-translation")
    scratch, trivial = values[1], naive_arm(values)
    assert best_arm(values, higher_is_better=False) is values[0]
    assert values[0].values == (5.0,)
    assert (scratch.mean, scratch.better_than(trivial, False), scratch.better_than(trivial, True)) == (6.0, 1, 1)
    assert best_arm((), True) is None


def test_real_cases_are_means_over_seeds_and_count_against_the_trivial_baseline():
    values = {
        ("profound", "scratch", 0): (3.0, 9.0),
        ("profound", "scratch", 1): (5.0, 11.0),
        ("t", "trivial", 0): (5, 10),
    }
    metrics = [
        MetricRow(encoder, "adc-translation", arm, seed, "real", case, "mae", float(value))
        for (encoder, arm, seed), found in values.items()
        for case, value in zip(("a", "b"), found, strict=True)
    ]
    metrics.append(MetricRow("profound", "adc-translation", "scratch", 0, "real", "c", "mae", 1.0))
    metrics.append(replace(metrics[0], data="phantom", value=99.0))
    rows = real_rows(metrics)
    assert [(row.case, row.values["profound", "scratch"]) for row in rows] == [("a", 4.0), ("b", 10.0), ("c", 1.0)]
    assert cases_better(rows, ("profound", "scratch"), higher_is_better=False) == (1, 2)  # 10 against 10 is no better
    assert cases_better(rows, ("profound", "scratch"), higher_is_better=True) == (0, 2)
    assert {row.case for row in real_rows(GRID.metrics)} == set(PATIENTS)


def test_what_is_missing_is_named():
    gone = [
        run
        for run in GRID.runs
        if (run.encoder, run.task, run.arm, run.seed) == ("profound", "classification", "scratch", 2)
    ]
    lacking = StudyTables(
        tuple(
            run for run in GRID.runs if run not in gone and (run.arm, run.task) != ("specialised", "adc-translation")
        ),
        tuple(row for row in GRID.metrics if (row.data, row.task) != ("real", "super-resolution")),
        tuple(row for row in GRID.curves if (row.encoder, row.task) != ("provicnet", "super-resolution")),
    )
    found = missing_runs(lacking, whole_study(GRID.runs))
    assert found.trainings == (("profound", "classification", "scratch", 2),)
    assert (found.task_specific, found.naive, found.real) == ((("", "adc-translation", 0),), (), ("super-resolution",))
    assert found.curves == (("provicnet", "super-resolution"),)
    assert len(found.distances) == 12
    broken = replace(lacking, runs=(replace(lacking.runs[0], value=math.nan), *lacking.runs[1:]))
    assert missing_runs(broken, whole_study(GRID.runs)).trainings == found.trainings  # it was done, without a value


def test_the_shipped_configuration_plans_the_whole_study():
    plan = plan_of(read_config(Path(__file__).parents[3] / "Resources" / "Study" / "config.yaml"))
    arms = ("scratch", "pretrained-mae", "pretrained-contrastive", "pretrained-synthetic")
    assert set(plan.trainings) == set(product(ENCODERS, map(str, TASKS), arms, SEEDS))
    assert set(plan.naive) == set(plan.real) == {task for _, task, _ in plan.task_specific} == {*map(str, TASKS)}
    assert {seed for row, _, seed in plan.task_specific if row != "registration"} == {0, 1, 2}
    assert plan.few_labels == ()


def test_a_study_is_held_against_its_own_plan():
    trainings = tuple(("profound", "classification", arm, seed) for arm in ("pretrained", "scratch") for seed in (0, 9))
    found = missing_runs(GRID, Plan(trainings, (), ("classification",), ()))
    assert found == MissingRuns(tuple(t for t in trainings if t[3] == 9), (), (), ())
    first = next(run for run in GRID.runs if run.arm == "specialised")
    baselines = ((first.encoder, first.task, first.seed), (first.encoder, first.task, 9), ("another", first.task, 0))
    few = tuple((*training, 2, "phantoms") for training in trainings[:2])
    done = replace(
        GRID.runs[0],
        encoder="profound",
        task="classification",
        arm="pretrained",
        seed=0,
        labelled_cases=2,
        trained_on="phantoms",
    )
    tables = replace(GRID, runs=(*GRID.runs, done))
    found = missing_runs(tables, Plan((), baselines, (), (), few))
    assert (found.task_specific, found.few_labels) == (baselines[1:], few[1:])


def test_trainings_that_were_still_improving_are_counted_and_their_column_is_optional(tmp_path):
    def run(seed: int, steps_to_best: int, ended: str = "") -> RunRow:
        own = a_run("profound", "scratch", seed, 1.0)
        return replace(own, steps=100, steps_to_best=steps_to_best, ended=ended)

    fixed = [run(0, 100), run(1, 81), run(2, 80), run(3, 10)]
    assert [one.is_improving for one in fixed] == [True, True, False, False]
    patient = [run(0, 100, "plateau"), run(1, 40, "budget")]
    assert [one.is_improving for one in patient] == [False, True]
    assert not replace(run(0, 0), steps=0).is_improving
    assert arm_values(fixed, fixed[0].task)[0].improving == 2
    for rows, has_column in ((fixed, False), (patient, True)):
        write_rows(tmp_path / "runs.csv", RunRow, rows)
        assert (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()[0].endswith(",ended") == has_column
        assert read_rows(tmp_path / "runs.csv", RunRow) == tuple(rows)
