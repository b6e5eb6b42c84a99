"""How the expected Dice is fitted: the warning's level, and lines that know the signs of a left-out case only."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import estimate

    return estimate


@pytest.fixture
def rows(benchmark) -> list[dict]:
    """Sixty cases in two forms, whose signs state their Dice but for some noise."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(120):
        odds = float(random.uniform(-1.5, 3.5))
        noisy = {name: odds + float(random.normal(0, 0.4)) for name in (*benchmark.SIGNS, benchmark.ARMS)}
        rows.append({"case": f"p{number // 2}+{number % 2}", "dice": 1 / (1 + np.exp(-odds)), "signs": noisy})
    return rows


def test_the_level_is_the_lowest_that_flags_every_bad_result_by_either_line(benchmark, rows):
    level = benchmark.warning_level(rows)
    is_bad = np.array([row["dice"] < benchmark.BAD for row in rows])
    estimates = [benchmark.estimates_left_out(rows, names)[is_bad] for names in benchmark.LINES]
    assert all((e < level).all() for e in estimates)
    assert not all((e < level - 0.01).all() for e in estimates)


def test_intervals_hold_for_cases_that_were_left_out(benchmark, rows):
    for names in benchmark.LINES:
        line = benchmark.fit(rows[:80], names, 0.7)
        found = [line.estimate(row["signs"], 0.7, 0.9) for row in rows[80:]]
        inside = [e.low <= row["dice"] <= e.high for e, row in zip(found, rows[80:], strict=True)]
        assert 0.75 <= np.mean(inside) <= 1.0
        assert abs(np.mean([e.dice for e in found]) - np.mean([row["dice"] for row in rows[80:]])) < 0.03


def test_a_case_has_no_part_in_its_own_left_out_estimate(benchmark, rows):
    before = benchmark.estimates_left_out(rows, benchmark.SIGNS)
    own = [row["case"].split("+")[0] == "p7" for row in rows]
    wrong = [{**row, "dice": 0.05} if is_own else row for row, is_own in zip(rows, own, strict=True)]
    after = benchmark.estimates_left_out(wrong, benchmark.SIGNS)
    assert np.array_equal(before[own], after[own])
    assert not np.array_equal(before, after)
