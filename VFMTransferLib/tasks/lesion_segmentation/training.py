"""Weighted cross-entropy and Dice of cancer, of one channel or of ProViCNet's four classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ...core.placement import Prepared
from ...core.terms import Label
from ...core.volume import Volume
from ...encoders.base import ModelSpec
from ...encoders.layers import CLASS_WEIGHTS, soft_dice_loss, tissue_loss
from ..base import LabeledCase
from ..lesions import class_map
from ..segmentation import soft_mask
from ..training import Batch, TaskTraining, stacked
from .task import LesionSegmentation

LESION_WEIGHT = CLASS_WEIGHTS[-1] / CLASS_WEIGHTS[0]
_BARELY = 1e-5


class LesionTraining(TaskTraining[LesionSegmentation]):
    """Map: number of the class in the network's labels."""

    def targets(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> np.ndarray:
        return stacked(class_map(labeled, spec.labels).resample_to(prepared.geometry, "nearest").array)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        is_graded = output.shape[1] > 1
        return tissue_loss(output, batch.target[:, 0].long()) if is_graded else lesion_loss(output, batch.target)

    def crop_masks(self, labeled: LabeledCase) -> Sequence[Volume]:
        return (labeled.masks[Label.CSPCA],)

    def patch_maps(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
        """The share of a patch that is clinically significant cancer."""
        wanted = soft_mask(labeled.masks[Label.CSPCA]).resample_to(prepared.geometry).array
        return wanted, np.ones_like(wanted)


def lesion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and Dice of one lesion channel, over a whole batch; logits and probability (B, 1, ...).

    A voxel of a lesion counts as many times as one of the background as in ProViCNet's published weights. The Dice term
    is hardly smoothed, so that without a lesion it is constant (1 whatever is predicted) and the
    cross-entropy alone teaches to mark none: smoothed by a voxel it made every network of ours mark nothing.
    """
    logits = logits.float()
    weight = 1 + (LESION_WEIGHT - 1) * target
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
    return entropy + soft_dice_loss(logits.sigmoid(), target, smooth=_BARELY)
