"""From logits to labels, lesions and probabilities on the scanned grid; small truths by hand."""

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import a_small_case, ball, points_mm, with_preprocess
from specs import MODELS, prepare

from VFMTransferLib.core.result import Provenance
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.tasks import task_of
from VFMTransferLib.tasks.anatomy_segmentation.task import one_organ
from VFMTransferLib.tasks.base import DecodeOptions, NetworkOutput, activated
from VFMTransferLib.tasks.lesion_segmentation.task import OUTSIDE_NOTE
from VFMTransferLib.tasks.segmentation import label_values

SOURCE = Provenance("fake", "A fake network", "", "0" * 64, "onnx", "cpu")
ZONES = (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
CENTER_MM = (2.0, -1.0, 0.5)


@pytest.fixture
def a_case():
    return a_small_case()


def decode(logits, prepared, case, spec, source, **options):
    return task_of(spec).decode(NetworkOutput(logits, prepared, case, spec, source, DecodeOptions(**options)))


def distance_mm(prepared, center=CENTER_MM) -> np.ndarray:
    """Distance of the network's voxels (D, H, W) from a point."""
    return np.linalg.norm(points_mm(prepared.region) - np.asarray(center), axis=-1)


def an_anatomy_spec(labels, activation="softmax"):
    spec = with_preprocess("profound-upernet-anatomy", patch=(32, 72, 80), whole_volume=True)
    return replace(spec, labels=labels, activation=activation)


def dice(a, b) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_softmax_and_sigmoid_by_hand():
    np.testing.assert_allclose(activated(np.log([[1.0], [3.0]]), "softmax"), [[0.25], [0.75]])
    np.testing.assert_allclose(activated(np.array([[0.0], [np.log(3)], [-900.0]]), "sigmoid"), [[0.5], [0.75], [0]])


def test_softmax_of_large_logits_does_not_overflow():
    np.testing.assert_allclose(activated(np.array([[1000.0], [1000.0]]), "softmax"), 0.5)


def test_label_values_are_channels_counted_past_the_background():
    assert label_values(replace(MODELS["profound-upernet-anatomy"], labels=ZONES)) == {
        "peripheral-zone": 1,
        "transition-zone": 2,
    }
    assert label_values(MODELS["profound-upernet-lesion"]) == {"csPCa": 1}
    assert label_values(MODELS["provicnet-t2w"])["csPCa"] == 3


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
    assert any("1 smaller" in note for note in result.provenance.notes)


def test_one_organ_of_nothing_says_so():
    mask, notes = one_organ(np.zeros((2, 3, 4), bool), 1.0)
    assert not mask.any()
    assert notes == ("No voxel was marked as prostate.",)


def test_unnamed_structures_keep_all_their_parts(a_case):
    spec = an_anatomy_spec((Label.BACKGROUND, "structure-1", "structure-2"))
    prepared = prepare(a_case, spec)
    one, two = distance_mm(prepared) < 5, distance_mm(prepared, (-14.0, 10.0, 0.0)) < 4
    logits = np.stack([np.where(one | two, -9.0, 9.0), np.where(one | two, 9.0, -9.0), np.full(one.shape, -9.0)])
    result = decode(logits, prepared, a_case, spec, SOURCE)
    reference = a_case[Sequence.T2W].geometry
    truth = (ball(reference, CENTER_MM, 5).array > 0) | (ball(reference, (-14.0, 10.0, 0.0), 4).array > 0)
    assert dice(result.labels.array == 1, truth) > 0.9
    assert "prostate" not in result.volumes_ml


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


def test_threshold_of_the_caller_goes_before_the_networks(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(32, 48, 48))
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared) < 4, 3.0, -6.0)[None]
    assert decode(logits, prepared, a_case, spec, SOURCE, threshold=0.99).lesions == ()
    with pytest.raises(ValueError, match="between 0 and 1"):
        decode(logits, prepared, a_case, spec, SOURCE, threshold=40)


def provicnet_logits(prepared) -> np.ndarray:
    """Inside a ball 0.3 indolent and 0.2 significant, inside a smaller one 0.1 and 0.5; outside gland."""
    far = distance_mm(prepared)
    rows = [[0.01, 0.97, 0.01, 0.01], [0.1, 0.4, 0.3, 0.2], [0.1, 0.3, 0.1, 0.5]]
    table = np.array(rows)[(far < 9).astype(int) + (far < 5)]
    return np.log(np.moveaxis(table, -1, 0))


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


def test_classes_add_up_and_what_follows_from_them_stands_apart(a_case):
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    result = decode(logits, None, a_case, MODELS["profound-classifier"], SOURCE)
    assert result.class_probabilities == pytest.approx({f"PI-RADS {i}": (i - 1) / 10 for i in (2, 3, 4, 5)})
    assert result.derived_probabilities == pytest.approx({"PI-RADS >= 3": 0.9, "PI-RADS >= 4": 0.7, "csPCa": 0.7})
    assert any("own reading" in note for note in result.provenance.notes)


@pytest.mark.parametrize(("center_mm", "is_cut"), [((0.0, 0.0, 0.0), False), ((9.0, 0.0, 0.0), True)])
def test_gland_at_the_edge_of_the_window_is_said_to_be_cut(a_case, center_mm, is_cut):
    spec = with_preprocess(an_anatomy_spec((Label.PROSTATE,), "sigmoid"), patch=(32, 48, 48), whole_volume=False)
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared, center_mm) < 7, 9.0, -9.0)[None]
    result = decode(logits, prepared, a_case, spec, SOURCE)
    assert any("reaches the edge" in note for note in result.provenance.notes) == is_cut


def test_gland_that_ends_with_the_field_of_view_is_not_said_to_be_cut(a_case):
    spec = an_anatomy_spec((Label.PROSTATE,), "sigmoid")
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared, (17.0, 0.0, 0.0)) < 7, 9.0, -9.0)[None]
    result = decode(logits, prepared, a_case, spec, SOURCE)
    assert not any("reaches the edge" in note for note in result.provenance.notes)
