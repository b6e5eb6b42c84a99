"""Lesions of two label maps, one by one: which are the same, which stand alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # which loads `optimize`, as slow as all else here, when it is first asked for
from scipy import ndimage

from ..lesions import CONNECTIVITY
from .measures import Between, Measure, measure

MIN_IOU = 0.1
"""Overlap from which two regions are one lesion, as in the PI-CAI challenge's evaluation."""


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
    """Pair the regions of two masks one to one, so that the overlap of all pairs is largest.

    A pair needs an intersection over union of at least `MIN_IOU`. Voxels that share a corner are
    one region.

    Args:
        first: Mask (D, H, W).
        second: Mask of the same shape.
    """
    regions_a, count_a = ndimage.label(first, structure=CONNECTIVITY)
    regions_b, count_b = ndimage.label(second, structure=CONNECTIVITY)
    pairs = np.bincount((regions_a * (count_b + 1) + regions_b).ravel(), minlength=(count_a + 1) * (count_b + 1))
    table = pairs.reshape(count_a + 1, count_b + 1)  # voxels in region i of the first and j of the second
    intersection = table[1:, 1:]
    union = table[1:].sum(axis=1)[:, None] + table[:, 1:].sum(axis=0)[None] - intersection
    iou = np.where(intersection >= MIN_IOU * union, intersection / np.maximum(union, 1), 0.0)
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    both = int((iou[rows, columns] > 0).sum())
    return Matches(both, count_a - both, count_b - both)


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
