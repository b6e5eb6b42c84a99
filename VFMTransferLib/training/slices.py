"""Random slices of a case as ProViCNet sees them at prediction: three neighbors as channels, and each pixel's truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.placement import Prepared, cut
from ..core.terms import Label
from ..core.volume import Volume
from ..encoders.base import NEIGHBORS, ModelSpec, family_of
from ..encoders.inputs import neighbor_slices, prepare
from ..phantom import Phantom
from ..phantom.gland import SIGNIFICANT_GRADE
from ..tasks import task_of
from ..tasks.training import OnTheFly
from .augmentation import Augmentation, happens, vary_intensity

_NEAR_GLAND = 0.8  # share of the samples whose slice holds gland; in the others it is as likely as any


@dataclass(frozen=True)
class SliceCase:
    """A case on the network's grid.

    Attributes:
        id: Name of the case.
        images: (S, D, H, W), a sequence each, normalized as for prediction.
        maps: (K, D, H, W), the truth, half precision; for segmentation one map of classes, by their numbers in the
            network's labels.
        corners: First row and column of each window that prediction takes in a slice.
        marked: Slices that show the prostate.
        is_signed: Whether the first map changes its sign in the mirror, as a displacement to the left does.
        keeps_intensity: Whether the truth depends on the images' intensities, which then are not varied.
        fresh: Where each sample makes the case again; its maps are not used then.
    """

    id: str
    images: Tensor = field(repr=False)
    maps: Tensor = field(repr=False)
    corners: tuple[tuple[int, int], ...]
    marked: tuple[int, ...]
    is_signed: bool = False
    keeps_intensity: bool = False
    fresh: OnTheFly | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SliceSample:
    """One slice.

    Attributes:
        windows: (S, 3, image_px, image_px), for each sequence the slice with its neighbors.
        positions: (2,), the slice's index and the number of slices.
        maps: (K, H, W) of the network grid's window.
    """

    windows: Tensor
    positions: Tensor
    maps: Tensor

    @property
    def classes(self) -> Tensor:
        """The one map as numbers of classes (H, W)."""
        return self.maps[0].long()


def slice_case(case: Case, spec: ModelSpec, gland: Volume, classes: Volume) -> SliceCase:
    """Bring a case onto the grid of a network of slices.

    Args:
        case: The study.
        spec: A network of the ProViCNet family.
        gland: Mask of the prostate, any grid; the network's input is normalized and centered by it.
        classes: Class of each voxel by its number in `spec.labels`, any grid.

    Raises:
        DatasetError: A class is none of the network's.
        MissingSequenceError: The case lacks a sequence.
    """
    found = int(classes.array.max())
    if found >= len(spec.labels):
        raise DatasetError(f"Classes of case '{case.id}' must be below {len(spec.labels)}, but one is {found}.")
    prepared = prepare(case, spec, task_of(spec), gland=gland)
    placed = classes.resample_to(prepared.geometry, "nearest").array
    return prepared_slices(case.id, prepared, placed[None], np.flatnonzero(placed.any(axis=(1, 2))))


def prepared_slices(name: str, prepared: Prepared, maps: np.ndarray, marked: Iterable[int], **kind: Any) -> SliceCase:
    """A case that is prepared already.

    Args:
        name: Name of the case.
        prepared: The network's input.
        maps: The truth (K, D, H, W) on its grid.
        marked: Slices that show the prostate.
        **kind: `is_signed`, `keeps_intensity`, `fresh`.
    """
    return SliceCase(
        id=name,
        images=torch.from_numpy(prepared.array).half(),
        maps=torch.from_numpy(np.ascontiguousarray(maps, np.float16)),
        corners=tuple(dict.fromkeys((y, x) for _, y, x in prepared.starts)),
        marked=tuple(int(z) for z in marked),
        **kind,
    )


def cancer_classes(phantom: Phantom, labels: Sequence[str]) -> Volume:
    """What a phantom's voxels are: background, normal gland, indolent or clinically significant cancer.

    Args:
        phantom: The phantom.
        labels: The network's labels; their order numbers the classes.
    """
    number = {label: labels.index(label) for label in labels}
    grade = phantom.lesion.array
    classes = np.where(phantom.gland.array > 0, number[Label.PROSTATE], number[Label.BACKGROUND])
    classes = np.where(grade > 0, number[Label.INDOLENT_CANCER], classes)
    classes = np.where(grade >= SIGNIFICANT_GRADE, number[Label.CSPCA], classes)
    return phantom.gland.with_array(classes.astype(np.uint8))


def sample_slice(
    case: SliceCase, spec: ModelSpec, generator: Generator, how: Augmentation, z: int | None = None
) -> SliceSample:
    """A random slice, varied at random.

    Args:
        case: The case.
        spec: Its network; says window and size.
        generator: Source of all randomness.
        how: Shift, mirroring and intensities are used.
        z: Which slice, if not any.
    """
    depth = case.images.shape[1]
    z = _random_slice(case, generator) if z is None else z
    _, height, width = spec.preprocess.patch
    y, x = _random_corner(case, spec, generator, how)
    neighbors = list(neighbor_slices(z, depth))
    windows = torch.from_numpy(cut(case.images[:, neighbors].float().numpy(), (0, y, x), (NEIGHBORS, height, width)))
    if case.fresh is None:
        maps = torch.from_numpy(cut(case.maps[:, z : z + 1].float().numpy(), (0, y, x), (1, height, width)))[:, 0]
    else:
        windows, maps = _fresh_slices(case.fresh, windows, neighbors, z, (y, x), generator)
    if happens(generator, how.flip):
        windows, maps = windows.flip(-1), mirrored(maps, case.is_signed)
    if not case.keeps_intensity:
        everywhere = torch.ones_like(windows[0], dtype=torch.bool)
        how = replace(how, thick=0.0)  # the neighbors are channels, and would be blurred into each other
        windows = torch.stack([vary_intensity(window, everywhere, generator, how) for window in windows])
    pixels = [family_of(spec).image_px(spec)] * 2
    scaled = F.interpolate(windows, size=pixels, mode="bilinear", align_corners=False)
    return SliceSample(scaled, torch.tensor([float(z), float(depth)]), maps)


def mirrored(maps: Tensor, is_signed: bool) -> Tensor:
    """Maps (K, ..., W) with left and right exchanged; a signed first map points the other way then."""
    maps = maps.flip(-1)
    return torch.cat([-maps[:1], maps[1:]]) if is_signed else maps


def _fresh_slices(
    fresh: OnTheFly, windows: Tensor, neighbors: list[int], z: int, corner: tuple[int, int], generator: Generator
) -> tuple[Tensor, Tensor]:
    """The windows (S, 3, H, W) made again, and the maps (K, H, W) of slice `z`; a slice may be its own neighbor."""
    places = sorted(set(neighbors))
    once = windows[:, [neighbors.index(place) for place in places]]
    images, maps = fresh.block(once, (places[0], *corner), generator)
    return images[:, [places.index(place) for place in neighbors]], maps[:, places.index(z)]


def _random_slice(case: SliceCase, generator: Generator) -> int:
    draw = torch.rand(2, generator=generator)
    if case.marked and float(draw[0]) < _NEAR_GLAND:
        return case.marked[int(float(draw[1]) * len(case.marked))]
    return int(float(draw[1]) * case.images.shape[1])


def _random_corner(case: SliceCase, spec: ModelSpec, generator: Generator, how: Augmentation) -> tuple[int, int]:
    """First row and column of the window: the one of prediction, or one of several, shifted."""
    x_mm, y_mm, _ = spec.preprocess.spacing_mm
    draw = 2 * torch.rand(2, generator=generator) - 1
    dx, dy = (
        round(float(part) * limit / step) for part, limit, step in zip(draw, how.shift_mm, (x_mm, y_mm), strict=False)
    )
    among = len(case.corners)
    y, x = case.corners[int(torch.randint(among, (1,), generator=generator)) if among > 1 else 0]
    return y + dy, x + dx
