"""ProViCNet's slices: neighbors at the ends, few slices, and the scaling that torch does."""

import numpy as np
import pytest

from VFMTransferLib.encoders.inputs import neighbor_slices, scale_slices, slice_positions


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
