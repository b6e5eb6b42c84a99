"""Distance to pretraining: how far fine-tuning moved an encoder's features. The definition is this project's own.

The measure is the unbiased estimate of the squared maximum mean discrepancy, Gretton et al., "A Kernel Two-Sample
Test", JMLR 13 (2012), with a Gaussian kernel. The two samples are features of the same cases before and after, so
they come in pairs; lemma 6's U-statistic (equation 4) leaves each pair out of the cross term, without which features
that did not move at all would have a negative distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist

MIN_CASES = 3
PERMUTATIONS = 999
BANDWIDTH_SCALES = (0.5, 2.0)


@dataclass(frozen=True)
class Distance:
    """How far features moved; comparable only within one encoder and one list of cases.

    Attributes:
        mmd2: Unbiased squared maximum mean discrepancy; may be slightly below 0 where nothing moved.
        p_value: Share of random exchanges of before and after that move them at least as far.
        bandwidth: Of the Gaussian kernel: the median distance over the pooled sample.
        low_bandwidth: `mmd2` at half the bandwidth.
        high_bandwidth: `mmd2` at twice the bandwidth.
    """

    mmd2: float
    p_value: float
    bandwidth: float
    low_bandwidth: float
    high_bandwidth: float
    n_cases: int


def distance_to_pretraining(
    before: np.ndarray, after: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Distance:
    """Distance between features of the same cases before and after fine-tuning.

    Args:
        before: Features (cases, dimensions) of the encoder as it was pretrained.
        after: The same cases in the same order, from the encoder as it was fine-tuned.
        permutations: Random exchanges within pairs for the p value.

    Raises:
        ValueError: The two are not of one shape, are too few, or are not finite.
    """
    x, y = _checked(before), _checked(after)
    if x.shape != y.shape:
        raise ValueError(f"Features must be of the same cases before and after, got shapes {x.shape} and {y.shape}.")
    bandwidth = median_bandwidth(x, y)
    low, high = (paired_mmd2(x, y, bandwidth * scale) for scale in BANDWIDTH_SCALES)
    p_value = _permutation_p(x, y, bandwidth, permutations, seed)
    return Distance(paired_mmd2(x, y, bandwidth), p_value, bandwidth, low, high, len(x))


def median_bandwidth(x: np.ndarray, y: np.ndarray) -> float:
    """Median distance between different points of the pooled sample (the median heuristic).

    Points that coincide have no scale and are ignored; 1 where all coincide.
    """
    distances = pdist(np.concatenate([x, y]))
    apart = distances[distances > 0]
    return float(np.median(apart)) if apart.size else 1.0


def paired_mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """The U-statistic of lemma 6: the mean of h over all ordered pairs of different cases.

    h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), k(a, b) = exp(-|a - b|² / (2 bandwidth²)).

    Args:
        x, y: Samples (cases, dimensions), paired by row.
        bandwidth: Of the kernel, in units of the features.
    """
    return _mean_of_different(_h_matrix(x, y, bandwidth))


def unpaired_mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float | None = None) -> float:
    """The unbiased squared maximum mean discrepancy of two samples that have nothing to do with each other (lemma 6).

    Args:
        x, y: Samples (cases, dimensions); their counts may differ.
        bandwidth: Of the Gaussian kernel; by default the median heuristic over both samples.

    Raises:
        ValueError: A sample is too small, or not finite, or they differ in dimensions.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"Both samples must have the same dimensions, got {x.shape[1]} and {y.shape[1]}.")
    width = median_bandwidth(x, y) if bandwidth is None else bandwidth
    within = _mean_of_different(_kernel(x, x, width)) + _mean_of_different(_kernel(y, y, width))
    return within - 2 * float(_kernel(x, y, width).mean())


def _h_matrix(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    cross = _kernel(x, y, bandwidth)
    return _kernel(x, x, bandwidth) + _kernel(y, y, bandwidth) - cross - cross.T


def _permutation_p(x: np.ndarray, y: np.ndarray, bandwidth: float, permutations: int, seed: int) -> float:
    """Were before and after alike, exchanging them in any pair would change nothing.

    Exchanging pair i turns h(i, j) into its negative unless j is exchanged too, so signs do for the whole matrix.
    """
    h = _h_matrix(x, y, bandwidth)
    observed = _mean_of_different(h)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(permutations, len(x)))
    exchanged = (np.einsum("pi,ij,pj->p", signs, h, signs) - np.trace(h)) / (len(x) * (len(x) - 1))
    rounding = np.finfo(float).eps * len(x)
    return float((1 + np.count_nonzero(exchanged >= observed - rounding)) / (1 + permutations))


def _mean_of_different(h: np.ndarray) -> float:
    cases = len(h)
    return float((h.sum() - np.trace(h)) / (cases * (cases - 1)))


def _kernel(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    return np.exp(-cdist(x, y, "sqeuclidean") / (2 * bandwidth**2))


def _checked(features: np.ndarray) -> np.ndarray:
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or len(array) < MIN_CASES:
        raise ValueError(f"Features must be (cases, dimensions) of at least {MIN_CASES} cases, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("Features must be finite numbers, but some are not. The network may have diverged.")
    return array
