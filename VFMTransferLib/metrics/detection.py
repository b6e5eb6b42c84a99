"""Detection of lesions as the PI-CAI challenge measures it: candidates of a probability map, and average precision.

The definitions are those of DIAGNijmegen/picai_eval 1.4.13 and its Report-Guided-Annotation 0.3 (Apache-2.0), written
from scratch: candidates by a threshold that is relative to each peak (`dynamic-v2` there), matched one to one with the
lesions. A threshold fixed in advance would take away candidates of little confidence, and with them recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # `optimize` is imported at its first use, for which a prediction need not wait
from scipy import ndimage

from ..core.volume import bounding_box

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
    found = np.zeros(probability.shape, np.uint8)
    considered = probability > MIN_PEAK / RELATIVE_LEVEL
    if not considered.any():
        return found, ()
    box = bounding_box(considered)
    remaining, regions = np.array(probability[box], np.float32), found[box]
    around = np.zeros(remaining.shape, bool)  # of all candidates so far, and what touches them
    peaks: list[float] = []
    while len(peaks) < MAX_CANDIDATES and (highest := float(remaining.max(initial=0))) >= MIN_PEAK:
        above = remaining > highest / RELATIVE_LEVEL
        parts, count = ndimage.label(above, CONNECTIVITY)
        sizes = np.bincount(parts.ravel())[1:]
        heights = np.where(sizes >= MIN_VOXELS, largest_in_regions(remaining, parts, count), 0)
        if not heights.any():
            remaining[above] = 0
            continue
        part = parts == 1 + heights.argmax()
        if not (part & around).any():
            peaks.append(float(heights.max()))
            regions[part] = len(peaks)
            near = bounding_box(part, margin=1)
            around[near] |= ndimage.binary_dilation(part[near], CONNECTIVITY)
        remaining[part] = 0
    return found, tuple(peaks)


def largest_in_regions(values: np.ndarray, regions: np.ndarray, count: int) -> np.ndarray:
    """The largest value (count,), float64, in each region 1..count of an array; SciPy's `maximum` sorts all of it."""
    marked = np.flatnonzero(regions)
    largest = np.full(count, -np.inf)
    np.maximum.at(largest, regions.ravel()[marked] - 1, values.ravel()[marked])
    return largest


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


class Ranking:
    """The candidates of some cases, the most confident first, and how many lesions each case has.

    Their average precision is the area (0..1) under precision over recall, in steps; candidates of equal confidence
    come together. By hand, because lesions without a candidate lower the recall, which scikit-learn's
    `average_precision_score` cannot express.
    """

    def __init__(self, candidates: Sequence[Sequence[Candidate]], lesions: Sequence[int]) -> None:
        ranked = sorted(((c.confidence, c.is_hit, i) for i, own in enumerate(candidates) for c in own), reverse=True)
        confidence, is_hit, case = np.array(ranked, float).reshape(-1, 3).T
        self._lesions, self._case, self._hits = np.asarray(lesions, float), case.astype(int), np.flatnonzero(is_hit)
        # Precision counts where recall rises: at the last of those with equal confidence, among which there are hits.
        last = np.flatnonzero(np.diff(confidence, append=-np.inf) != 0)
        so_far = np.cumsum(is_hit).astype(int)[last]  # hits up to each
        rises = np.diff(so_far, prepend=0) > 0
        self._last, self._so_far = last[rises], so_far[rises]

    @property
    def cases(self) -> int:
        """How many there are."""
        return len(self._lesions)

    def precision(self, times: np.ndarray) -> np.ndarray:
        """Average precision (draws,) where each case is there so many times (draws, cases); `nan` without lesions."""
        weights = times[:, self._case]
        hits = np.cumsum(weights[:, self._hits], axis=1)[:, self._so_far - 1]
        seen = np.cumsum(weights, axis=1)[:, self._last]
        gained = np.diff(hits, axis=1, prepend=0)
        lesions = times @ self._lesions
        area = (hits / np.maximum(seen, 1) * gained).sum(axis=1)
        return np.divide(area, lesions, out=np.full(len(times), np.nan), where=lesions > 0)


def average_precision(candidates: Sequence[Candidate], lesions: int) -> float:
    """That of the candidates of all cases and all their lesions, see `Ranking`; `nan` without lesions."""
    return float(Ranking([candidates], [lesions]).precision(np.ones((1, 1)))[0])
