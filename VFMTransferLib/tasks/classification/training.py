"""Cross-entropy of the class, by the logits of a case's worst slice where a network sees slices.

A network that also segments cancer learns that from lesions, where they are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.placement import NetworkInput, most_severe
from ...core.terms import Label
from ...encoders.base import ModelSpec
from ...encoders.pretext import TISSUES
from ...layers.blocks import tissue_loss
from ..base import LabeledCase
from ..lesions import class_map
from ..training import AUXILIARY_WEIGHT, UNKNOWN, Batch, TaskTraining, stacked
from .task import Classification

# Against the class, which would bend what is segmented until it fits the training cases.
_LESIONS_COUNT = 10.0


class ClassificationTraining(TaskTraining[Classification]):
    """Map: number of the class in `TISSUES`; none where lesions are not known."""

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        if Label.CSPCA not in labeled.masks:
            return np.zeros((0, *prepared.geometry.shape), np.float32)
        return stacked(class_map(labeled, TISSUES).resample_to(prepared.geometry, "nearest").array)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        if output.ndim > 2:
            return _segmentation_loss(output, batch.target)
        assert batch.category is not None
        cases = len(batch.category)
        slices = output.float().unflatten(0, (cases, -1))  # (B, slices, C)
        worst = [most_severe(logits) for logits in slices.detach().cpu().numpy()]
        logits = slices[torch.arange(cases), worst]
        weights = torch.tensor(class_weights, device=logits.device)
        # Over the number of cases: PyTorch's mean is over their weights, so that a batch of one class would have none.
        return F.cross_entropy(logits, batch.category, weights, reduction="sum") / cases


def _segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """As of a network of lesions, over the samples (B, 1, ...) whose lesions are known."""
    is_known = (target != UNKNOWN).flatten(1).all(dim=1) if target.shape[1] else target.new_zeros(len(target)).bool()
    if not bool(is_known.any()):
        return 0 * logits.sum()
    return _LESIONS_COUNT / AUXILIARY_WEIGHT * tissue_loss(logits[is_known], target[is_known, 0].long())
