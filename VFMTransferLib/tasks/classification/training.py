"""Cross-entropy of the class, over the mean logits of a case's slices where a network sees slices.

A network that also states how suspicious each place is learns that from lesions, where they are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.placement import Prepared
from ...core.terms import Label
from ...encoders.base import ModelSpec
from ..base import LabeledCase
from ..training import AUXILIARY_WEIGHT, UNKNOWN, Batch, TaskTraining, lesion_loss, stacked
from .task import Classification


class ClassificationTraining(TaskTraining[Classification]):
    """Map: clinically significant cancer; none where lesions are not known."""

    def targets(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> np.ndarray:
        cancer = labeled.masks.get(Label.CSPCA)
        if cancer is None:
            return np.zeros((0, *prepared.geometry.shape), np.float32)
        return stacked(cancer.resample_to(prepared.geometry, "nearest").array)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        if output.ndim > 2:
            return _suspicion_loss(output, batch.target)
        assert batch.category is not None
        cases = len(batch.category)
        logits = output.float().unflatten(0, (cases, -1)).mean(dim=1)  # over a case's slices
        weights = torch.tensor(class_weights, device=logits.device)
        # Over the number of cases: PyTorch's mean is over their weights, so that a batch of one class would have none.
        return F.cross_entropy(logits, batch.category, weights, reduction="sum") / cases


def _suspicion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """As of a network of lesions, over the samples (B, 1, ...) whose lesions are known; it counts as the class does."""
    is_known = (target != UNKNOWN).flatten(1).all(dim=1) if target.shape[1] else target.new_zeros(len(target)).bool()
    if not bool(is_known.any()):
        return 0 * logits.sum()
    return lesion_loss(logits[is_known], target[is_known]) / AUXILIARY_WEIGHT
