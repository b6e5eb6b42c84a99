"""Back from the network's grid to the scanned one, against SimpleITK's own resampling."""

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import a_small_case, with_preprocess

from VFMTransferLib.core.placement import ZScore, to_reference
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders.preparation import network_grid, place_on_grid, prepare


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
