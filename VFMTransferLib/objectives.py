"""What each task asks of a network, for both families: from a batch to one number that training lowers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image_losses import detail_loss, displacement_loss, image_loss
from .layers import resize
from .losses import AUXILIARY_WEIGHT, anatomy_loss, lesion_loss, tissue_loss
from .models.profound import ProFoundUPerNet
from .registry import ModelSpec
from .study_targets import UNKNOWN
from .terms import TaskId


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
