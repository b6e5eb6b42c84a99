"""Losses by hand, and least where prediction and target agree."""

from __future__ import annotations

import math

import pytest
import torch

from VFMTransferLib.losses import AUXILIARY_WEIGHT, anatomy_loss, deep_supervision, soft_dice_loss


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


def test_the_auxiliary_head_counts_less():
    main, auxiliary = torch.randn(1, 2, 2, 3, 4), torch.randn(1, 2, 2, 3, 4)
    target = torch.rand(1, 2, 3, 4)
    expected = anatomy_loss(main[0], target) + AUXILIARY_WEIGHT * anatomy_loss(auxiliary[0], target)
    assert torch.equal(deep_supervision([main, auxiliary], target), expected)


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="2 or 3 output channels, got 9"):
        anatomy_loss(torch.zeros(9, 1, 1, 1), torch.zeros(1, 1, 1, 1))
