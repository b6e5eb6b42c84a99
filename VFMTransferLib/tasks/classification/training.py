"""Cross-entropy of the class, over the mean logits of a case's slices where a network sees slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.placement import Prepared
from ...encoders.base import ModelSpec
from ..base import LabeledCase
from ..training import Batch, TaskTraining
from .task import Classification


class ClassificationTraining(TaskTraining[Classification]):
    """No maps: the target is the number of the class."""

    def targets(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> np.ndarray:
        return np.zeros((0, *prepared.geometry.shape), np.float32)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        logits = output.float().unflatten(0, (len(batch.target), -1)).mean(dim=1)  # over a case's slices
        weights = torch.tensor(class_weights, device=logits.device)
        # Over the number of cases: PyTorch's mean is over their weights, so that a batch of one class would have none.
        return F.cross_entropy(logits, batch.target, weights, reduction="sum") / len(batch.target)
