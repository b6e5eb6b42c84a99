"""How well estimators order the gains of a study: by hand, and where one knows everything or nothing."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from VFMTransferLib.study import forecast
from VFMTransferLib.study.forecast import (
    ESTIMATES,
    FORECAST,
    EstimateRow,
    ForecastRow,
    Point,
    better_than_chance,
    judge,
    points_of,
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


def twelve(estimate, seed=0):
    """Two encoders, six tasks; gain rises with a task's number, and `estimate` makes of that what it knows."""
    rng = np.random.default_rng(seed)
    gains = {(e, t): 4.0 * t + 2.0 * e for e in range(2) for t in range(6)}
    return [Point("pq"[e], f"task-{t}", estimate(gain, rng), gain) for (e, t), gain in gains.items()]


def a_summary(points):
    rest = (NAN,) * 7
    return [SummaryRow(p.encoder, p.task, "dice", p.gain, *rest) for p in points]


def test_six_points_by_hand():
    """The p-value counts the orders of a, b, c in both encoders alike; tau is scipy's, of each encoder."""
    (row,) = judge({"e": SIX})
    assert (row.estimator, row.n_cells, row.n_tasks, row.n_orders) == ("e", 6, 3, 6)
    estimates = {"p": [1, 2, 3], "q": [5, 4, 6]}
    gains = {"p": [10, 20, 30], "q": [0, 10, 20]}

    def tau(order):
        return np.mean([stats.weightedtau(estimates[e], [gains[e][i] for i in order]).statistic for e in "pq"])

    taus = [tau(order) for order in permutations(range(3))]
    assert row.tau_weighted == pytest.approx(taus[0])
    assert row.p_value == pytest.approx(np.mean(np.array(taus) >= taus[0] - 1e-9))
    assert row.rho_within == pytest.approx(stats.spearmanr([1, 2, 3, 2, 1, 3], [1, 2, 3, 1, 2, 3]).statistic)


def test_units_of_an_estimate_do_not_matter_and_outliers_do_not_stretch():
    stretched = [Point(p.encoder, p.task, math.exp(9 * p.estimate) - 1e5, p.gain) for p in SIX]
    assert judge({"e": stretched}) == judge({"e": SIX})


def test_an_estimator_that_knows_is_better_than_chance_and_others_are_not():
    knows = twelve(lambda gain, rng: gain / 100)
    points = {
        "knows": knows,
        "guesses": twelve(lambda gain, rng: rng.normal(), seed=3),
        "same": twelve(lambda gain, rng: 1.0),
        "wrong way": twelve(lambda gain, rng: -gain),
    }
    rows = {row.estimator: row for row in judge(points)}
    assert rows["knows"].tau_weighted == pytest.approx(1)
    assert rows["knows"].p_value == pytest.approx(1 / 720)
    assert rows["same"].p_value == 1
    assert rows["wrong way"].p_value == 1
    assert better_than_chance(list(rows.values())) == (rows["knows"],)


def test_a_task_is_exchanged_in_all_encoders_at_once():
    """Two encoders with the same gains and estimates are no more evidence than one."""
    one = [Point("p", f"t{t}", t, t) for t in (1, 2, 3, 4)]
    both = [*one, *(Point("q", p.task, p.estimate, p.gain) for p in one)]
    assert judge({"e": one})[0].p_value == judge({"e": both})[0].p_value == pytest.approx(1 / 24)


def test_the_level_is_shared_among_the_estimators_that_were_tried():
    row = ForecastRow("e", 12, 6, 0.5, 0.5, 0.02, 720)
    others = [ForecastRow(name, 12, 6, 0.0, 0.0, 0.5, 720) for name in "abc"]
    assert better_than_chance([row]) == (row,)
    assert better_than_chance([row, *others]) == ()


def test_of_many_tasks_orders_are_drawn(monkeypatch):
    monkeypatch.setattr(forecast, "MAX_ORDERS", 100)
    (row,) = judge({"e": twelve(lambda gain, rng: gain)})
    assert row.n_orders == 100
    assert row.p_value == pytest.approx(1 / 100, abs=0.02)
    assert judge({"e": twelve(lambda gain, rng: gain)}) == (row,)


def test_a_pair_that_is_missing_leaves_the_others():
    """The task that one encoder lacks stays in its place, so that every order has the same pairs."""
    (row,) = judge({"e": twelve(lambda gain, rng: gain)[:-1]})
    assert (row.n_cells, row.n_tasks, row.n_orders) == (11, 6, 120)
    assert row.tau_weighted == pytest.approx(1)
    assert row.p_value == pytest.approx(1 / 120)


def test_tasks_are_exchanged_with_those_of_the_same_encoders_alone():
    """Four orders: what is known of two tasks in each encoder is no rarer than one in four."""
    pairs = [Point("p", "a", 1, 1), Point("p", "b", 2, 2), Point("q", "c", 1, 1), Point("q", "d", 2, 2)]
    (row,) = judge({"e": pairs})
    assert (row.n_orders, row.p_value) == (4, 1 / 4)


def test_points_without_a_number_are_left_out_and_too_few_tasks_have_no_row():
    estimates = [EstimateRow(p.encoder, p.task, "e", p.estimate if p.task != "b" else NAN, 1.0) for p in SIX]
    points = points_of(estimates, a_summary(SIX))
    assert {p.task for p in points["e"]} == {"a", "c"}
    assert judge(points) == ()
    endless = [Point("p", "a", 1, math.inf), *SIX[1:]]
    found = points_of([EstimateRow(p.encoder, p.task, "e", p.estimate, 1.0) for p in SIX], a_summary(endless))
    assert len(found["e"]) == 5


def test_tables_come_back_as_they_were_written(tmp_path):
    estimates = (EstimateRow("p", "a", "probe", 0.25, 3.0), EstimateRow("p", "a", "nearness", NAN, 0.0))
    rows = judge({"e": SIX})
    write_forecast(estimates, rows, tmp_path)
    first, second = read_rows_if_any(tmp_path / ESTIMATES, EstimateRow)
    assert first == estimates[0]
    assert math.isnan(second.value)
    assert read_rows_if_any(tmp_path / FORECAST, ForecastRow) == rows
    assert read_rows_if_any(tmp_path / "elsewhere" / ESTIMATES, EstimateRow) == ()
