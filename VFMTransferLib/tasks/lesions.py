"""Lesions as masks by grade, as connected regions, and as a list: one entry a region, largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from scipy import ndimage

from ..core.case import measured_adc
from ..core.errors import DatasetError
from ..core.result import Lesion
from ..core.terms import SIGNIFICANT_GRADE, Label
from ..core.volume import Volume, bounding_box, marked_voxels
from ..metrics.detection import CONNECTIVITY, MIN_OVERLAP, largest_in_regions
from .base import ISUP_VALUES, CaseFiles, LabeledCase, read_truth

CANCER_LABELS = (Label.INDOLENT_CANCER, Label.CSPCA)


@dataclass(frozen=True)
class Pairing:
    """Connected regions of two masks, paired one to one.

    Attributes:
        first: Regions of the first mask (D, H, W), numbered from 1.
        pairs: Number of a region of the first → number of its partner in the second.
    """

    first: np.ndarray
    pairs: dict[int, int]
    first_count: int
    second_count: int

    @property
    def first_only(self) -> int:
        """How many regions of the first have no partner."""
        return self.first_count - len(self.pairs)

    @property
    def second_only(self) -> int:
        return self.second_count - len(self.pairs)


def pair_regions(first: np.ndarray, second: np.ndarray) -> Pairing:
    """Pair the regions of two masks (D, H, W) one to one, so that the overlap of all pairs is largest.

    A pair needs an intersection over union of at least `MIN_OVERLAP`. Voxels that share a corner are one region.
    """
    regions_a, count_a = ndimage.label(first, structure=CONNECTIVITY)
    regions_b, count_b = ndimage.label(second, structure=CONNECTIVITY)
    joint = np.bincount((regions_a * (count_b + 1) + regions_b).ravel(), minlength=(count_a + 1) * (count_b + 1))
    table = joint.reshape(count_a + 1, count_b + 1)  # voxels in region i of the first and j of the second
    intersection = table[1:, 1:]
    union = table[1:].sum(axis=1)[:, None] + table[:, 1:].sum(axis=0)[None] - intersection
    iou = np.where(intersection >= MIN_OVERLAP * union, intersection / np.maximum(union, 1), 0.0)
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    pairs = {int(i) + 1: int(j) + 1 for i, j in zip(rows, columns, strict=True) if iou[i, j] > 0}
    return Pairing(regions_a, pairs, count_a, count_b)


def in_prostate(marked: np.ndarray, gland: np.ndarray) -> tuple[np.ndarray, int]:
    """The regions of a mask (D, H, W) at least half of which lies in the prostate, and how many others there were."""
    if not marked.any():
        return marked, 0
    box = bounding_box(marked)
    regions, count = ndimage.label(marked[box], structure=CONNECTIVITY)
    inside = np.bincount(regions[gland[box]], minlength=count + 1)
    is_kept = 2 * inside >= np.bincount(regions.ravel(), minlength=count + 1)
    is_kept[0] = False
    kept = np.zeros_like(marked)
    kept[box] = is_kept[regions]
    return kept, count - int(is_kept.sum())


def confidences(marked: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each voxel's region (D, H, W), 0 for none, and the largest probability in each region."""
    regions, count = ndimage.label(marked, structure=CONNECTIVITY)
    return regions, largest_in_regions(probability, regions, count)


def confident(marked: np.ndarray, probability: np.ndarray, min_confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The regions of a mask (D, H, W) with a probability of at least so much, and where the others were.

    Of each other one the index (z, y, x) of its most probable voxel, the surest first: (N, 3).
    """
    regions, highest = confidences(marked, probability)
    is_kept = np.concatenate([[False], highest >= min_confidence])
    others = np.flatnonzero(~is_kept[1:]) + 1
    others = others[np.argsort(-highest[others - 1], kind="stable")]
    found = ndimage.maximum_position(probability[marked], regions[marked], others) if others.size else []
    return is_kept[regions], marked_voxels(marked)[np.array(found, int).ravel()]


def find_lesions(
    labels: Volume,
    probabilities: Mapping[str, Volume],
    adc: Volume | None = None,
    zones: Mapping[str, Volume] | None = None,
) -> tuple[Lesion, ...]:
    """Describe each connected region of the label map's non-zero voxels; none is too small.

    Args:
        probabilities: Label name → probability on the labels' grid. A lesion bears the name whose probability is
            highest on average inside it, and its confidence is the largest sum of all inside it.
        adc: ADC on any grid, 1e-6 mm²/s; read by position, where it was measured: above 0.
        zones: Zone name → mask on any grid.
    """
    if not labels.array.any():
        return ()
    box = bounding_box(labels.array > 0)
    labels = labels.cropped_to(box)
    probabilities = {name: p.cropped_to(box) for name, p in probabilities.items()}
    marked = labels.array > 0
    regions, count = ndimage.label(marked, structure=CONNECTIVITY)
    owner = regions[marked] - 1  # (N,) the region of each marked voxel
    sizes = np.bincount(owner)
    centers_mm = labels.geometry.to_world(_means(np.argwhere(marked).T[::-1], owner).T)  # (regions, 3)
    inside = np.stack([p.array[marked] for p in probabilities.values()])  # (labels, N)
    confidence = np.zeros(count)
    np.maximum.at(confidence, owner, inside.sum(axis=0))
    names = [str(list(probabilities)[i]) for i in _means(inside, owner).argmax(axis=0)]
    mean_adc: list[float | None] = [None] * count
    if adc is not None:
        values = measured_adc(adc, labels.geometry)[marked]
        known = np.isfinite(values)
        counts = np.bincount(owner[known], minlength=count)
        sums = np.bincount(owner[known], weights=values[known], minlength=count)
        mean_adc = [float(total / n) if n else None for total, n in zip(sums, counts, strict=True)]
    zone: list[str | None] = [None] * count
    if zones:  # the one that holds most of the lesion
        masks = [z.resample_to(labels.geometry, "nearest").array[marked] > 0 for z in zones.values()]
        shares = _means(np.stack(masks).astype(float), owner)  # (zones, regions)
        best = zip(shares.argmax(axis=0), shares.max(axis=0), strict=True)
        zone = [str(list(zones)[i]) if share > 0 else None for i, share in best]
    return tuple(
        Lesion(
            index=rank,
            label=names[i],
            center_mm=tuple(float(v) for v in centers_mm[i]),  # type: ignore[arg-type]
            volume_ml=float(sizes[i] * labels.geometry.voxel_volume_ml),
            confidence=min(float(confidence[i]), 1.0),
            mean_adc=mean_adc[i],
            zone=zone[i],
        )
        for rank, i in enumerate(np.argsort(-sizes, kind="stable"), start=1)
    )


def _means(rows: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Mean of each row (rows, N) over the voxels of each region: (rows, regions)."""
    return np.stack([np.bincount(owner, weights=row) for row in rows]) / np.bincount(owner)


def cancer_masks(grades: Volume) -> dict[Label, Volume]:
    """Masks of indolent and of clinically significant cancer, from a map of ISUP grade groups; empty masks count."""
    grade = grades.array
    found = {
        Label.INDOLENT_CANCER: (grade > 0) & (grade < SIGNIFICANT_GRADE),
        Label.CSPCA: grade >= SIGNIFICANT_GRADE,
    }
    return {label: grades.with_array(mask.astype(np.uint8)) for label, mask in found.items()}


def read_cancer_masks(files: CaseFiles) -> dict[Label, Volume]:
    """As `cancer_masks`, of a case on disk; DatasetError where it has no mask of lesions, or as of `read_truth`;
    ImageError of one that cannot be read."""
    grades = read_truth(files, files.names.lesion, ISUP_VALUES)
    if grades is None:
        raise DatasetError(
            f"Case '{files.case.id}' must have a mask {files.names.lesion}, empty without a lesion, but has none. "
            "Add it."
        )
    return cancer_masks(grades)


def class_map(labeled: LabeledCase, labels: Sequence[str]) -> Volume:
    """The number of each voxel's class in `labels`, on the grid of the csPCa mask."""
    cancer = labeled.masks[Label.CSPCA]
    classes = np.zeros(cancer.array.shape, np.uint8)
    parts = [(Label.PROSTATE, labeled.gland), *((label, labeled.masks.get(label)) for label in CANCER_LABELS)]
    for label, mask in parts:  # the graver overrules
        if label in labels and mask is not None:
            there = mask.resample_to(cancer.geometry, "nearest").array > 0
            classes[there] = labels.index(label)
    return cancer.with_array(classes)
