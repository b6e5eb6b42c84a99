"""What an encoder makes of each patch of a case, and what the task asks of it there: rows for linear estimates.

A patch is as large as the place where the encoder speaks: a token of ProViCNet; of ProFound a place of the second
stage's map, with the first stage's mean and the later stages' value there, since its heads see all four.

anatomy segmentation   share of the patch that is prostate
lesion segmentation    share that is clinically significant cancer
super-resolution       root mean square of what halving the matrix took away
distortion correction  mean displacement of the tissue, mm
T2w→ADC                mean ADC of the tissue, 1e-3 mm²/s
classification         number of the class; here a row is a case, whose features are the encoder's own

Patches are those that hold prostate, where the task is about it and somebody marked it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import ENCODER, FeatureCase, encoder_features, feature_cases, patch_tokens, stage_maps
from .inference import network_input
from .registry import ModelSpec, ViTSpec
from .study_cases import StudyCase
from .study_targets import class_number, target_maps
from .terms import Label, TaskId
from .volume import IntTriple
from .windows import cut

MOST_PATCHES = 4000
_SECOND = 1  # of ProFound's stages: its map's places are the patches
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


def patch_table(network: nn.Module, spec: ModelSpec, studies: Sequence[StudyCase], seed: int = 0) -> PatchTable:
    """Patches of cases, see the module.

    Args:
        network: In evaluation mode.
        spec: The network, of the cases' task.
        studies: The cases.
        seed: Of which patches are kept where there are very many.

    Raises:
        DatasetError: A case lacks what its task needs.
        ValueError: The network is in training mode.
    """
    cases = feature_cases(studies, spec)
    if spec.task is TaskId.CLASSIFICATION:
        numbers = np.array([class_number(study, spec) for study in studies], float)
        return PatchTable(encoder_features(network, spec, cases)[ENCODER], numbers, np.arange(len(cases)))
    if network.training:
        raise ValueError("Patches must be taken in evaluation mode; switch the network over first.")
    parts = [
        (features, target, np.full(len(target), number))
        for number, (study, case) in enumerate(zip(studies, cases, strict=True))
        for features, target in _case_patches(network, spec, study, case)
    ]
    table = PatchTable(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if len(table.target) <= MOST_PATCHES:
        return table
    kept = np.sort(np.random.default_rng(seed).choice(len(table.target), MOST_PATCHES, replace=False))
    return PatchTable(table.features[kept], table.target[kept], table.cases[kept])


def _case_patches(
    network: nn.Module, spec: ModelSpec, study: StudyCase, case: FeatureCase
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features (patches, channels) and target (patches,) of each window of a case."""
    wanted, tissue, gland = _maps(study, case, spec)
    for start in case.starts:
        inputs = [torch.from_numpy(array) for array in network_input(case.prepared, spec, start)]
        with torch.inference_mode():
            grid = _token_map(network, spec, inputs)  # (C, d, h, w)
        stacked = np.stack([wanted * tissue, tissue, gland])
        weighted, share, of_gland = _averages(cut(stacked, start, case.prepared.patch), grid.shape[1:], spec)
        there = (share >= _LEAST_TISSUE) & (of_gland > 0)
        target = weighted[there] / share[there]
        if study.task is TaskId.SUPER_RESOLUTION:
            target = np.sqrt(target)
        yield grid.flatten(1).T.double().numpy()[there.ravel()], target


def _maps(study: StudyCase, case: FeatureCase, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """On the network's grid (D, H, W): what is averaged, where it counts, and where patches may lie."""
    geometry = case.prepared.geometry
    everywhere = np.ones(geometry.shape, np.float32)
    near = everywhere
    if study.gland is not None and study.task is not TaskId.ANATOMY_SEGMENTATION:
        near = (study.gland.resample_to(geometry, "nearest").array > 0).astype(np.float32)
    if study.task is TaskId.LESION_SEGMENTATION:
        cancer = study.masks[Label.CSPCA]
        soft = cancer.with_array((cancer.array > 0).astype(np.float32))
        return soft.resample_to(geometry).array, everywhere, near
    maps = target_maps(study, case.prepared, spec)
    if study.task is TaskId.SUPER_RESOLUTION:
        return maps[0] ** 2, everywhere, near
    has_tissue = study.task in (TaskId.DISTORTION_CORRECTION, TaskId.ADC_TRANSLATION)
    return maps[0], maps[-1] if has_tissue else everywhere, near


def _token_map(network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> Tensor:
    """Features of each patch as a map (C, d, h, w); d is 1 for a slice."""
    if isinstance(spec.encoder, ViTSpec):
        side = spec.encoder.image_px // spec.encoder.patch_px
        return patch_tokens(network, spec, inputs)[0].T.unflatten(1, (1, side, side))
    stages = stage_maps(network, inputs[0])
    size = stages[_SECOND].shape[2:]
    fine = [F.adaptive_avg_pool3d(stage, size) for stage in stages[:_SECOND]]
    coarse = [F.interpolate(stage, size, mode="nearest") for stage in stages[_SECOND + 1 :]]
    return torch.cat([*fine, stages[_SECOND], *coarse], dim=1)[0]


def _averages(window: np.ndarray, grid: Sequence[int], spec: ModelSpec) -> np.ndarray:
    """Mean over each patch of maps (K, D, H, W) in a window: (K, d, h, w)."""
    if not isinstance(spec.encoder, ViTSpec):  # what is left over behind the last stride belongs to no patch
        size: IntTriple = tuple(n - n % g for n, g in zip(window.shape[1:], grid, strict=True))
        window = window[:, : size[0], : size[1], : size[2]]
    return F.adaptive_avg_pool3d(torch.from_numpy(np.ascontiguousarray(window, np.float64)), tuple(grid)).numpy()
