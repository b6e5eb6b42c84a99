"""Displacement along the phase axis: applied, found by registration, and as an echo-planar readout gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import SOURCE, decode, points_mm
from specs import MODELS
from study_examples import a_study as phantom_study
from task_cases import a_scan, prepared_for

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.result import Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.metrics.agreement import mae
from VFMTransferLib.phantom import distort, make_phantom
from VFMTransferLib.tasks import TASKS, score_case
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.distortion_correction.task import (
    ADC_CORRECTED,
    HBV_CORRECTED,
    MIN_SHIFT_MM,
    displacement_along,
    displacement_field,
    distorted_images,
    jacobian_along,
    match_with_t2w,
    signals_of,
    smooth_field_hz,
    warp,
)

MOVED_MM = 4.0
COS, SIN = np.cos(0.1), np.sin(0.1)
GRID = Geometry((48, 40, 8), (2.0, 2.0, 4.0), (-40.0, -36.0, -8.0), (COS, -SIN, 0, SIN, COS, 0, 0, 0, 1))


@pytest.fixture(scope="module", params=["left-right", "anterior-posterior"])
def a_study(request) -> LabeledCase:
    """Blobs on both images, dark in the one and bright in the other, and one of them moved by two voxels."""
    z, y, x = np.indices(GRID.shape)
    blobs = sum(
        np.exp(-(((x - cx) / 5) ** 2) - ((y - cy) / 4) ** 2 - ((z - 4) / 4) ** 2)
        for cx, cy in ((16, 14), (32, 12), (24, 26), (14, 30), (36, 30))
    )
    axis = {"left-right": 0, "anterior-posterior": 1}[request.param]
    shift = np.full(GRID.shape, MOVED_MM / 2.0)
    true = np.float32(20 + 100 * blobs)
    seen = distort(true, shift, 2 - axis)
    adc = Volume(np.full(GRID.shape, 1000, np.float32), GRID, "adc")
    volumes = {
        Sequence.T2W: Volume(np.float32(300 - 200 * blobs), GRID, "t2w"),
        Sequence.HBV: Volume(seen, GRID, "hbv"),
        Sequence.ADC: adc,
    }
    along = Volume(np.full(GRID.shape, MOVED_MM, np.float32), GRID)
    images = {HBV_CORRECTED: Volume(true, GRID), ADC_CORRECTED: adc}
    study = LabeledCase("distortion-correction", Case("c", volumes), images=images, along_phase_mm=along)
    return replace(study, phase_axis=request.param)


@pytest.mark.parametrize(("phase_axis", "axis"), [("left-right", 0), ("anterior-posterior", 1)])
def test_constant_displacement_moves_the_image_along_the_phase_axis(a_case, phase_axis, axis):
    prepared, spec = prepared_for(a_case, "distortion-correction", spacing_mm=(2.0, 2.0, 3.0))
    output = np.full((1, *prepared.region.shape), 2.6, np.float32)
    result = decode(output, prepared, a_case, spec, SOURCE, phase_axis=phase_axis)
    hbv = a_case[Sequence.HBV]
    vector = 2.6 * np.reshape(prepared.geometry.direction, (3, 3))[:, axis]
    np.testing.assert_allclose(result.displacement_mm, np.broadcast_to(vector, (*hbv.geometry.shape, 3)), atol=1e-5)
    shifted = sitk.Resample(
        hbv.to_sitk(), hbv.to_sitk(), sitk.TranslationTransform(3, vector.tolist()), sitk.sitkLinear
    )
    np.testing.assert_allclose(result.images["hbv-corrected"].array, sitk.GetArrayFromImage(shifted), atol=1e-3)
    assert result.images["adc-corrected"].geometry == a_case[Sequence.ADC].geometry


@pytest.mark.parametrize(("family", "is_smoothed"), [("profound", False), ("provicnet", True)])
def test_what_a_network_of_single_slices_finds_is_smoothed_across_them_alone(a_case, family, is_smoothed):
    """A field varies slowly; from one slice to the next such a network may err one way and then the other."""
    prepared, _ = prepared_for(a_case, "distortion-correction")
    spec = MODELS[f"{family}-restoration-distortion-correction"]
    z, _, x = np.indices(prepared.region.shape)
    slices, wave = np.where(z % 2, 3.0, -3.0), np.sin(x / 4)
    result = decode(np.float32(slices + wave)[None], prepared, a_case, spec, SOURCE)
    expected = displacement_field(wave if is_smoothed else slices + wave, prepared, 0)
    middle = len(expected) // 2  # beyond the last slice there is none to smooth with
    np.testing.assert_allclose(result.displacement_mm[middle], expected[middle], atol=0.3)
    assert any("smoothed across slices" in note.text for note in result.provenance.notes) == is_smoothed


def test_signal_that_was_squeezed_is_spread_again():
    """A line of constant signal whose points p appear at p + d(p): undoing it gives the constant back."""
    grid = Geometry((200, 3, 2), (0.5, 0.5, 3.0))
    x = points_mm(grid)[..., 0]
    displacement = (2 * np.sin(x / 8)).astype(np.float32)
    # Conservation: distorted(p + d) * (1 + d') = 1, sampled densely along x.
    dense = np.linspace(0, 100, 20001)
    distorted = np.interp(x, dense + 2 * np.sin(dense / 8), 1 / (1 + np.cos(dense / 8) / 4)).astype(np.float32)
    field = displacement[..., None] * np.array([1, 0, 0], np.float32)
    pulled = warp(Volume(distorted, grid), field, grid).array * jacobian_along(displacement, grid, 0)
    np.testing.assert_allclose(pulled[:, :, 10:-10], 1, atol=0.01)


def test_jacobian_by_hand():
    grid = Geometry((4, 1, 1), (2.0, 1.0, 1.0))
    displacement = np.array([[[0.0, 1.0, 2.0, 3.0]]])
    assert jacobian_along(displacement, grid, 0).tolist() == [[[1.5, 1.5, 1.5, 1.5]]]
    assert (jacobian_along(displacement * -9, grid, 0) == 0).all()


def test_displacement_follows_the_tilted_axis(a_case):
    prepared, _ = prepared_for(a_case, "distortion-correction")
    field = displacement_field(np.ones(prepared.region.shape, np.float32), prepared, 1)
    np.testing.assert_allclose(np.linalg.norm(field, axis=-1), 1, atol=1e-5)


def test_a_known_displacement_is_found_and_the_image_comes_back(a_study):
    result = TASKS[a_study.task].registered(a_study)
    found, before = (score_case(r, a_study).values for r in (result, TASKS[a_study.task].naive_baseline([])(a_study)))
    middle = result.displacement_mm[4, 10:30, 12:36]
    assert np.linalg.norm(middle, axis=-1).mean() == pytest.approx(MOVED_MM, abs=1.0)
    assert found["psnr_db"] > before["psnr_db"] + 3


def test_it_moves_along_the_phase_axis_alone(a_study):
    field = TASKS[a_study.task].registered(a_study).displacement_mm
    axis = {"left-right": 0, "anterior-posterior": 1}[a_study.phase_axis]
    direction = np.reshape(GRID.direction, (3, 3))[:, axis]
    np.testing.assert_allclose(field, (field @ direction)[..., None] * direction, atol=1e-4)


def test_it_gives_the_same_displacement_again(a_study):
    axis = {"left-right": 0, "anterior-posterior": 1}[a_study.phase_axis]
    first, again = (displacement_along(a_study.case, GRID, axis) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_distorted_scan_keeps_its_signal_and_its_truth():
    scan = a_scan()
    study = TASKS["distortion-correction"].from_scan(scan, seed=3)
    true, seen = study.images[HBV_CORRECTED], study.case[Sequence.HBV]
    np.testing.assert_allclose(seen.array.sum(axis=2), true.array.sum(axis=2), rtol=1e-4)  # along each phase line
    assert mae(seen.array, true.array) > 0.02 * true.array.mean()
    np.testing.assert_array_equal(true.array, scan[Sequence.HBV].array)
    assert np.abs(study.along_phase_mm.array).max() > 0.5


def test_without_a_field_nothing_moves(monkeypatch):
    monkeypatch.setattr(
        "VFMTransferLib.tasks.distortion_correction.task.smooth_field_hz", lambda grid, rng: np.zeros(grid.shape)
    )
    study = TASKS["distortion-correction"].from_scan(a_scan())
    for sequence, name in ((Sequence.HBV, HBV_CORRECTED), (Sequence.ADC, ADC_CORRECTED)):
        np.testing.assert_allclose(study.case[sequence].array, study.images[name].array, rtol=1e-3, atol=0.5)


def test_both_diffusion_images_move_alike():
    """Where signal was pushed by a whole voxel, the ADC is the neighbor's."""
    scan = a_scan()
    edge = scan[Sequence.ADC].with_array(np.where(np.indices(scan[Sequence.ADC].array.shape)[2] < 24, 800, 1600))
    scan = replace(scan, volumes={**scan.volumes, Sequence.ADC: edge})
    study = TASKS["distortion-correction"].from_scan(scan, seed=1)
    moved = study.case[Sequence.ADC].array[2, 20]
    shift = study.along_phase_mm.array[2, 20, 24] / 2.0
    crossing = 10 + int(np.argmax(moved[10:40] > 1200)) - 0.5
    assert crossing == pytest.approx(23.5 + shift, abs=1)


def test_a_field_is_smooth_repeats_with_its_seed_and_differs_with_another():
    grid = a_scan()[Sequence.HBV].geometry
    first, again, other = (smooth_field_hz(grid, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(np.diff(first, axis=2)).max() < 0.25 * np.ptp(first)


def test_signals_and_images_go_into_each_other():
    study = phantom_study("distortion-correction")
    hbv, adc = study.images[HBV_CORRECTED], study.images[ADC_CORRECTED]
    high, base = signals_of(hbv, adc)
    still = np.zeros_like(high)
    again_hbv, again_adc = distorted_images(high, base, still, 2)
    np.testing.assert_allclose(again_hbv, hbv.array, atol=1e-3)
    seen = hbv.array > 0
    np.testing.assert_allclose(again_adc[seen], adc.array[seen], rtol=1e-3, atol=1)


def corrected(study: LabeledCase, along_mm: float, gland=None):
    """The images pulled along a constant displacement, as a user gets them."""
    axis = {"left-right": 0, "anterior-posterior": 1}[study.phase_axis]
    vector = np.float32(along_mm) * np.reshape(GRID.direction, (3, 3))[:, axis].astype(np.float32)
    field = np.broadcast_to(vector, (*GRID.shape, 3)).copy()
    images = {
        name: warp(study.case[sequence], field, GRID, name)
        for name, sequence in ((HBV_CORRECTED, Sequence.HBV), (ADC_CORRECTED, Sequence.ADC))
    }
    task = TASKS["distortion-correction"]
    raw = Result("c", task.id, SOURCE, images=images, displacement_mm=field)
    return raw, task.checked(raw, study.case, gland)


@pytest.fixture
def a_gland():
    z, y, x = np.indices(GRID.shape)
    return Volume((((x - 24) / 10) ** 2 + ((y - 20) / 9) ** 2 + ((z - 4) / 3) ** 2 < 1).astype(np.uint8), GRID)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_correction_that_improves_the_match_with_t2w_is_kept(a_study, a_gland, is_known):
    raw, found = corrected(a_study, MOVED_MM, a_gland if is_known else None)
    assert found.images is raw.images
    assert found.displacement_mm is raw.displacement_mm
    assert found.provenance.notes[-1].text.startswith("The correction improves the match with T2w")


@pytest.mark.parametrize("along_mm", [-3.0, -8.0])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_correction_that_does_not_improve_it_is_withheld(a_study, a_gland, along_mm, is_known):
    _, found = corrected(a_study, along_mm, a_gland if is_known else None)
    for name, sequence in ((HBV_CORRECTED, Sequence.HBV), (ADC_CORRECTED, Sequence.ADC)):
        np.testing.assert_array_equal(found.images[name].array, a_study.case[sequence].array)
    assert not found.displacement_mm.any()
    assert found.provenance.notes[-1].text.startswith("The correction was withheld")


def test_a_correction_below_what_networks_resolve_is_withheld(a_study, a_gland):
    _, found = corrected(a_study, MIN_SHIFT_MM * 0.8, a_gland)
    assert not found.displacement_mm.any()


def test_the_match_is_best_in_place_and_ignores_brightness(a_study, a_gland):
    t2w, true, adc = a_study.case[Sequence.T2W], a_study.images[HBV_CORRECTED], a_study.images[ADC_CORRECTED]
    seen = a_study.case[Sequence.HBV]
    there, moved = (match_with_t2w(t2w, hbv, adc, a_gland) for hbv in (true, seen))
    assert 1 >= there > moved * 1.15
    brighter = true.with_array(true.array * 7)
    assert match_with_t2w(t2w, brighter, adc, a_gland) == pytest.approx(there, abs=1e-6)
    assert match_with_t2w(t2w, true.with_array(np.zeros_like(true.array)), adc, a_gland) == 0.0


@pytest.mark.parametrize("seed", [3, 8])
def test_a_phantom_matches_better_without_its_distortion(seed):
    """The correlation ratio of diffusion on T2w, which was the measure before, prefers these two distorted."""
    phantom = make_phantom(seed, t2w_spacing_mm=(1.5, 1.5, 4.0), phase_axis=0)
    labeled = TASKS["distortion-correction"].from_phantom(phantom)
    pairs = (
        (labeled.images[HBV_CORRECTED], labeled.images[ADC_CORRECTED]),
        (labeled.case[Sequence.HBV], labeled.case[Sequence.ADC]),
    )
    true, seen = (match_with_t2w(labeled.case[Sequence.T2W], *pair, labeled.gland) for pair in pairs)
    assert true > seen


def test_one_saturated_voxel_of_the_adc_does_not_decide_the_match(a_study, a_gland):
    t2w, true, adc = a_study.case[Sequence.T2W], a_study.images[HBV_CORRECTED], a_study.images[ADC_CORRECTED]
    usual = match_with_t2w(t2w, true, adc, a_gland)
    z, y, x = np.argwhere(a_gland.resample_to(adc.geometry, "nearest").array > 0)[0]
    for stored in (32767.0, 65535.0):
        spoiled = adc.array.copy()
        spoiled[z, y, x] = stored
        assert match_with_t2w(t2w, true, adc.with_array(spoiled), a_gland) > usual / 2


def test_a_correction_is_scored_without_the_jacobian_and_by_the_glands_outline(a_study, a_gland):
    study = replace(a_study, gland=a_gland)
    raw, _ = corrected(study, MOVED_MM, a_gland)
    right = score_case(raw, study).values
    before = score_case(TASKS[study.task].naive_baseline([])(study), study).values
    assert right["gland_overlap"] > 0.97 > 0.9 > before["gland_overlap"]
    assert right["psnr_db unscaled"] > before["psnr_db unscaled"] + 3
    assert right.get("psnr_db unscaled gland", np.inf) > before["psnr_db unscaled gland"] + 3  # in places exact
    # What scales intensities alone changes the plain measure, not the unscaled one.
    brighter = {
        **raw.images,
        HBV_CORRECTED: raw.images[HBV_CORRECTED].with_array(raw.images[HBV_CORRECTED].array * 1.2),
    }
    scaled = score_case(replace(raw, images=brighter), study).values
    assert scaled["psnr_db unscaled"] == right["psnr_db unscaled"]
    assert scaled["psnr_db"] < right["psnr_db"]
