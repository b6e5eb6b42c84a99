"""Random training samples of a case, whatever network and task, cut and normalized as at prediction.

Networks of windows sample one crop from the scanned grid in one interpolation (`crops`); where they give an image,
they take windows of the network's grid, since a residual belongs to one interpolation of the image. Networks of slices
take slices of that grid (`slices`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ..core.errors import DatasetError
from ..core.placement import Prepared, centered_start, cut
from ..core.volume import IntTriple
from ..encoders.base import ModelSpec, PreprocessSpec
from ..encoders.inputs import gland_center, prepare
from ..tasks import find_task
from ..tasks.base import PHASE_AXES, LabeledCase
from ..tasks.training import OnTheFly, Sample, class_number
from .augmentation import Augmentation, happens, uniform, vary_intensity
from .crops import TrainingCase, sample_view, training_case
from .slices import SliceCase, SliceSample, mirrored, prepared_slices, sample_slice

# Slices of one case that a step of a classifier sees; their logits' mean stands for that of all.
SLICES_A_CASE = 6
_NEAR_GLAND = 0.5


class CaseSamples(Protocol):
    """A case of which training samples are drawn.

    Attributes:
        id: Name of the case.
        category: Number of its class, of a classification.
    """

    @property
    def id(self) -> str: ...
    @property
    def category(self) -> int | None: ...
    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """A random sample, varied at random."""
        ...


@dataclass(frozen=True)
class CropSamples:
    """Crops that are sampled from the scanned grid."""

    case: TrainingCase
    spec: PreprocessSpec
    category: int | None = None

    @property
    def id(self) -> str:
        return self.case.id

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        view = sample_view(self.case, self.spec, generator, how)
        if self.category is not None:
            return Sample((view.image[None],), torch.tensor([self.category]))
        if view.target is None:
            raise DatasetError(f"Case '{self.id}' must have labels to learn from, but has none.")
        return Sample((view.image[None],), view.target[None])


@dataclass(frozen=True)
class WindowSamples:
    """Windows of the network's grid, as image-to-image networks see them at prediction.

    Attributes:
        id: Name of the case.
        images: (C, D, H, W), normalized as for prediction.
        maps: (K, D, H, W), the truth, half precision.
        starts: First voxels (z, y, x) of the windows that prediction takes.
        spec: The network.
        phase_axis: Index axis of the phase encoding.
        near: First voxel of a window around the prostate, which a part of the samples shows; None shows all alike.
        is_signed: Whether the first map changes its sign in the mirror, as a displacement to the left does.
        keeps_intensity: Whether the truth depends on the images' intensities, which then are not varied.
        fresh: Where each sample makes the case again; its maps are not used then.
    """

    id: str
    images: Tensor = field(repr=False)
    maps: Tensor = field(repr=False)
    starts: tuple[IntTriple, ...]
    spec: ModelSpec
    phase_axis: int = 0
    near: IntTriple | None = None
    is_signed: bool = False
    keeps_intensity: bool = False
    fresh: OnTheFly | None = field(default=None, repr=False)

    @property
    def category(self) -> None:
        return None

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """One of prediction's windows, shifted, mirrored, and as another scanner would show it."""
        start = self._random_start(generator, how)
        image, maps = (
            torch.from_numpy(cut(part.numpy(), start, self.spec.preprocess.patch)).float()
            for part in (self.images, self.maps)
        )
        if self.fresh is not None:
            image, maps = self.fresh.block(image, start, generator)
        if happens(generator, how.flip):
            image, maps = image.flip(-1), mirrored(maps, self.is_signed)
        if not self.keeps_intensity:
            inside = image != 0
            varied = [
                vary_intensity(channel, seen, generator, how) if bool(seen.any()) else channel
                for channel, seen in zip(image, inside, strict=True)
            ]
            image = torch.stack(varied)
        return Sample((image[None],), maps[None], self.phase_axis)

    def _random_start(self, generator: Generator, how: Augmentation) -> IntTriple:
        """First voxel of one of the windows, moved, but no further out of the image than the window must be."""
        grid = self.spec.preprocess
        chosen = self.starts[int(float(uniform(generator, 0, 1)) * len(self.starts))]
        if self.near is not None and happens(generator, _NEAR_GLAND):
            chosen = self.near
        moved = uniform(generator, -1, 1, 3) * torch.tensor(how.shift_mm) / torch.tensor(grid.spacing_mm)
        z, y, x = (
            min(max(first + round(float(shift)), 0), size - patch) if size >= patch else first
            for first, shift, size, patch in zip(chosen, moved.flip(0), self.images.shape[1:], grid.patch, strict=True)
        )
        return (z, y, x)


@dataclass(frozen=True)
class SliceSamples:
    """Slices: one a sample, or of a classification several of the gland."""

    case: SliceCase
    spec: ModelSpec
    phase_axis: int = 0
    category: int | None = None

    @property
    def id(self) -> str:
        return self.case.id

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        if self.category is None:
            one = sample_slice(self.case, self.spec, generator, how)
            return Sample(_inputs([one]), one.maps[None], self.phase_axis)
        drawn = torch.randint(len(self.case.marked), (SLICES_A_CASE,), generator=generator).tolist()
        slices = [sample_slice(self.case, self.spec, generator, how, self.case.marked[i]) for i in drawn]
        return Sample(_inputs(slices), torch.tensor([self.category]))


def samples_of(labeled: LabeledCase, spec: ModelSpec) -> CaseSamples:
    """The training samples of a case for a network.

    Raises:
        DatasetError: The case is of another task than the network, or lacks what the task needs.
        MissingSequenceError: The case lacks a sequence, or a gland mask that normalization needs.
    """
    if labeled.task != spec.task:
        raise DatasetError(f"Case '{labeled.case.id}' must be for {spec.task}, but is for {labeled.task}.")
    task = find_task(labeled.task)
    training = task.training()
    category = class_number(labeled, spec) if task.output == "classification" else None
    takes_windows = not spec.is_slice_based
    if takes_windows and task.output != "image":
        masks = None if category is not None else training.crop_masks(labeled)
        center = None if task.finds_gland else labeled.gland
        return CropSamples(training_case(labeled.case, spec, masks, center=center), spec.preprocess, category)
    prepared = prepare_labeled(labeled, spec)
    axis = PHASE_AXES[labeled.phase_axis]
    fresh = training.on_the_fly(labeled, prepared, spec)
    shape = prepared.geometry.shape
    maps = np.zeros((0, *shape), np.float32) if fresh is not None else training.targets(labeled, prepared, spec)
    if takes_windows:
        near = None
        if training.shows_gland_often and labeled.gland is not None:
            near = centered_start(shape, prepared.patch, gland_center(labeled.gland, prepared.geometry))
        return WindowSamples(
            id=labeled.case.id,
            images=torch.from_numpy(prepared.array).half(),
            maps=torch.from_numpy(np.ascontiguousarray(maps, np.float16)),
            starts=prepared.starts,
            spec=spec,
            phase_axis=axis,
            near=near,
            is_signed=training.is_signed(labeled),
            keeps_intensity=training.keeps_intensity,
            fresh=fresh,
        )
    marked = np.zeros(0, int)
    if labeled.gland is not None:
        inside = labeled.gland.resample_to(prepared.geometry, "nearest").array > 0
        marked = np.flatnonzero(inside.any(axis=(1, 2)))
    case = prepared_slices(
        labeled.case.id,
        prepared,
        maps,
        marked,
        is_signed=training.is_signed(labeled),
        keeps_intensity=training.keeps_intensity,
        fresh=fresh,
    )
    return SliceSamples(case, spec, axis, category)


def prepare_labeled(labeled: LabeledCase, spec: ModelSpec) -> Prepared:
    """A labeled case as the network's input; the gland's mask helps as at prediction, but to find the gland itself."""
    gland = None if find_task(labeled.task).finds_gland else labeled.gland
    return prepare(labeled.case, spec, find_task(labeled.task), gland=gland)


def _inputs(slices: list[SliceSample]) -> tuple[Tensor, ...]:
    """What the network takes: the windows (N, 3, P, P) of each sequence, then the positions (N, 2)."""
    windows = torch.stack([one.windows for one in slices])  # (N, S, 3, P, P)
    return (*windows.unbind(1), torch.stack([one.positions for one in slices]))
