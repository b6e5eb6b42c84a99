"""Lesions of one channel and of graded classes, in the prostate."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import CENTER_MM, SOURCE, ball, decode, dice, distance_mm, with_preprocess
from specs import prepare

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.tasks.lesion_segmentation.task import NOTHING_NOTE, OUTSIDE_NOTE


def provicnet_logits(prepared) -> np.ndarray:
    """Inside a ball 0.3 indolent and 0.2 significant, inside a smaller one 0.1 and 0.5; outside gland."""
    far = distance_mm(prepared)
    rows = [[0.01, 0.97, 0.01, 0.01], [0.1, 0.4, 0.3, 0.2], [0.1, 0.3, 0.1, 0.5]]
    table = np.array(rows)[(far < 9).astype(int) + (far < 5)]
    return np.log(np.moveaxis(table, -1, 0))


def test_lesions_are_found_outside_of_the_padding_with_their_adc(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(32, 48, 48))
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared) < 4, 3.0, -6.0)[None]
    result = decode(logits, prepared, a_case, spec, SOURCE)
    (lesion,) = result.lesions
    assert lesion.label == "csPCa"
    assert np.abs(np.subtract(lesion.center_mm, CENTER_MM)).max() < 0.5
    assert lesion.confidence == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-5)
    x, y, z = CENTER_MM
    assert lesion.mean_adc == pytest.approx(900 * (2 + np.sin(x / 9) + np.cos(y / 11 + z / 7)), rel=0.05)
    assert result.label_values == {"csPCa": 1}
    assert NOTHING_NOTE not in result.provenance.notes
    assert result.volumes_ml["csPCa"] == pytest.approx(lesion.volume_ml)


def test_marks_outside_of_the_prostate_are_left_out_and_the_notes_say_so(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(32, 48, 48))
    prepared = prepare(a_case, spec)
    inside, outside = distance_mm(prepared) < 4, distance_mm(prepared, (-14.0, 10.0, 0.0)) < 4
    logits = np.where(inside | outside, 3.0, -6.0)[None]
    everywhere = decode(logits, prepared, a_case, spec, SOURCE)
    assert len(everywhere.lesions) == 2
    gland = ball(a_case[Sequence.ADC].geometry, CENTER_MM, 8)  # on another grid than the marks
    result = decode(logits, prepared, a_case, spec, SOURCE, gland=gland)
    (lesion,) = result.lesions
    assert np.abs(np.subtract(lesion.center_mm, CENTER_MM)).max() < 0.5
    assert result.volumes_ml["csPCa"] == pytest.approx(lesion.volume_ml)
    assert OUTSIDE_NOTE.format(count=1) in result.provenance.notes
    assert np.array_equal(result.probabilities["csPCa"].array, everywhere.probabilities["csPCa"].array)
    nobody = gland.with_array(np.zeros_like(gland.array))  # a mask that marks nothing knows nothing
    assert len(decode(logits, prepared, a_case, spec, SOURCE, gland=nobody).lesions) == 2


def test_where_nothing_is_marked_the_notes_state_that_this_rules_nothing_out(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(32, 48, 48))
    prepared = prepare(a_case, spec)
    result = decode(np.where(distance_mm(prepared) < 4, -0.5, -6.0)[None], prepared, a_case, spec, SOURCE)
    assert result.lesions == ()
    assert NOTHING_NOTE in result.provenance.notes


def test_provicnet_marks_where_both_cancer_classes_together_pass_the_threshold(a_case):
    spec = with_preprocess("provicnet-t2w", patch=(1, 72, 80))
    gland = ball(a_case[Sequence.T2W].geometry, CENTER_MM, 12)
    prepared = prepare(a_case, spec, gland=gland)
    result = decode(provicnet_logits(prepared), prepared, a_case, spec, SOURCE)
    reference = a_case[Sequence.T2W].geometry
    assert dice(result.labels.array > 0, ball(reference, CENTER_MM, 9).array > 0) > 0.9
    assert dice(result.labels.array == 3, ball(reference, CENTER_MM, 5).array > 0) > 0.8
    assert result.label_values == {"indolent-cancer": 2, "csPCa": 3}
    assert len(result.lesions) == 1


def test_provicnet_can_mark_significant_cancer_alone(a_case):
    spec = with_preprocess("provicnet-t2w", patch=(1, 72, 80))
    gland = ball(a_case[Sequence.T2W].geometry, CENTER_MM, 12)
    prepared = prepare(a_case, spec, gland=gland)
    result = decode(provicnet_logits(prepared), prepared, a_case, spec, SOURCE, only_cspca=True)
    assert result.label_values == {"csPCa": 3}
    assert list(result.probabilities) == ["csPCa"]
    assert dice(result.labels.array > 0, ball(a_case[Sequence.T2W].geometry, CENTER_MM, 5).array > 0) > 0.8
