"""What an encoder makes of each patch of a case, and what the task asks of it there: rows for linear estimates.

A patch is as large as a place of the map of features that the encoder's family gives: a token of ProViCNet, a place of
the second stage's map of ProFound.

What a task estimates is its training's `patch_maps`; of a classification it is the number of the class: there a row is
a case, whose features are the encoder's own.

Patches are those that hold prostate, where the task is about it and somebody marked it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..core.placement import cut
from ..encoders.base import ModelSpec, family_of
from ..inference.windows import network_input
from ..tasks import find_task, task_of
from ..tasks.base import LabeledCase
from ..tasks.training import class_number
from .features import ENCODER, encoder_features, feature_cases

MOST_PATCHES = 4000
_LEAST_TISSUE = 0.5


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


def patch_table(network: nn.Module, spec: ModelSpec, studies: Sequence[LabeledCase], seed: int = 0) -> PatchTable:
    """Patches of cases as one network sees them; see `patch_tables`."""
    return patch_tables([network], spec, studies, seed)[0]


def patch_tables(
    networks: Sequence[nn.Module], spec: ModelSpec, studies: Iterable[LabeledCase], seed: int = 0
) -> list[PatchTable]:
    """Patches of cases as several networks see them, see the module; each case is prepared once.

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
