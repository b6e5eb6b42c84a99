"""Slices of a case are what prediction shows a network of slices, with the class of each pixel."""

from __future__ import annotations

import numpy as np
import pytest
from slice_cases import SPEC, a_case, a_sliced_case
from specs import prepare
from torch import Generator

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.encoders.inputs import neighbor_slices, scale_slices
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.samples import slice_samples


def test_an_unvaried_sample_is_what_prediction_shows_the_network():
    case, gland, classes = a_case()
    windows, position, maps = slice_samples(case, SPEC, gland, classes).view(Generator().manual_seed(1))
    prepared = prepare(case, SPEC, gland=gland)
    z = int(position[0])
    assert position.tolist() == [z, 7]
    _, y, x = prepared.starts[z]
    padded = np.pad(prepared.array, ((0, 0), (0, 0), (64, 64), (64, 64)))
    window = padded[:, list(neighbor_slices(z, 7)), y + 64 : y + 128, x + 64 : x + 128]
    np.testing.assert_allclose(windows.numpy(), scale_slices(window, 32), atol=0.01)  # images are kept as fp16
    truth = np.pad(classes.resample_to(prepared.geometry, "nearest").array, ((0, 0), (64, 64), (64, 64)))
    np.testing.assert_array_equal(maps[0].numpy(), truth[z, y + 64 : y + 128, x + 64 : x + 128])


def test_most_samples_hold_gland_and_the_ends_come_too():
    case = a_sliced_case()
    drawn = [case.view(Generator().manual_seed(i), Augmentation()) for i in range(60)]
    assert sum(bool(maps.any()) for _, _, maps in drawn) > 40
    assert {int(position[0]) for _, position, _ in drawn} == set(range(7))


def test_a_class_that_the_network_does_not_know_is_refused():
    case, gland, classes = a_case()
    with pytest.raises(DatasetError, match="must be below 4, but one is 9"):
        slice_samples(case, SPEC, gland, classes.with_array(classes.array * 3))
