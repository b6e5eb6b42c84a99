"""What training minimizes where the answer is a class: of voxels, with soft labels, or of slices, with hard ones.

Soft targets are probabilities, since labels that come from a network or an interpolation are uncertain at
the gland's edge. Both terms are least where prediction and target are equal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH = 1.0
# As published for ProViCNet; background and gland would drown the cancers otherwise.
CLASS_WEIGHTS = (0.02, 0.04, 0.5, 0.5)
LESION_WEIGHT = CLASS_WEIGHTS[-1] / CLASS_WEIGHTS[0]
AUXILIARY_WEIGHT = 0.4
_BARELY = 1e-5


def soft_dice_loss(probability: Tensor, target: Tensor, smooth: float = _SMOOTH) -> Tensor:
    """1 - Dice of two maps (D, H, W) of probabilities, in the form with squares, least at equality.

    Args:
        probability, target: The maps.
        smooth: Voxels that are added to overlap and size.
    """
    overlap = 2 * (probability * target).sum() + smooth
    return 1 - overlap / (probability.square().sum() + target.square().sum() + smooth)


def anatomy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice and cross-entropy of the gland, and of its zones where they are known.

    Args:
        logits: (C, D, H, W): background and prostate, or background, peripheral and transition zone.
        target: (1, D, H, W) probability of the prostate, or (3, D, H, W) of prostate and both zones.

    Raises:
        ValueError: The network has neither one nor two classes beside the background.
    """
    classes = logits.shape[0] - 1
    if classes not in (1, 2):
        raise ValueError(f"A network of the prostate must have 2 or 3 output channels, got {logits.shape[0]}.")
    logits = logits.float()
    gland = torch.logsumexp(logits[1:], dim=0) - logits[0]  # logit of all that is not background
    loss = F.binary_cross_entropy_with_logits(gland, target[0]) + soft_dice_loss(gland.sigmoid(), target[0])
    if classes == 2 and len(target) == 3:
        loss = 0.5 * (loss + _zone_loss(logits, target))
    return loss


def _zone_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over background and both zones, and the zones' mean Dice loss."""
    zones = target[1:]
    truth = torch.cat([(1 - zones.sum(0, keepdim=True)).clamp(min=0), zones])
    entropy = -(truth * F.log_softmax(logits, dim=0)).sum(0).mean()
    probabilities = logits.softmax(dim=0)
    dice = [soft_dice_loss(probabilities[1 + k], zones[k]) for k in range(2)]
    return entropy + torch.stack(dice).mean()


def lesion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and Dice of one lesion channel, over a whole batch.

    A voxel of a lesion counts as many times as one of the background as in ProViCNet's published weights. The Dice term
    is hardly smoothed, so that where no lesion is it says nothing (it costs 1 whatever is predicted) and the
    cross-entropy alone asks for none: smoothed by a voxel it made every network of ours mark nothing.

    Args:
        logits: (B, 1, ...).
        target: (B, 1, ...), probability of a lesion.
    """
    logits = logits.float()
    weight = 1 + (LESION_WEIGHT - 1) * target
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
    return entropy + soft_dice_loss(logits.sigmoid(), target, smooth=_BARELY)


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
