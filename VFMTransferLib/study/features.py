"""Features of an encoder for study cases, layer by layer, and how far fine-tuning moved them.

A case is seen through a few of the windows, or slices, that prediction takes: those with the prostate, the same ones
each time, so that features before and after fine-tuning are of the same tissue. What the layers are, each family says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..core.placement import Prepared, cut
from ..core.volume import IntTriple, Volume
from ..encoders.base import ModelSpec, family_of
from ..inference.windows import network_input
from ..tasks.base import LabeledCase
from ..training.samples import prepare_labeled
from .distance import distance_to_pretraining
from .tables import DistanceRow

ENCODER = "encoder"
MOST_WINDOWS = 4  # of a case: of slices a sample of the gland's extent, of volumes nearly all that there are
_SHARE_OF_BEST = 0.5  # a window counts as showing the gland from half as much gland on as the best one shows


@dataclass(frozen=True)
class FeatureCase:
    """A case through the windows that features are taken from.

    Attributes:
        starts: First voxels (z, y, x) of the windows.
    """

    id: str
    prepared: Prepared
    starts: tuple[IntTriple, ...]


def feature_cases(
    studies: Iterable[LabeledCase], spec: ModelSpec, most_windows: int = MOST_WINDOWS
) -> list[FeatureCase]:
    """Study cases with the windows that features are taken from.

    Args:
        most_windows: At most so many windows of a case, evenly from those that show the prostate, or from all where
            nobody knows where it is.

    Raises:
        MissingSequenceError: A case lacks a sequence, or a gland mask that normalization needs.
    """
    return [_feature_case(study, prepare_labeled(study, spec), most_windows) for study in studies]


def encoder_features(network: nn.Module, spec: ModelSpec, cases: Iterable[FeatureCase]) -> dict[str, np.ndarray]:
    """Features of each layer, see the module.

    Args:
        network: In evaluation mode, so that chance has no part in it.
        cases: From `feature_cases` of the same specification.

    Returns:
        Layer → (cases, channels), float64, mean over a case's windows; layers from the first to the last, then
        `encoder`.

    Raises:
        ValueError: The network is in training mode.
    """
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for case in cases:
        windows = [_window_features(network, spec, case.prepared, start) for start in case.starts]
        for layer in windows[0]:
            rows[layer].append(np.mean([window[layer] for window in windows], axis=0))
    return {layer: np.stack(found) for layer, found in rows.items()}


def distance_rows(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], encoder: str, task: str, seed: int
) -> list[DistanceRow]:
    """How far fine-tuning moved each layer's features.

    Args:
        before: From `encoder_features` of the pretrained encoder, as it was loaded.
        after: The same cases in the same order, from the fine-tuned network.
        seed: Of the fine-tuning; also of the permutations.

    Raises:
        ValueError: The two do not belong together, or are of fewer than three cases.
    """
    if list(before) != list(after):
        raise ValueError(f"Features before and after must be of the same layers, got {list(before)} and {list(after)}.")
    rows = []
    for layer in before:
        found = distance_to_pretraining(before[layer], after[layer], seed=seed)
        numbers = (found.mmd2, found.p_value, found.low_bandwidth, found.high_bandwidth, found.n_cases)
        rows.append(DistanceRow(encoder, str(task), seed, layer, *numbers))
    return rows


def gland_shares(gland: Volume, prepared: Prepared) -> np.ndarray:
    """Voxels of the prostate in each of a prepared case's windows."""
    inside = (gland.resample_to(prepared.geometry, "nearest").array > 0)[None]
    return np.array([np.count_nonzero(cut(inside, start, prepared.patch)) for start in prepared.starts])


def _feature_case(study: LabeledCase, prepared: Prepared, most: int) -> FeatureCase:
    starts = prepared.starts
    if study.gland is not None:
        voxels = gland_shares(study.gland, prepared)
        shown = (voxels > 0) & (voxels >= _SHARE_OF_BEST * voxels.max())
        starts = tuple(start for start, is_shown in zip(starts, shown, strict=True) if is_shown) or starts
    places = (np.arange(min(most, len(starts))) + 0.5) * len(starts) / min(most, len(starts))
    return FeatureCase(study.case.id, prepared, tuple(starts[int(place)] for place in places))


def _window_features(
    network: nn.Module, spec: ModelSpec, prepared: Prepared, start: IntTriple
) -> dict[str, np.ndarray]:
    if network.training:
        raise ValueError("Features must be taken in evaluation mode; call network.eval() first.")
    inputs = [torch.from_numpy(array) for array in network_input(prepared, spec, start)]
    with torch.inference_mode():
        found = family_of(spec).features(network, spec, inputs)
    return {layer: feature[0].double().numpy() for layer, feature in found.items()}
