"""Weighted cross-entropy and Dice of cancer, of one channel or of ProViCNet's four classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...core.placement import NetworkInput
from ...core.terms import Label
from ...core.volume import Volume
from ...encoders.base import ModelSpec
from ...layers.blocks import tissue_loss
from ..base import LabeledCase
from ..lesions import class_map
from ..training import Batch, TaskTraining, lesion_loss, stacked
from .task import LesionSegmentation


class LesionTraining(TaskTraining[LesionSegmentation]):
    """Map: number of the class in the network's labels."""

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        return stacked(class_map(labeled, spec.labels).resample_to(prepared.geometry, "nearest").array)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        is_graded = output.shape[1] > 1
        return tissue_loss(output, batch.target[:, 0].long()) if is_graded else lesion_loss(output, batch.target)

    def crop_masks(self, labeled: LabeledCase) -> Sequence[Volume]:
        return (labeled.masks[Label.CSPCA],)
