"""Better labels from noisy ones: ask networks that never saw a case what they think of it.

Labels that come from another network err case by case. A network that is trained on the other cases
repeats the common shape but not the single error, so the mean of label and out-of-fold prediction is a
soft label that is certain where both agree. No other label enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..core.placement import centered_start
from ..core.terms import Arm
from ..core.volume import Volume
from ..encoders.base import PreprocessSpec
from ..metrics.arrays import dice
from .dataset import TrainingCase, sample_view
from .finetune import FinetuneConfig, averaged_network, finetune, gland_examination
from .optimization import Progress, Schedule
from .samples import ViewLesson


@dataclass(frozen=True)
class CrossFit:
    """How labels are cross-fitted.

    Attributes:
        folds: Parts of the training cases that are left out in turn; 0 leaves the labels as they are.
        weight: Part of the out-of-fold prediction in the soft label.
        least_agreement: Dice with the label below which a prediction is a failure and the label stays.
        schedule: Of each fold's training, from scratch.
    """

    folds: int
    weight: float
    least_agreement: float
    schedule: Schedule

    def __post_init__(self) -> None:
        if not (0 <= self.weight <= 1 and 0 <= self.least_agreement <= 1):
            raise ValueError(
                f"Weight and least agreement must lie in 0..1, got {self.weight} and {self.least_agreement}."
            )


def cross_fit(
    how: CrossFit,
    config: FinetuneConfig,
    cases: Mapping[str, TrainingCase],
    folder: Path,
    *,
    phantoms: Sequence[TrainingCase] = (),
    on_progress: Progress | None = None,
) -> dict[str, TrainingCase]:
    """Replace the training cases' labels of the prostate by soft labels.

    Each fold is trained from scratch, so that neither arm of the study has a part in its labels.

    Args:
        how: How.
        config: The fine-tuning whose labels are wanted.
        cases: Cases by name.
        folder: Where the folds' checkpoints lie.
        phantoms: Labeled phantoms; their labels are exact and stay.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        All cases, those of the training split with soft labels.
    """
    softened = dict(cases)
    for fold in range(how.folds):
        split = replace(config.split, test=()).fold(fold, how.folds)
        part = replace(config, split=split, schedule=how.schedule)
        progress = None if on_progress is None else _of_fold(on_progress, fold, how.folds)
        run = finetune(
            part,
            Arm.SCRATCH,
            {name: ViewLesson(case, config.model.preprocess) for name, case in cases.items()},
            folder / f"fold-{fold}",
            phantoms=[ViewLesson(phantom, config.model.preprocess) for phantom in phantoms],
            examine=gland_examination({name: cases[name] for name in split.validation}, config.model),
            on_progress=progress,
        )
        network = averaged_network(run, config.model)
        for name in split.validation:
            predicted = gland_probability(network, cases[name], config.model.preprocess)
            softened[name] = blend(cases[name], predicted, how)
    return softened


def gland_probability(network: nn.Module, case: TrainingCase, spec: PreprocessSpec) -> Tensor:
    """Probability (1, D, H, W) of the prostate on a case's own grid; 0 outside the network's crop."""
    view = sample_view(case, spec, Generator())
    with torch.inference_mode():
        probability = 1 - network(view.image[None])[0].float().softmax(dim=0)[0]
    grid = case.geometry.with_spacing(spec.spacing_mm)
    start = centered_start(grid.shape, spec.patch)
    seen = grid.crop((start[2], start[1], start[0]), (spec.patch[2], spec.patch[1], spec.patch[0]))
    placed = Volume(probability.numpy(), seen).resample_to(case.geometry)
    return torch.from_numpy(np.ascontiguousarray(placed.array))[None]


def blend(case: TrainingCase, predicted: Tensor, how: CrossFit) -> TrainingCase:
    """A case whose label of the prostate is the weighted mean of its own and a prediction (1, D, H, W).

    Where the two disagree as wholes, the network has failed on a case unlike all that it saw, and the label stays.
    """
    if case.labels is None or len(case.labels) != 1:
        raise ValueError("Only a label of the prostate alone can be blended with a prediction.")
    label = case.labels.float()
    if dice((predicted > 0.5).numpy(), (label > 0.5).numpy()) < how.least_agreement:
        return case
    return replace(case, labels=((1 - how.weight) * label + how.weight * predicted).half())


def _of_fold(on_progress: Progress, fold: int, folds: int) -> Progress:
    """Progress of one fold as a part of all."""
    return lambda line, part: on_progress(f"fold {fold + 1} of {folds}, {line}", (fold + part) / folds)
