"""Absolute error and structural similarity of the ADC, where diffusion shows tissue; the gland counts for more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...core.placement import NetworkInput
from ...encoders.base import ModelSpec
from ..base import LabeledCase
from ..training import Batch, TaskTraining, image_loss, stacked
from .task import ADC_PER_OUTPUT, ADC_SYNTHETIC, AdcTranslation

GLAND_WEIGHT = 4.0  # the gland is a thirtieth of the field of view


class AdcTraining(TaskTraining[AdcTranslation]):
    """Maps: ADC in 1e-3 mm²/s; its weight, which is 0 without tissue, `GLAND_WEIGHT` in the prostate, else 1."""

    shows_gland_often = True

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        truth = labeled.images[ADC_SYNTHETIC]
        weight = self.task.region_on(truth, prepared.geometry).astype(np.float32)
        if labeled.gland is not None:
            weight[labeled.gland.resample_to(prepared.geometry, "nearest").array > 0] *= GLAND_WEIGHT
        return stacked(truth.resample_to(prepared.geometry).array / ADC_PER_OUTPUT, weight)

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        return image_loss(output, batch.target[:, :1], batch.target[:, 1:2])
