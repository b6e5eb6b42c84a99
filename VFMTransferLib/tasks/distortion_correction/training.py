"""Diffusion that a new field distorts at every sample, and the error of the displacement and of the image.

A case with one field is soon known by heart. A real scan has an unknown distortion already: the target is the part that
was added, and a network that learns from such scans learns to give less than it sees. Of a phantom everything is
known: it gets a share of its own field, gas in the rectum included, and a shift as of a patient who moved, and all of
it is the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from ...core.errors import DatasetError
from ...core.measurements import PHASE_AXES
from ...core.placement import NetworkInput, ZScore
from ...core.terms import Sequence as MRSequence
from ...core.volume import IntTriple, Triple
from ...encoders.base import ModelSpec
from ...encoders.inputs import ZSCORE_NONZERO
from ...phantom.canvas import Lattice, smooth_field
from ..base import LabeledCase
from ..training import Batch, TaskTraining, channel_of, stacked, unnormalized
from .task import (
    ADC_CORRECTED,
    FAST_MM,
    HBV_CORRECTED,
    PHASE_VOXEL_MM,
    SLOW_MM,
    DistortionCorrection,
    distorted_images,
    signals_of,
)

IMAGE_WEIGHT = 1.0
_SLOW_HZ, _FAST_HZ, _READOUT_S = (8.0, 22.0), (3.0, 10.0), (0.032, 0.052)  # what is drawn, as in the phantoms
# How far a phantom, which is ideal, is made like a scan: largest logarithm of the coil's gain, deviation of a patient's
# movement, and the weakest signal that is shown against the strong ones.
_GAIN, _GAIN_MM, _MOVED_MM, _WEAKEST, _STRONG_PERCENTILE = 0.6, 120.0, 0.5, 0.35, 90
_REACH = 1e-6  # of a voxel, by which arithmetic may leave the grid


class DistortionTraining(TaskTraining[DistortionCorrection]):
    """Maps: displacement in mm; the high-b image as it is and as it should be, in deviations; tissue or not."""

    @property
    def on_the_fly_kind(self) -> type[OnTheFlyDistortion]:
        return OnTheFlyDistortion

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        if labeled.along_phase_mm is None:
            raise DatasetError(f"Case '{labeled.case.id}' must come with its displacement for distortion correction.")
        grid, std = prepared.geometry, prepared.scales[channel_of(spec, MRSequence.HBV)].std
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

    def on_the_fly(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> OnTheFlyDistortion:
        return on_the_fly_distortion(labeled, prepared, spec)


def displacement_loss(along_mm: Tensor, maps: Tensor, axis: int, step_mm: float) -> Tensor:
    """Mean absolute error of one sample's displacement ([D,] H, W) in tissue, and of the image that follows from it.

    The maps are (4, [D,] H, W), the axis of the phase encoding is -1 or -2.
    """
    truth_mm, seen, truth, tissue = maps
    along_mm = along_mm.float()
    count = tissue.sum().clamp(min=1)
    field = ((along_mm - truth_mm).abs() * tissue).sum() / count
    image = ((undistorted(seen, along_mm, axis, step_mm) - truth).abs() * tissue).sum() / count
    return field + IMAGE_WEIGHT * image


def undistorted(seen: Tensor, along_mm: Tensor, axis: int, step_mm: float) -> Tensor:
    """An image ([D,] H, W) pulled along its displacement and scaled by the Jacobian, as a result is."""
    image, shift = seen.movedim(axis, -1), along_mm.movedim(axis, -1) / step_mm
    length = image.shape[-1]
    place = (torch.arange(length, dtype=shift.dtype, device=shift.device) + shift).clamp(0, length - 1)
    below = place.detach().floor().clamp(max=length - 2).long()
    share = place - below
    pulled = image.gather(-1, below) * (1 - share) + image.gather(-1, below + 1) * share
    (stretch,) = torch.gradient(shift, dim=-1)
    return (pulled * (1 + stretch).clamp(min=0)).movedim(-1, axis)


@dataclass(frozen=True)
class OnTheFlyDistortion:
    """Distorts a case again.

    Attributes:
        signals: Undistorted signals (2, d, h, w) at the high b and at b 0, on their own grid.
        own_mm: Displacement (d, h, w) by a phantom's own field; None of a scan, whose own is not known.
        spacing_mm: Of the signals' grid, (z, y, x).
        places: For z, y, x of the network's grid: the continuous index on the signals' grid.
        phase_axis: Array axis of the phase encoding.
        channels: Of the network's input, the high-b image's and the ADC's.
        scales: How these were normalized.
        keeps_zeros: Whether what is not measured stays 0 there.
    """

    signals: Tensor = field(repr=False)
    own_mm: Tensor | None = field(repr=False)
    spacing_mm: Triple
    places: tuple[tuple[float, ...], ...] = field(repr=False)
    phase_axis: int
    channels: tuple[int, ...]
    scales: tuple[ZScore, ...]
    keeps_zeros: bool

    def block(self, images: Tensor, start: IntTriple, generator: Generator) -> tuple[Tensor, Tensor]:
        """A block under a new field, zeros where it reaches outside: channels, with new diffusion, and maps."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        slab, matrices = self._around(start, images.shape[1:])
        high, base = (signal[slab] for signal in self.signals.numpy())
        along_mm = draw_displacement_mm(high.shape, self.spacing_mm, rng)
        if self.own_mm is not None:
            high, base = self._as_scanned(np.stack([high, base]), rng)
            along_mm += np.float32(rng.uniform()) * self.own_mm.numpy()[slab] + np.float32(rng.normal(0, _MOVED_MM))
        shift = along_mm / np.float32(self.spacing_mm[self.phase_axis])
        hbv, adc = distorted_images(high, base, shift, self.phase_axis)
        along_mm, hbv, adc, truth = (_placed(part, matrices) for part in (along_mm, hbv, adc, high))
        made = images.numpy().copy()
        for channel, scale, image in zip(self.channels, self.scales, (hbv, adc), strict=True):
            made[channel] = np.where(image != 0, scale.apply(image), 0) if self.keeps_zeros else scale.apply(image)
        deviation = np.float32(self.scales[0].std)
        maps = np.stack([along_mm, hbv / deviation, truth / deviation, truth > 0])
        return torch.from_numpy(made), torch.from_numpy(maps)

    def _as_scanned(self, signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Signals (2, d, h, w) as a scan has them: uneven, and none where they are weak."""
        gain = np.exp(rng.uniform(0, _GAIN) * smooth_field(Lattice(signals[0].shape, self.spacing_mm), rng, _GAIN_MM))
        uneven = signals * gain
        base = uneven[1]
        if not base.any():
            return uneven
        weak = base < rng.uniform(0, _WEAKEST) * np.percentile(base[base > 0], _STRONG_PERCENTILE)
        return np.where(weak, np.float32(0), uneven)

    def _around(self, start: IntTriple, size: Sequence[int]) -> tuple[tuple[slice, ...], list[np.ndarray]]:
        """The part of the signals that a block sees, whole lines along the phase axis, and its voxels' weights."""
        slab, matrices = [], []
        for axis, (first, count, places, voxels) in enumerate(
            zip(start, size, self.places, self.signals.shape[1:], strict=True)
        ):
            weights = np.zeros((count, voxels), np.float32)
            inside = np.arange(max(first, 0), min(first + count, len(places)))
            # Linear interpolation; half a voxel beyond the ends belongs to the field of view.
            place = np.asarray(places)[inside, None]
            seen = (place >= -0.5 - _REACH) & (place <= voxels - 0.5 + _REACH)
            share = np.clip(1 - np.abs(np.clip(place, 0, voxels - 1) - np.arange(voxels)), 0, 1)
            weights[inside - first] = share * seen
            used = np.flatnonzero(weights.any(axis=0))
            part = slice(0, voxels) if axis == self.phase_axis else slice(int(used[0]), int(used[-1]) + 1)
            slab.append(part)
            matrices.append(weights[:, part])
        return tuple(slab), matrices


def on_the_fly_distortion(labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> OnTheFlyDistortion:
    """What distorts a case again; DatasetError where its true images do not run along the network's grid."""
    hbv = labeled.images[HBV_CORRECTED].to_nearest_lps()
    own, network = hbv.geometry, prepared.geometry
    if not np.allclose(network.direction, own.direction, atol=1e-4):
        raise DatasetError(
            f"The network's grid must run along the diffusion images of case '{labeled.case.id}', but is turned."
        )
    first, step = own.to_index(network.origin_mm), np.divide(network.spacing_mm, own.spacing_mm)
    channels = tuple(channel_of(spec, sequence) for sequence in (MRSequence.HBV, MRSequence.ADC))
    field_mm = labeled.along_phase_mm if labeled.is_phantom else None
    z_mm, y_mm, x_mm = own.spacing_mm[::-1]
    return OnTheFlyDistortion(
        signals=torch.from_numpy(signals_of(hbv, labeled.images[ADC_CORRECTED])),
        own_mm=None if field_mm is None else torch.from_numpy(field_mm.resample_to(own).array),
        spacing_mm=(z_mm, y_mm, x_mm),
        places=tuple(tuple((first[k] + step[k] * np.arange(network.size[k])).tolist()) for k in (2, 1, 0)),
        phase_axis=2 - PHASE_AXES[labeled.phase_axis],
        channels=channels,
        scales=tuple(prepared.scales[channel] for channel in channels),
        keeps_zeros=spec.preprocess.normalization == ZSCORE_NONZERO,
    )


def draw_displacement_mm(shape: IntTriple, spacing_mm: Triple, rng: np.random.Generator) -> np.ndarray:
    """The displacement (D, H, W) that a random field gives in a random readout, in mm along the phase axis."""
    lattice = Lattice(shape, spacing_mm)
    hertz = smooth_field(lattice, rng, SLOW_MM) * np.float32(rng.uniform(*_SLOW_HZ))
    hertz += smooth_field(lattice, rng, FAST_MM) * np.float32(rng.uniform(*_FAST_HZ))
    return hertz * np.float32(rng.uniform(*_READOUT_S) * PHASE_VOXEL_MM * rng.choice([-1, 1]))


def _placed(array: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """An array (d, h, w) on the block's voxels (D, H, W)."""
    z, y, x = matrices
    placed = np.tensordot(z, array.astype(np.float32), axes=(1, 0))
    return np.asarray(y @ (placed @ x.T))
