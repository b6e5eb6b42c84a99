"""Random windows of a case on the network's grid, as ProFound's image-to-image networks see them at prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..core.placement import Prepared, cut
from ..core.volume import IntTriple
from ..encoders.base import ModelSpec
from .augmentation import Augmentation, happens, uniform, vary_intensity
from .slices import Fresh, mirrored

_NEAR_GLAND = 0.5


@dataclass(frozen=True)
class WindowCase:
    """A case on the network's grid.

    Attributes:
        id: Name of the case.
        images: (C, D, H, W), normalized as for prediction.
        maps: (K, D, H, W), the truth, half precision.
        starts: First voxels (z, y, x) of the windows that prediction takes.
        near: First voxel of a window around the prostate, which a part of the samples shows; None shows all alike.
        is_signed: Whether the first map changes its sign in the mirror, as a displacement to the left does.
        keeps_intensity: Whether the truth depends on the images' intensities, which then are not varied.
        fresh: Where each sample makes the case anew; its maps are not asked then.
    """

    id: str
    images: Tensor = field(repr=False)
    maps: Tensor = field(repr=False)
    starts: tuple[IntTriple, ...]
    near: IntTriple | None = None
    is_signed: bool = False
    keeps_intensity: bool = False
    fresh: Fresh | None = field(default=None, repr=False)


@dataclass(frozen=True)
class WindowSample:
    """One window: the input (C, D, H, W) and the truth (K, D, H, W)."""

    image: Tensor
    maps: Tensor


def window_case(name: str, prepared: Prepared, maps: np.ndarray, **kind: Any) -> WindowCase:
    """A prepared case with its truth on the same grid; `kind` are the other fields of `WindowCase`."""
    return WindowCase(
        id=name,
        images=torch.from_numpy(prepared.array).half(),
        maps=torch.from_numpy(np.ascontiguousarray(maps, np.float16)),
        starts=prepared.starts,
        **kind,
    )


def sample_window(case: WindowCase, spec: ModelSpec, generator: Generator, how: Augmentation) -> WindowSample:
    """A random window, varied at random: one of prediction's, shifted, mirrored, and as another scanner would show it.

    Args:
        case: The case.
        spec: Its network; says the window's size.
        generator: Source of all randomness.
        how: Shift, mirroring and intensities are used.
    """
    start = _random_start(case, spec, generator, how)
    image, maps = (
        torch.from_numpy(cut(part.numpy(), start, spec.preprocess.patch)).float() for part in (case.images, case.maps)
    )
    if case.fresh is not None:
        image, maps = case.fresh.block(image, start, generator)
    if happens(generator, how.flip):
        image, maps = image.flip(-1), mirrored(maps, case.is_signed)
    if case.keeps_intensity:
        return WindowSample(image, maps)
    inside = image != 0
    varied = [
        vary_intensity(channel, seen, generator, how) if bool(seen.any()) else channel
        for channel, seen in zip(image, inside, strict=True)
    ]
    return WindowSample(torch.stack(varied), maps)


def _random_start(case: WindowCase, spec: ModelSpec, generator: Generator, how: Augmentation) -> IntTriple:
    """First voxel of one of the windows, moved, but no further out of the image than the window must be."""
    chosen = case.starts[int(float(uniform(generator, 0, 1)) * len(case.starts))]
    if case.near is not None and happens(generator, _NEAR_GLAND):
        chosen = case.near
    moved = uniform(generator, -1, 1, 3) * torch.tensor(how.shift_mm) / torch.tensor(spec.preprocess.spacing_mm)
    z, y, x = (
        _within(first + round(float(shift)), first, size, patch)
        for first, shift, size, patch in zip(
            chosen, moved.flip(0), case.images.shape[1:], spec.preprocess.patch, strict=True
        )
    )
    return (z, y, x)


def _within(start: int, unmoved: int, size: int, patch: int) -> int:
    return min(max(start, 0), size - patch) if size >= patch else unmoved
