"""A case and a bundle in, a result out: round trip in space, stages, what is refused, the gland by a network."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import (
    CROP,
    LESIONS,
    FakeSession,
    a_bundle,
    as_is,
    ball,
    points_mm,
    predict,
    with_preprocess,
)
from specs import MODELS, PROFOUND_ENCODER, network_grid
from study_examples import tiny_study_spec

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import BundleError, MissingSequenceError, OutOfMemoryError
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.result import GLAND_TRAINED_NOTE
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.inference import predict as prediction
from VFMTransferLib.inference.case_cache import CaseCache
from VFMTransferLib.inference.predict import CasePredictor, FoundAnatomy, require_fit
from VFMTransferLib.io.results import read_result, save_result
from VFMTransferLib.metrics.operating_point import OperatingPoint
from VFMTransferLib.tasks.segmentation import IDLE_THRESHOLD_NOTE

ROOT = Path(__file__).resolve().parents[3]


def open_as_is(_bundle) -> FakeSession:
    return FakeSession(as_is)


def test_first_channel_comes_back_on_the_scanned_grid(a_case):
    """The whole way, against SimpleITK alone: T2w to the network's grid, z-score, back, sigmoid."""
    result = predict(a_case, a_bundle(LESIONS), open_network=lambda bundle: FakeSession(as_is))
    t2w = a_case[Sequence.T2W].to_sitk()
    there = sitk.Resample(t2w, network_grid(a_case, LESIONS).image(), sitk.Transform(), sitk.sitkLinear, 0.0)
    voxels = sitk.GetArrayFromImage(there).astype(np.float64)
    inside = voxels != 0
    scored = np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0)
    image = sitk.GetImageFromArray((1 / (1 + np.exp(-scored))).astype(np.float32))
    image.CopyInformation(there)
    back = sitk.GetArrayFromImage(sitk.Resample(image, t2w, sitk.Transform(), sitk.sitkLinear, -1.0))
    probability = result.probabilities["csPCa"]
    assert probability.geometry == a_case[Sequence.T2W].geometry
    seen = back >= 0
    assert seen.mean() > 0.9
    np.testing.assert_allclose(probability.array[seen], back[seen], atol=1e-5)
    np.testing.assert_array_equal(result.labels.array, probability.array > 0.5)


def test_axes_of_the_file_do_not_change_what_is_marked(a_case):
    """The same case with the T2w's axes permuted and flipped gives the same marks at the same positions."""
    t2w = a_case[Sequence.T2W]
    turned = type(t2w).from_sitk(sitk.DICOMOrient(t2w.to_sitk(), "SAR"), "t2w")
    other = replace(a_case, volumes={**a_case.volumes, Sequence.T2W: turned})
    open_network = lambda bundle: FakeSession(as_is)  # noqa: E731
    first, second = (predict(c, a_bundle(LESIONS), open_network=open_network) for c in (a_case, other))
    assert second.labels.geometry == turned.geometry
    assert second.labels.geometry.orientation == "SAR"
    np.testing.assert_array_equal(second.labels.resample_to(t2w.geometry, "nearest").array, first.labels.array)


def test_case_stays_as_it_is(a_case):
    before = {s: v.array.copy() for s, v in a_case.volumes.items()}
    predict(a_case, a_bundle(LESIONS), open_network=lambda bundle: FakeSession(as_is))
    for sequence, array in before.items():
        np.testing.assert_array_equal(a_case[sequence].array, array)


def test_result_records_where_it_came_from(a_case):
    bundle = a_bundle(LESIONS)
    result = predict(
        replace(a_case, notes=(Note("unit", "ADC was converted."),)), bundle, open_network=lambda b: FakeSession(as_is)
    )
    source = result.provenance
    assert (source.bundle, source.sha256, source.runtime, source.precision) == ("fake", "0" * 64, "onnx", "fp32")
    assert list(source.seconds) == ["read", "preprocess", "infer", "postprocess"]
    assert {"vfm-transfer", "python", "numpy", "SimpleITK", "fake"} <= set(source.versions)
    assert {"A fake network.", "ADC was converted."} <= set(map(str, source.notes))


def test_a_result_of_a_case_whose_name_trained_the_network_states_so(a_case, tmp_path):
    trained = replace(a_bundle(LESIONS), training={"config": {"split": {"train": ["another", a_case.id]}}})
    result = predict(a_case, trained, open_network=open_as_is)
    assert result.provenance.was_trained_on_name
    assert read_result(save_result(result, tmp_path / "result")).provenance.was_trained_on_name
    for case, bundle in ((replace(a_case, id="a-new-one"), trained), (a_case, a_bundle(LESIONS))):
        assert not predict(case, bundle, open_network=open_as_is).provenance.was_trained_on_name


def test_the_operating_point_of_a_bundle_decides_what_is_marked_and_is_recorded(a_case, tmp_path):
    plain, strict = a_bundle(LESIONS), replace(a_bundle(LESIONS), operating_point=OperatingPoint(0.99, 24))
    surest = max(lesion.confidence for lesion in predict(a_case, plain, open_network=open_as_is).lesions)
    assert surest < 0.99
    nothing, own = (predict(a_case, strict, threshold=t, open_network=open_as_is) for t in (None, 0.5))
    assert (len(nothing.lesions), nothing.provenance.min_confidence) == (0, 0.99)
    assert own.lesions
    assert own.provenance.min_confidence is None
    for result in (nothing, own):
        folder = save_result(result, tmp_path / str(len(result.lesions)))
        assert read_result(folder).provenance.min_confidence == result.provenance.min_confidence


def test_progress_grows_to_one_through_all_stages(a_case):
    calls = []
    predict(
        a_case,
        a_bundle(LESIONS),
        on_progress=lambda stage, fraction: calls.append((stage, fraction)),
        open_network=lambda bundle: FakeSession(as_is),
    )
    fractions = [fraction for _, fraction in calls]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    stages = [s for i, (s, _) in enumerate(calls) if i == 0 or calls[i - 1][0] != s]
    assert stages == ["read", "preprocess", "infer", "postprocess"]


def test_progress_can_stop_the_run(a_case):
    def stop(stage, fraction):
        if stage == "infer":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(a_case, a_bundle(LESIONS), on_progress=stop, open_network=lambda bundle: FakeSession(as_is))


def test_networks_that_take_the_same_input_share_it(a_case):
    sessions = [FakeSession(as_is), FakeSession(lambda x: -x[:, :1])]
    opened = iter(sessions)
    predictor = CasePredictor(a_case, Options(crop="center"), lambda _: next(opened))
    a, b = predictor.predict(a_bundle(CROP)), predictor.predict(a_bundle(CROP, "b"))
    np.testing.assert_array_equal(sessions[0].seen[0][0], sessions[1].seen[0][0])
    assert b.provenance.seconds["preprocess"] < a.provenance.seconds["preprocess"]
    assert (a.provenance.bundle, b.provenance.bundle) == ("fake", "b")


def test_missing_sequence_is_named_before_any_network_is_loaded(a_case):
    case = Case("p001", {Sequence.T2W: a_case[Sequence.T2W]})
    with pytest.raises(MissingSequenceError, match="lacks hbv, adc"):
        predict(case, a_bundle(LESIONS), open_network=lambda bundle: pytest.fail("loaded"))


def test_encoder_alone_and_wrong_task_are_refused(a_case):
    with pytest.raises(BundleError, match="encoder alone"):
        predict(a_case, a_bundle(PROFOUND_ENCODER))
    with pytest.raises(BundleError, match="for task classification"):
        require_fit(a_case, a_bundle(LESIONS), "classification")


@pytest.mark.parametrize("error", [MemoryError(), ImportError("x.so: failed to map segment from shared object")])
def test_lack_of_memory_is_one_sentence(a_case, error):
    def too_large(x):
        raise error

    with pytest.raises(OutOfMemoryError, match="ran out"):
        predict(a_case, a_bundle(LESIONS), open_network=lambda bundle: FakeSession(too_large))


def test_crop_lies_where_the_gland_network_found_the_gland(a_case, gland_network):
    fake = FakeSession(as_is)
    open_network = lambda bundle: gland_network if bundle.name == "gland" else fake  # noqa: E731
    result = predict(a_case, a_bundle(CROP), open_network=open_network)
    grid = network_grid(a_case, CROP)
    # Middle of the ball: voxel x 20 of 72, so the crop of 48 starts at 0, not at the published 12.
    np.testing.assert_allclose(fake.seen[0][0][0, 0, 2:29, 0, 0], scored_t2w(a_case, grid)[:, 8, 0], atol=1e-5)
    assert any("'gland'" in note.text for note in result.provenance.notes)


def test_a_result_states_the_weights_of_the_network_that_searched_the_gland(a_case, gland_network, tmp_path):
    open_network = lambda bundle: gland_network if bundle.name == "gland" else FakeSession(as_is)  # noqa: E731
    searched = predict(a_case, a_bundle(CROP), open_network=open_network)
    drawn = replace(a_case, gland=a_case[Sequence.T2W].with_array(np.ones(a_case[Sequence.T2W].array.shape, np.uint8)))
    for result, sha256 in (
        (searched, prediction.gland_network().weights_sha256),
        (predict(drawn, a_bundle(CROP), open_network=open_network), None),
    ):
        assert result.provenance.gland_sha256 == sha256
        assert read_result(save_result(result, tmp_path / "out")).provenance.gland_sha256 == sha256


def test_each_window_of_the_gland_network_is_told_so_that_a_run_can_be_stopped_there(a_case, gland_network):
    told = []
    open_network = lambda bundle: gland_network if bundle.name == "gland" else FakeSession(as_is)  # noqa: E731
    predict(a_case, a_bundle(CROP), on_progress=lambda *at: told.append(at), open_network=open_network)
    fractions = [fraction for stage, fraction in told if stage == "preprocess"]
    assert len(fractions) > 2 + len(gland_network.seen)  # the stage's beginning and end, each window, decoding
    assert fractions == sorted(fractions)


def scored_t2w(case: Case, grid) -> np.ndarray:
    voxels = case[Sequence.T2W].resample_to(grid).array.astype(np.float64)
    inside = voxels != 0
    return np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0)


def test_zones_of_the_gland_network_name_where_lesions_lie(a_case, monkeypatch):
    spec = with_preprocess("profound-upernet-anatomy", patch=(27, 65, 72), whole_volume=False)
    head = replace(spec.head, out_channels=3)
    labels = (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
    bundle = replace(a_bundle(replace(spec, labels=labels, head=head), "gland"), caveats=("The zones are a guess.",))
    monkeypatch.setattr(prediction, "default_pair", lambda task: (bundle, bundle))
    logits = np.full((1, 3, 27, 65, 72), -9.0)
    logits[:, 1, :, :, :36], logits[:, 2, :, :, 36:] = 9, 9
    lesion = np.full((1, 1, 32, 48, 48), -9.0)
    lesion[:, :, 12:20, 20:28, 40:46] = 9  # towards the patient's left, where the fake transition zone is
    networks = {"gland": FakeSession(lambda x: logits), "fake": FakeSession(lambda x: lesion)}
    result = predict(a_case, a_bundle(CROP), open_network=lambda bundle: networks[bundle.name])
    assert [found.zone for found in result.lesions] == ["transition-zone"]
    assert any(note.text.endswith("The zones are a guess.") for note in result.provenance.notes)


def test_a_mark_outside_of_the_gland_that_was_found_is_left_out(a_case, gland_network, monkeypatch):
    lesions = np.full((1, 1, 32, 48, 48), -9.0)
    lesions[:, :, 14:18, 22:26, 18:22] = lesions[:, :, 14:18, 22:26, 44:47] = 9  # in the ball, and beside it
    open_network = lambda bundle: gland_network if bundle.name == "gland" else FakeSession(lambda x: lesions)  # noqa: E731
    result = predict(a_case, a_bundle(CROP), open_network=open_network)
    assert len(result.lesions) == 1
    assert any(
        note.text.startswith("Marks outside of the prostate were left out: 1.") for note in result.provenance.notes
    )
    everywhere = result.labels.with_array(np.ones_like(result.labels.array))
    for known in (replace(a_case, gland=everywhere), a_case):  # the case's own mask goes before the network's
        given = {} if known.gland is not None else {"gland": everywhere}
        whole = predict(known, a_bundle(CROP), crop="center", open_network=open_network, **given)
        assert not any(note.text.startswith("Marks outside") for note in whole.provenance.notes)


def test_center_crop_asks_no_gland_network(a_case, gland_network):
    predict(a_case, a_bundle(CROP), crop="center", open_network=lambda bundle: FakeSession(as_is))
    assert gland_network.seen == []


def test_without_mask_and_bundle_the_crop_is_the_middle_and_that_is_said(a_case, no_bundle_installed):
    result = predict(a_case, a_bundle(CROP), open_network=lambda bundle: FakeSession(as_is))
    assert any("no gland segmentation bundle" in note.text for note in result.provenance.notes)
    assert any("centered on: image" in note.text for note in result.provenance.notes)


def test_provicnet_takes_the_gland_of_user_case_or_network_or_refuses(a_case, gland_network):
    spec = with_preprocess("provicnet-t2w", patch=(1, 32, 32))
    provicnet = FakeSession(lambda image, positions: np.zeros((1, 4, 32, 32), np.float32))
    open_network = lambda bundle: gland_network if bundle.name == "gland" else provicnet  # noqa: E731
    mask = ball(a_case[Sequence.T2W].geometry, (0, 0, 0), 8)
    for case, gland in ((a_case, mask), (replace(a_case, gland=mask), None)):
        predict(case, a_bundle(spec), gland=gland, open_network=open_network)
    assert gland_network.seen == []
    result = predict(a_case, a_bundle(spec), open_network=open_network)
    assert len(gland_network.seen) == 1
    assert any("since no mask was given" in note.text for note in result.provenance.notes)


def test_provicnet_without_any_gland_is_refused(a_case, no_bundle_installed):
    with pytest.raises(MissingSequenceError, match="--gland"):
        predict(a_case, a_bundle(MODELS["provicnet-t2w"]), open_network=lambda bundle: FakeSession(as_is))


def test_importing_loads_neither_torch_nor_onnxruntime():
    code = "import sys, VFMTransferLib.inference.predict; print({'torch', 'onnxruntime', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_marked_ball_is_where_it_is_in_the_patient(a_case):
    """A network that marks a ball in its own window: the lesion lies at those millimeters."""
    grid = network_grid(a_case, CROP)
    start_mm = grid.to_world((12, 8, -2))
    center_mm = start_mm + np.reshape(grid.direction, (3, 3)) @ (np.array([30, 20, 15]) * grid.spacing_mm)
    z, y, x = np.indices((32, 48, 48))
    far_mm = np.sqrt(((x - 30) * 0.5) ** 2 + ((y - 20) * 0.5) ** 2 + (z - 15.0) ** 2)
    network = FakeSession(lambda array: np.where(far_mm < 6, 5.0, -5.0)[None, None])
    (lesion,) = predict(a_case, a_bundle(CROP), crop="center", open_network=lambda bundle: network).lesions
    assert np.linalg.norm(np.subtract(lesion.center_mm, center_mm)) < 0.3
    inside = np.linalg.norm(points_mm(a_case[Sequence.T2W].geometry) - center_mm, axis=-1) < 6
    assert lesion.volume_ml == pytest.approx(inside.sum() * 2.43e-3, rel=0.1)


def marks_low_columns(x: np.ndarray) -> np.ndarray:
    """A network that marks the left edge of its window, as far as there is an image."""
    logits = np.full((1, 1, *x.shape[2:]), -9.0)
    logits[0, 0, 8:24, 16:32, :12] = 9
    return logits


def test_prostate_cut_off_by_the_middle_crop_is_looked_at_again(a_case):
    spec = with_preprocess("profound-upernet-anatomy", patch=(32, 48, 48), whole_volume=False)
    spec = replace(spec, labels=(Label.PROSTATE,), head=replace(spec.head, out_channels=1), activation="sigmoid")
    fake = FakeSession(marks_low_columns)
    result = predict(a_case, a_bundle(spec), open_network=lambda bundle: fake)
    assert len(fake.seen) == 2
    assert not np.array_equal(fake.seen[0][0], fake.seen[1][0])
    assert prediction.SECOND_PASS_NOTE in result.provenance.notes
    assert any("centered on: gland" in note.text for note in result.provenance.notes)
    assert not any("centered on: image" in note.text for note in result.provenance.notes)


@pytest.mark.parametrize("given", ["by the case", "by the user"])
def test_a_mask_does_not_help_a_network_that_finds_the_gland(a_case, given):
    spec = with_preprocess("profound-upernet-anatomy", patch=(32, 48, 48), whole_volume=False)
    spec = replace(spec, labels=(Label.PROSTATE,), head=replace(spec.head, out_channels=1), activation="sigmoid")
    gland = ball(a_case[Sequence.T2W].geometry, (8.0, -6.0, 0.5), 8.0)
    case = replace(a_case, gland=gland) if given == "by the case" else a_case
    options = {} if given == "by the case" else {"gland": gland}

    def seen(case, **options):
        fake = FakeSession(marks_low_columns)
        result = predict(case, a_bundle(spec), open_network=lambda bundle: fake, **options)
        return [arrays[0] for arrays in fake.seen], result.labels.array

    (inputs, labels), (plain_inputs, plain_labels) = seen(case, **options), seen(a_case)
    assert len(inputs) == len(plain_inputs) == 2
    for one, plain in zip(inputs, plain_inputs, strict=True):
        np.testing.assert_array_equal(one, plain)
    np.testing.assert_array_equal(labels, plain_labels)
    explicit, _ = seen(case, **options, crop="gland")
    assert len(explicit) == 1


def test_center_crop_is_never_moved(a_case):
    spec = with_preprocess("profound-upernet-anatomy", patch=(32, 48, 48), whole_volume=False)
    spec = replace(spec, labels=(Label.PROSTATE,), head=replace(spec.head, out_channels=1), activation="sigmoid")
    fake = FakeSession(marks_low_columns)
    predict(a_case, a_bundle(spec), crop="center", open_network=lambda bundle: fake)
    assert len(fake.seen) == 1


def test_a_network_that_fails_leaves_the_next_one_its_turn(a_case):
    def breaks(x):
        raise ZeroDivisionError

    opened = iter([FakeSession(breaks), FakeSession(as_is)])
    predictor = CasePredictor(a_case, open_network=lambda _: next(opened))
    with pytest.raises(ZeroDivisionError):
        predictor.predict(a_bundle(LESIONS))
    assert predictor.predict(a_bundle(LESIONS, "b")).provenance.bundle == "b"


def test_the_gland_is_searched_once_for_all_networks_of_a_case(a_case, gland_network):
    open_network = lambda bundle: gland_network if bundle.name == "gland" else FakeSession(as_is)  # noqa: E731
    predictor = CasePredictor(a_case, open_network=open_network)
    predictor.predict(a_bundle(CROP))
    looked = len(gland_network.seen)
    predictor.predict(a_bundle(replace(CROP, preprocess=replace(CROP.preprocess, patch=(32, 40, 40))), "b"))
    assert looked == len(gland_network.seen) > 0


def test_the_gland_of_a_case_seen_before_is_not_searched_again(a_case, gland_network):
    open_network = lambda bundle: gland_network if bundle.name == "gland" else FakeSession(as_is)  # noqa: E731
    findings = CaseCache()
    first = CasePredictor(a_case, open_network=open_network, cache=findings).predict(a_bundle(CROP))
    looked = len(gland_network.seen)
    again = CasePredictor(replace(a_case, id="other"), open_network=open_network, cache=findings)
    assert again.predict(a_bundle(CROP)).provenance.notes == first.provenance.notes
    assert looked == len(gland_network.seen) > 0
    t2w = a_case[Sequence.T2W]
    changed = replace(a_case, volumes={**a_case.volumes, Sequence.T2W: t2w.with_array(t2w.array * 2)})
    CasePredictor(changed, open_network=open_network, cache=findings).predict(a_bundle(CROP))
    assert len(gland_network.seen) > looked


def test_that_a_case_of_this_name_trained_the_gland_network_is_stated_of_that_name_alone(
    a_case, gland_network, monkeypatch
):
    bundle, _ = prediction.default_pair("anatomy-segmentation")
    trained = replace(bundle, training={"config": {"split": {"train": [a_case.id]}}})
    monkeypatch.setattr(prediction, "default_pair", lambda task: (trained, trained))
    open_network = lambda wanted: gland_network if wanted.name == "gland" else FakeSession(as_is)  # noqa: E731
    findings = CaseCache()  # what was found in one case's images serves the other, its name does not
    for case, is_trained in ((a_case, True), (replace(a_case, id="a-new-one"), False), (a_case, True)):
        predictor = CasePredictor(case, open_network=open_network, cache=findings)
        found = predictor.predict(a_bundle(CROP)).provenance
        assert (GLAND_TRAINED_NOTE in found.notes, found.was_trained_on_name) == (is_trained, False)
        compared = predictor.case_with_gland("lesion-segmentation")
        assert (GLAND_TRAINED_NOTE in compared.notes) == is_trained
    drawn = a_case[Sequence.T2W].with_array(np.ones(a_case[Sequence.T2W].array.shape))
    source = predict(a_case, a_bundle(CROP), gland=drawn, open_network=open_network).provenance
    assert GLAND_TRAINED_NOTE not in source.notes


def test_the_gland_that_was_segmented_is_not_searched_again(a_case, gland_network):
    bundle, _ = prediction.default_pair("anatomy-segmentation")
    open_network = lambda wanted: gland_network if wanted.name == "gland" else FakeSession(as_is)  # noqa: E731
    searched = CasePredictor(a_case, open_network=open_network).predict(a_bundle(CROP))
    drawn = replace(a_case, gland=a_case[Sequence.T2W].with_array(np.ones(a_case[Sequence.T2W].array.shape)))
    for case, options, is_kept in (
        (a_case, Options(psa_ng_ml=4.0, region="gland"), True),
        (a_case, Options(threshold=0.3), False),
        (drawn, Options(), False),
    ):
        findings = CaseCache()
        CasePredictor(case, options, open_network, findings).predict(bundle)
        passes = len(gland_network.seen)
        found = CasePredictor(a_case, Options(), open_network, findings).predict(a_bundle(CROP))
        assert (len(gland_network.seen) == passes) is is_kept
        assert found.provenance.notes == searched.provenance.notes
        assert found.gland == searched.gland


def test_what_another_network_of_the_same_weights_marks_is_not_what_a_search_finds(a_case, gland_network):
    bundle, _ = prediction.default_pair("anatomy-segmentation")
    open_network = lambda wanted: gland_network if "gland" in wanted.name else FakeSession(as_is)  # noqa: E731
    copy, findings = replace(bundle, name="gland-copy", caveats=("A copy.",)), CaseCache()
    CasePredictor(a_case, Options(), open_network, findings).predict(copy)
    found = CasePredictor(a_case, Options(), open_network, findings).predict(a_bundle(CROP))
    assert not any("copy" in note.text for note in found.provenance.notes)


@pytest.mark.parametrize("marks", [True, False])
def test_the_note_on_the_gland_states_the_bundle_as_it_is_now(a_case, gland_network, monkeypatch, marks):
    bundle, scratch = prediction.default_pair("anatomy-segmentation")
    searcher = gland_network if marks else FakeSession(lambda array: np.full((1, 1, 27, 65, 72), -9.0))
    open_network = lambda wanted: searcher if "gland" in wanted.name else FakeSession(as_is)  # noqa: E731

    cache = CaseCache()

    def notes() -> str:
        predictor = CasePredictor(a_case, Options(), open_network, cache)
        return " ".join(map(str, predictor.predict(a_bundle(CROP)).provenance.notes))

    assert "undle 'gland'" in notes()
    renamed = replace(bundle, name="gland-2", caveats=("Not for children.",))
    monkeypatch.setattr(prediction, "default_pair", lambda task: (renamed, scratch))
    assert "undle 'gland-2'" in notes()
    assert ("Not for children." in notes()) is marks


BAND = with_preprocess("profound-upernet-lesion", patch=(16, 64, 64))


@pytest.mark.parametrize("spec", [LESIONS, BAND])
@pytest.mark.parametrize("takes_box", [False, True])
def test_around_the_gland_lesions_are_the_same_and_elsewhere_there_are_none(a_case, spec, takes_box):
    def cut(x, box=None):
        (z, y, x0), (end_z, end_y, end_x) = ((0, 0, 0), x.shape[2:]) if box is None else box
        return x[:, :1, z:end_z, y:end_y, x0:end_x]

    class BoxSession(FakeSession):
        def run(self, *arrays, box=None):
            self.seen.append(arrays)
            return cut(*arrays, box)

    gland = ball(a_case[Sequence.T2W].geometry, (2, -1, 0), 6)
    whole = predict(a_case, a_bundle(spec), gland=gland, open_network=lambda _: BoxSession(as_is))
    session = BoxSession(as_is, takes_box=takes_box)
    around = predict(a_case, a_bundle(spec), gland=gland, region="gland", open_network=lambda _: session)
    (name,) = whole.probabilities
    expected, found = whole.probabilities[name].array, around.probabilities[name].array
    inside = gland.array > 0
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-6)
    distance = np.linalg.norm(points_mm(gland.geometry) - np.array([2, -1, 0]), axis=-1)
    assert not found[distance > 22].any()
    assert expected[distance > 22].any()
    assert any("nothing is known of what lies elsewhere" in note.text for note in around.provenance.notes)
    assert around.provenance.options["region"] == "gland"
    assert "region" not in whole.provenance.options


def test_of_slices_only_those_with_gland_are_run(a_case):
    spec = with_preprocess("provicnet-fusion", normalization="zscore-nonzero")
    session = FakeSession(lambda *x: np.zeros((1, 4, 256, 256), np.float32))
    gland = ball(a_case[Sequence.T2W].geometry, (0, 0, 0), 4)
    predict(a_case, a_bundle(spec), gland=gland, region="gland", open_network=lambda _: session)
    every = FakeSession(session.network)
    predict(a_case, a_bundle(spec), gland=gland, open_network=lambda _: every)
    assert 0 < len(session.seen) < len(every.seen)


def test_around_the_gland_requires_to_know_it(a_case, no_bundle_installed):
    with pytest.raises(MissingSequenceError, match="gland mask"):
        predict(a_case, a_bundle(LESIONS), region="gland", open_network=lambda _: FakeSession(as_is))


def test_the_gland_itself_is_searched_everywhere(a_case):
    spec = replace(LESIONS, task="anatomy-segmentation", labels=(Label.PROSTATE,))
    whole, around = (
        predict(a_case, a_bundle(spec), region=region, open_network=lambda _: FakeSession(as_is))
        for region in ("whole", "gland")
    )
    np.testing.assert_array_equal(whole.labels.array, around.labels.array)


def test_no_sentence_asks_a_slicer_user_to_type_an_option():
    """What prediction raises is shown in a panel too; an option may be named in brackets beside what a panel has."""
    rooms = ("core", "encoders", "inference", "io", "tasks")
    files = [file for room in rooms for file in (ROOT / "VFMTransferLib" / room).rglob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in (*files, ROOT / "VFMTransferLib/bundles/catalog.py")]
    assert not re.findall(r"\b(?:by option|say --\w+|with --\w+|choose --\w+|\(--\w+\))", "\n".join(texts))


def test_a_network_without_the_gland_predicts_the_same_after_one_that_had_it_looked_for(a_case, gland_network):
    def opened(bundle):
        return gland_network if bundle.name == "gland" else FakeSession(as_is)

    def found(*specs):
        predictor = CasePredictor(a_case, open_network=opened)
        result = [predictor.predict(a_bundle(spec, f"n{place}")) for place, spec in enumerate(specs)][-1]
        return result.labels.array, result.gland, result.provenance.notes

    alone, after = found(LESIONS), found(CROP, LESIONS)
    np.testing.assert_array_equal(alone[0], after[0])
    assert alone[1:] == after[1:]


def test_a_threshold_that_decides_nothing_is_noted(a_case):
    spec = with_preprocess(MODELS["profound-upernet-anatomy"], patch=(16, 32, 40), whole_volume=True)
    assert spec.labels[0] == Label.BACKGROUND
    count = len(spec.labels)

    def notes(spec, **options):
        network = FakeSession(lambda x: np.repeat(x[:, :1], count if spec.task != "lesion-segmentation" else 1, axis=1))
        return predict(a_case, a_bundle(spec), open_network=lambda _: network, **options).provenance.notes

    assert IDLE_THRESHOLD_NOTE in notes(spec, threshold=0.9)
    assert IDLE_THRESHOLD_NOTE not in notes(spec)
    assert IDLE_THRESHOLD_NOTE not in notes(LESIONS, threshold=0.9)
    classes = with_preprocess("profound-classifier", patch=(16, 32, 40))
    given = {"open_network": lambda _: FakeSession(lambda x: np.zeros((1, len(classes.labels)), np.float32))}
    for options, is_noted in (({}, False), ({"threshold": 0.9}, True), ({"only_cspca": True}, True)):
        found = predict(a_case, a_bundle(classes), crop="center", **given, **options)
        assert (prediction.NOTHING_MARKED_NOTE in found.provenance.notes) is is_noted


@pytest.mark.parametrize("orientation", ["LPS", "LPI"])
def test_classes_state_the_slice_that_decided_them(a_case, tmp_path, orientation):
    """The network takes what is bright for cancer, and the higher a slice of T2w lies the brighter it is."""
    t2w = a_case[Sequence.T2W]
    t2w = t2w.with_array((100 + points_mm(t2w.geometry)[..., 2]).astype(np.float32))
    gland = ball(t2w.geometry, t2w.geometry.center_mm, 7)
    t2w, gland = (Volume.from_sitk(sitk.DICOMOrient(one.to_sitk(), orientation), one.name) for one in (t2w, gland))
    case = replace(a_case, volumes={**a_case.volumes, Sequence.T2W: t2w}, gland=gland)
    tiny = tiny_study_spec("provicnet", "classification")
    spec = with_preprocess(tiny, spacing_mm=(*tiny.preprocess.spacing_mm[:2], 3.0))

    def network(t2w, hbv, adc, positions):
        return np.array([[0, 0, 0, t2w[0, 1].mean()]], np.float32)

    result = predict(case, a_bundle(spec), open_network=lambda _: FakeSession(network))
    upright = gland.to_nearest_lps()
    highest = int(np.flatnonzero(upright.array.any(axis=(1, 2))).max())
    x, y, z = upright.geometry.to_index(result.decided_at_mm)
    assert z == pytest.approx(highest, abs=0.2)
    assert 0 < highest < 8
    assert np.allclose((x, y), np.mean(np.argwhere(upright.array)[:, :0:-1], axis=0), atol=2)
    notes = [note for note in result.provenance.notes if "most suspicious" in note.text]
    assert len(notes) == 1
    assert f"slice {highest + 1} of 9 of t2w, counted from the feet" in notes[0].text
    assert read_result(save_result(result, tmp_path / "r")).decided_at_mm == pytest.approx(result.decided_at_mm)


def test_a_network_that_sees_the_whole_at_once_states_no_slice(a_case):
    classes = with_preprocess("profound-classifier", patch=(16, 32, 40))
    network = FakeSession(lambda x: np.zeros((1, len(classes.labels)), np.float32))
    found = predict(a_case, a_bundle(classes), crop="center", open_network=lambda _: network)
    assert found.decided_at_mm is None
    assert not any("most suspicious" in note.text for note in found.provenance.notes)


def test_a_result_states_the_grid_that_it_was_predicted_from(a_case, tmp_path):
    result = predict(a_case, a_bundle(LESIONS), open_network=lambda bundle: FakeSession(as_is))
    assert result.grid == a_case[Sequence.T2W].geometry
    assert read_result(save_result(result, tmp_path / "r")).grid.equals(result.grid)


def test_a_network_of_one_sequence_needs_no_t2w(a_case):
    alone = Case("p", {Sequence.ADC: a_case[Sequence.ADC]}, gland=ball(a_case[Sequence.ADC].geometry, (0, 0, 0), 8))
    network = FakeSession(lambda image, positions: np.zeros((1, 4, 32, 32), np.float32))
    spec = with_preprocess("provicnet-adc", patch=(1, 32, 32))
    result = predict(alone, a_bundle(spec), open_network=lambda bundle: network)
    assert result.grid == result.labels.geometry == a_case[Sequence.ADC].geometry


def test_a_comparison_gets_the_prostate_that_the_shipped_network_marks(a_case, monkeypatch):
    labels = a_case["t2w"].with_array((a_case["t2w"].array > a_case["t2w"].array.mean()).astype(np.uint8) * 2)
    zones = {str(Label.PERIPHERAL_ZONE): labels}
    found = FoundAnatomy(Note("gland", "The gland was marked."), labels, zones)
    monkeypatch.setattr(CasePredictor, "_find_anatomy", lambda self, on_part: found)
    case = replace(a_case, gland=None)
    given = CasePredictor(case).case_with_gland("super-resolution")
    assert set(np.unique(given.gland.array)) == {0, 1}
    assert given.notes[-1].text == "The gland was marked."
    assert given.zones == zones
    assert CasePredictor(case).case_with_gland("anatomy-segmentation").gland is None
    monkeypatch.setattr(
        CasePredictor, "_find_anatomy", lambda self, on_part: FoundAnatomy(Note("gland", "None was found."))
    )
    assert CasePredictor(case).case_with_gland("super-resolution").gland is None
