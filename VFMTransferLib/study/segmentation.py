"""Two label maps against each other, and each against a reference."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..metrics import dice, hausdorff95_mm, volume_difference_ml
from ..volume import Geometry
from .lesion_matches import lesion_measures
from .measures import Between, Disagreement, Measure, measure
from .segments import BACKGROUND, Segments

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
