"""Back from the network's grid to the scanned one, against SimpleITK's own resampling."""

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import a_small_case, with_preprocess
from specs import network_grid, place_on_grid, prepare

from VFMTransferLib.core.placement import (
    Blend,
    ZScore,
    centered_start,
    covered_box,
    cut,
    gaussian_weight,
    shifted_starts,
    to_reference,
    window_starts,
)
from VFMTransferLib.core.terms import Sequence


@pytest.fixture
def a_case():
    return a_small_case()


def test_whole_volume_comes_back_as_simpleitk_resamples_it(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 32, 32), whole_volume=True)
    prepared = prepare(a_case, spec)
    on_network_grid = place_on_grid(a_case, spec)[Sequence.T2W]
    back = to_reference(on_network_grid.array, prepared, "t2w")
    reference = a_case[Sequence.T2W]
    expected = sitk.Resample(on_network_grid.to_sitk(), reference.to_sitk(), sitk.Transform(), sitk.sitkLinear)
    assert back.geometry == reference.geometry
    # Half a network voxel around the field of view is continued, where SimpleITK would fill with zeros.
    inside = sitk.GetArrayFromImage(expected) != 0
    assert inside.mean() > 0.9
    np.testing.assert_allclose(back.array[inside], sitk.GetArrayFromImage(expected)[inside], rtol=1e-5)
    # 0.9 mm → 0.5 mm → 0.9 mm, twice linear: within 1 of what was scanned (4 to 400), axes in their old order.
    np.testing.assert_allclose(back.array, reference.array, atol=1)


def test_outside_of_the_crop_is_the_fill_value(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 24, 24))
    prepared = prepare(a_case, spec)
    back = to_reference(np.ones(prepared.region.shape, np.float32), prepared, "ones", fill=-7.0)
    index = prepared.region.to_index(a_case[Sequence.T2W].geometry.to_world((0, 0, 0)))
    assert (np.abs(index - 8) > 12).any()
    assert back.array[0, 0, 0] == -7.0
    assert back.array[4, 18, 20] == 1.0


def test_last_voxels_of_a_coarser_network_grid_are_not_lost(a_case):
    spec = with_preprocess("profound-upernet-anatomy", spacing_mm=(1.8, 1.8, 6.0), patch=(16, 32, 32))
    prepared = prepare(a_case, spec)
    assert network_grid(a_case, spec).size == (20, 18, 4)
    back = to_reference(np.ones(prepared.region.shape, np.float32), prepared, "ones")
    # 9 slices of 3 mm on 4 of 6 mm: the last of the nine lies a whole slice beyond, the others within half a voxel.
    assert (back.to_nearest_lps().array[:8] == 1).all()


def test_output_on_the_reference_grid_comes_back_untouched(a_case):
    spec = with_preprocess("profound-upernet-anatomy", spacing_mm=(0.9, 0.9, 3.0), patch=(9, 36, 40))
    flat = a_case[Sequence.T2W].to_nearest_lps()
    prepared = prepare(type(a_case)("p002", {Sequence.T2W: flat}), spec)
    noise = np.random.default_rng(3).normal(size=prepared.region.shape).astype(np.float32)
    np.testing.assert_array_equal(to_reference(noise, prepared, "noise").array, noise)


def test_zscore_is_undone():
    scale = ZScore.of(np.array([1.0, 5.0]))
    assert (scale.mean, scale.std) == (3.0, 2.0)
    np.testing.assert_allclose(scale.undo(scale.apply(np.array([1.0, 5.0, 9.0]))), [1, 5, 9])


def test_center_crop_starts_where_the_published_one_does():
    # n // 2 - roi // 2 by hand: 57 < 64 pads 3 before; 385 // 2 - 112 = 80; 240 // 2 - 112 = 8.
    assert centered_start((57, 385, 240), (64, 224, 224)) == (-3, 80, 8)


def test_window_around_a_center_stays_inside_the_volume():
    assert centered_start((80, 300, 300), (64, 224, 224), (5.0, 150.4, 290.0)) == (0, 38, 76)


def test_shifted_windows_lie_on_the_diagonals_of_the_plane():
    assert shifted_starts((5, 80, 8), 6) == ((5, 74, 2), (5, 74, 14), (5, 86, 2), (5, 86, 14))
    assert shifted_starts((5, 80, 8), 0) == ((5, 80, 8),)


def test_volume_that_fits_has_one_padded_window():
    assert window_starts((9, 20, 33), (16, 20, 40), 0.5) == ((-3, 0, -3),)


def test_windows_overlap_and_end_where_the_volume_ends():
    starts = window_starts((10, 20, 41), (10, 10, 20), 0.5)
    assert sorted({s[1] for s in starts}) == [0, 5, 10]
    assert sorted({s[2] for s in starts}) == [0, 10, 20, 21]


def test_overlap_of_one_is_refused():
    with pytest.raises(ValueError, match="below 1"):
        window_starts((10, 10, 10), (5, 5, 5), 1.0)


def test_cut_pads_with_zeros_symmetrically():
    array = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 1, 3)
    assert cut(array, (0, 0, -1), (1, 1, 6)).ravel().tolist() == [0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize(("size", "patch"), [((7, 30, 19), (5, 12, 8)), ((3, 9, 31), (8, 12, 10))])
def test_blended_windows_give_back_the_volume(size, patch):
    array = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    starts = window_starts(size, patch, 0.5)
    start, box = covered_box(size, starts, patch)
    blend = Blend(start, box, gaussian_weight(patch))
    for window in starts:
        blend.add(cut(array, window, patch), window)
    np.testing.assert_allclose(blend.mean(), array, atol=1e-5)
    assert start == (0, 0, 0)
    assert box == size


def test_blend_is_the_weighted_mean_by_hand():
    blend = Blend((0, 0, 0), (1, 1, 3), np.array([[[1.0, 3.0]]], np.float32))
    blend.add(np.full((1, 1, 1, 2), 2.0, np.float32), (0, 0, 0))
    blend.add(np.full((1, 1, 1, 2), 6.0, np.float32), (0, 0, 1))
    # Middle voxel: second of the first window (weight 3), first of the second (weight 1).
    np.testing.assert_allclose(blend.mean().ravel(), [2.0, (3 * 2 + 1 * 6) / 4, 6.0])


def test_weight_is_largest_in_the_middle_and_never_zero():
    weight = gaussian_weight((5, 7, 9))
    assert np.unravel_index(weight.argmax(), weight.shape) == (2, 3, 4)
    assert weight.min() > 0
