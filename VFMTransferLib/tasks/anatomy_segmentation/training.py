"""Targets and loss of gland and zones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import DatasetError
from ...core.placement import NetworkInput
from ...core.terms import Label
from ...core.volume import Volume
from ...encoders.base import ModelSpec
from ...layers.blocks import soft_dice_loss
from ..base import LabeledCase
from ..segmentation import soft_mask
from ..training import UNKNOWN, Batch, TaskTraining
from .task import ZONES, AnatomySegmentation


class AnatomyTraining(TaskTraining[AnatomySegmentation]):
    """Maps: probability of prostate, peripheral and transition zone; zones are `UNKNOWN` where they are unknown."""

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        grid, known = prepared.geometry, [Label.PROSTATE]
        if all(zone in labeled.masks for zone in ZONES):
            known += ZONES
        maps = np.full((1 + len(ZONES), *grid.shape), UNKNOWN, np.float32)
        maps[: len(known)] = [soft_mask(labeled.masks[label]).resample_to(grid).array for label in known]
        return maps

    def crop_masks(self, labeled: LabeledCase) -> Sequence[Volume]:
        """The prostate, then both zones where they are known."""
        zones = [labeled.masks[zone] for zone in ZONES if zone in labeled.masks]
        if Label.PROSTATE not in labeled.masks or len(zones) == 1:
            raise DatasetError(
                f"Labels of case '{labeled.case.id}' must be the prostate, or it and both of its zones, but are "
                f"{', '.join(labeled.masks)}. Give the whole gland alone where a zone is not known."
            )
        return labeled.masks[Label.PROSTATE], *zones

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        """The samples whose zones are known apart from those with the prostate alone."""
        target = batch.target
        if target.shape[1] == 1:
            return anatomy_loss(output.transpose(0, 1), target.transpose(0, 1))
        known = (target[:, 1] >= 0).flatten(1).all(dim=1)
        losses = []
        for rows, maps in ((known, target), (~known, target[:, :1])):
            if bool(rows.any()):
                share = rows.float().mean()
                losses.append(share * anatomy_loss(output[rows].transpose(0, 1), maps[rows].transpose(0, 1)))
        return torch.stack(losses).sum()


def anatomy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice and cross-entropy of the gland, and of its zones where they are known.

    Args:
        logits: (C, D, H, W): background and prostate, or background, peripheral and transition zone; else ValueError.
        target: (1, D, H, W) probability of the prostate, or (3, D, H, W) of prostate and both zones.
    """
    classes = logits.shape[0] - 1
    if classes not in (1, 2):
        raise ValueError(f"A network of the prostate must have 2 or 3 output channels, got {logits.shape[0]}.")
    logits = logits.float()
    gland = torch.logsumexp(logits[1:], dim=0) - logits[0]  # logit of all that is not background
    loss = F.binary_cross_entropy_with_logits(gland, target[0]) + soft_dice_loss(gland.sigmoid(), target[0])
    if classes == 1 or len(target) == 1:
        return loss
    zones = target[1:]
    truth = torch.cat([(1 - zones.sum(0, keepdim=True)).clamp(min=0), zones])
    entropy = -(truth * F.log_softmax(logits, dim=0)).sum(0).mean()
    probabilities = logits.softmax(dim=0)
    dice = [soft_dice_loss(probabilities[1 + k], zones[k]) for k in range(2)]
    return 0.5 * (loss + (entropy + torch.stack(dice).mean()))
