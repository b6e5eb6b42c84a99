"""Features of an encoder for cases, layer by layer and patch by patch, and how far fine-tuning moved them.

A case is seen through a few of the windows, or slices, that prediction takes: those with the prostate, the same ones
each time, so that features before and after fine-tuning are of the same tissue. Each family defines its layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..core.placement import Prepared, cut
from ..core.volume import IntTriple, Volume
from ..encoders.base import ModelSpec, family_of
from ..inference.windows import network_input
from ..tasks import find_task, task_of
from ..tasks.base import LabeledCase
from ..tasks.training import class_number
from ..training.samples import prepare_labeled
from .distance import distance_to_pretraining
from .tables import DistanceRow

ENCODER = "encoder"
MOST_WINDOWS = 4  # of a case: of slices a sample of the gland's extent, of volumes nearly all that there are
MOST_PATCHES = 4000
_LEAST_TISSUE = 0.5
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


@dataclass(frozen=True)
class PatchTable:
    """Patches of several cases.

    Attributes:
        features: (patches, channels).
        target: (patches,).
        cases: Number of the case of each patch.
    """

    features: np.ndarray
    target: np.ndarray
    cases: np.ndarray


def patch_tables(
    networks: Sequence[nn.Module], spec: ModelSpec, studies: Iterable[LabeledCase], seed: int = 0
) -> list[PatchTable]:
    """Patches of cases as several networks see them, with what the task asks there; each case is prepared once.

    A patch is as large as a place of the family's map of features. Those count that hold prostate, where the task is
    about it and somebody marked it. The target is the training's `patch_maps`; of a classification it is the number of
    the class: there a row is a case, whose features are the encoder's own.

    Args:
        networks: In evaluation mode.
        seed: Of which patches are kept where there are very many.

    Returns:
        A table for each network, of the same patches in the same order.

    Raises:
        DatasetError: A case lacks what its task needs.
        ValueError: A network is in training mode.
    """
    if any(network.training for network in networks):
        raise ValueError("Patches must be taken in evaluation mode; call network.eval() first.")
    look = _whole_case if task_of(spec).output == "classification" else _case_patches
    features: list[list[np.ndarray]] = [[] for _ in networks]
    targets, numbers = [], []
    for number, study in enumerate(studies):
        found, target = look(networks, spec, study)
        for own, seen in zip(features, found, strict=True):
            own.append(seen)
        targets.append(target)
        numbers.append(np.full(len(target), number))
    target, cases = np.concatenate(targets), np.concatenate(numbers)
    kept = np.arange(len(target))
    if len(kept) > MOST_PATCHES:
        kept = np.sort(np.random.default_rng(seed).choice(kept, MOST_PATCHES, replace=False))
    return [PatchTable(np.concatenate(own)[kept], target[kept], cases[kept]) for own in features]


def _whole_case(
    networks: Sequence[nn.Module], spec: ModelSpec, study: LabeledCase
) -> tuple[list[np.ndarray], np.ndarray]:
    """For each network the encoder's features (1, channels) of a case; its class (1,)."""
    case = feature_cases([study], spec)
    found = [encoder_features(network, spec, case)[ENCODER] for network in networks]
    return found, np.array([float(class_number(study, spec))])


def _case_patches(
    networks: Sequence[nn.Module], spec: ModelSpec, study: LabeledCase
) -> tuple[list[np.ndarray], np.ndarray]:
    """For each network features (patches, channels) of all windows of a case; the target (patches,)."""
    case = feature_cases([study], spec)[0]
    task = find_task(study.task)
    training = task.training()
    wanted, tissue = training.patch_maps(study, case.prepared, spec)
    gland = np.ones_like(tissue)
    if study.gland is not None and not task.finds_gland:
        gland = (study.gland.resample_to(case.prepared.geometry, "nearest").array > 0).astype(np.float32)
    stacked = np.stack([wanted * tissue, tissue, gland])
    found: list[list[np.ndarray]] = [[] for _ in networks]
    targets = []
    for start in case.starts:
        inputs = [torch.from_numpy(array) for array in network_input(case.prepared, spec, start)]
        with torch.inference_mode():
            maps = [family_of(spec).patch_features(network, spec, inputs) for network in networks]  # each (C, d, h, w)
        weighted, share, of_gland = _averages(cut(stacked, start, case.prepared.patch), maps[0].shape[1:], spec)
        there = (share >= _LEAST_TISSUE) & (of_gland > 0)
        target = weighted[there] / share[there]
        targets.append(training.patch_value(target))
        for own, grid in zip(found, maps, strict=True):
            own.append(grid.flatten(1).T.double().numpy()[there.ravel()])
    return [np.concatenate(own) for own in found], np.concatenate(targets)


def _averages(window: np.ndarray, grid: Sequence[int], spec: ModelSpec) -> np.ndarray:
    """Mean over each patch of maps (K, D, H, W) in a window: (K, d, h, w)."""
    if not spec.is_slice_based:  # what is left over behind the last stride belongs to no patch
        size = [n - n % g for n, g in zip(window.shape[1:], grid, strict=True)]
        window = window[:, : size[0], : size[1], : size[2]]
    depth, height, width = grid
    volume = torch.from_numpy(np.ascontiguousarray(window, np.float64))
    return F.adaptive_avg_pool3d(volume, (depth, height, width)).numpy()
