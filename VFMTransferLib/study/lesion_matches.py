"""Lesions of two label maps, one by one: which are the same, which stand alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..lesions import pair_regions
from .measures import Between, Measure, measure


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
