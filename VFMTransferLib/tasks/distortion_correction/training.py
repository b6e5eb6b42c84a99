"""Absolute error of the displacement in tissue, and of the image that follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DatasetError
from ...core.placement import Prepared
from ...core.terms import Sequence as MRSequence
from ...encoders.base import ModelSpec
from ..base import PHASE_AXES, LabeledCase
from ..training import Batch, TaskTraining, deviation, stacked, unnormalized
from .on_the_fly import OnTheFlyDistortion, undistorted_signals
from .task import HBV_CORRECTED, DistortionCorrection

IMAGE_WEIGHT = 1.0


class DistortionTraining(TaskTraining[DistortionCorrection]):
    """Maps: displacement in mm; the high-b image as it is and as it should be, in deviations; tissue or not."""

    def targets(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> np.ndarray:
        if labeled.along_phase_mm is None:
            raise DatasetError(f"Case '{labeled.case.id}' must come with its displacement for distortion correction.")
        grid, std = prepared.geometry, deviation(prepared, spec, MRSequence.HBV)
        truth = labeled.images[HBV_CORRECTED].resample_to(grid).array
        return stacked(
            labeled.along_phase_mm.resample_to(grid).array,
            unnormalized(prepared, spec, MRSequence.HBV) / std,
            truth / std,
            truth > 0,
        )

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        losses = [
            displacement_loss(found[0], maps, -1 - axis, spec.preprocess.spacing_mm[axis])
            for found, maps, axis in zip(output, batch.target, batch.phase_axes, strict=True)
        ]
        return torch.stack(losses).mean()

    def is_signed(self, labeled: LabeledCase) -> bool:
        return PHASE_AXES[labeled.phase_axis] == 0

    def on_the_fly(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> OnTheFlyDistortion:
        return undistorted_signals(labeled, prepared, spec)

    def patch_maps(self, labeled: LabeledCase, prepared: Prepared, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
        """The mean displacement of the tissue, mm."""
        maps = self.targets(labeled, prepared, spec)
        return maps[0], (maps[-1] > 0).astype(np.float32)


def displacement_loss(along_mm: Tensor, maps: Tensor, axis: int, step_mm: float) -> Tensor:
    """Mean absolute error of one sample's displacement in tissue, and of the image that follows from it.

    Args:
        along_mm: Displacement along the phase axis, ([D,] H, W).
        maps: True displacement, distorted image, undistorted image, and where there is signal: (4, [D,] H, W).
        axis: Array axis of the phase encoding, from the end: -1 or -2.
        step_mm: Voxel along it.
    """
    truth_mm, seen, truth, tissue = maps
    along_mm = along_mm.float()
    count = tissue.sum().clamp(min=1)
    field = ((along_mm - truth_mm).abs() * tissue).sum() / count
    image = ((undistorted(seen, along_mm, axis, step_mm) - truth).abs() * tissue).sum() / count
    return field + IMAGE_WEIGHT * image


def undistorted(seen: Tensor, along_mm: Tensor, axis: int, step_mm: float) -> Tensor:
    """An image pulled along its displacement and scaled by the Jacobian, as the result is, but with a gradient.

    Args:
        seen: The distorted image ([D,] H, W).
        along_mm: Where the signal of each place went, along the axis.
        axis: Array axis, from the end.
        step_mm: Voxel along it.
    """
    image, shift = seen.movedim(axis, -1), along_mm.movedim(axis, -1) / step_mm
    length = image.shape[-1]
    place = (torch.arange(length, dtype=shift.dtype, device=shift.device) + shift).clamp(0, length - 1)
    below = place.detach().floor().clamp(max=length - 2).long()
    share = place - below
    pulled = image.gather(-1, below) * (1 - share) + image.gather(-1, below + 1) * share
    (stretch,) = torch.gradient(shift, dim=-1)
    return (pulled * (1 + stretch).clamp(min=0)).movedim(-1, axis)
