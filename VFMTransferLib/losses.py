"""What training minimizes: segmentation against soft labels, where zones may be unknown.

Targets are probabilities, since labels that come from a network or an interpolation are uncertain at
the gland's edge. Both terms are least where prediction and target are equal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH = 1.0
AUXILIARY_WEIGHT = 0.4


def soft_dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """1 - Dice of two maps (D, H, W) of probabilities, in the form with squares, least at equality."""
    overlap = 2 * (probability * target).sum() + _SMOOTH
    return 1 - overlap / (probability.square().sum() + target.square().sum() + _SMOOTH)


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


def deep_supervision(outputs: list[Tensor], target: Tensor) -> Tensor:
    """The loss of the main logits and, less, of the auxiliary head's; batch of one."""
    main, auxiliary = outputs
    return anatomy_loss(main[0], target) + AUXILIARY_WEIGHT * anatomy_loss(auxiliary[0], target)
