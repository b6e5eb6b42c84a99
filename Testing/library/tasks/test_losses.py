"""Losses by hand, and least where prediction and target agree."""

from __future__ import annotations

import math

import pytest
import torch

from VFMTransferLib.encoders.layers import soft_dice_loss
from VFMTransferLib.tasks.anatomy_segmentation.training import anatomy_loss
from VFMTransferLib.tasks.lesion_segmentation.training import lesion_loss


def test_soft_dice_by_hand():
    probability = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 3)
    target = torch.tensor([1.0, 0.0, 0.5]).reshape(1, 1, 3)
    # overlap 2 * 1 + 1, sums of squares 1.25 + 1.25 + 1
    assert float(soft_dice_loss(probability, target)) == pytest.approx(1 - 3 / 3.5)


def test_dice_is_zero_where_both_are_equal_even_if_soft():
    target = torch.rand(2, 3, 4)
    assert float(soft_dice_loss(target, target)) == pytest.approx(0, abs=1e-6)


def test_the_glands_loss_by_hand():
    logits = torch.tensor([0.0, math.log(3)]).reshape(2, 1, 1, 1)  # probability 3/4
    target = torch.ones(1, 1, 1, 1)
    dice = 1 - (2 * 0.75 + 1) / (0.75**2 + 1 + 1)
    assert float(anatomy_loss(logits, target)) == pytest.approx(-math.log(0.75) + dice, rel=1e-5)


def test_without_zone_labels_only_the_sum_of_the_zones_counts():
    target = torch.ones(1, 1, 1, 1)
    one = torch.tensor([0.0, math.log(2), math.log(1)]).reshape(3, 1, 1, 1)
    other = torch.tensor([0.0, math.log(1), math.log(2)]).reshape(3, 1, 1, 1)
    assert float(anatomy_loss(one, target)) == pytest.approx(float(anatomy_loss(other, target)))


def test_with_zone_labels_the_right_zone_costs_less():
    target = torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1, 1)
    right = torch.tensor([0.0, 2.0, 0.0]).reshape(3, 1, 1, 1)
    wrong = torch.tensor([0.0, 0.0, 2.0]).reshape(3, 1, 1, 1)
    assert anatomy_loss(right, target) < anatomy_loss(wrong, target)


def test_a_case_without_a_lesion_is_learned_from_cross_entropy_alone():
    nothing = torch.zeros(1, 1, 3, 4, 5)
    wrong, unsure = (torch.full(nothing.shape, logit, requires_grad=True) for logit in (2.0, -3.0))
    for logits in (wrong, unsure):
        lesion_loss(logits, nothing).backward()
        # Every voxel is asked to be less sure, by its own error: Dice, which all share, would drown what lesions say.
        expected = (logits.detach().sigmoid() / nothing.numel()).numpy()
        assert logits.grad.numpy() == pytest.approx(expected, rel=0.01)


def test_a_lesions_loss_by_hand():
    logits = torch.tensor([math.log(3), 0.0]).reshape(1, 1, 2)  # probabilities 3/4 and 1/2
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 2)
    entropy = -(25 * math.log(0.75) + math.log(0.5)) / 26
    dice = 1 - 2 * 0.75 / (0.75**2 + 0.5**2 + 1)
    assert float(lesion_loss(logits, target)) == pytest.approx(entropy + dice, rel=1e-4)


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="2 or 3 output channels, got 9"):
        anatomy_loss(torch.zeros(9, 1, 1, 1), torch.zeros(1, 1, 1, 1))
