"""Crops are what prediction takes, unvaried, and stay finite however they are varied."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from specs import prepare
from training_cases import ANTERIOR, OBLIQUE, tiny_case, tiny_spec, tiny_training_case

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.placement import cut
from VFMTransferLib.core.terms import Label
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.crops import sample_view, training_case


@pytest.mark.parametrize("direction", [OBLIQUE, ANTERIOR])
def test_a_plain_view_is_the_input_that_prediction_makes(direction):
    spec = tiny_spec()
    case, mask = tiny_case(0, direction)
    prepared = prepare(case, spec)
    expected = cut(prepared.array, prepared.starts[0], prepared.patch)
    view = sample_view(training_case(case, spec, {Label.PROSTATE: mask}), spec.preprocess, torch.Generator())
    # The case is kept in half precision.
    np.testing.assert_allclose(view.image.numpy(), expected, atol=5e-3)


def test_a_target_is_the_labels_share_of_each_block_of_the_input():
    spec = tiny_spec()
    case, mask = tiny_case(0)
    view = sample_view(training_case(case, spec, {Label.PROSTATE: mask}), spec.preprocess, torch.Generator())
    assert view.target.shape == (1, 8, 16, 24)
    prepared = prepare(case, spec)
    fine = mask.with_array(mask.array.astype(np.float32)).resample_to(prepared.geometry).array
    window = torch.from_numpy(cut(fine[None], prepared.starts[0], prepared.patch))[None]
    blocks = torch.nn.functional.avg_pool3d(window, 2)[0]
    assert (view.target - blocks).abs().mean() < 0.02


def test_zones_and_gland_come_as_three_targets():
    spec = tiny_spec(out_channels=3)
    case, mask = tiny_case(0)
    outer = mask.array.copy()
    outer[:, 24:] = 0
    zones = {
        Label.PERIPHERAL_ZONE: mask.with_array(outer),
        Label.TRANSITION_ZONE: mask.with_array(mask.array - outer),
    }
    found = training_case(case, spec, zones)
    assert found.labels.shape[0] == 3
    assert torch.equal(found.labels[0], found.labels[1:].sum(0))


def test_one_zone_alone_is_refused():
    case, mask = tiny_case(0)
    with pytest.raises(DatasetError, match="must be the prostate, or both of its zones"):
        training_case(case, tiny_spec(), {Label.PERIPHERAL_ZONE: mask})


def test_an_empty_mask_is_refused():
    case, mask = tiny_case(0)
    with pytest.raises(DatasetError, match="must cover at least one voxel"):
        training_case(case, tiny_spec(), {Label.PROSTATE: mask.with_array(0 * mask.array)})


def test_random_views_stay_finite_and_leave_the_case_unchanged():
    case = tiny_training_case(1)
    image, labels = case.image.clone(), case.labels.clone()
    how = Augmentation(narrow=1.0, thick=1.0, coarse=1.0, contrast=1.0, elastic=1.0)
    for seed in range(10):
        view = sample_view(case, tiny_spec().preprocess, torch.Generator().manual_seed(seed), how)
        assert torch.isfinite(view.image).all()
        assert view.target.min() >= 0
        assert view.target.max() <= 1 + 1e-6
    assert torch.equal(case.image, image)
    assert torch.equal(case.labels, labels)


def test_channels_without_a_sequence_stay_zero():
    view = sample_view(tiny_training_case(0), tiny_spec().preprocess, torch.Generator().manual_seed(1), Augmentation())
    assert view.image[0].any()
    assert not view.image[1:].any()


def test_a_case_without_labels_gives_no_target():
    case, _ = tiny_case(0)
    assert sample_view(training_case(case, tiny_spec()), tiny_spec().preprocess, torch.Generator()).target is None
