"""The detail that super-resolution adds, but for the margin, where no truth is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...core.placement import NetworkInput
from ...encoders.base import ModelSpec
from ..base import LabeledCase
from ..training import TYPICAL_DETAIL, Batch, ResidualTraining, stacked


class SuperResolutionTraining(ResidualTraining):
    """Maps: as of `ResidualTraining`; where the truth counts, 0 or 1."""

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        truth = labeled.images[self.task.outputs[0]]
        counts = self.task.region_on(truth, prepared.geometry).astype(np.float32)
        return stacked(*super().targets(labeled, prepared, spec), counts)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        """Mean squared error of the detail where the truth counts."""
        wanted, counts = batch.target[:, :1], batch.target[:, 2:3]
        square = ((output.float() - wanted) / TYPICAL_DETAIL).square()
        return (square * counts).sum() / counts.sum().clamp(min=1)
