"""Losses of labels, shared by tasks and pretext tasks. Axes: B batch, K classes, D H W."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH = 1.0
# As published for ProViCNet; background and gland would drown the cancers otherwise.
CLASS_WEIGHTS = (0.02, 0.04, 0.5, 0.5)


def soft_dice_loss(probability: Tensor, target: Tensor, smooth: float = _SMOOTH) -> Tensor:
    """1 - Dice of two maps (D, H, W) of probabilities, in the form with squares, least at equality.

    Args:
        probability, target: The maps.
        smooth: Voxels that are added to overlap and size.
    """
    overlap = 2 * (probability * target).sum() + smooth
    return 1 - overlap / (probability.square().sum() + target.square().sum() + smooth)


def tissue_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Weighted cross-entropy plus the mean Dice loss of all classes but the background.

    Args:
        logits: (B, K, H, W).
        classes: (B, H, W).
    """
    logits = logits.float()
    entropy = F.cross_entropy(logits, classes, torch.tensor(CLASS_WEIGHTS, device=logits.device))
    probabilities = logits.softmax(dim=1)[:, 1:]
    truth = F.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].float()
    axes = (0, 2, 3)
    overlap = 2 * (probabilities * truth).sum(axes) + _SMOOTH
    dice = overlap / (probabilities.square().sum(axes) + truth.square().sum(axes) + _SMOOTH)
    return entropy + (1 - dice).mean()
