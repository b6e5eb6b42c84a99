"""Loss of lesions, where there are some and where there are none."""

from __future__ import annotations

import math

import pytest
import torch

from VFMTransferLib.tasks.training import lesion_loss


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
