"""Slices of a case are what prediction shows a network of slices, with the class of each pixel."""

from __future__ import annotations

import numpy as np
import pytest
from slice_cases import SPEC, a_case, a_slice_case
from specs import prepare
from torch import Generator

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import Label
from VFMTransferLib.encoders.inputs import neighbor_slices, scale_slices
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.training.augmentation import NO_AUGMENTATION, Augmentation
from VFMTransferLib.training.slices import cancer_classes, sample_slice, slice_case


def test_an_unvaried_sample_is_what_prediction_shows_the_network():
    case, gland, classes = a_case()
    sample = sample_slice(slice_case(case, SPEC, gland, classes), SPEC, Generator().manual_seed(1), NO_AUGMENTATION)
    prepared = prepare(case, SPEC, gland=gland)
    z = int(sample.positions[0])
    assert sample.positions.tolist() == [z, 7]
    _, y, x = prepared.starts[z]
    padded = np.pad(prepared.array, ((0, 0), (0, 0), (64, 64), (64, 64)))
    window = padded[:, list(neighbor_slices(z, 7)), y + 64 : y + 128, x + 64 : x + 128]
    np.testing.assert_allclose(sample.windows.numpy(), scale_slices(window, 32), atol=0.01)  # images are kept as fp16
    truth = np.pad(classes.resample_to(prepared.geometry, "nearest").array, ((0, 0), (64, 64), (64, 64)))
    np.testing.assert_array_equal(sample.classes.numpy(), truth[z, y + 64 : y + 128, x + 64 : x + 128])


def test_most_samples_hold_gland_and_the_ends_come_too():
    case = a_slice_case()
    drawn = [sample_slice(case, SPEC, Generator().manual_seed(i), Augmentation()) for i in range(60)]
    assert sum(bool(sample.classes.any()) for sample in drawn) > 40
    assert {int(sample.positions[0]) for sample in drawn} == set(range(7))


def test_a_phantom_says_which_cancer_is_significant():
    phantom = make_phantom(4, t2w_spacing_mm=(2.0, 2.0, 4.0), lesions=3)
    classes = cancer_classes(phantom, SPEC.labels).array
    grade = phantom.lesion.array
    assert (classes[grade >= 2] == SPEC.labels.index(Label.CSPCA)).all()
    assert (classes[grade == 1] == SPEC.labels.index(Label.INDOLENT_CANCER)).all()
    assert (classes[(grade == 0) & (phantom.gland.array > 0)] == SPEC.labels.index(Label.PROSTATE)).all()
    assert not classes[(grade == 0) & (phantom.gland.array == 0)].any()


def test_a_class_that_the_network_does_not_know_is_refused():
    case, gland, classes = a_case()
    with pytest.raises(DatasetError, match="must be below 4, but one is 9"):
        slice_case(case, SPEC, gland, classes.with_array(classes.array * 3))
