"""Crops are what prediction takes, unvaried, and stay finite however they are varied."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from specs import prepare
from training_cases import ANTERIOR, OBLIQUE, tiny_case, tiny_crops, tiny_spec

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.placement import cut
from VFMTransferLib.core.terms import Label
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.samples import crop_samples, samples_of


@pytest.mark.parametrize("direction", [OBLIQUE, ANTERIOR])
def test_a_plain_view_is_the_input_that_prediction_makes(direction):
    spec = tiny_spec()
    case, mask = tiny_case(0, direction)
    prepared = prepare(case, spec)
    expected = cut(prepared.array, prepared.starts[0], prepared.patch)
    image, _ = crop_samples(case, spec, [mask]).view(torch.Generator())
    # The case is kept in half precision.
    np.testing.assert_allclose(image.numpy(), expected, atol=5e-3)


def test_a_target_is_the_labels_share_of_each_block_of_the_input():
    spec = tiny_spec()
    case, mask = tiny_case(0)
    _, target = crop_samples(case, spec, [mask]).view(torch.Generator())
    assert target.shape == (1, 8, 16, 24)
    prepared = prepare(case, spec)
    fine = mask.with_array(mask.array.astype(np.float32)).resample_to(prepared.geometry).array
    window = torch.from_numpy(cut(fine[None], prepared.starts[0], prepared.patch))[None]
    blocks = torch.nn.functional.avg_pool3d(window, 2)[0]
    assert (target - blocks).abs().mean() < 0.02


def test_zones_and_gland_come_as_three_targets():
    spec = tiny_spec(out_channels=3)
    case, mask = tiny_case(0)
    outer = mask.array.copy()
    outer[:, 24:] = 0
    masks = {
        Label.TRANSITION_ZONE: mask.with_array(mask.array - outer),
        Label.PERIPHERAL_ZONE: mask.with_array(outer),
        Label.PROSTATE: mask,
    }
    found = samples_of(TASKS[spec.task].labeled(case, masks=masks), spec)
    assert found.labels.shape[0] == 3
    torch.testing.assert_close(found.labels[0], found.labels[1:].sum(0), atol=1e-3, rtol=0)
    assert torch.equal(found.labels[1:], crop_samples(case, spec, list(masks.values())[1::-1]).labels)


def test_one_zone_alone_is_refused():
    case, mask = tiny_case(0)
    masks = {Label.PROSTATE: mask, Label.PERIPHERAL_ZONE: mask}
    with pytest.raises(DatasetError, match="must be the prostate, or it and both of its zones"):
        samples_of(TASKS[tiny_spec().task].labeled(case, masks=masks), tiny_spec())


def test_an_empty_mask_is_refused():
    case, mask = tiny_case(0)
    with pytest.raises(DatasetError, match="must cover at least one voxel"):
        crop_samples(case, tiny_spec(), [mask.with_array(0 * mask.array)])


def test_random_views_stay_finite_and_leave_the_case_unchanged():
    case = tiny_crops(1)
    image, labels = case.image.clone(), case.labels.clone()
    how = Augmentation(narrow=1.0, thick=1.0, coarse=1.0, contrast=1.0, elastic=1.0)
    for seed in range(10):
        view, target = case.view(torch.Generator().manual_seed(seed), how)
        assert torch.isfinite(view).all()
        assert target.min() >= 0
        assert target.max() <= 1 + 1e-6
    assert torch.equal(case.image, image)
    assert torch.equal(case.labels, labels)


def test_channels_without_a_sequence_stay_zero():
    image, _ = tiny_crops(0).view(torch.Generator().manual_seed(1), Augmentation())
    assert image[0].any()
    assert not image[1:].any()


def test_a_case_without_labels_gives_no_target():
    case, _ = tiny_case(0)
    assert crop_samples(case, tiny_spec()).view(torch.Generator())[1] is None
