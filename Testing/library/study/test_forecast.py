"""Forecasts of tasks that were left out: by hand on six pairs, and where an estimator knows everything or nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from VFMTransferLib.study.forecast import (
    CHOSEN,
    CONSTANT,
    ESTIMATES,
    FORECAST,
    EstimateRow,
    ForecastRow,
    Point,
    best,
    expected_gain,
    leave_one_task_out,
    points_of,
    validate,
    write_forecast,
)
from VFMTransferLib.study.summary import SummaryRow
from VFMTransferLib.study.tables import read_rows_if_any

NAN = math.nan
SIX = [
    Point("p", "a", 1, 10),
    Point("p", "b", 2, 20),
    Point("p", "c", 3, 30),
    Point("q", "a", 5, 0),
    Point("q", "b", 4, 10),
    Point("q", "c", 6, 20),
]


def twelve(estimate, noise=0.0, seed=0):
    """Two encoders, six tasks; gain rises with a task's number, and `estimate` makes of that what it knows."""
    rng = np.random.default_rng(seed)
    gains = {(e, t): 4.0 * t + 2.0 * e + noise * rng.normal() for e in range(2) for t in range(6)}
    return [Point("pq"[e], f"task-{t}", estimate(gain, rng), gain) for (e, t), gain in gains.items()]


def a_summary(points):
    rest = (NAN,) * 7
    return [SummaryRow(p.encoder, p.task, "dice", p.gain, *rest) for p in points]


def test_six_points_by_hand():
    """Without a: places 0 1 0 1 and gains 20 30 10 20 make 15 + 10 x. Without c places cross, and the slope is 0."""
    assert leave_one_task_out(SIX).tolist() == pytest.approx([15, 15, 10, 20, 5, 10])
    row = validate({"e": SIX})[0]
    assert (row.estimator, row.n_cells, row.n_tasks) == ("e", 6, 3)
    assert row.mae_percent == pytest.approx((5 + 5 + 20 + 20 + 5 + 10) / 6)
    assert row.mae_constant_percent == pytest.approx((10 + 5 + 20 + 20 + 5 + 10) / 6)
    assert row.reach_percent == 20  # the sixth of six: 0.8 of seven, rounded up
    assert row.rho == pytest.approx(stats.spearmanr([15, 15, 10, 20, 5, 10], [10, 20, 30, 0, 10, 20]).statistic)
    assert row.rho_within == pytest.approx(stats.spearmanr([1, 2, 3, 2, 1, 3], [1, 2, 3, 1, 2, 3]).statistic)
    assert row.rho_low <= row.rho <= row.rho_high


def test_a_left_out_tasks_gain_and_estimate_change_nothing_but_its_own_forecast():
    changed = [Point(p.encoder, p.task, p.estimate, 999) if p.task == "a" else p for p in SIX]
    assert leave_one_task_out(changed)[[0, 3]].tolist() == pytest.approx([15, 20])


def test_units_of_an_estimate_do_not_matter_and_outliers_do_not_stretch():
    stretched = [Point(p.encoder, p.task, math.exp(9 * p.estimate) - 1e5, p.gain) for p in SIX]
    np.testing.assert_allclose(leave_one_task_out(stretched), leave_one_task_out(SIX))


def test_an_estimator_that_knows_is_chosen_and_one_that_does_not_is_not():
    knows = twelve(lambda gain, rng: gain / 100)
    guesses = twelve(lambda gain, rng: rng.normal(), seed=3)
    rows = {row.estimator: row for row in validate({"guesses": guesses, "knows": knows})}
    assert rows["knows"].rho > 0.9
    assert rows["knows"].is_better
    assert best(rows.values()) is rows["knows"]
    assert rows[CHOSEN].mae_percent < rows[CONSTANT].mae_percent
    assert rows[CONSTANT].mae_percent == pytest.approx(rows["knows"].mae_constant_percent)
    assert rows["knows"].reach_percent < rows[CONSTANT].reach_percent


def test_where_none_is_better_than_the_constant_none_is_chosen():
    against = twelve(lambda gain, rng: rng.normal(), noise=20)
    wrong_way = twelve(lambda gain, rng: -gain)
    rows = validate({"against": against, "same": [Point(p.encoder, p.task, 1.0, p.gain) for p in wrong_way]})
    constant = next(row for row in rows if row.estimator == "same")
    assert constant.mae_percent == pytest.approx(constant.mae_constant_percent)
    assert not constant.is_better
    assert constant.rho < 0  # the others' mean is low where the left-out gain is high
    assert best([row for row in rows if row.estimator != "against"]) is None


def test_choosing_falls_back_to_the_mean_gain():
    rows = {row.estimator: row for row in validate({"same": [Point(p.encoder, p.task, 1.0, p.gain) for p in SIX]})}
    assert rows[CHOSEN].mae_percent == pytest.approx(rows[CONSTANT].mae_percent)


def test_a_new_estimate_among_known_ones():
    """All six known: places 0 .5 1 / .5 0 1, gains 10 20 30 0 10 20."""
    x, y = np.array([0, 0.5, 1, 0.5, 0, 1]), np.array([10, 20, 30, 0, 10, 20])
    slope, base = np.polyfit(x, y, 1)
    assert expected_gain(Point("q", "new", 5.5, NAN), SIX) == pytest.approx(base + slope * 2 / 3)
    assert expected_gain(Point("q", "new", 5, NAN), SIX) == pytest.approx(base + slope * 0.5)  # half of the equal one
    assert expected_gain(Point("unheard-of", "new", 5, NAN), SIX) == pytest.approx(base + slope * 0.5)


def test_points_without_a_number_are_left_out_and_too_few_tasks_have_no_row():
    estimates = [EstimateRow(p.encoder, p.task, "e", p.estimate if p.task != "b" else NAN, 1.0) for p in SIX]
    points = points_of(estimates, a_summary(SIX))
    assert {p.task for p in points["e"]} == {"a", "c"}
    assert validate(points) == ()
    endless = [Point("p", "a", 1, math.inf), *SIX[1:]]
    found = points_of([EstimateRow(p.encoder, p.task, "e", p.estimate, 1.0) for p in SIX], a_summary(endless))
    assert len(found["e"]) == 5


def test_tables_come_back_as_they_were_written(tmp_path):
    estimates = (EstimateRow("p", "a", "probe", 0.25, 3.0), EstimateRow("p", "a", "nearness", NAN, 0.0))
    rows = validate({"e": SIX})
    write_forecast(estimates, rows, tmp_path)
    first, second = read_rows_if_any(tmp_path / ESTIMATES, EstimateRow)
    assert first == estimates[0]
    assert math.isnan(second.value)
    assert read_rows_if_any(tmp_path / FORECAST, ForecastRow)[0] == rows[0]
    assert read_rows_if_any(tmp_path / "elsewhere" / ESTIMATES, EstimateRow) == ()


def test_the_same_seed_gives_the_same_interval():
    points = {"e": twelve(lambda gain, rng: gain + 10 * rng.normal())}
    assert validate(points, seed=4)[0] == validate(points, seed=4)[0]
