"""What is measured once a network has predicted: the gland, lesions in it, and the quality of the images."""

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import CROP, LESIONS, FakeSession, a_bundle, a_gland_of, as_is, predict, with_preprocess
from specs import MODELS

from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.inference import case_measurements
from VFMTransferLib.inference import predict as prediction
from VFMTransferLib.inference.case_cache import CaseCache
from VFMTransferLib.inference.predict import CasePredictor
from VFMTransferLib.radiology.quality import measure_quality


def test_the_gland_that_was_given_is_measured_with_the_psa(a_case):
    options = {"gland": a_gland_of(a_case), "psa_ng_ml": 5.5}
    result = predict(a_case, a_bundle(LESIONS), open_network=lambda bundle: FakeSession(as_is), **options)
    gland = result.gland
    assert gland is not None
    assert gland.source == "as given"
    assert gland.segmented_ml == pytest.approx(options["gland"].volume_ml)
    assert gland.segmented_ml == pytest.approx(4 / 3 * np.pi * 14**3 / 1000, rel=0.05)
    assert gland.psa_density_segmented == pytest.approx(5.5 / gland.segmented_ml)
    assert "psa" not in str(result.provenance.options)


def test_a_gland_that_reaches_beyond_the_t2w_is_measured_whole_and_that_is_noted(a_case):
    gland = a_gland_of(a_case)
    t2w, middle = a_case[Sequence.T2W], int(np.argmax(gland.array.sum(axis=(1, 2))))
    depth, height, width = t2w.array.shape
    half = t2w.cropped_to((slice(middle, depth), slice(0, height), slice(0, width)))
    cut = replace(a_case, volumes={**a_case.volumes, Sequence.T2W: half})
    options = {"gland": gland}
    result, whole = (
        predict(case, a_bundle(LESIONS), open_network=lambda bundle: FakeSession(as_is), **options)
        for case in (cut, a_case)
    )
    assert result.gland == whole.gland
    assert result.gland.segmented_ml == pytest.approx(gland.volume_ml)
    share = gland.array[middle:].sum() / gland.array.sum()
    assert any(note.text.startswith(f"t2w covers only {share:.0%} of") for note in result.provenance.notes)
    assert not any(note.text.startswith("t2w covers only") for note in whole.provenance.notes)


def test_a_gland_that_was_given_is_measured_where_the_network_marks_none(a_case):
    options = {"gland": a_gland_of(a_case), "psa_ng_ml": 5.5}
    spec = with_preprocess("profound-upernet-anatomy", patch=(32, 48, 48), whole_volume=False)
    spec = replace(spec, labels=(Label.PROSTATE,), head=replace(spec.head, out_channels=1), activation="sigmoid")
    none = FakeSession(lambda x: np.full((1, 1, *x.shape[2:]), -9.0))
    result = predict(a_case, a_bundle(spec), open_network=lambda bundle: none, **options)
    assert not result.labels.array.any()
    assert result.gland.source == "as given"
    assert result.gland.psa_density_segmented is not None
    assert case_measurements.NO_DENSITY_NOTE not in result.provenance.notes


def test_a_psa_without_a_known_gland_is_noted(a_case, no_bundle_installed):
    options = {"psa_ng_ml": 5.5}
    result = predict(a_case, a_bundle(CROP), open_network=lambda bundle: FakeSession(as_is), **options)
    assert result.gland is None
    assert case_measurements.NO_DENSITY_NOTE in result.provenance.notes


def test_a_mask_of_something_else_is_refused_with_a_psa_and_noted_without_one(a_case):
    small = a_gland_of(a_case, 5.0)
    never = pytest.fail
    with pytest.raises(ImageError, match="of a prostate"):
        predict(a_case, a_bundle(LESIONS), open_network=never, gland=small, psa_ng_ml=5.5)
    result = predict(a_case, a_bundle(LESIONS), open_network=lambda b: FakeSession(as_is), gland=small)
    assert result.gland is None
    assert any("The gland was not measured" in note.text for note in result.provenance.notes)


def test_lesions_bear_their_place_in_the_gland(a_case):
    z, y, x = np.indices((32, 48, 48))  # the window lies around the gland, x to the left and y to the back
    marked = ((z - 16) / 4) ** 2 + ((y - 30) / 4) ** 2 + ((x - 18) / 4) ** 2 < 1
    session = FakeSession(lambda array: np.where(marked, 9.0, -9.0)[None, None])
    predictor = CasePredictor(replace(a_case, gland=a_gland_of(a_case)), open_network=lambda bundle: session)
    (lesion,) = predictor.predict(a_bundle(CROP)).lesions
    assert lesion.position == "right, mid, posterior"
    assert lesion.sectors
    assert lesion.diameter_mm == pytest.approx(8 * 0.5, abs=1)
    assert lesion.mean_adc >= lesion.adc_p10 > 0
    assert lesion.high_b_ratio > 0


def marks_middle(reach: int):
    """A network that marks so many slices to either side of its window's middle."""

    def network(x):
        logits = np.full((1, 1, *x.shape[2:]), -9.0)
        middle = x.shape[2] // 2
        logits[0, 0, max(middle - reach, 0) : middle + reach + 1, 20:44, 20:44] = 9
        return logits

    return network


def test_quality_is_judged_on_the_outline_of_each_network(a_case):
    spec = with_preprocess(MODELS["profound-upernet-anatomy"], patch=(32, 65, 65), whole_volume=False)
    spec = replace(spec, labels=(Label.PROSTATE,), head=CROP.head, activation="sigmoid")

    def covered(*reaches: int) -> list[float | None]:
        networks = iter([FakeSession(marks_middle(reach)) for reach in reaches])
        predictor = CasePredictor(a_case, Options(crop="center"), lambda bundle: next(networks))
        results = [predictor.predict(a_bundle(spec, f"n{reach}")) for reach in reaches]
        return [{one.name: one.value for one in result.quality}["t2w-covers-gland"] for result in results]

    (small,), (large,) = covered(2), covered(30)
    assert small > large
    assert covered(2, 30) == [small, large]
    assert covered(30, 2) == [large, small]


def test_quality_of_t2w_is_measured_once_for_tasks_of_t2w_and_of_all_sequences(a_case, gland_network, monkeypatch):
    bundle, _ = prediction.default_pair("anatomy-segmentation")
    open_network = lambda wanted: gland_network if wanted.name == "gland" else FakeSession(as_is)  # noqa: E731
    alone, measured, findings = case_measurements.measure_t2w, [], CaseCache()
    monkeypatch.setattr(
        case_measurements, "measure_t2w", lambda case, gland: measured.append(case.id) or alone(case, gland)
    )
    t2w_alone = replace(a_case, volumes={Sequence.T2W: a_case[Sequence.T2W]})
    first = CasePredictor(t2w_alone, Options(), open_network, findings).predict(bundle)
    second = CasePredictor(a_case, Options(), open_network, findings).predict(a_bundle(CROP))
    assert len(measured) == 1
    assert second.quality[: len(first.quality)] == first.quality
    assert second.quality == measure_quality(a_case, first.labels)
