"""The prostate is one organ without holes, and its zones divide it."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import CENTER_MM, SOURCE, an_anatomy_spec, ball, decode, dice, distance_mm, with_preprocess
from specs import prepare

from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.tasks.anatomy_segmentation.task import one_organ

ZONES = (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)


def test_zones_come_back_where_they_are_on_the_scanned_grid(a_case):
    spec = an_anatomy_spec(ZONES)
    prepared = prepare(a_case, spec)
    far = distance_mm(prepared)
    logits = np.stack([(far - 10) * 4, 8 - 2 * far + far, (6 - far) * 4])  # background, peripheral, transition
    logits[1] = np.where((far < 10) & (far >= 6), 20, -20)
    result = decode(logits.astype(np.float32), prepared, a_case, spec, SOURCE)
    reference = a_case[Sequence.T2W].geometry
    assert result.labels.geometry == reference
    assert result.labels.array.dtype == np.uint8
    gland, transition = ball(reference, CENTER_MM, 10).array > 0, ball(reference, CENTER_MM, 6).array > 0
    assert dice(result.labels.array > 0, gland) > 0.97
    assert dice(result.labels.array == 2, transition) > 0.95
    assert result.volumes_ml["prostate"] == pytest.approx(gland.sum() * 0.9 * 0.9 * 3 / 1000, rel=0.05)
    assert set(result.probabilities) == {"peripheral-zone", "transition-zone"}


def test_gland_voxel_whose_zones_share_the_probability_is_not_lost(a_case):
    spec = an_anatomy_spec(ZONES)
    prepared = prepare(a_case, spec)
    inside = distance_mm(prepared) < 8
    # 0.4 background, 0.3 and 0.3 zones: the background is the likeliest single class, the gland the truth.
    probabilities = np.where(
        inside, np.array([0.4, 0.3, 0.3])[:, None, None, None], np.array([0.98, 0.01, 0.01])[:, None, None, None]
    )
    result = decode(np.log(probabilities), prepared, a_case, spec, SOURCE)
    assert dice(result.labels.array > 0, ball(a_case[Sequence.T2W].geometry, CENTER_MM, 8).array > 0) > 0.95


def test_prostate_beside_its_zones_is_divided_among_them(a_case):
    spec = an_anatomy_spec((Label.PROSTATE, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE), "sigmoid")
    prepared = prepare(a_case, spec)
    far = distance_mm(prepared)
    logits = np.stack([10 - far, far - 16, 4 - far])  # zones weak everywhere: the gland alone decides what is marked
    result = decode(logits, prepared, a_case, spec, SOURCE)
    assert dice(result.labels.array > 0, ball(a_case[Sequence.T2W].geometry, CENTER_MM, 10).array > 0) > 0.97
    assert result.label_values == {"peripheral-zone": 2, "transition-zone": 3}
    assert set(np.unique(result.labels.array)) == {0, 3}


def test_gland_is_one_organ_without_holes_and_the_rest_is_noted(a_case):
    spec = an_anatomy_spec((Label.PROSTATE,), "sigmoid")
    prepared = prepare(a_case, spec)
    far = distance_mm(prepared)
    elsewhere = distance_mm(prepared, (-14.0, 10.0, 0.0)) < 3
    marked = ((far < 9) & (far > 3)) | elsewhere
    result = decode(np.where(marked, 9.0, -9.0)[None], prepared, a_case, spec, SOURCE)
    assert dice(result.labels.array > 0, ball(a_case[Sequence.T2W].geometry, CENTER_MM, 9).array > 0) > 0.97
    assert any("1 smaller" in note.text for note in result.provenance.notes)


def test_one_organ_of_nothing_says_so():
    mask, notes = one_organ(np.zeros((2, 3, 4), bool), 1.0)
    assert not mask.any()
    assert [note.code for note in notes] == ["no-gland"]


@pytest.mark.parametrize(("center_mm", "is_cut"), [((0.0, 0.0, 0.0), False), ((9.0, 0.0, 0.0), True)])
def test_gland_at_the_edge_of_the_window_is_said_to_be_cut(a_case, center_mm, is_cut):
    spec = with_preprocess(an_anatomy_spec((Label.PROSTATE,), "sigmoid"), patch=(32, 48, 48), whole_volume=False)
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared, center_mm) < 7, 9.0, -9.0)[None]
    result = decode(logits, prepared, a_case, spec, SOURCE)
    assert any("reaches the edge" in note.text for note in result.provenance.notes) == is_cut


def test_gland_that_ends_with_the_field_of_view_is_not_said_to_be_cut(a_case):
    spec = an_anatomy_spec((Label.PROSTATE,), "sigmoid")
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared, (17.0, 0.0, 0.0)) < 7, 9.0, -9.0)[None]
    result = decode(logits, prepared, a_case, spec, SOURCE)
    assert not any("reaches the edge" in note.text for note in result.provenance.notes)
