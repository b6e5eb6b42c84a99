"""Crops of cases in one interpolation: images and labels on the grids they were scanned on, and views of them.

A view is what a network sees at prediction (`preprocess`: the network's grid, its crop in the middle
of the image, its normalization), or a random variation of it. It is sampled in one step from the
scanned grid, so that training and prediction interpolate alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.placement import ZScore, centered_start
from ..core.terms import Label
from ..core.volume import Geometry, Triple, Volume
from ..encoders.base import ModelSpec, PreprocessSpec
from ..encoders.inputs import gland_center, network_grid, reference_sequence
from ..tasks import find_task
from .augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    between_knots,
    random_field_of_view,
    random_knots,
    vary_intensity,
)

# Targets are compared at half the input's resolution, in each axis: finer than the networks' own maps.
TARGET_STRIDE = 2
ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
TARGETS = (Label.PROSTATE, *ZONES)
_SMALLEST_PART = 16


@dataclass(frozen=True)
class TrainingCase:
    """A case as training needs it: axes nearest to L, P, S, all on the reference sequence's own grid.

    Attributes:
        id: Name of the case.
        image: (C, D, H, W), each channel normalized over its whole field of view.
        labels: Probability of the prostate (1, D, H, W), or of prostate, peripheral and transition zone
            (3, D, H, W) where the zones are known; of csPCa (1, D, H, W) for lesions; None for pretraining.
        geometry: The grid.
        middle: Continuous index (z, y, x) on the network's grid that the crop lies around; None for the image's middle.
    """

    id: str
    image: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    geometry: Geometry
    middle: Triple | None = None


@dataclass(frozen=True)
class CropSample:
    """One sample: what goes in and what should come out.

    Attributes:
        image: Input (C, D, H, W).
        target: Probabilities (1 or 3, D, H, W) / `TARGET_STRIDE`, as the case's labels; None if unlabeled.
    """

    image: Tensor
    target: Tensor | None


def training_case(
    case: Case, spec: ModelSpec, labels: Mapping[Label, Volume] | None = None, *, center: Volume | None = None
) -> TrainingCase:
    """Bring a case and its labels onto one grid, for training.

    Args:
        case: The study.
        spec: The network; names the sequences. A sequence that the case lacks is a channel of zeros.
        labels: Masks or probabilities by label, on any grid; the gland may be left to be the zones' sum. Of lesions
            csPCa alone, which may mark nothing.
        center: Mask of the prostate that the crop lies around, as at prediction where it is known; by default the crop
            is the image's middle.

    Raises:
        DatasetError: Labels of anatomy mark nothing, or only one of the zones is there.
        ImageError: The mask to lie around is empty, or outside of the image.
    """
    task = None if spec.task is None else find_task(spec.task)
    seen_grid, grid = (
        network_grid(case, spec, task),
        case[reference_sequence(case, spec, task)].to_nearest_lps().geometry,
    )
    channels = [
        _normalized(case[sequence], seen_grid, grid)
        if sequence is not None and sequence in case
        else np.zeros(grid.shape, np.float32)
        for sequence in spec.preprocess.sequences
    ]
    target = _target(case.id, labels, grid) if labels else None
    # Half precision holds a normalized image to 1e-3 of its deviation, and many cases in memory.
    middle = None if center is None else gland_center(center, seen_grid)
    return TrainingCase(case.id, torch.from_numpy(np.stack(channels)).half(), target, grid, middle)


def _normalized(volume: Volume, seen_grid: Geometry, grid: Geometry) -> np.ndarray:
    """A sequence on `grid`, by the mean and deviation that it has on the network's grid, as `inputs.prepare` does."""
    seen = volume.resample_to(seen_grid).array
    voxels = volume.resample_to(grid).array
    scale = ZScore.of(seen[seen != 0]) if seen.any() else ZScore()
    return np.where(voxels != 0, scale.apply(voxels), np.float32(0))


def _target(name: str, labels: Mapping[Label, Volume], grid: Geometry) -> Tensor:
    """Probabilities of the gland (1, D, H, W), of gland and zones (3, D, H, W), or of csPCa (1, D, H, W)."""
    if set(labels) == {Label.CSPCA}:
        return torch.from_numpy(_share(labels[Label.CSPCA], grid))[None].half()
    zones = [label for label in ZONES if label in labels]
    if len(zones) == 1 or not (zones or Label.PROSTATE in labels):
        raise DatasetError(
            f"Labels of case '{name}' must be the prostate, or both of its zones, but are {', '.join(labels)}. "
            "Give the whole gland alone where a zone is not known."
        )
    target = torch.zeros(len(TARGETS), *grid.shape)
    for label, volume in labels.items():
        target[TARGETS.index(label)] = torch.from_numpy(_share(volume, grid))
    if Label.PROSTATE not in labels:
        target[0] = target[1:].sum(0).clamp(max=1)
    if not target[0].any():
        raise DatasetError(
            f"The prostate of case '{name}' must cover at least one voxel, but covers none. Give another mask."
        )
    return target[: len(TARGETS) if zones else 1].half()


def _share(mask: Volume, grid: Geometry) -> np.ndarray:
    """A mask or probability (D, H, W) on another grid, 0..1."""
    placed = mask.with_array(mask.array.astype(np.float32)).resample_to(grid)
    return np.clip(placed.array, 0, 1)


def sample_view(
    case: TrainingCase, spec: PreprocessSpec, generator: Generator, how: Augmentation = NO_AUGMENTATION
) -> CropSample:
    """Sample a case as the network would see it, varied at random.

    Without augmentation the image is prediction's crop: the middle of the field of view, or of the prostate.

    Args:
        case: The case.
        spec: Grid, patch and sequences of the network.
        generator: Source of all randomness.
        how: How far the view may go from the case.
    """
    knots = _index_of(random_knots(spec.patch, spec.spacing_mm, generator, how), case, spec)
    part, grid = _part_and_grid(knots, spec.patch, case.geometry.shape)
    window = random_field_of_view(generator, how)
    inside = _inside(grid, part, window, case.geometry.shape)
    image = torch.zeros(len(spec.sequences), *spec.patch)
    for channel, sequence in enumerate(spec.sequences):
        if sequence is not None:
            sampled = _interpolate(case.image[channel : channel + 1, *part], grid, "border")[0]
            sampled = _normalized_within(sampled, case.image[channel], window)
            image[channel] = vary_intensity(sampled, inside, generator, how)
    if case.labels is None:
        return CropSample(image, None)
    coarse = F.avg_pool3d(grid[None], TARGET_STRIDE)[0]
    return CropSample(image, _interpolate(case.labels[:, *part], coarse, "zeros"))


def _index_of(positions_mm: Tensor, case: TrainingCase, spec: PreprocessSpec) -> Tensor:
    """Continuous voxel indices on a case's grid of positions around the middle of the network's crop."""
    start = centered_start(case.geometry.with_spacing(spec.spacing_mm).shape, spec.patch, case.middle)
    center_mm = [
        (first + (n - 1) / 2) * spacing
        for first, n, spacing in zip(start[::-1], spec.patch[::-1], spec.spacing_mm, strict=True)
    ]
    spacing = torch.tensor(case.geometry.spacing_mm)[:, None, None, None]
    return (positions_mm + torch.tensor(center_mm)[:, None, None, None]) / spacing


def _part_and_grid(
    knots: Tensor, patch: tuple[int, int, int], shape: tuple[int, int, int]
) -> tuple[tuple[slice, ...], Tensor]:
    """The part of a volume that a view reaches, and where each of the view's voxels lies in that part.

    Args:
        knots: Continuous indices (3, d, h, w) in (x, y, z) at the view's knots.
        patch: Voxels (D, H, W) of the view.
        shape: The volume's (D, H, W).

    Returns:
        Slices (z, y, x) of the part, and positions (3, D, H, W) in (x, y, z): -1..1 from the first edge of
        the part to its last.
    """
    slices = []
    for axis, size in enumerate(shape[::-1]):
        low, high = knots[axis].aminmax()
        start = min(max(math.floor(float(low)), 0), size - 1)
        slices.append(slice(start, max(min(math.ceil(float(high)) + 1, size), start + 1)))
    first = torch.tensor([float(s.start) for s in slices])[:, None, None, None]
    length = torch.tensor([float(s.stop - s.start) for s in slices])[:, None, None, None]
    return tuple(slices[::-1]), between_knots((2 * (knots - first) + 1) / length - 1, patch)


def _inside(grid: Tensor, part: tuple[slice, ...], window: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Which voxels (D, H, W) of a view lie in a window, given as parts of each axis, of the field of view."""
    inside = torch.ones(grid.shape[1:], dtype=torch.bool)
    for axis, (size, taken) in enumerate(zip(shape[::-1], part[::-1], strict=True)):
        length = taken.stop - taken.start
        first, last = (2 * (float(edge) * size - taken.start) / length - 1 for edge in window[axis])
        inside &= (grid[axis] >= first) & (grid[axis] <= last)
    return inside


def _normalized_within(view: Tensor, image: Tensor, window: Tensor) -> Tensor:
    """A view of an image, normalized by a part of the image's field of view instead of the whole of it.

    Args:
        view: Sampled voxels (D, H, W).
        image: The whole image (D, H, W), normalized over its own field of view.
        window: First and last part along (x, y, z).
    """
    if bool((window == torch.tensor([0.0, 1.0])).all()):
        return view
    parts = []
    for (first, last), size in zip(window.flip(0).tolist(), image.shape, strict=True):
        start = round(first * size)
        parts.append(slice(start, max(round(last * size), start + min(_SMALLEST_PART, size))))
    seen = image[tuple(parts)].float()
    seen = seen[seen != 0]
    if len(seen) < 2:
        return view
    return torch.where(view != 0, (view - seen.mean()) / (seen.std() + 1e-6), view)


def _interpolate(volumes: Tensor, grid: Tensor, outside: str) -> Tensor:
    """Values (K, ...) of volumes (K, D, H, W) at positions (3, ...) in -1..1; `outside` as in `grid_sample`."""
    positions = grid.permute(1, 2, 3, 0)[None]
    return F.grid_sample(volumes[None].float(), positions, padding_mode=outside, align_corners=False)[0]
