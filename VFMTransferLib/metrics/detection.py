"""Detection of lesions as the PI-CAI challenge measures it: candidates of a probability map, and average precision.

The definitions are those of DIAGNijmegen/picai_eval 1.4.13 and its Report-Guided-Annotation 0.3 (Apache-2.0), written
from scratch: candidates by a threshold that is relative to each peak (`dynamic-v2` there), matched one to one with the
lesions. A threshold fixed in advance would take away candidates of little confidence, and with them recall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # `optimize` is imported at its first use, for which a prediction need not wait
from scipy import ndimage

MAX_CANDIDATES = 5
MIN_PEAK = 0.01
RELATIVE_LEVEL = 2.5  # a candidate is the region above its peak divided by this
MIN_VOXELS = 11
MIN_OVERLAP = 0.1  # intersection over union from which a candidate is that lesion
CONNECTIVITY = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Candidate:
    """A region that may be a lesion: the largest probability in it, and whether a lesion is there."""

    confidence: float
    is_hit: bool


def lesion_candidates(probability: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """Regions around the peaks of a probability map (D, H, W), most probable first.

    Returns the number of each voxel's candidate (D, H, W), 0 for none, and the candidates' peaks. Regions that touch a
    former candidate are none of their own.
    """
    remaining = np.array(probability, np.float32)
    regions = np.zeros(remaining.shape, np.uint8)
    peaks: list[float] = []
    while len(peaks) < MAX_CANDIDATES and (highest := float(remaining.max(initial=0))) >= MIN_PEAK:
        above = remaining > highest / RELATIVE_LEVEL
        parts, count = ndimage.label(above, CONNECTIVITY)
        sizes = np.bincount(parts.ravel())[1:]
        heights = np.where(sizes >= MIN_VOXELS, ndimage.maximum(remaining, parts, np.arange(1, count + 1)), 0)
        if not heights.any():
            remaining[above] = 0
            continue
        part = parts == 1 + heights.argmax()
        if not (part & ndimage.binary_dilation(regions > 0, CONNECTIVITY)).any():
            peaks.append(float(heights.max()))
            regions[part] = len(peaks)
        remaining[part] = 0
    return regions, tuple(peaks)


def match_candidates(probability: np.ndarray, lesions: np.ndarray) -> tuple[tuple[Candidate, ...], int]:
    """The candidates of a probability map (D, H, W), each a hit or a false positive, and the number of lesions.

    Voxels of the mask `lesions` that share a corner are one lesion. As many lesions as possible are matched, one
    candidate each, then those that overlap most. A candidate that overlaps a lesion enough, but is not its match,
    counts neither for nor against.
    """
    regions, peaks = lesion_candidates(probability)
    there, count = ndimage.label(lesions, CONNECTIVITY)
    joint = np.bincount(there.ravel() * (len(peaks) + 1) + regions.ravel(), minlength=(count + 1) * (len(peaks) + 1))
    table = joint.reshape(count + 1, len(peaks) + 1)  # voxels in lesion i and candidate j, 0 for none
    union = table[1:].sum(axis=1)[:, None] + table[:, 1:].sum(axis=0) - table[1:, 1:]
    overlap = table[1:, 1:] / union
    is_enough = overlap >= MIN_OVERLAP
    rows, columns = scipy.optimize.linear_sum_assignment(np.where(is_enough, 1 + overlap, 0), maximize=True)
    hits = {int(column) for row, column in zip(rows, columns, strict=True) if is_enough[row, column]}
    ignored = set(np.flatnonzero(is_enough.any(axis=0)).tolist()) - hits
    found = (Candidate(peak, place in hits) for place, peak in enumerate(peaks) if place not in ignored)
    return tuple(found), count


def average_precision(candidates: Sequence[Candidate], lesions: int) -> float:
    """Area (0..1) under precision over recall, in steps, of the candidates of all cases and all their lesions.

    Candidates of equal confidence come together. By hand, because lesions without a candidate lower the recall, which
    scikit-learn's `average_precision_score` cannot express. `nan` without lesions.
    """
    if lesions == 0:
        return math.nan
    area, hits, seen = 0.0, 0, 0
    for confidence in sorted({candidate.confidence for candidate in candidates}, reverse=True):
        group = [candidate.is_hit for candidate in candidates if candidate.confidence == confidence]
        hits, seen = hits + sum(group), seen + len(group)
        area += hits / seen * sum(group) / lesions
    return area
