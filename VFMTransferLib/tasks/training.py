"""What training asks of a task: targets on the network's grid, a loss, and how samples are drawn. Needs torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..core.errors import DatasetError
from ..core.placement import NetworkInput
from ..core.terms import Sequence as MRSequence
from ..core.volume import IntTriple, Volume
from ..encoders.base import ModelSpec, family_of
from ..encoders.inputs import ZSCORE_NONZERO
from ..layers.blocks import CLASS_WEIGHTS, resize, soft_dice_loss
from ..metrics.agreement import SSIM_K1, SSIM_K2, SSIM_RADIUS_PX, SSIM_SIGMA_PX
from . import task_of
from .base import LabeledCase, Task
from .image_to_image import ImageTask

UNKNOWN = -1.0
"""Value of a target's map where the truth is unknown."""
AUXILIARY_WEIGHT = 0.4
SSIM_WEIGHT = 0.2
_LESION_WEIGHT = CLASS_WEIGHTS[-1] / CLASS_WEIGHTS[0]
TYPICAL_DETAIL = 0.1  # standard deviations of the image
_BARELY = 1e-5  # voxels
_WINDOW_PX = 2 * SSIM_RADIUS_PX + 1


@dataclass(frozen=True)
class Sample:
    """What a network takes and what it should give.

    Attributes:
        inputs: What the network's `forward` takes, each (N, ...); N is 1, but for a classifier of slices of one case.
        target: Maps (N, K, ...) as the task's `targets` describes them.
        phase_axis: Index axis (0 x, 1 y) along which diffusion is distorted.
        category: The class's number (1,) of a classification.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    phase_axis: int = 0
    category: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Samples together; `phase_axes`, and `category` of a classification, have one entry a sample."""

    inputs: tuple[Tensor, ...]
    target: Tensor
    phase_axes: tuple[int, ...]
    category: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        category = None if self.category is None else self.category.to(device)
        return Batch(tuple(x.to(device) for x in self.inputs), self.target.to(device), self.phase_axes, category)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as one batch; where only some have all maps, the others' are filled up with `UNKNOWN`."""
    inputs = tuple(torch.cat(parts) for parts in zip(*(sample.inputs for sample in samples), strict=True))
    targets = [sample.target for sample in samples]
    count = max(target.shape[1] for target in targets)
    unknown = [t.new_full((t.shape[0], count - t.shape[1], *t.shape[2:]), UNKNOWN) for t in targets]
    target = torch.cat([torch.cat(pair, dim=1) for pair in zip(targets, unknown, strict=True)])
    categories = [sample.category for sample in samples if sample.category is not None]
    category = torch.cat(categories) if categories else None
    return Batch(inputs, target, tuple(sample.phase_axis for sample in samples), category)


class OnTheFly(Protocol):
    """What makes a case again at every sample, such as a random field that distorts it."""

    def block(self, images: Tensor, start: IntTriple, generator: Generator) -> tuple[Tensor, Tensor]:
        """The block from voxel `start` (z, y, x) on: channels (C, *size) as they are this time, and maps (K, *size)."""
        ...


AnyTask = TypeVar("AnyTask", bound=Task)


class TaskTraining(ABC, Generic[AnyTask]):
    """Targets, loss and sampling of one task.

    Attributes:
        keeps_intensity: Whether the truth depends on the images' intensities, which then are not varied.
        shows_gland_often: Whether a part of the windows must lie around the gland, because it counts for more there.
    """

    keeps_intensity: ClassVar[bool] = False
    shows_gland_often: ClassVar[bool] = False

    def __init__(self, task: AnyTask) -> None:
        self.task = task

    @abstractmethod
    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        """What a network should give, in the unit of its output: maps (K, D, H, W) on `prepared.geometry`, float32.

        The first maps are what the output is compared with, the others what the comparison needs beside it, such as
        the image that an output is added to or the weight of each voxel. Raises DatasetError where the case lacks it.
        """

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        """How wrong an output (B, C, ...) is, maps at the target's size; `class_weights` are of a classification."""

    def crop_masks(self, labeled: LabeledCase) -> Sequence[Volume]:
        """Of each target channel the mask, for a network that sees one crop, sampled from the scanned grid."""
        return tuple(labeled.masks.values())

    def is_signed(self, labeled: LabeledCase) -> bool:
        """Whether the first map changes its sign in the mirror, as a displacement to the left does."""
        return False

    def on_the_fly(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> OnTheFly | None:
        """What makes the case again at every sample, whose maps then replace `targets`; None for most tasks."""
        return None

    @property
    def on_the_fly_kind(self) -> type[OnTheFly] | None:
        """What `on_the_fly` returns: a dataclass of tensors and of what JSON holds, so that it can lie on disk."""
        return None


class ResidualTraining(TaskTraining[ImageTask]):
    """Maps: what a network adds to an image, in standard deviations of the image that it sees; that image."""

    keeps_intensity = True

    def targets(self, labeled: LabeledCase, prepared: NetworkInput, spec: ModelSpec) -> np.ndarray:
        channel = channel_of(spec, self.task.reference)
        truth = labeled.images[self.task.outputs[0]].resample_to(prepared.geometry).array
        residual = (truth - unnormalized(prepared, spec, self.task.reference)) / prepared.scales[channel].std
        return stacked(residual, prepared.array[channel])

    def loss(self, output: Tensor, batch: Batch, spec: ModelSpec, class_weights: Sequence[float]) -> Tensor:
        """Mean squared error of the detail that is added to an image, in units of what is typical.

        Most places have none to add: an absolute error is content with nothing for longer than a short training lasts.
        """
        return ((output.float() - batch.target[:, :1]) / TYPICAL_DETAIL).square().mean()


@dataclass(frozen=True)
class Objective:
    """What training lowers for one network; a classification weighs its classes."""

    spec: ModelSpec
    class_weights: tuple[float, ...] = ()

    @classmethod
    def balanced(cls, spec: ModelSpec, categories: Iterable[int | None]) -> Objective:
        """The objective of a network, classes balanced over the cases that train."""
        if task_of(spec).output.has_voxels:
            return cls(spec)
        known = [number for number in categories if number is not None]
        return cls(spec, class_weights(known, spec.head.out_channels))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """How wrong a network is on a batch; of an auxiliary head too, which counts less."""
        training, size = task_of(self.spec).training(), batch.target.shape[2:]
        main, *auxiliary = (
            training.loss(
                resize(output, size) if output.ndim > 2 and output.shape[2:] != size else output,
                batch,
                self.spec,
                self.class_weights,
            )
            for output in family_of(self.spec).training_outputs(network, self.spec, batch.inputs, size)
        )
        return sum((AUXILIARY_WEIGHT * loss for loss in auxiliary), start=main)


def class_weights(categories: Iterable[int], count: int) -> tuple[float, ...]:
    """Weights by which classes that are there count alike: cases over (classes × cases of the class)."""
    numbers = list(categories)
    there = len(set(numbers))
    return tuple(len(numbers) / (there * numbers.count(k)) if k in numbers else 0.0 for k in range(count))


def class_number(labeled: LabeledCase, spec: ModelSpec) -> int:
    """Number of the true class in the network's labels; DatasetError where the network does not have it."""
    if labeled.category not in spec.labels:
        raise DatasetError(
            f"The class of case '{labeled.case.id}' must be one of {', '.join(spec.labels)}, but is "
            f"{labeled.category}. Correct it, or leave the case out."
        )
    return spec.labels.index(labeled.category)


def stacked(*maps: np.ndarray) -> np.ndarray:
    """Maps (D, H, W) as targets (K, D, H, W)."""
    return np.ascontiguousarray(np.stack(maps), np.float32)


def channel_of(spec: ModelSpec, sequence: MRSequence) -> int:
    return spec.preprocess.sequences.index(sequence)


def unnormalized(prepared: NetworkInput, spec: ModelSpec, sequence: MRSequence) -> np.ndarray:
    """A channel (D, H, W) in the image's own intensities."""
    channel = channel_of(spec, sequence)
    normalized = prepared.array[channel]
    image = prepared.scales[channel].undo(normalized)
    if spec.preprocess.normalization == ZSCORE_NONZERO:  # which leaves zeros where they are
        return np.where(normalized != 0, image, np.float32(0))
    return image


def lesion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and Dice of one lesion channel, over a whole batch; logits and probability (B, 1, ...).

    A voxel of a lesion counts as many times as one of the background as in ProViCNet's published weights. The Dice term
    is hardly smoothed, so that without a lesion it is constant (1 whatever is predicted) and the
    cross-entropy alone teaches to mark none: smoothed by a voxel it made every network of ours mark nothing.
    """
    logits = logits.float()
    weight = 1 + (_LESION_WEIGHT - 1) * target
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
    return entropy + soft_dice_loss(logits.sigmoid(), target, smooth=_BARELY)


def image_loss(found: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error of images (B, 1, [D,] H, W), and how far structural similarity is from 1 in their slices.

    The weight is how much each place counts, same shape; 0 is left out.
    """
    found = found.float()
    absolute = (found - truth).abs()
    error = absolute.mean() if weight is None else (absolute * weight).sum() / weight.sum().clamp(min=1)
    if weight is not None:
        found, truth = (torch.where(weight > 0, image, 0.0) for image in (found, truth))
    span = float(truth.max() - truth.min())
    if span <= 0 or min(truth.shape[-2:]) < _WINDOW_PX:
        return error
    # 1 - SSIM (Wang et al. 2004) of slices, as `metrics.ssim`; a volume's slices count as a batch.
    with torch.autocast(found.device.type, enabled=False):  # a variance is a small difference of large numbers
        a, b = found.float(), truth.float()
        mean_a, mean_b, square_a, square_b, product = (_window_mean(x) for x in (a, b, a * a, b * b, a * b))
        c1, c2 = (SSIM_K1 * span) ** 2, (SSIM_K2 * span) ** 2
        covariance, variances = product - mean_a * mean_b, square_a - mean_a**2 + square_b - mean_b**2
        similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        dissimilar = 1 - (similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean()
    return error + SSIM_WEIGHT * dissimilar


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted means (..., H - 10, W - 10) of the windows that lie within an image (..., H, W).

    As two matrix products: the gradient of a convolution with one channel takes longer than all of a small network.
    """
    matrices = []  # (size - 10, size): weights of each window's pixels along an axis
    for size in x.shape[-2:]:
        offset = torch.arange(size) - torch.arange(size - 2 * SSIM_RADIUS_PX)[:, None] - SSIM_RADIUS_PX
        weights = torch.exp(-0.5 * (offset / SSIM_SIGMA_PX) ** 2) * (offset.abs() <= SSIM_RADIUS_PX)
        matrices.append((weights / weights.sum(dim=1, keepdim=True)).to(x.device))
    return matrices[0] @ x @ matrices[1].T
