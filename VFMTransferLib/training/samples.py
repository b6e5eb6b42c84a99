"""Random training samples of a case, whatever network and task, cut and normalized as at prediction.

Networks of windows sample one crop in one interpolation, from the grid that was scanned, so that training and
prediction interpolate alike; where they give an image, they take windows of the network's grid, since a residual
belongs to one interpolation of the image. Networks of slices take slices of that grid, with neighbors as channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.measurements import PHASE_AXES
from ..core.placement import NetworkInput, ZScore, centered_start, cut
from ..core.volume import Geometry, IntTriple, Triple, Volume
from ..encoders.base import NEIGHBORS, ModelSpec, PreprocessSpec, family_of
from ..encoders.inputs import gland_center, neighbor_slices, network_grid, prepare, reference_sequence
from ..encoders.pretext import TISSUE_MAPS
from ..phantom import Phantom
from ..phantom.phantom import ZONE_PERIPHERAL, ZONE_TRANSITION
from ..tasks import find_task
from ..tasks.base import LabeledCase
from ..tasks.training import OnTheFly, Sample, class_number
from .augmentation import (
    between_knots,
    happens,
    random_field_of_view,
    random_knots,
    random_misregistration,
    random_pile_up,
    uniform,
    vary_intensity,
    view_scale,
)
from .config import NO_AUGMENTATION, Augmentation

# Targets are compared at half the input's resolution, in each axis: finer than the networks' own maps.
TARGET_STRIDE = 2
# Slices of one case that a step of a classifier sees; the worst of them stands for the worst of all.
SLICES_A_CASE = 2
_WINDOWS_AT_GLAND, _SLICES_OF_GLAND = 0.5, 0.8  # shares of the samples; the others lie anywhere
_SMALLEST_PART = 16
_CAPSULE = TISSUE_MAPS.index("capsule_mm")


@dataclass(frozen=True)
class CropSamples:
    """Crops that are sampled from the reference sequence's own grid, axes nearest to L, P, S.

    Image (C, D, H, W), each channel normalized over its whole field of view, and the probability of each structure that
    is learned (K, D, H, W); None for pretraining and classification.
    """

    id: str
    image: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    geometry: Geometry
    spec: PreprocessSpec
    middle: Triple | None = None  # index (z, y, x) on the network's grid that the crop lies around; None: the center
    category: int | None = None  # number of the class, of a classification

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        image, target = self.view(generator, how)
        if self.category is not None:
            return Sample((image[None],), torch.zeros(1, 0), category=torch.tensor([self.category]))
        if target is None:
            raise DatasetError(f"Case '{self.id}' must have labels to learn from, but has none.")
        return Sample((image[None],), target[None])

    def view(self, generator: Generator, how: Augmentation = NO_AUGMENTATION) -> tuple[Tensor, Tensor | None]:
        """The case as the network would see it, varied at random; without augmentation it is prediction's crop.

        Input (C, D, H, W), and probabilities (K, D, H, W) / `TARGET_STRIDE` where there are labels.
        """
        spec, shape = self.spec, self.geometry.shape
        start = centered_start(self.geometry.with_spacing(spec.spacing_mm).shape, spec.patch, self.middle)
        center_mm = [
            (first + (n - 1) / 2) * spacing
            for first, n, spacing in zip(start[::-1], spec.patch[::-1], spec.spacing_mm, strict=True)
        ]
        center, spacing = (torch.tensor(xyz)[:, None, None, None] for xyz in (center_mm, self.geometry.spacing_mm))
        knots = (random_knots(spec.patch, spec.spacing_mm, generator, how) + center) / spacing
        part, grid = _part_and_grid(knots, spec.patch, shape)
        window = random_field_of_view(generator, how)
        inside = torch.ones(spec.patch, dtype=torch.bool)  # which voxels lie in the window of the field of view
        for axis, (size, taken) in enumerate(zip(shape[::-1], part[::-1], strict=True)):
            length = taken.stop - taken.start
            first, last = (2 * (float(edge) * size - taken.start) / length - 1 for edge in window[axis])
            inside &= (grid[axis] >= first) & (grid[axis] <= last)
        image = torch.zeros(len(spec.sequences), *spec.patch)
        apart_mm = random_misregistration(spec.sequences, generator, how)
        for channel, sequence in enumerate(spec.sequences):
            if sequence is None:
                continue
            where = (part, grid)
            if apart_mm[channel].any():
                where = _part_and_grid(knots - apart_mm[channel, :, None, None, None] / spacing, spec.patch, shape)
            own_part, own_grid = where
            sampled = _interpolate(self.image[channel : channel + 1, *own_part], own_grid, "border")[0]
            if not bool(sampled.any()):  # a sequence that the case lacks stays zeros
                continue
            normalized = _normalized_within(sampled, self.image[channel], window)
            normalized = random_pile_up(normalized, sequence, spec.spacing_mm, generator, how)
            image[channel] = vary_intensity(normalized, inside, generator, how)
        if self.labels is None:
            return image, None
        coarse = F.avg_pool3d(grid[None], TARGET_STRIDE)[0]
        return image, _interpolate(self.labels[:, *part], coarse, "zeros")


def crop_samples(
    case: Case,
    spec: ModelSpec,
    masks: Sequence[Volume] = (),
    *,
    center: Volume | None = None,
    category: int | None = None,
) -> CropSamples:
    """Bring a case and its labels onto one grid; a sequence that it lacks is a channel of zeros.

    Args:
        masks: Mask or probability of each structure that is learned, on any grid.
        center: Mask of the prostate that the crop lies around, as at prediction where it is known.
        category: Number of the class, of a classification.

    Raises:
        DatasetError: The mask of a gland that is to be found marks nothing.
        ImageError: The mask to lie around is empty, or outside of the image.
    """
    task = None if spec.task is None else find_task(spec.task)
    seen_grid = network_grid(case, spec, task)
    grid = case[reference_sequence(case, spec, task)].to_nearest_lps().geometry
    channels = np.zeros((len(spec.preprocess.sequences), *grid.shape), np.float32)
    for channel, sequence in enumerate(spec.preprocess.sequences):
        if sequence is not None and sequence in case:  # normalized as `inputs.prepare` does, on the network's grid
            seen, voxels = (case[sequence].resample_to(place).array for place in (seen_grid, grid))
            scale = ZScore.fit(seen[seen != 0]) if seen.any() else ZScore()
            channels[channel] = np.where(voxels != 0, scale.apply(voxels), np.float32(0))
    shares = [np.clip(mask.with_array(mask.array.astype(np.float32)).resample_to(grid).array, 0, 1) for mask in masks]
    if shares and task is not None and task.finds_gland and not shares[0].any():
        raise DatasetError(
            f"The prostate of case '{case.id}' must cover at least one voxel, but covers none. Give another mask."
        )
    return CropSamples(
        id=case.id,
        # Half precision holds a normalized image to 1e-3 of its deviation, and many cases in memory.
        image=torch.from_numpy(channels).half(),
        labels=torch.from_numpy(np.stack(shares)).half() if shares else None,
        geometry=grid,
        spec=spec.preprocess,
        middle=None if center is None else gland_center(center, seen_grid),
        category=category,
    )


@dataclass(frozen=True)
class TissueSamples:
    """Views of what a phantom is made of, where a network's windows or slices would show the phantom."""

    maps: Tensor = field(repr=False)  # (7, D, H, W) in the order of `TISSUE_MAPS`, half precision
    geometry: Geometry
    spec: ModelSpec
    middle: Triple  # index (z, y, x) of the gland's middle
    marked: tuple[int, ...]  # slices of the gland

    def view(self, generator: Generator, how: Augmentation) -> tuple[Tensor, Tensor | None]:
        """A window (7, D, H, W), or a slice with its neighbors (7, 3, P, P) and its position (2,), moved at random.

        Distances are in millimeters of the view, which may show the phantom larger or smaller than it is.
        """
        spec, (z, y, x) = self.spec, self.middle
        patch, spacing_mm, position = spec.preprocess.patch, spec.preprocess.spacing_mm, None
        if spec.is_slice_based:
            pixels = family_of(spec).image_px(spec)
            width_mm, height_mm = (n * s for n, s in zip(patch[:0:-1], spacing_mm, strict=False))
            patch, spacing_mm = (NEIGHBORS, pixels, pixels), (width_mm / pixels, height_mm / pixels, spacing_mm[2])
            draw, place = uniform(generator, 0, 1, 2).tolist()
            depth = self.geometry.shape[0]
            among = self.marked if draw < _SLICES_OF_GLAND else range(depth)
            z = among[int(place * len(among))]
            step = self.geometry.spacing_mm[2] / spacing_mm[2]  # positions are counted on the network's grid
            own = round(z * step)
            count = max(round(depth * step), own + 1)
            position = torch.tensor([float(own), float(count)])
            z += (neighbor_slices(own, count)[1] - own) / step  # at the ends the window moves inwards
            how = replace(how, rotation_deg=(0.0, 0.0, how.rotation_deg[2]), shift_mm=(*how.shift_mm[:2], 0.0))
        middle, spacing = (torch.tensor(xyz)[:, None, None, None] for xyz in ((x, y, z), self.geometry.spacing_mm))
        knots_mm = random_knots(patch, spacing_mm, generator, how)
        part, grid = _part_and_grid(knots_mm / spacing + middle, patch, self.geometry.shape)
        maps = _interpolate(self.maps[:, *part], grid, "border")
        maps[_CAPSULE] /= view_scale(knots_mm, patch, spacing_mm)
        return maps, position


def tissue_samples(phantom: Phantom, spec: ModelSpec) -> TissueSamples:
    """DatasetError where the phantom was made without its tissue maps."""
    if phantom.tissues is None:
        raise DatasetError(
            f"Phantom '{phantom.case.id}' must come with its tissue maps, but lacks them. Make it again."
        )
    gland, zones = phantom.gland.to_nearest_lps(), phantom.zones.to_nearest_lps()
    found = {one.name: getattr(phantom.tissues, one.name).to_nearest_lps().array for one in fields(phantom.tissues)}
    found |= {"peripheral": zones.array == ZONE_PERIPHERAL, "transition": zones.array == ZONE_TRANSITION}
    z, y, x = np.argwhere(gland.array > 0).mean(axis=0)
    maps = torch.from_numpy(np.stack([found[name].astype(np.float16) for name in TISSUE_MAPS]))
    return TissueSamples(maps, gland.geometry, spec, (float(z), float(y), float(x)), _marked_slices(gland.array))


def _part_and_grid(knots: Tensor, patch: IntTriple, shape: IntTriple) -> tuple[tuple[slice, ...], Tensor]:
    """The part (z, y, x) of a volume that a view reaches, and where each of the view's voxels lies in it.

    From continuous indices (3, d, h, w) in (x, y, z) at the view's knots to positions (3, D, H, W) in (x, y, z): -1..1
    from the first edge of the part to its last.
    """
    slices = []
    for axis, size in enumerate(shape[::-1]):
        low, high = knots[axis].aminmax()
        start = min(max(math.floor(float(low)), 0), size - 1)
        slices.append(slice(start, max(min(math.ceil(float(high)) + 1, size), start + 1)))
    first = torch.tensor([float(s.start) for s in slices])[:, None, None, None]
    length = torch.tensor([float(s.stop - s.start) for s in slices])[:, None, None, None]
    return tuple(slices[::-1]), between_knots((2 * (knots - first) + 1) / length - 1, patch)


def _normalized_within(view: Tensor, image: Tensor, window: Tensor) -> Tensor:
    """A view (D, H, W) of an image, normalized by a window of the image's field of view instead of the whole of it."""
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


@dataclass(frozen=True)
class GridSamples:
    """A case on the network's grid, as it is prepared for prediction, in half precision."""

    id: str
    images: Tensor = field(repr=False)  # (C, D, H, W), normalized
    maps: Tensor = field(repr=False)  # (K, D, H, W), the truth
    starts: tuple[IntTriple, ...]  # first voxels (z, y, x) of the windows that prediction takes
    spec: ModelSpec
    category: int | None = None  # number of the class, of a classification
    phase_axis: int = 0  # index axis of the phase encoding
    is_signed: bool = False  # whether the first map changes its sign in the mirror, as a displacement to the left does
    keeps_intensity: bool = False  # whether the truth depends on the images' intensities, which then are not varied
    fresh: OnTheFly | None = field(default=None, repr=False)  # makes the case again each time; no maps are used then

    def mirrored(self, images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Images (..., W) and maps (K, ..., W) with left and right exchanged."""
        images, maps = images.flip(-1), maps.flip(-1)
        return images, torch.cat([-maps[:1], maps[1:]]) if self.is_signed else maps


@dataclass(frozen=True)
class WindowSamples(GridSamples):
    """Windows, as image-to-image networks see them at prediction."""

    near: IntTriple | None = None  # first voxel of a window around the prostate, which a part of the samples shows

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """One of prediction's windows, shifted, mirrored, and as another scanner would show it."""
        grid = self.spec.preprocess
        chosen = self.starts[int(float(uniform(generator, 0, 1)) * len(self.starts))]
        if self.near is not None and happens(generator, _WINDOWS_AT_GLAND):
            chosen = self.near
        moved = uniform(generator, -1, 1, 3) * torch.tensor(how.shift_mm) / torch.tensor(grid.spacing_mm)
        z, y, x = (  # no further out of the image than the window must be
            min(max(first + round(float(shift)), 0), size - patch) if size >= patch else first
            for first, shift, size, patch in zip(chosen, moved.flip(0), self.images.shape[1:], grid.patch, strict=True)
        )
        start = (z, y, x)
        image, maps = (_cut(part, start, grid.patch) for part in (self.images, self.maps))
        if self.fresh is not None:
            image, maps = self.fresh.block(image, start, generator)
        if happens(generator, how.flip):
            image, maps = self.mirrored(image, maps)
        if not self.keeps_intensity:
            varied = [
                vary_intensity(channel, seen, generator, how) if bool(seen.any()) else channel
                for channel, seen in zip(image, image != 0, strict=True)
            ]
            image = torch.stack(varied)
        return Sample((image[None],), maps[None], self.phase_axis)


@dataclass(frozen=True)
class SliceSamples(GridSamples):
    """Slices: one a sample, or of a classification several of the gland; `marked` are those that show the prostate."""

    marked: tuple[int, ...] = ()

    @property
    def worst(self) -> tuple[int, ...]:
        """Slices that show the highest class of the map, or the prostate where there is no map."""
        known = self.maps.numpy()
        return _marked_slices(known[0] == known[0].max()) if len(known) else self.marked

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        if self.category is None:
            windows, position, maps = self.view(generator, how)
            return Sample((*windows[:, None], position[None]), maps[None], self.phase_axis)
        # Where lesions are known, one slice shows the gravest: few would by chance, and the class be of nothing seen.
        among = [self.worst, *(SLICES_A_CASE - 1) * [self.marked]]
        drawn = [slices[int(torch.randint(len(slices), (1,), generator=generator))] for slices in among]
        views = [self.view(generator, how, z) for z in drawn]
        # (N, S, 3, P, P), (N, 2), (N, K, H, W)
        windows, positions, maps = (torch.stack(part) for part in zip(*views, strict=True))
        return Sample((*windows.unbind(1), positions), maps, category=torch.tensor([self.category]))

    def view(
        self, generator: Generator, how: Augmentation = NO_AUGMENTATION, z: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A random slice, or slice `z`, varied at random: its shift, mirroring and intensities.

        For each sequence the slice with its neighbors (S, 3, image_px, image_px); the slice's index and the number of
        slices (2,); the maps (K, H, W) of the network grid's window.
        """
        depth = self.images.shape[1]
        if z is None:
            draw, place = torch.rand(2, generator=generator).tolist()
            of_gland = self.marked and draw < _SLICES_OF_GLAND
            z = self.marked[int(place * len(self.marked))] if of_gland else int(place * depth)
        _, height, width = self.spec.preprocess.patch
        y, x = self._random_corner(generator, how)
        neighbors = list(neighbor_slices(z, depth))
        size = (NEIGHBORS, height, width)
        windows = _cut(self.images[:, neighbors], (0, y, x), size)
        if self.fresh is None:
            for channel, (dx, dy, _) in enumerate(self._misregistration(generator, how)):
                if (dx, dy) != (0, 0):
                    windows[channel] = _cut(self.images[channel : channel + 1, neighbors], (0, y - dy, x - dx), size)[0]
            maps = _cut(self.maps[:, z : z + 1], (0, y, x), (1, height, width))[:, 0]
        else:  # a slice may be its own neighbor
            places = sorted(set(neighbors))
            once = windows[:, [neighbors.index(place) for place in places]]
            images, fresh_maps = self.fresh.block(once, (places[0], y, x), generator)
            windows = images[:, [places.index(place) for place in neighbors]]
            maps = fresh_maps[:, places.index(z)]
        if happens(generator, how.flip):
            windows, maps = self.mirrored(windows, maps)
        if not self.keeps_intensity:
            everywhere = torch.ones_like(windows[0], dtype=torch.bool)
            how = replace(how, thick=0.0)  # the neighbors are channels, and would be blurred into each other
            grid = self.spec.preprocess
            piled = [
                random_pile_up(window, sequence, grid.spacing_mm, generator, how)
                for window, sequence in zip(windows, grid.sequences, strict=True)
            ]
            windows = torch.stack([vary_intensity(window, everywhere, generator, how) for window in piled])
        pixels = [family_of(self.spec).image_px(self.spec)] * 2
        scaled = F.interpolate(windows, size=pixels, mode="bilinear", align_corners=False)
        return scaled, torch.tensor([float(z), float(depth)]), maps

    def _misregistration(self, generator: Generator, how: Augmentation) -> list[list[int]]:
        """Of each sequence the shift (x, y, z) against T2w in voxels."""
        grid = self.spec.preprocess
        apart_mm = random_misregistration(grid.sequences, generator, how)
        return (apart_mm / torch.tensor(grid.spacing_mm)).round().int().tolist()

    def _random_corner(self, generator: Generator, how: Augmentation) -> tuple[int, int]:
        """First row and column of the window: the one of prediction, or one of several, shifted."""
        draw = 2 * torch.rand(2, generator=generator) - 1
        dx, dy = (
            round(float(part) * limit / step)
            for part, limit, step in zip(draw, how.shift_mm[:2], self.spec.preprocess.spacing_mm[:2], strict=True)
        )
        corners = list(dict.fromkeys((y, x) for _, y, x in self.starts))
        among = len(corners)
        y, x = corners[int(torch.randint(among, (1,), generator=generator)) if among > 1 else 0]
        return y + dy, x + dx


def _cut(array: Tensor, start: IntTriple, size: IntTriple) -> Tensor:
    """A block (C, *size) of an array (C, D, H, W) in single precision, 0 outside."""
    return torch.from_numpy(cut(array.numpy(), start, size)).float()


def slice_samples(
    case: Case, spec: ModelSpec, gland: Volume | None = None, classes: Volume | None = None
) -> SliceSamples:
    """Slices of a case for pretraining.

    Args:
        gland: Mask of the prostate, any grid, by which the input is normalized and centered as at prediction; its
            slices, or those that show any class, are shown more often than the others.
        classes: Class of each voxel by its number in `spec.labels`, any grid, where the pretext task needs it.
    """
    if classes is not None and (found := int(classes.array.max())) >= len(spec.labels):
        raise DatasetError(f"Classes of case '{case.id}' must be below {len(spec.labels)}, but one is {found}.")
    prepared = prepare(case, spec, None if spec.task is None else find_task(spec.task), gland=gland)
    shown = gland if classes is None else classes
    placed = None if shown is None else shown.resample_to(prepared.geometry, "nearest").array
    maps = np.zeros((0, *prepared.geometry.shape), np.float32) if classes is None or placed is None else placed[None]
    return SliceSamples(**_on_grid(case.id, spec, prepared, maps), marked=_marked_slices(placed))


def _marked_slices(mask: np.ndarray | None) -> tuple[int, ...]:
    return () if mask is None else tuple(int(z) for z in np.flatnonzero((mask > 0).any(axis=(1, 2))))


def _on_grid(name: str, spec: ModelSpec, prepared: NetworkInput, maps: np.ndarray) -> dict[str, Any]:
    return {
        "id": name,
        "spec": spec,
        "images": torch.from_numpy(prepared.array).half(),
        "maps": torch.from_numpy(np.ascontiguousarray(maps, np.float16)),
        "starts": prepared.starts,
    }


CaseSamples = CropSamples | WindowSamples | SliceSamples


def samples_of(labeled: LabeledCase, spec: ModelSpec) -> CaseSamples:
    """The training samples of a case for a network.

    DatasetError where the case is of another task or lacks what its task needs, MissingSequenceError without a
    sequence.
    """
    if labeled.task != spec.task:
        raise DatasetError(f"Case '{labeled.case.id}' must be for {spec.task}, but is for {labeled.task}.")
    task = find_task(labeled.task)
    training = task.training()
    category = None if task.output.has_voxels else class_number(labeled, spec)
    if not spec.is_slice_based and not task.output.gives_images:
        labeled.case.require(spec.preprocess.images)
        masks = () if category is not None else training.crop_masks(labeled)
        center = None if task.finds_gland else labeled.gland
        return crop_samples(labeled.case, spec, masks, center=center, category=category)
    prepared = prepare_labeled(labeled, spec)
    grid, fresh = prepared.geometry, training.on_the_fly(labeled, prepared, spec)
    maps = np.zeros((0, *grid.shape), np.float32) if fresh is not None else training.targets(labeled, prepared, spec)
    common = _on_grid(labeled.case.id, spec, prepared, maps) | {
        "category": category,
        "phase_axis": PHASE_AXES[labeled.phase_axis],
        "is_signed": training.is_signed(labeled),
        "keeps_intensity": training.keeps_intensity,
        "fresh": fresh,
    }
    if spec.is_slice_based:
        inside = None if labeled.gland is None else labeled.gland.resample_to(grid, "nearest").array
        return SliceSamples(**common, marked=_marked_slices(inside))
    near = None
    if training.shows_gland_often and labeled.gland is not None:
        near = centered_start(grid.shape, prepared.patch, gland_center(labeled.gland, grid))
    return WindowSamples(**common, near=near)


def prepare_labeled(labeled: LabeledCase, spec: ModelSpec) -> NetworkInput:
    """A labeled case as the network's input; the gland's mask helps as at prediction, but to find the gland itself."""
    task = find_task(labeled.task)
    return prepare(labeled.case, spec, task, gland=None if task.finds_gland else labeled.gland)
