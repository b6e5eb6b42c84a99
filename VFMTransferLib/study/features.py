"""Features of an encoder for cases, layer by layer, and how far fine-tuning moved them.

A case is seen through a few of the windows, or slices, that prediction takes: those with the prostate, the same ones
each time, so that features before and after fine-tuning are of the same tissue. Each family defines its layers.

The distance to pretraining is this project's own definition, by the unbiased estimate of the squared maximum mean
discrepancy: Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012), with a Gaussian kernel. Features of the same
cases before and after come in pairs; lemma 6's U-statistic (equation 4) leaves each pair out of the cross term, without
which features that did not move at all would have a negative distance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import cdist, pdist
from torch import Tensor, nn

from ..core.placement import NetworkInput, cut
from ..core.volume import IntTriple, Volume
from ..encoders.base import ModelSpec, family_of
from ..inference.windows import network_input
from ..tasks.base import LabeledCase
from ..training.samples import prepare_labeled
from .tables import DistanceRow

ENCODER = "encoder"
MOST_WINDOWS = 4  # of a case: of slices a sample of the gland's extent, of volumes nearly all that there are
MIN_CASES = 3
PERMUTATIONS = 999
BANDWIDTH_SCALES = (0.5, 2.0)
_SHARE_OF_BEST = 0.5  # a window counts as showing the gland from half as much gland on as the best one shows


@dataclass(frozen=True)
class FeatureCase:
    """A case through the windows that features are taken from, by their first voxels (z, y, x)."""

    id: str
    prepared: NetworkInput
    starts: tuple[IntTriple, ...]

    def inputs(self, spec: ModelSpec, start: IntTriple) -> list[Tensor]:
        return [torch.from_numpy(array) for array in network_input(self.prepared, spec, start)]


def feature_cases(
    labeled_cases: Iterable[LabeledCase], spec: ModelSpec, most_windows: int = MOST_WINDOWS
) -> list[FeatureCase]:
    """Cases with at most so many windows each, evenly from those that show the prostate, or from all without a mask.

    MissingSequenceError if a case lacks a sequence, or a gland mask that normalization needs.
    """
    found = []
    for labeled in labeled_cases:
        prepared = prepare_labeled(labeled, spec)
        starts = prepared.starts
        if labeled.gland is not None:
            voxels = gland_shares(labeled.gland, prepared)
            shown = (voxels > 0) & (voxels >= _SHARE_OF_BEST * voxels.max())
            starts = tuple(start for start, is_shown in zip(starts, shown, strict=True) if is_shown) or starts
        count = min(most_windows, len(starts))
        places = (np.arange(count) + 0.5) * len(starts) / count
        found.append(FeatureCase(labeled.case.id, prepared, tuple(starts[int(place)] for place in places)))
    return found


def gland_shares(gland: Volume, prepared: NetworkInput) -> np.ndarray:
    """Voxels of the prostate in each of a prepared case's windows."""
    inside = (gland.resample_to(prepared.geometry, "nearest").array > 0)[None]
    return np.array([np.count_nonzero(cut(inside, start, prepared.patch)) for start in prepared.starts])


def encoder_features(network: nn.Module, spec: ModelSpec, cases: Iterable[FeatureCase]) -> dict[str, np.ndarray]:
    """Layer → features (cases, channels), float64, mean over a case's windows; from the first layer to `encoder`.

    The network must be in evaluation mode, so that chance has no part in them.
    """
    if network.training:
        raise ValueError("Features must be taken in evaluation mode; call network.eval() first.")
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for case in cases:
        windows: dict[str, list[np.ndarray]] = defaultdict(list)
        for start in case.starts:
            with torch.inference_mode():
                found = family_of(spec).features(network, spec, case.inputs(spec, start))
            for layer, feature in found.items():
                windows[layer].append(feature[0].double().numpy())
        for layer, features in windows.items():
            rows[layer].append(np.mean(features, axis=0))
    return {layer: np.stack(features) for layer, features in rows.items()}


def distance_rows(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], encoder: str, task: str, seed: int
) -> list[DistanceRow]:
    """How far fine-tuning with a seed moved each layer's `encoder_features`, of the same cases in the same order."""
    if list(before) != list(after):
        raise ValueError(f"Features before and after must be of the same layers, got {list(before)} and {list(after)}.")
    rows = []
    for layer in before:
        found = distance_to_pretraining(before[layer], after[layer], seed=seed)
        numbers = (found.mmd2, found.p_value, found.low_bandwidth, found.high_bandwidth, found.n_cases)
        rows.append(DistanceRow(encoder, str(task), seed, layer, *numbers))
    return rows


@dataclass(frozen=True)
class Distance:
    """How far features moved; comparable only within one encoder and one list of cases.

    Attributes:
        mmd2: May be slightly below 0 where nothing moved.
        p_value: Share of random exchanges of before and after that move them at least as far.
        bandwidth: The median distance over the pooled sample.
        low_bandwidth, high_bandwidth: `mmd2` at half and at twice the bandwidth.
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
    """Distance of finite features (cases, dimensions) of the same three or more cases before and after fine-tuning."""
    x, y = _checked(before), _checked(after)
    if x.shape != y.shape:
        raise ValueError(f"Features must be of the same cases before and after, got shapes {x.shape} and {y.shape}.")
    cases, bandwidth = len(x), median_bandwidth(x, y)
    h = _h_matrix(x, y, bandwidth)
    mmd2 = _mean_of_different(h)
    # Were before and after alike, exchanging them in any pair would change nothing. Exchanging pair i turns h(i, j)
    # into its negative unless j is exchanged too, so signs do for the whole matrix.
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(permutations, cases))
    exchanged = (np.einsum("pi,ij,pj->p", signs, h, signs) - np.trace(h)) / (cases * (cases - 1))
    rounding = np.finfo(float).eps * cases
    p_value = float((1 + np.count_nonzero(exchanged >= mmd2 - rounding)) / (1 + permutations))
    low, high = (paired_mmd2(x, y, bandwidth * scale) for scale in BANDWIDTH_SCALES)
    return Distance(mmd2, p_value, bandwidth, low, high, cases)


def median_bandwidth(x: np.ndarray, y: np.ndarray) -> float:
    """Median distance between different points of the pooled sample (the median heuristic); 1 where all coincide."""
    distances = pdist(np.concatenate([x, y]))
    apart = distances[distances > 0]
    return float(np.median(apart)) if apart.size else 1.0


def paired_mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """The U-statistic of lemma 6 of samples (cases, dimensions): the mean of h over all pairs of different cases."""
    return _mean_of_different(_h_matrix(x, y, bandwidth))


def _h_matrix(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    """h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)."""
    cross = _kernel(x, y, bandwidth)
    return _kernel(x, x, bandwidth) + _kernel(y, y, bandwidth) - cross - cross.T


def _kernel(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    return np.exp(-cdist(x, y, "sqeuclidean") / (2 * bandwidth**2))


def _mean_of_different(h: np.ndarray) -> float:
    cases = len(h)
    return float((h.sum() - np.trace(h)) / (cases * (cases - 1)))


def _checked(features: np.ndarray) -> np.ndarray:
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or len(array) < MIN_CASES:
        raise ValueError(f"Features must be (cases, dimensions) of at least {MIN_CASES} cases, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("Features must be finite numbers, but some are not. The network may have diverged.")
    return array
