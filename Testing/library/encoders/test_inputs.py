"""From a case to a network's input: order of channels, position, intensities, crop, slices; the case stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import a_small_case, ball, with_preprocess
from specs import MODELS, network_grid, place_on_grid, prepare

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import GeometryError, ImageError, MissingSequenceError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.encoders.inputs import (
    CUT_GLAND_NOTE,
    REGION_NOTE,
    gland_center,
    neighbor_slices,
    normalize,
    scale_slices,
    slice_positions,
    stack_sequences,
)
from VFMTransferLib.tasks.super_resolution.task import zero_filled


@pytest.fixture
def a_case() -> Case:
    return a_small_case()


@pytest.fixture
def a_spec():
    """ProFound's lesion network at a patch that is smaller than the case in plane and larger in depth."""
    return with_preprocess("profound-upernet-lesion", patch=(32, 48, 32))


def a_gland(case: Case, center_mm) -> Volume:
    return ball(case[Sequence.T2W].geometry, center_mm, 6.0)


def normalized(values: list[float], how: str, gland: list[bool] | None = None) -> list[float]:
    """One row of voxels."""
    array = np.array(values, np.float32).reshape(1, 1, 1, -1)
    normalize(array, how, None if gland is None else np.array(gland).reshape(1, 1, -1))
    return array.ravel().tolist()


def test_grid_is_the_t2w_field_of_view_towards_left_posterior_superior(a_case, a_spec):
    grid = network_grid(a_case, a_spec)
    assert grid.orientation == "LPS"
    # round(40 * 0.9 / 0.5) = 72, round(36 * 0.9 / 0.5) = round(64.8) = 65, 9 * 3 / 1 = 27
    assert grid.size == (72, 65, 27)
    flipped = sitk.DICOMOrient(a_case[Sequence.T2W].to_sitk(), "LPS")
    np.testing.assert_allclose(grid.origin_mm, flipped.GetOrigin())


@pytest.mark.parametrize("axes", ["RPS", "LAI", "SLP", "ASR"])
def test_zeros_of_the_scan_stay_zero_whichever_way_its_voxels_are_stored(a_case, a_spec, axes):
    t2w = a_case[Sequence.T2W].to_nearest_lps()
    array = t2w.array.copy()
    array[:3] = array[:, :10] = array[:, :, :10] = 0  # as where an exam was filled up
    inputs = []
    for stored in ("LPS", axes):
        turned = Volume.from_sitk(sitk.DICOMOrient(t2w.with_array(array).to_sitk(), stored), "t2w")
        inputs.append(prepare(replace(a_case, volumes={**a_case.volumes, Sequence.T2W: turned}), a_spec).array)
    np.testing.assert_array_equal(inputs[0] == 0, inputs[1] == 0)
    np.testing.assert_allclose(inputs[0], inputs[1], atol=1e-4)


def test_task_with_another_reference_sees_that_field_of_view(a_case, a_spec):
    spec = replace(a_spec, task="distortion-correction")
    assert network_grid(a_case, spec).extent_mm[:2] == (50.0, 42.0)


def test_network_of_one_sequence_takes_its_grid_where_t2w_is_lacking(a_case):
    adc_only = Case("p001", {Sequence.ADC: a_case[Sequence.ADC]})
    assert network_grid(adc_only, MODELS["provicnet-adc"]).extent_mm[:2] == (50.0, 42.0)


def test_sequences_lie_by_position_as_simpleitk_resamples_them(a_case, a_spec):
    placed = place_on_grid(a_case, a_spec)
    grid = network_grid(a_case, a_spec)
    for sequence in Sequence:
        expected = sitk.Resample(
            a_case[sequence].to_sitk(), grid.image(), sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32
        )
        np.testing.assert_allclose(placed[sequence].array, sitk.GetArrayFromImage(expected), atol=1e-3)


def test_channels_follow_the_order_of_the_spec(a_case, a_spec):
    placed = place_on_grid(a_case, a_spec)
    spec = replace(a_spec.preprocess, sequences=(Sequence.ADC, None, Sequence.T2W))
    array = stack_sequences(placed, spec)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0], placed[Sequence.ADC].array)
    assert not array[1].any()
    np.testing.assert_array_equal(array[2], placed[Sequence.T2W].array)


def test_missing_sequence_is_named(a_case, a_spec):
    with pytest.raises(MissingSequenceError, match=r"lacks hbv, adc"):
        prepare(Case("p001", {Sequence.T2W: a_case[Sequence.T2W]}), a_spec)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_refused_and_its_sequence_named(a_case, a_spec, value):
    array = a_case[Sequence.HBV].array.copy()
    array[5, 10, 12] = value
    broken = replace(a_case, volumes={**a_case.volumes, Sequence.HBV: a_case[Sequence.HBV].with_array(array)})
    with pytest.raises(ImageError, match=r"hbv of case .* NaN"):
        prepare(broken, a_spec)


def test_zscore_over_nonzero_voxels_by_hand():
    # 2 and 4: mean 3, population deviation 1; the zero stays.
    assert normalized([0, 2, 4], "zscore-nonzero") == [0, -1, 1]


def test_zscore_leaves_zeros_alone_and_centers_a_constant():
    assert normalized([0, 0, 0], "zscore-nonzero") == [0, 0, 0]
    assert normalized([0, 5, 5], "zscore-nonzero") == [0, 0, 0]


def test_of_tissue_zeros_are_normalized_too_and_stay_the_darkest(a_case):
    spec = MODELS["profound-restoration-distortion-correction"]
    plain, tissue = (
        prepare(a_case, replace(spec, preprocess=replace(spec.preprocess, normalization=normalization)))
        for normalization in ("zscore-nonzero", "zscore-tissue")
    )
    assert tissue.scales == plain.scales
    zeros = plain.array == 0
    np.testing.assert_array_equal(tissue.array[~zeros], plain.array[~zeros])
    for channel, scale, empty in zip(tissue.array, tissue.scales, zeros, strict=True):
        np.testing.assert_allclose(channel[empty], -scale.mean / scale.std, rtol=1e-5)


def test_zscore_within_a_mask_moves_every_voxel():
    # Inside 1 and 3: mean 2, deviation 1.
    assert normalized([1, 3, 0, 9], "zscore-gland", [True, True, False, False]) == [-1, 1, -2, 7]


def test_intensities_are_normalized_over_the_whole_field_of_view_before_the_crop(a_case, a_spec):
    prepared = prepare(a_case, a_spec)
    for channel, sequence in enumerate((Sequence.T2W, Sequence.HBV, Sequence.ADC)):
        voxels = place_on_grid(a_case, a_spec)[sequence].array.astype(np.float64)
        inside = voxels != 0
        expected = np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0)
        np.testing.assert_allclose(prepared.array[channel], expected, atol=1e-5)
        np.testing.assert_allclose(
            prepared.scales[channel].undo(prepared.array[channel])[inside], voxels[inside], rtol=1e-4
        )


def test_crop_without_a_gland_is_the_published_center_crop(a_case, a_spec):
    prepared = prepare(a_case, a_spec)
    # z: 27 < 32 pads 5 // 2 = 2 before; y: 65 // 2 - 24 = 8; x: 72 // 2 - 16 = 20.
    assert prepared.starts == ((-2, 8, 20),)
    assert prepared.centered_on == "image"
    assert prepared.region.size == (32, 48, 27)
    np.testing.assert_allclose(prepared.region.origin_mm, prepared.geometry.to_world((20, 8, 0)))


def test_crop_follows_the_gland_and_center_stays_reachable(a_case, a_spec):
    gland = a_gland(a_case, (-6.0, 2.0, 1.0))
    prepared = prepare(replace(a_case, gland=gland), a_spec)
    assert prepared.centered_on == "gland"
    middle_mm = prepared.region.to_world((16, 24, 13))
    assert np.abs(middle_mm - (-6.0, 2.0, 1.0))[:2].max() < 1.5
    assert prepare(a_case, a_spec, gland=gland).starts == prepared.starts
    assert prepare(a_case, a_spec, gland=gland, crop="center").starts == ((-2, 8, 20),)


def test_crop_on_a_gland_that_nobody_gave_is_refused(a_case, a_spec):
    with pytest.raises(MissingSequenceError, match="gland mask"):
        prepare(a_case, a_spec, crop="gland")


def test_empty_or_distant_gland_is_refused(a_case):
    grid = a_case[Sequence.T2W].geometry
    empty = Volume(np.zeros(grid.shape, np.uint8), grid)
    with pytest.raises(ImageError, match="is empty"):
        gland_center(empty, grid)
    far = replace(grid, origin_mm=(900.0, 0.0, 0.0))
    with pytest.raises(ImageError, match="outside"):
        gland_center(Volume(np.ones(far.shape, np.uint8), far), grid)


def test_whole_volume_is_covered_by_windows(a_case, a_spec):
    spec = with_preprocess(a_spec, whole_volume=True)
    prepared = prepare(a_case, spec)
    assert prepared.region.equals(prepared.geometry)
    assert len(prepared.starts) > 1


def test_provicnet_normalizes_within_the_gland_and_takes_each_slice_once(a_case):
    spec = MODELS["provicnet-fusion"]
    gland = a_gland(a_case, (3.0, -2.0, 0.0))
    prepared = prepare(a_case, spec, gland=gland)
    inside = gland.resample_to(prepared.geometry, "nearest").array > 0
    for channel in prepared.array:
        assert channel[inside].mean() == pytest.approx(0, abs=1e-5)
        assert channel[inside].std() == pytest.approx(1, abs=1e-5)
    assert [z for z, _, _ in prepared.starts] == list(range(9))
    assert prepared.patch == (1, 256, 256)


def test_a_classifier_of_slices_looks_at_those_that_hold_gland(a_case):
    gland = a_gland(a_case, (3.0, -2.0, 0.0))
    prepared = prepare(a_case, MODELS["provicnet-classifier"], gland=gland)
    inside = gland.resample_to(prepared.geometry, "nearest").array > 0
    held = np.flatnonzero(inside.any(axis=(1, 2))).tolist()
    assert [z for z, _, _ in prepared.starts] == held
    assert 0 < len(held) < 9


def test_provicnet_without_a_gland_is_refused(a_case):
    with pytest.raises(MissingSequenceError, match="gland mask for ProViCNet"):
        prepare(a_case, MODELS["provicnet-t2w"])


def test_preparing_leaves_the_case_unchanged(a_case, a_spec):
    before = {s: a_case[s].array.copy() for s in Sequence}
    prepare(a_case, a_spec)
    same_grid = replace(a_case[Sequence.T2W], geometry=network_grid(a_case, a_spec).crop((0, 0, 0), (40, 36, 9)))
    on_grid = Case("p002", {Sequence.T2W: same_grid})
    prepare(
        on_grid, replace(MODELS["profound-upernet-anatomy"], preprocess=replace(a_spec.preprocess, sequences=("t2w",)))
    )
    for sequence in Sequence:
        np.testing.assert_array_equal(a_case[sequence].array, before[sequence])
    np.testing.assert_array_equal(same_grid.array, before[Sequence.T2W])


def test_super_resolution_sees_twice_the_in_plane_matrix(a_case):
    spec = MODELS["profound-restoration-super-resolution"]
    grid = network_grid(a_case, spec)
    assert grid.size == (80, 72, 27)
    np.testing.assert_allclose(grid.spacing_mm, (0.45, 0.45, 1.0))
    flipped = sitk.DICOMOrient(a_case[Sequence.T2W].to_sitk(), "LPS")
    np.testing.assert_allclose(grid.origin_mm, flipped.TransformContinuousIndexToPhysicalPoint((-0.25, -0.25, 0.0)))
    placed = place_on_grid(a_case, spec)[Sequence.T2W].array
    finer = zero_filled(a_case[Sequence.T2W].to_nearest_lps())
    expected = sitk.Resample(finer.to_sitk(), grid.image(), sitk.Transform(), sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(placed, sitk.GetArrayFromImage(expected), atol=1e-2)


def test_sequence_of_another_region_is_refused(a_case, a_spec):
    hbv = a_case[Sequence.HBV]
    elsewhere = replace(hbv, geometry=replace(hbv.geometry, origin_mm=(900.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="hbv of case 'p001' shows nothing"):
        prepare(replace(a_case, volumes={**a_case.volumes, Sequence.HBV: elsewhere}), a_spec)


def test_whole_volume_asks_for_no_gland(a_case, a_spec):
    spec = with_preprocess(a_spec, whole_volume=True)
    assert prepare(a_case, spec, crop="gland").centered_on == "whole volume"


def test_first_two_and_last_two_slices_see_the_same_three():
    assert [neighbor_slices(z, 5) for z in range(5)] == [(0, 1, 2), (0, 1, 2), (1, 2, 3), (2, 3, 4), (2, 3, 4)]


def test_two_slices_repeat_the_nearest():
    assert [neighbor_slices(z, 2) for z in range(2)] == [(0, 0, 1), (0, 1, 1)]


def test_one_slice_is_its_own_neighbor():
    assert neighbor_slices(0, 1) == (0, 0, 0)


def test_positions_are_raw_numbers():
    assert slice_positions(4, 20).tolist() == [[4.0, 20.0]]


@pytest.mark.parametrize(("size_in", "size_out"), [(256, 448), (64, 112), (37, 32)])
def test_scaling_is_torchs_bilinear(size_in, size_out):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(1).normal(size=(1, 3, size_in, size_in)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array), size=(size_out, size_out), mode="bilinear", align_corners=False
    ).numpy()
    np.testing.assert_allclose(scale_slices(array, size_out), expected, atol=2e-6)


def test_scaling_leaves_the_input_unchanged():
    array = np.ones((1, 3, 8, 8), np.float32)
    scale_slices(array, 14)[...] = 5
    assert (array == 1).all()


SEEN_ONLY_IN_THE_MIDDLE = (
    with_preprocess("profound-upernet-lesion", patch=(16, 16, 16)),
    with_preprocess("provicnet-t2w", patch=(1, 16, 16), normalization="zscore-nonzero"),
)


@pytest.mark.parametrize("spec", SEEN_ONLY_IN_THE_MIDDLE, ids=lambda spec: spec.name)
def test_a_gland_that_the_middle_of_the_image_misses_is_refused_where_only_it_is_asked_for(a_case, spec):
    gland = a_gland(a_case, case_point(a_case, (5, 5, 4)))
    with pytest.raises(ImageError, match="--crop gland"):
        prepare(a_case, spec, crop="center", gland=gland, region="gland")
    assert CUT_GLAND_NOTE not in prepare(a_case, spec, crop="center", gland=gland).notes


@pytest.mark.parametrize("spec", SEEN_ONLY_IN_THE_MIDDLE, ids=lambda spec: spec.name)
def test_a_gland_that_is_seen_in_part_is_told_where_only_it_is_asked_for(a_case, spec):
    gland = a_gland(a_case, case_point(a_case, (13, 17, 4)))
    seen = prepare(a_case, spec, crop="center", gland=gland, region="gland")
    assert seen.notes == (REGION_NOTE, CUT_GLAND_NOTE)
    assert min(seen.box[1]) > 0
    larger = with_preprocess(spec, patch=(1 if spec.is_slice_based else 32, 64, 64))
    assert prepare(a_case, larger, gland=gland, region="gland").notes == (REGION_NOTE,)


def test_windows_beside_the_only_region_that_is_asked_for_are_left_out(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(8, 16, 16), whole_volume=True)
    gland = ball(a_case[Sequence.T2W].geometry, case_point(a_case, (10, 10, 4)), 4.0)
    whole, around = (prepare(a_case, spec, gland=gland, region=region) for region in ("whole", "gland"))
    first, size = np.array(around.box)
    for start in whole.starts:
        meets = all(np.add(start, spec.preprocess.patch) > first) and all(np.array(start) < first + size)
        assert (start in around.starts) == meets
    assert 0 < len(around.starts) < len(whole.starts)


def case_point(case: Case, index: tuple[int, int, int]) -> tuple[float, ...]:
    """The world's point of a voxel (x, y, z) of T2w."""
    return tuple(case[Sequence.T2W].geometry.to_world(np.array(index, float)))
