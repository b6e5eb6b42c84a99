"""What training shows of a case: random samples, whatever network and task, cut and normalized as at prediction.

ProFound's segmentation and classification sample their crop from the scanned grid in one interpolation (`crops`);
its image tasks take windows of the network's grid (`window_samples`), since a residual belongs to one interpolation
of the image; ProViCNet takes slices of that grid (`slice_samples`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ..core.errors import DatasetError
from ..core.placement import Prepared, centered_start
from ..core.terms import Label, TaskId
from ..core.volume import IntTriple, Volume
from ..encoders.base import ModelSpec, PreprocessSpec
from ..encoders.preparation import gland_center, prepare
from ..tasks.base import TASKS
from ..tasks.images import PHASE_AXES
from ..tasks.losses import Sample
from ..tasks.truth import StudyCase, class_number, target_maps
from .augmentation import Augmentation
from .crops import TrainingCase, sample_view, training_case
from .on_the_fly import undistorted
from .slices import SliceCase, SliceSample, prepared_slices, sample_slice
from .windows import WindowCase, sample_window, window_case

# Slices of one study that a step of a classifier sees; their logits' mean stands for that of all.
SLICES_A_STUDY = 6


class Lesson(Protocol):
    """A case that can be shown.

    Attributes:
        category: Number of its class, of a classification.
    """

    @property
    def id(self) -> str: ...
    @property
    def category(self) -> int | None: ...
    def sample(self, generator: Generator, how: Augmentation) -> Sample: ...


@dataclass(frozen=True)
class ViewLesson:
    """A case whose crop is sampled from the scanned grid."""

    case: TrainingCase
    spec: PreprocessSpec
    category: int | None = None

    @property
    def id(self) -> str:
        return self.case.id

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """A random view of the case."""
        view = sample_view(self.case, self.spec, generator, how)
        if self.category is not None:
            return Sample((view.image[None],), torch.tensor([self.category]))
        if view.target is None:
            raise DatasetError(f"Case '{self.id}' must have labels to learn from, but has none.")
        return Sample((view.image[None],), view.target[None])


@dataclass(frozen=True)
class WindowLesson:
    """A case of which windows are shown."""

    case: WindowCase
    spec: ModelSpec
    phase_axis: int = 0
    category: int | None = None

    @property
    def id(self) -> str:
        return self.case.id

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """A random window of the case."""
        window = sample_window(self.case, self.spec, generator, how)
        return Sample((window.image[None],), window.maps[None], self.phase_axis)


@dataclass(frozen=True)
class SliceLesson:
    """A case of which slices are shown: one, or of a classification several of the gland."""

    case: SliceCase
    spec: ModelSpec
    phase_axis: int = 0
    category: int | None = None

    @property
    def id(self) -> str:
        return self.case.id

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """A random slice of the case, or several."""
        if self.category is None:
            one = sample_slice(self.case, self.spec, generator, how)
            return Sample(_inputs([one]), one.maps[None], self.phase_axis)
        drawn = torch.randint(len(self.case.marked), (SLICES_A_STUDY,), generator=generator).tolist()
        slices = [sample_slice(self.case, self.spec, generator, how, self.case.marked[i]) for i in drawn]
        return Sample(_inputs(slices), torch.tensor([self.category]))


def lesson_of(study: StudyCase, spec: ModelSpec) -> Lesson:
    """The lesson of a study case for a network.

    Raises:
        DatasetError: The case is of another task than the network, or lacks what the task needs.
        MissingSequenceError: The case lacks a sequence, or a gland mask that normalization needs.
    """
    if study.task is not spec.task:
        raise DatasetError(f"Case '{study.case.id}' must be for {spec.task}, but is for {study.task}.")
    category = class_number(study, spec) if study.task is TaskId.CLASSIFICATION else None
    if spec.family == "profound" and TASKS[study.task].output != "image":
        labels = None if category is not None else _labels(study)
        center = None if study.task is TaskId.ANATOMY_SEGMENTATION else study.gland
        return ViewLesson(training_case(study.case, spec, labels, center=center), spec.preprocess, category)
    prepared = prepare_study(study, spec)
    axis = PHASE_AXES[study.phase_axis]
    kind: dict[str, Any] = {
        "is_signed": study.task is TaskId.DISTORTION_CORRECTION and axis == 0,
        "keeps_intensity": study.task is TaskId.SUPER_RESOLUTION,
    }
    if study.task is TaskId.DISTORTION_CORRECTION:
        maps = np.zeros((0, *prepared.geometry.shape), np.float32)
        kind["fresh"] = undistorted(study, prepared, spec)
    else:
        maps = target_maps(study, prepared, spec)
    if spec.family == "profound":
        if study.task is TaskId.ADC_TRANSLATION:
            kind["near"] = _window_of_gland(study, prepared)
        return WindowLesson(window_case(study.case.id, prepared, maps, **kind), spec, axis)
    marked = _slices_with_gland(study, prepared)
    return SliceLesson(prepared_slices(study.case.id, prepared, maps, marked, **kind), spec, axis, category)


def prepare_study(study: StudyCase, spec: ModelSpec) -> Prepared:
    """A study case as the network's input; the gland's mask helps as at prediction, but to find the gland itself."""
    gland = None if study.task is TaskId.ANATOMY_SEGMENTATION else study.gland
    return prepare(study.case, spec, gland=gland)


def _labels(study: StudyCase) -> dict[Label, Volume]:
    """The masks that ProFound learns from."""
    if study.task is TaskId.LESION_SEGMENTATION:
        return {Label.CSPCA: study.masks[Label.CSPCA]}
    return dict(study.masks)


def _window_of_gland(study: StudyCase, prepared: Prepared) -> IntTriple | None:
    """First voxel of the window around the prostate; None where nobody knows it."""
    if study.gland is None:
        return None
    grid = prepared.geometry
    return centered_start(grid.shape, prepared.patch, gland_center(study.gland, grid))


def _slices_with_gland(study: StudyCase, prepared: Prepared) -> np.ndarray:
    """Which slices show the prostate; none where nobody knows."""
    if study.gland is None:
        return np.zeros(0, int)
    inside = study.gland.resample_to(prepared.geometry, "nearest").array > 0
    return np.flatnonzero(inside.any(axis=(1, 2)))


def _inputs(slices: list[SliceSample]) -> tuple[Tensor, ...]:
    """What the network takes: the windows (N, 3, P, P) of each sequence, then the positions (N, 2)."""
    windows = torch.stack([one.windows for one in slices])  # (N, S, 3, P, P)
    return (*windows.unbind(1), torch.stack([one.positions for one in slices]))
