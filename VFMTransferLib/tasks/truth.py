"""A case with the truth of one task: from a phantom, or from a real scan that is made worse in a known way.

Super-resolution truncates k-space in plane; distortion correction moves the signal along the phase axis by a known
off-resonance field and adds up what arrives; T2w→ADC takes the measured ADC for the truth. Geometry stays in space:
nothing is resampled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.placement import Prepared
from ..core.terms import Label, Sequence, TaskId
from ..core.volume import Geometry, IntTriple, Volume
from ..encoders.base import ModelSpec
from ..encoders.preparation import ZSCORE_NONZERO
from ..phantom import Phantom, truncate_k_space
from ..phantom.canvas import Lattice, smooth_field
from ..phantom.gland import SIGNIFICANT_GRADE
from .base import TASKS
from .epi import FAST_MM, PHASE_VOXEL_MM, SLOW_MM, distorted_images, signals_of
from .images import ADC_CORRECTED, ADC_PER_OUTPUT, ADC_SYNTHETIC, HBV_CORRECTED, PHASE_AXES, SUPER_RESOLVED
from .zero_filled import doubled_in_plane, slice_axis

PI_RADS = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")
_ZONE_VALUES = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}
_HALF = 0.5
_READOUT_S = 0.042
_SLOW_HZ, _FAST_HZ = 18.0, 8.0  # what a shim leaves over, as in the phantoms


@dataclass(frozen=True)
class StudyCase:
    """What a network gets, and what it should give.

    Attributes:
        task: The task.
        case: What the network sees.
        gland: Mask of the prostate, where it is known.
        masks: Label → mask, for segmentation; empty masks count.
        images: Output name → true image, as results name them, for tasks that give images.
        along_phase_mm: Displacement that `distort` was given, along the positive phase axis, for distortion correction.
        phase_axis: Along which it goes, a key of `restored.PHASE_AXES`.
        category: True class of a classification.
        is_phantom: Whether everything about it is known, or only what was made worse.
    """

    task: TaskId
    case: Case
    gland: Volume | None = None
    masks: Mapping[Label, Volume] = field(default_factory=dict)
    images: Mapping[str, Volume] = field(default_factory=dict)
    along_phase_mm: Volume | None = None
    phase_axis: str = "left-right"
    category: str | None = None
    is_phantom: bool = True

    @property
    def is_significant(self) -> bool | None:
        """Whether a cancer of ISUP grade group 2 or more is marked; None where nobody marked lesions."""
        mask = self.masks.get(Label.CSPCA)
        return None if mask is None else bool(mask.array.any())


def from_phantom(phantom: Phantom, task: TaskId) -> StudyCase:
    """The task on a phantom.

    Raises:
        DatasetError: The phantom was made without what the task needs.
    """
    study = StudyCase(task, _with_sequences(phantom.case, task), phantom.gland)
    if task is TaskId.ANATOMY_SEGMENTATION:
        zones = {label: _equal(phantom.zones, value) for label, value in _ZONE_VALUES.items()}
        return replace(study, masks={Label.PROSTATE: phantom.gland, **zones})
    if task is TaskId.LESION_SEGMENTATION:
        grade = phantom.lesion.array
        found = {
            Label.INDOLENT_CANCER: (grade > 0) & (grade < SIGNIFICANT_GRADE),
            Label.CSPCA: grade >= SIGNIFICANT_GRADE,
        }
        masks = {label: phantom.lesion.with_array(mask.astype(np.uint8)) for label, mask in found.items()}
        return replace(study, masks=masks)
    if task is TaskId.CLASSIFICATION:
        return replace(study, category=f"PI-RADS {phantom.pirads}")
    if task is TaskId.SUPER_RESOLUTION:
        if phantom.t2w_full_resolution is None:
            raise DatasetError("A phantom for super-resolution must be made with full_resolution=True.")
        # The pair is made as a scan's is, so that both are one task.
        coarse, fine = halved_in_plane(phantom.t2w_full_resolution)
        return replace(study, case=_exchanged(study.case, {Sequence.T2W: coarse}), images={SUPER_RESOLVED: fine})
    if phantom.diffusion is None:
        raise DatasetError(f"A phantom for {TASKS[task].title} must be made with hbv and adc.")
    if task is TaskId.ADC_TRANSLATION:
        return replace(study, images={ADC_SYNTHETIC: phantom.diffusion.adc_true})
    images = {
        HBV_CORRECTED: phantom.diffusion.hbv_undistorted,
        ADC_CORRECTED: phantom.diffusion.adc_undistorted,
    }
    axis = _axis_name(phantom.acquisition["diffusion"])
    return replace(study, images=images, along_phase_mm=phantom.diffusion.displacement_mm, phase_axis=axis)


def from_scan(case: Case, task: TaskId, *, seed: int = 0, gland: Volume | None = None) -> StudyCase:
    """An image task on a real case; the scan itself is the truth.

    Args:
        case: The study, as it was scanned.
        task: Super-resolution, distortion correction or T2w→ADC translation.
        seed: Of the field that distorts it.
        gland: Mask of the prostate.

    Raises:
        DatasetError: The task needs labels, which a scan has not.
        MissingSequenceError: The case lacks a sequence.
    """
    if TASKS[task].output != "image":
        raise DatasetError(f"{TASKS[task].title} needs labels; a scan alone holds truth for image tasks only.")
    study = StudyCase(task, _with_sequences(case, task), gland, is_phantom=False)
    if task is TaskId.SUPER_RESOLUTION:
        coarse, fine = halved_in_plane(case[Sequence.T2W])
        return replace(study, case=_exchanged(study.case, {Sequence.T2W: coarse}), images={SUPER_RESOLVED: fine})
    if task is TaskId.ADC_TRANSLATION:
        return replace(study, images={ADC_SYNTHETIC: case[Sequence.ADC]})
    return _distorted(study, case, np.random.default_rng(seed))


def from_labels(
    case: Case,
    task: TaskId,
    *,
    gland: Volume | None = None,
    masks: Mapping[Label, Volume] | None = None,
    category: str | None = None,
) -> StudyCase:
    """A task whose truth somebody marked on a real case.

    Raises:
        MissingSequenceError: The case lacks a sequence.
    """
    study = StudyCase(task, _with_sequences(case, task), gland, category=category, is_phantom=False)
    return replace(study, masks=masks or {})


def halved_in_plane(t2w: Volume) -> tuple[Volume, Volume]:
    """The T2w with half its matrix by truncated k-space, and the T2w that it should become again.

    The two cover the same field of view: an odd row or column is left out.

    Returns:
        Coarse and fine, axes nearest to L, P, S; `doubled_in_plane` of the coarse grid is the fine grid.
    """
    turned = t2w.to_nearest_lps()
    nx, ny, nz = (n - n % 2 if axis < 2 else n for axis, n in enumerate(turned.geometry.size))
    grid = turned.geometry.crop((0, 0, 0), (nx, ny, nz))
    fine = Volume(np.ascontiguousarray(turned.array[:, :ny, :nx], np.float32), grid, "t2w")
    coarse = np.maximum(truncate_k_space(fine.array, _HALF, crop=True).real, 0).astype(np.float32)
    sx, sy, sz = grid.spacing_mm
    x, y, z = (float(v) for v in grid.to_world((0.5, 0.5, 0.0)))
    halved = Geometry((nx // 2, ny // 2, nz), (2 * sx, 2 * sy, sz), (x, y, z), grid.direction)
    assert doubled_in_plane(halved).equals(grid)
    return Volume(coarse, halved, "t2w"), fine


def around_gland(study: StudyCase, width_mm: float) -> StudyCase:
    """The case cut in plane to a square around the middle of the gland; slices and voxels stay as they are.

    A narrower scan of the same patient, whose windows are fewer, so that a network is measured in less time.

    Args:
        study: A case whose gland is known.
        width_mm: Side of the square.

    Raises:
        DatasetError: The case has no mask of the prostate.
    """
    if study.gland is None:
        raise DatasetError(f"Case '{study.case.id}' must have a mask of the prostate to be cut around it. Draw one.")
    marked = np.argwhere(study.gland.array > 0)[:, ::-1]
    center_mm = study.gland.geometry.to_world(marked.mean(axis=0))

    def part(volume: Volume) -> Volume:
        return _cut(volume, *_square(volume.geometry, center_mm, width_mm))

    case = replace(study.case, volumes={name: part(volume) for name, volume in study.case.volumes.items()})
    if study.task is TaskId.SUPER_RESOLUTION:
        start, size = _square(study.case[Sequence.T2W].geometry, center_mm, width_mm)
        images = {name: _cut(fine, _doubled(fine, start), _doubled(fine, size)) for name, fine in study.images.items()}
    else:
        images = {name: part(image) for name, image in study.images.items()}
    return replace(
        study,
        case=case,
        gland=part(study.gland),
        masks={label: part(mask) for label, mask in study.masks.items()},
        images=images,
        along_phase_mm=None if study.along_phase_mm is None else part(study.along_phase_mm),
    )


def _square(geometry: Geometry, center_mm: np.ndarray, width_mm: float) -> tuple[IntTriple, IntTriple]:
    """First voxel and size (x, y, z) of a grid's part around a place, all slices."""
    through, middle = slice_axis(geometry), geometry.to_index(center_mm)
    first, size = [0, 0, 0], list(geometry.size)
    for axis in {0, 1, 2} - {through}:
        reach = round(width_mm / 2 / geometry.spacing_mm[axis])
        place = round(float(middle[axis]))
        first[axis] = max(place - reach, 0)
        size[axis] = min(place + reach, geometry.size[axis]) - first[axis]
    return (first[0], first[1], first[2]), (size[0], size[1], size[2])


def _doubled(fine: Volume, counted: IntTriple) -> IntTriple:
    """Two fine voxels for each coarse one in plane, whatever the rounding of the square."""
    x, y, z = (n if axis == slice_axis(fine.geometry) else 2 * n for axis, n in enumerate(counted))
    return (x, y, z)


def _cut(volume: Volume, first: IntTriple, size: IntTriple) -> Volume:
    x, y, z = (slice(a, a + n) for a, n in zip(first, size, strict=True))
    return replace(
        volume, array=np.ascontiguousarray(volume.array[z, y, x]), geometry=volume.geometry.crop(first, size)
    )


def smooth_field_hz(geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """An off-resonance field as a shim leaves it over: (D, H, W) in Hz, slowly varying."""
    lattice = Lattice(geometry.shape, geometry.spacing_mm[::-1])
    return _SLOW_HZ * smooth_field(lattice, rng, SLOW_MM) + _FAST_HZ * smooth_field(lattice, rng, FAST_MM)


def _distorted(study: StudyCase, case: Case, rng: np.random.Generator) -> StudyCase:
    """Both diffusion images as one echo-planar readout would distort them."""
    hbv, adc = case[Sequence.HBV].to_nearest_lps(), case[Sequence.ADC].to_nearest_lps()
    adc_there = adc.resample_to(hbv.geometry)
    axis = PHASE_AXES[study.phase_axis]
    shift_mm = smooth_field_hz(hbv.geometry, rng) * np.float32(_READOUT_S * PHASE_VOXEL_MM * rng.choice([-1, 1]))
    shift = shift_mm / np.float32(hbv.geometry.spacing_mm[axis])
    high, base = signals_of(hbv, adc_there)
    moved_high, moved_adc = distorted_images(high, base, shift, 2 - axis)
    volumes = {
        Sequence.HBV: Volume(moved_high, hbv.geometry, "hbv"),
        Sequence.ADC: Volume(moved_adc, hbv.geometry, "adc"),
    }
    return replace(
        study,
        case=_exchanged(study.case, volumes),
        images={HBV_CORRECTED: hbv, ADC_CORRECTED: adc_there},
        along_phase_mm=Volume(shift_mm, hbv.geometry, "displacement"),
    )


def _with_sequences(case: Case, task: TaskId) -> Case:
    """The case with the task's sequences alone; no mask may help the network."""
    case.require(TASKS[task].sequences)
    return Case(case.id, {s: case.volumes[s] for s in TASKS[task].sequences}, notes=case.notes)


def _exchanged(case: Case, volumes: Mapping[Sequence, Volume]) -> Case:
    return replace(case, volumes={**case.volumes, **volumes})


def _equal(labels: Volume, value: int) -> Volume:
    return labels.with_array((labels.array == value).astype(np.uint8))


def _axis_name(protocol: Mapping[str, Any]) -> str:
    return next(name for name, axis in PHASE_AXES.items() if axis == protocol["phase_axis"])


# What a network should give on a study case, voxel by voxel on its own grid, in the units that the registry states.
#
# A target is a few maps: the first ones are what the network's output is compared with, the others what the comparison
# needs beside it, such as the image that an output is added to.
#
# anatomy segmentation   probability of prostate, peripheral and transition zone; zones are `UNKNOWN` where nobody knows
# lesion segmentation    number of the class in the network's labels
# super-resolution       residual; the T2w that it is added to. In standard deviations of that T2w
# distortion correction  displacement in mm; the high-b image as it is and as it should be, in deviations; tissue or not
# T2w→ADC                ADC in 1e-3 mm²/s; its weight: 0 without tissue, `GLAND_WEIGHT` in the prostate, else 1

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
