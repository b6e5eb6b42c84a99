"""What a network should give on a study case, voxel by voxel on its own grid, in the units that the registry states.

A target is a few maps: the first ones are what the network's output is compared with, the others what the comparison
needs beside it, such as the image that an output is added to.

anatomy segmentation   probability of prostate, peripheral and transition zone; zones are `UNKNOWN` where nobody knows
lesion segmentation    number of the class in the network's labels
super-resolution       residual; the T2w that it is added to. In standard deviations of that T2w
distortion correction  displacement in mm; the high-b image as it is and as it should be, in deviations; tissue or not
T2w→ADC                ADC in 1e-3 mm²/s; its weight: 0 without tissue, `GLAND_WEIGHT` in the prostate, else 1
"""

from __future__ import annotations

import numpy as np

from .errors import DatasetError
from .placement import Prepared
from .preprocess import ZSCORE_NONZERO
from .registry import ModelSpec
from .restored import ADC_PER_OUTPUT, ADC_SYNTHETIC, HBV_CORRECTED, SUPER_RESOLVED
from .study_cases import StudyCase
from .terms import Label, Sequence, TaskId
from .volume import Volume

UNKNOWN = -1.0
GLAND_WEIGHT = 4.0
_CANCERS = (Label.INDOLENT_CANCER, Label.CSPCA)
_ANATOMY = (Label.PROSTATE, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)


def target_maps(study: StudyCase, prepared: Prepared, spec: ModelSpec) -> np.ndarray:
    """The target of a study case, see the module; nothing (0, D, H, W) for a classification.

    Args:
        study: The case.
        prepared: The network's input.
        spec: The network.

    Returns:
        (K, D, H, W) on `prepared.geometry`, float32.

    Raises:
        DatasetError: The case lacks what its task needs.
    """
    if study.task is TaskId.CLASSIFICATION:
        return np.zeros((0, *prepared.geometry.shape), np.float32)
    made = _MAKERS[study.task](study, prepared, spec)
    return np.ascontiguousarray(np.stack(made), np.float32)


def class_number(study: StudyCase, spec: ModelSpec) -> int:
    """Number of the true class in the network's labels.

    Raises:
        DatasetError: The network does not know it.
    """
    if study.category not in spec.labels:
        raise DatasetError(
            f"The class of case '{study.case.id}' must be one of {', '.join(spec.labels)}, but is {study.category}. "
            "Correct it, or leave the case out."
        )
    return spec.labels.index(study.category)


def class_map(study: StudyCase, spec: ModelSpec) -> Volume:
    """The number of each voxel's class in the network's labels, on the grid of the csPCa mask."""
    cancer = study.masks[Label.CSPCA]
    classes = np.zeros(cancer.array.shape, np.uint8)
    parts = [(Label.PROSTATE, study.gland), *((label, study.masks.get(label)) for label in _CANCERS)]
    for label, mask in parts:  # the graver overrules
        if label in spec.labels and mask is not None:
            there = mask.resample_to(cancer.geometry, "nearest").array > 0
            classes[there] = spec.labels.index(label)
    return cancer.with_array(classes)


def _anatomy(study: StudyCase, prepared: Prepared, spec: ModelSpec) -> list[np.ndarray]:
    unknown = np.full(prepared.geometry.shape, UNKNOWN, np.float32)
    zones_known = all(label in study.masks for label in _ANATOMY[1:])
    return [
        _share(study.masks[label], prepared) if label is Label.PROSTATE or zones_known else unknown
        for label in _ANATOMY
    ]


def _lesions(study: StudyCase, prepared: Prepared, spec: ModelSpec) -> list[np.ndarray]:
    return [class_map(study, spec).resample_to(prepared.geometry, "nearest").array]


def _super_resolution(study: StudyCase, prepared: Prepared, spec: ModelSpec) -> list[np.ndarray]:
    truth = study.images[SUPER_RESOLVED].resample_to(prepared.geometry).array
    residual = (truth - _undone(prepared, spec, Sequence.T2W)) / _scale(prepared, spec, Sequence.T2W)
    return [residual, prepared.array[_channel(spec, Sequence.T2W)]]


def _distortion(study: StudyCase, prepared: Prepared, spec: ModelSpec) -> list[np.ndarray]:
    if study.along_phase_mm is None:
        raise DatasetError(f"Case '{study.case.id}' must come with its displacement for distortion correction.")
    grid, deviation = prepared.geometry, _scale(prepared, spec, Sequence.HBV)
    truth = study.images[HBV_CORRECTED].resample_to(grid).array
    return [
        study.along_phase_mm.resample_to(grid).array,
        _undone(prepared, spec, Sequence.HBV) / deviation,
        truth / deviation,
        truth > 0,
    ]


def _adc(study: StudyCase, prepared: Prepared, spec: ModelSpec) -> list[np.ndarray]:
    truth = study.images[ADC_SYNTHETIC]
    tissue = truth.with_array((truth.array > 0).astype(np.uint8)).resample_to(prepared.geometry, "nearest")
    weight = tissue.array.astype(np.float32)
    if study.gland is not None:  # a thirtieth of the field of view
        weight[study.gland.resample_to(prepared.geometry, "nearest").array > 0] *= GLAND_WEIGHT
    return [truth.resample_to(prepared.geometry).array / ADC_PER_OUTPUT, weight]


_MAKERS = {
    TaskId.ANATOMY_SEGMENTATION: _anatomy,
    TaskId.LESION_SEGMENTATION: _lesions,
    TaskId.SUPER_RESOLUTION: _super_resolution,
    TaskId.DISTORTION_CORRECTION: _distortion,
    TaskId.ADC_TRANSLATION: _adc,
}


def _share(mask: Volume, prepared: Prepared) -> np.ndarray:
    """How much of each voxel a mask covers, as linear interpolation sees it."""
    soft = mask.with_array((mask.array > 0).astype(np.float32))
    return soft.resample_to(prepared.geometry).array


def _channel(spec: ModelSpec, sequence: Sequence) -> int:
    return spec.preprocess.sequences.index(sequence)


def _scale(prepared: Prepared, spec: ModelSpec, sequence: Sequence) -> float:
    return prepared.scales[_channel(spec, sequence)].std


def _undone(prepared: Prepared, spec: ModelSpec, sequence: Sequence) -> np.ndarray:
    """A channel in the image's own intensities."""
    channel = _channel(spec, sequence)
    normalized = prepared.array[channel]
    image = prepared.scales[channel].undo(normalized)
    if spec.preprocess.normalization == ZSCORE_NONZERO:  # which leaves zeros where they are
        return np.where(normalized != 0, image, np.float32(0))
    return image
