"""Class probabilities and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import SOURCE, decode
from specs import MODELS

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.classification.task import conspicuity, significant


def test_classes_add_up_and_what_follows_from_them_stands_apart(a_case):
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    result = decode(logits, None, a_case, MODELS["profound-classifier"], SOURCE)
    assert result.class_probabilities == pytest.approx({f"PI-RADS {i}": (i - 1) / 10 for i in (2, 3, 4, 5)})
    assert result.derived_probabilities == pytest.approx({"PI-RADS >= 3": 0.9, "PI-RADS >= 4": 0.7, "csPCa": 0.7})
    assert any("own reading" in note.text for note in result.provenance.notes)


def a_gland_with(spot: bool, category: str, seed: int) -> LabeledCase:
    """A gland of 30 mm in which a spot of 8 mm is dark on ADC and bright at the high b, or not."""
    grid, rng = Geometry((24, 22, 10), (2.0, 2.0, 3.0)), np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    gland = (2 * x - 24) ** 2 + (2 * y - 22) ** 2 + (3 * z - 15) ** 2 < 15**2
    lesion = ((2 * x - 20) ** 2 + (2 * y - 24) ** 2 + (3 * z - 15) ** 2 < 4**2) & spot
    adc = np.where(lesion, 700, 1500) * rng.normal(1, 0.03, grid.shape)
    hbv = np.where(lesion, 200, 100) * rng.normal(1, 0.03, grid.shape)
    images = {Sequence.T2W: hbv, Sequence.HBV: hbv, Sequence.ADC: adc}
    case = Case(f"{category}-{seed}", {s: Volume(np.float32(a), grid, str(s)) for s, a in images.items()})
    return LabeledCase("classification", case, Volume(gland.astype(np.uint8), grid), category=category)


def test_the_naive_baseline_is_a_rule_of_dark_adc_and_bright_high_b():
    task = TASKS["classification"]
    training = [a_gland_with(seed % 2 == 1, ("PI-RADS 2", "PI-RADS 4")[seed % 2], seed) for seed in range(8)]
    baseline = task.naive_baseline(training)
    with_spot, without = (baseline(a_gland_with(spot, "PI-RADS 2", 99)).class_probabilities for spot in (True, False))
    assert significant(with_spot) > 0.7 > 0.3 > significant(without)
    assert sum(with_spot.values()) == pytest.approx(1)


def test_conspicuity_by_hand():
    plain, spot = (conspicuity(a_gland_with(spot, "PI-RADS 2", 5)) for spot in (False, True))
    assert 0 < plain < 0.2
    assert plain < spot < np.log(200 / 100) + np.log(1500 / 700)


def test_a_rule_needs_both_kinds_of_cases_and_never_falls_with_what_stands_out():
    task = TASKS["classification"]
    alike = [a_gland_with(False, "PI-RADS 2", seed) for seed in range(3)]
    assert significant(task.naive_baseline(alike)(alike[0]).class_probabilities) == 0
    wrong = [a_gland_with(seed % 2 == 0, ("PI-RADS 2", "PI-RADS 4")[seed % 2], seed) for seed in range(6)]
    baseline = task.naive_baseline(wrong)
    p = [significant(baseline(study).class_probabilities) for study in wrong]
    assert max(p) == pytest.approx(min(p), abs=1e-3)
