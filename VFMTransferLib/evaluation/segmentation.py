"""Lesions of two label maps, one by one: which are the same, which stand alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..core.errors import BundleError
from ..core.result import Result
from ..core.terms import Label
from ..core.volume import Geometry
from ..metrics.arrays import dice, hausdorff95_mm, volume_difference_ml
from ..tasks import TASKS
from ..tasks.lesions import pair_regions
from .measures import Between, Disagreement, Measure, measure


@dataclass(frozen=True)
class Matches:
    """Counts of connected regions.

    Attributes:
        both: Regions of the first that are paired with one of the second.
        first_only: Regions of the first without a partner.
        second_only: Regions of the second without one.
    """

    both: int
    first_only: int
    second_only: int


def match_lesions(first: np.ndarray, second: np.ndarray) -> Matches:
    """Count the regions of two masks that are one lesion; see `lesions.pair_regions`.

    Args:
        first: Mask (D, H, W).
        second: Mask of the same shape.
    """
    paired = pair_regions(first, second)
    both = len(paired.pairs)
    return Matches(both, paired.first_count - both, paired.second_count - both)


def lesion_measures(structure: str, masks: dict[Between, np.ndarray], covered: np.ndarray) -> tuple[Measure, ...]:
    """Lesions of A that B marks too, and of the reference that each arm finds, misses and adds.

    Args:
        structure: The label.
        masks: Masks (D, H, W) of A, of B, and of the reference where there is one.
        covered: Where the reference has a say.
    """
    found = [_counted(structure, Between.A_B, match_lesions(masks[Between.A], masks[Between.B]))]
    if Between.REFERENCE in masks:
        for who, between in ((Between.A, Between.A_REFERENCE), (Between.B, Between.B_REFERENCE)):
            matches = match_lesions(masks[who] & covered, masks[Between.REFERENCE] & covered)
            found.append(_counted(structure, between, matches))
    return tuple(one for group in found for one in group)


def _counted(structure: str, between: Between, matches: Matches) -> tuple[Measure, ...]:
    return (
        measure("lesions_matched", structure, between, matches.both),
        measure("lesions_added", structure, between, matches.first_only),
        measure("lesions_missed", structure, between, matches.second_only),
    )


# Two label maps in one vocabulary: the structures that A and B share.

BACKGROUND = 0


@dataclass(frozen=True)
class Segments:
    """Label maps of A and B whose values mean the same.

    Attributes:
        names: Shared labels; value i + 1 in the maps stands for `names[i]`.
        a: Label map of A (D, H, W), uint8.
        b: Label map of B.
        whole: Whether all labels together are the prostate.
        values: A's own table name → value, which a reference may use as well.
        notes: What was left out, in sentences.
    """

    names: tuple[str, ...]
    a: np.ndarray
    b: np.ndarray
    whole: bool
    values: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def structures(self) -> tuple[str, ...]:
        """What can be measured: the shared labels, and the prostate where they make it up."""
        prostate = (str(Label.PROSTATE),) if self.whole and Label.PROSTATE not in self.names else ()
        return prostate + self.names

    def mask(self, array: np.ndarray, structure: str) -> np.ndarray:
        """Mask of a structure in `a` or `b`."""
        if self.whole and structure == Label.PROSTATE:
            return array != BACKGROUND
        return array == self.names.index(structure) + 1

    def label_name(self, value: int) -> str:
        return str(Label.BACKGROUND) if value == BACKGROUND else self.names[value - 1]


def shared_segments(a: Result, b: Result) -> Segments:
    """Put the label maps of two results into one vocabulary.

    Raises:
        BundleError: The two share no structure.
        GeometryError: They lie on different grids.
    """
    if a.labels is None or b.labels is None:
        raise ValueError("Both results must have a label map.")
    a.labels.require_same_grid(b.labels)
    arrays = (a.labels.array, b.labels.array)
    tables = [_foreground(result) for result in (a, b)]
    whole = all(_is_whole_gland(result) for result in (a, b))
    names, notes = _common_names(tables, whole)
    maps = [_map(array, table, names, whole) for array, table in zip(arrays, tables, strict=True)]
    return Segments(names, maps[0], maps[1], whole, tables[0], notes)


def _common_names(tables: list[dict[str, int]], whole: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if set(tables[0]) == set(tables[1]):
        return tuple(tables[0]), ()
    both = " and ".join(", ".join(table) or "nothing" for table in tables)
    names = (str(Label.PROSTATE),) if whole else tuple(name for name in tables[0] if name in tables[1])
    if not names:
        raise BundleError(f"A and B must share a structure, but they mark {both}. Compare networks of one task.")
    return names, (f"A and B mark different structures ({both}); only {', '.join(names)} is compared.",)


def _foreground(result: Result) -> dict[str, int]:
    return {str(name): value for name, value in result.label_values.items() if value != BACKGROUND}


def _is_whole_gland(result: Result) -> bool:
    return TASKS[result.task].finds_gland and Label.PROSTATE in result.volumes_ml


def _map(array: np.ndarray, table: dict[str, int], names: tuple[str, ...], whole: bool) -> np.ndarray:
    if whole and set(names) != set(table):
        return (array != BACKGROUND).astype(np.uint8)
    out = np.zeros(array.shape, np.uint8)
    for i, name in enumerate(names):
        out[array == table[name]] = i + 1
    return out


# Two label maps against each other, and each against a reference.

MAX_DISAGREEMENTS = 25
_NAMES = {Between.A: "A", Between.B: "B", Between.REFERENCE: "the reference"}


def segmentation_measures(
    segments: Segments,
    geometry: Geometry,
    reference: dict[str, np.ndarray],
    covered: np.ndarray,
    lesions: tuple[str, ...] = (),
) -> tuple[Measure, ...]:
    """Volumes and overlap by structure.

    Args:
        segments: A and B in one vocabulary.
        geometry: Their grid.
        reference: Structure → mask; empty where there is no reference.
        covered: Where the reference has a say; A and B are measured against it inside only.
        lesions: Structures whose connected regions are counted one by one.
    """
    found: list[Measure] = []
    for structure in segments.structures:
        masks = {Between.A: segments.mask(segments.a, structure), Between.B: segments.mask(segments.b, structure)}
        if structure in reference:
            masks[Between.REFERENCE] = reference[structure]
        found += [_volume(structure, who, mask, geometry) for who, mask in masks.items()]
        found += _overlap(structure, Between.A_B, masks, geometry)
        if Between.REFERENCE in masks:
            inside = {who: mask & covered for who, mask in masks.items()}
            found += _overlap(structure, Between.A_REFERENCE, inside, geometry)
            found += _overlap(structure, Between.B_REFERENCE, inside, geometry)
        if structure in lesions:
            found += lesion_measures(structure, masks, covered)
    return tuple(found)


def disagreements(segments: Segments, geometry: Geometry) -> tuple[Disagreement, ...]:
    """Connected regions where A and B differ, largest first, at most `MAX_DISAGREEMENTS`.

    A region is joined through faces and holds one kind of difference, so that what A marks and B
    leaves out is never one region with the reverse.
    """
    found = []
    for a_value, b_value in _differing_pairs(segments):
        regions, _ = ndimage.label((segments.a == a_value) & (segments.b == b_value))
        sizes = np.bincount(regions.ravel())
        sizes[BACKGROUND] = 0
        largest = np.argsort(-sizes, kind="stable")[:MAX_DISAGREEMENTS]
        boxes = ndimage.find_objects(regions)
        for number in (int(n) for n in largest if sizes[n]):
            box = boxes[number - 1]
            voxels = np.argwhere(regions[box] == number) + [s.start for s in box]
            found.append((a_value, b_value, voxels))
    found.sort(key=lambda region: -len(region[2]))
    return tuple(
        _disagreement(i, segments.label_name(a), segments.label_name(b), voxels, geometry)
        for i, (a, b, voxels) in enumerate(found[:MAX_DISAGREEMENTS], start=1)
    )


def slice_of_most_disagreement(segments: Segments) -> int:
    """Slice with most differing voxels; where A and B agree, the one with most marked voxels; else the middle."""
    for marked in (segments.a != segments.b, segments.a != BACKGROUND):
        per_slice = marked.sum(axis=(1, 2))
        if per_slice.any():
            return int(per_slice.argmax())
    return len(segments.a) // 2


def _volume(structure: str, who: Between, mask: np.ndarray, geometry: Geometry) -> Measure:
    return measure("volume_ml", structure, who, int(mask.sum()) * geometry.voxel_volume_ml)


def _overlap(
    structure: str, between: Between, masks: dict[Between, np.ndarray], geometry: Geometry
) -> tuple[Measure, ...]:
    first, second = (Between(who) for who in between.split("-"))
    a, b = masks[first], masks[second]
    empty = " and ".join(_NAMES[who] for who in (first, second) if not masks[who].any())
    why = f"{empty} {'are' if ' and ' in empty else 'is'} empty" if empty else ""
    both_empty = why if " and " in empty else ""
    return (
        measure("dice", structure, between, dice(a, b), both_empty),
        measure("hausdorff95_mm", structure, between, hausdorff95_mm(a, b, geometry.spacing_mm), why),
        measure("volume_difference_ml", structure, between, volume_difference_ml(a, b, geometry.voxel_volume_ml)),
    )


def _differing_pairs(segments: Segments) -> list[tuple[int, int]]:
    differing = segments.a != segments.b
    pairs = np.unique(np.stack([segments.a[differing], segments.b[differing]]), axis=1).T
    return [(int(a), int(b)) for a, b in pairs]


def _disagreement(index: int, a_label: str, b_label: str, voxels: np.ndarray, geometry: Geometry) -> Disagreement:
    """Describe a region by its voxels (N, 3) in array order (z, y, x)."""
    slices, counts = np.unique(voxels[:, 0], return_counts=True)
    slice_index = int(slices[counts.argmax()])
    within = voxels[voxels[:, 0] == slice_index]
    nearest = np.linalg.norm((within - within.mean(axis=0)) * geometry.spacing_mm[::-1], axis=1).argmin()
    x, y, z = (int(v) for v in within[nearest][::-1])
    px, py, pz = (float(v) for v in geometry.to_world((x, y, z)))
    volume_ml = len(voxels) * geometry.voxel_volume_ml
    return Disagreement(index, a_label, b_label, volume_ml, (px, py, pz), (x, y, z), slice_index)
