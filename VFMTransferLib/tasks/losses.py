"""What training minimizes where the answer is a class: of voxels, with soft labels, or of slices, with hard ones.

Soft targets are probabilities, since labels that come from a network or an interpolation are uncertain at
the gland's edge. Both terms are least where prediction and target are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.terms import TaskId
from ..encoders.base import ModelSpec
from ..encoders.layers import resize
from ..encoders.losses import CLASS_WEIGHTS, soft_dice_loss, tissue_loss
from ..encoders.profound.network import ProFoundUPerNet
from ..metrics.arrays import SSIM_K1, SSIM_K2, SSIM_RADIUS_PX, SSIM_SIGMA_PX
from .truth import UNKNOWN

LESION_WEIGHT = CLASS_WEIGHTS[-1] / CLASS_WEIGHTS[0]
AUXILIARY_WEIGHT = 0.4
_BARELY = 1e-5


def anatomy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice and cross-entropy of the gland, and of its zones where they are known.

    Args:
        logits: (C, D, H, W): background and prostate, or background, peripheral and transition zone.
        target: (1, D, H, W) probability of the prostate, or (3, D, H, W) of prostate and both zones.

    Raises:
        ValueError: The network has neither one nor two classes beside the background.
    """
    classes = logits.shape[0] - 1
    if classes not in (1, 2):
        raise ValueError(f"A network of the prostate must have 2 or 3 output channels, got {logits.shape[0]}.")
    logits = logits.float()
    gland = torch.logsumexp(logits[1:], dim=0) - logits[0]  # logit of all that is not background
    loss = F.binary_cross_entropy_with_logits(gland, target[0]) + soft_dice_loss(gland.sigmoid(), target[0])
    if classes == 2 and len(target) == 3:
        loss = 0.5 * (loss + _zone_loss(logits, target))
    return loss


def _zone_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over background and both zones, and the zones' mean Dice loss."""
    zones = target[1:]
    truth = torch.cat([(1 - zones.sum(0, keepdim=True)).clamp(min=0), zones])
    entropy = -(truth * F.log_softmax(logits, dim=0)).sum(0).mean()
    probabilities = logits.softmax(dim=0)
    dice = [soft_dice_loss(probabilities[1 + k], zones[k]) for k in range(2)]
    return entropy + torch.stack(dice).mean()


def lesion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and Dice of one lesion channel, over a whole batch.

    A voxel of a lesion counts as many times as one of the background as in ProViCNet's published weights. The Dice term
    is hardly smoothed, so that where no lesion is it says nothing (it costs 1 whatever is predicted) and the
    cross-entropy alone asks for none: smoothed by a voxel it made every network of ours mark nothing.

    Args:
        logits: (B, 1, ...).
        target: (B, 1, ...), probability of a lesion.
    """
    logits = logits.float()
    weight = 1 + (LESION_WEIGHT - 1) * target
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
    return entropy + soft_dice_loss(logits.sigmoid(), target, smooth=_BARELY)


# What training minimizes where the answer is an image or a displacement; slices (B, C, H, W) and volumes alike.

SSIM_WEIGHT = 0.2
IMAGE_WEIGHT = 1.0
_TYPICAL_DETAIL = 0.1  # standard deviations of the image
_WINDOW_PX = 2 * SSIM_RADIUS_PX + 1


def image_loss(found: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error, and how far structural similarity is from 1, slice by slice in plane.

    Args:
        found, truth: Images (B, 1, [D,] H, W).
        weight: How much each place counts, same shape; 0 is not looked at. Alike by default.
    """
    found = found.float()
    absolute = (found - truth).abs()
    error = absolute.mean() if weight is None else (absolute * weight).sum() / weight.sum().clamp(min=1)
    if weight is not None:
        found, truth = (torch.where(weight > 0, image, 0.0) for image in (found, truth))
    span = float(truth.max() - truth.min())
    if span <= 0 or min(truth.shape[-2:]) < _WINDOW_PX:
        return error
    return error + SSIM_WEIGHT * _dissimilarity(found, truth, span)


def detail_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of the detail that is added to an image, in units of what is typical.

    Most places have none to add: an absolute error is content with nothing for longer than a short training lasts.
    """
    return ((found.float() - truth) / _TYPICAL_DETAIL).square().mean()


def displacement_loss(
    along_mm: Tensor, truth_mm: Tensor, seen: Tensor, truth: Tensor, tissue: Tensor, axis: int, step_mm: float
) -> Tensor:
    """Mean absolute error of one sample's displacement in tissue, and of the image that follows from it.

    Args:
        along_mm, truth_mm: Displacement along the phase axis, ([D,] H, W).
        seen: The distorted image.
        truth: The undistorted image.
        tissue: Where there is signal, 0 or 1.
        axis: Array axis of the phase encoding, from the end: -1 or -2.
        step_mm: Voxel along it.
    """
    along_mm = along_mm.float()
    count = tissue.sum().clamp(min=1)
    field = ((along_mm - truth_mm).abs() * tissue).sum() / count
    image = ((undistorted(seen, along_mm, axis, step_mm) - truth).abs() * tissue).sum() / count
    return field + IMAGE_WEIGHT * image


def undistorted(seen: Tensor, along_mm: Tensor, axis: int, step_mm: float) -> Tensor:
    """An image pulled along its displacement and scaled by the Jacobian, as `restored` does, but with a gradient.

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


def _dissimilarity(found: Tensor, truth: Tensor, span: float) -> Tensor:
    """1 - SSIM (Wang et al. 2004) of slices, as `metrics.ssim`; a volume's slices count as a batch."""
    with torch.autocast(found.device.type, enabled=False):  # a variance is a small difference of large numbers
        a, b = found.float(), truth.float()
        mean_a, mean_b, square_a, square_b, product = (_window_mean(x) for x in (a, b, a * a, b * b, a * b))
        c1, c2 = (SSIM_K1 * span) ** 2, (SSIM_K2 * span) ** 2
        covariance, variances = product - mean_a * mean_b, square_a - mean_a**2 + square_b - mean_b**2
        similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        return 1 - (similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean()


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted means (..., H - 10, W - 10) of the windows that lie within an image (..., H, W).

    As two matrix products: the gradient of a convolution with one channel takes longer than all of a small network.
    """
    rows, columns = (_window_matrix(size).to(x.device) for size in x.shape[-2:])
    return rows @ x @ columns.T


def _window_matrix(size: int) -> Tensor:
    """Weights (size - 10, size) of each window's pixels along one axis."""
    offset = torch.arange(size) - torch.arange(size - 2 * SSIM_RADIUS_PX)[:, None] - SSIM_RADIUS_PX
    weights = torch.exp(-0.5 * (offset / SSIM_SIGMA_PX) ** 2) * (offset.abs() <= SSIM_RADIUS_PX)
    return weights / weights.sum(dim=1, keepdim=True)


# What each task asks of a network, for both families: from a batch to one number that training lowers.


@dataclass(frozen=True)
class Sample:
    """What a network takes and what it should give.

    Attributes:
        inputs: What the network's `forward` takes, each (N, ...); N is 1, but for a classifier of slices, which sees
            N slices of one study.
        target: Maps (N, K, ...) as `study_targets` describes them, or the class's number (1,) of a classification.
        phase_axis: Index axis (0 x, 1 y) along which diffusion is distorted.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    phase_axis: int = 0


@dataclass(frozen=True)
class Batch:
    """Samples together; `phase_axes` has one entry a sample."""

    inputs: tuple[Tensor, ...]
    target: Tensor
    phase_axes: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(tuple(x.to(device) for x in self.inputs), self.target.to(device), self.phase_axes)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as one batch; where only some know all maps, the others' are filled up with `UNKNOWN`."""
    inputs = tuple(torch.cat(parts) for parts in zip(*(sample.inputs for sample in samples), strict=True))
    return Batch(inputs, _joined([s.target for s in samples]), tuple(sample.phase_axis for sample in samples))


@dataclass(frozen=True)
class Objective:
    """The loss of a task.

    Attributes:
        spec: The network.
        class_weights: Of a classification: weight of each class, so that rare ones count as much.
    """

    spec: ModelSpec
    class_weights: tuple[float, ...] = ()

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """How wrong a network is on a batch; of an auxiliary head too, which counts less."""
        main, *auxiliary = self._outputs(network, batch)
        total = self._task_loss(main, batch)
        for output in auxiliary:
            total = total + AUXILIARY_WEIGHT * self._task_loss(output, batch)
        return total

    def _outputs(self, network: nn.Module, batch: Batch) -> list[Tensor]:
        """The network's outputs, maps at the target's size."""
        if isinstance(network, ProFoundUPerNet):  # saves most of its time at the target's size
            return network(*batch.inputs, batch.target.shape[2:])
        output = network(*batch.inputs)
        is_map = output.ndim > 2 and output.shape[2:] != batch.target.shape[2:]
        return [resize(output, batch.target.shape[2:]) if is_map else output]

    def _task_loss(self, output: Tensor, batch: Batch) -> Tensor:
        task, target = self.spec.task, batch.target
        if task is TaskId.ANATOMY_SEGMENTATION:
            return _anatomy(output, target)
        if task is TaskId.LESION_SEGMENTATION:
            is_graded = output.shape[1] > 1
            return tissue_loss(output, target[:, 0].long()) if is_graded else lesion_loss(output, target)
        if task is TaskId.CLASSIFICATION:
            logits = output.float().unflatten(0, (len(target), -1)).mean(dim=1)  # over a study's slices
            return F.cross_entropy(logits, target, torch.tensor(self.class_weights, device=logits.device))
        if task is TaskId.SUPER_RESOLUTION:
            return detail_loss(output, target[:, :1])
        if task is TaskId.ADC_TRANSLATION:
            return image_loss(output, target[:, :1], target[:, 1:2])
        return self._displacement(output, batch)

    def _displacement(self, output: Tensor, batch: Batch) -> Tensor:
        losses = [
            displacement_loss(found[0], *maps, axis=-1 - axis, step_mm=self.spec.preprocess.spacing_mm[axis])
            for found, maps, axis in zip(output, batch.target, batch.phase_axes, strict=True)
        ]
        return torch.stack(losses).mean()


def class_weights(categories: Iterable[int], count: int) -> tuple[float, ...]:
    """Weights by which classes that are there count alike: cases over (classes that are there times the class's cases).

    Args:
        categories: The class of each training case.
        count: Number of classes.
    """
    numbers = list(categories)
    there = len(set(numbers))
    return tuple(len(numbers) / (there * numbers.count(k)) if k in numbers else 0.0 for k in range(count))


def _anatomy(logits: Tensor, target: Tensor) -> Tensor:
    """The samples whose zones are known apart from those that know the prostate alone."""
    if target.shape[1] == 1:
        return anatomy_loss(logits.transpose(0, 1), target.transpose(0, 1))
    known = (target[:, 1] >= 0).flatten(1).all(dim=1)
    losses = []
    for rows, maps in ((known, target), (~known, target[:, :1])):
        if bool(rows.any()):
            share = rows.float().mean()
            losses.append(share * anatomy_loss(logits[rows].transpose(0, 1), maps[rows].transpose(0, 1)))
    return torch.stack(losses).sum()


def _joined(targets: Sequence[Tensor]) -> Tensor:
    if targets[0].ndim == 1:
        return torch.cat(list(targets))
    most = max(target.shape[1] for target in targets)
    return torch.cat(
        [
            torch.cat([t, t.new_full((t.shape[0], most - t.shape[1], *t.shape[2:]), UNKNOWN)], dim=1)
            if t.shape[1] < most
            else t
            for t in targets
        ]
    )
