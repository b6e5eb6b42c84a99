"""Two label maps in one vocabulary, against each other, and each against a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..core.errors import BundleError, ImageError
from ..core.result import Result
from ..core.terms import Label
from ..core.volume import Geometry
from ..metrics.agreement import dice, hausdorff95_mm, volume_difference_ml
from ..tasks import TASKS, find_task
from ..tasks.lesions import pair_regions
from .measures import Between, Disagreement, Measure, measure

BACKGROUND = 0
MAX_DISAGREEMENTS = 25
_NAMES = {Between.A: "A", Between.B: "B", Between.REFERENCE: "the reference"}


@dataclass(frozen=True)
class Segments:
    """Label maps of A and B whose values mean the same.

    Attributes:
        names: Shared labels; value i + 1 in the maps stands for `names[i]`.
        a: Label map of A (D, H, W), uint8.
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
    tables = [{str(n): v for n, v in result.label_values.items() if v != BACKGROUND} for result in (a, b)]
    whole = all(TASKS[result.task].finds_gland and Label.PROSTATE in result.volumes_ml for result in (a, b))
    names, notes = tuple(tables[0]), tuple[str, ...]()
    if set(tables[0]) != set(tables[1]):
        both = " and ".join(", ".join(table) or "nothing" for table in tables)
        names = (str(Label.PROSTATE),) if whole else tuple(name for name in tables[0] if name in tables[1])
        if not names:
            raise BundleError(f"A and B must share a structure, but they mark {both}. Compare networks of one task.")
        notes = (f"A and B mark different structures ({both}); only {', '.join(names)} is compared.",)
    maps = []
    for array, table in zip(arrays, tables, strict=True):
        shared = np.zeros(array.shape, np.uint8)
        if whole and set(names) != set(table):
            shared[array != BACKGROUND] = 1
        else:
            for i, name in enumerate(names, start=1):
                shared[array == table[name]] = i
        maps.append(shared)
    return Segments(names, maps[0], maps[1], whole, tables[0], notes)


def reference_segments(
    reference: np.ndarray, task: str, segments: Segments, label_values: dict[str, int] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Masks of a reference by structure name.

    Args:
        reference: Its label map on the grid of the results (D, H, W).
        task: States what a plain mask means.
        label_values: The caller's table name → value; None to go by the values found.

    Returns:
        Structure → mask (D, H, W), and what had to be decided, in sentences.

    Raises:
        ImageError: The values are no plain mask and none of the results' label table either.
    """
    if label_values is None:
        found = sorted({int(v) for v in np.unique(reference)} - {BACKGROUND})
        plain = find_task(task).plain_mask_label
        if plain is not None and plain in segments.names:
            note = f"Every non-zero voxel of the reference (values {found or 'none'}) counts as {plain}."
            return {str(plain): reference != 0}, (note,)
        if len(found) <= 1 and (segments.whole or len(segments.names) == 1):
            name = str(Label.PROSTATE) if segments.whole else segments.names[0]
            return {name: reference != 0}, (f"The reference has one value and counts as a mask of the {name}.",)
        label_values = segments.values
        if not set(found) <= set(label_values.values()):
            table = ", ".join(f"{value} {name}" for name, value in label_values.items())
            raise ImageError(
                f"The reference must be a mask with one value, or have the values of the results' labels ({table}), "
                f"but has {found}. "
                "Give a mask of one structure, or name its values (`reference_labels` of `compare` in Python)."
            )
    masks = {name: reference == value for name, value in label_values.items() if name in segments.names}
    if segments.whole:
        masks[str(Label.PROSTATE)] = np.isin(reference, list(label_values.values()))
    return masks, ()


def segmentation_measures(
    segments: Segments,
    geometry: Geometry,
    reference: dict[str, np.ndarray],
    covered: np.ndarray,
    lesions: tuple[str, ...] = (),
) -> tuple[Measure, ...]:
    """Volumes and overlap by structure.

    Args:
        reference: Structure → mask; empty where there is no reference.
        covered: Where the reference has values; A and B are measured against it inside only.
        lesions: Structures whose connected regions are counted one by one.
    """
    found: list[Measure] = []
    for structure in segments.structures:
        masks = {Between.A: segments.mask(segments.a, structure), Between.B: segments.mask(segments.b, structure)}
        pairs = {Between.A_B: masks}
        if structure in reference:
            masks[Between.REFERENCE] = reference[structure]
            inside = {who: mask & covered for who, mask in masks.items()}
            pairs |= {Between.A_REFERENCE: inside, Between.B_REFERENCE: inside}
        for who, mask in masks.items():
            found.append(measure("volume_ml", structure, who, int(mask.sum()) * geometry.voxel_volume_ml))
        for between, shown in pairs.items():
            found += _overlap(structure, between, shown, geometry)
        for between, shown in pairs.items() if structure in lesions else ():
            first, second = between.split("-")
            paired = pair_regions(shown[Between(first)], shown[Between(second)])
            found.append(measure("lesions_matched", structure, between, len(paired.pairs)))
            found.append(measure("lesions_added", structure, between, paired.first_only))
            found.append(measure("lesions_missed", structure, between, paired.second_only))
    return tuple(found)


def disagreements(segments: Segments, geometry: Geometry) -> tuple[Disagreement, ...]:
    """Connected regions where A and B differ, largest first, at most `MAX_DISAGREEMENTS`.

    A region is joined through faces and holds one kind of difference, so that what A marks and B
    leaves out is never one region with the reverse.
    """
    found = []
    differing = segments.a != segments.b
    for a_value, b_value in np.unique(np.stack([segments.a[differing], segments.b[differing]]), axis=1).T.tolist():
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
