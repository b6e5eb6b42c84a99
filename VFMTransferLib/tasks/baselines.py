"""What one would say of a case without any network: the study's trivial baselines, as results.

super-resolution       the T2w by zero-filled k-space
distortion correction  the diffusion images as they are
T2w→ADC                the mean ADC of the training cases, inside and outside of the gland (whose true mask it is told)
classification         how often each class is among the training cases
anatomy                the mean shape of the training cases' glands, in the middle of the image
lesions                none
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.placement import Prepared
from ..core.result import Provenance, Result
from ..core.terms import Label, TaskId
from ..core.terms import Sequence as MRSequence
from ..core.terms import Sequence as Sequence_of_terms
from ..core.volume import Geometry, Volume
from ..encoders.base import MODELS
from .images import ADC_CORRECTED, ADC_SYNTHETIC, HBV_CORRECTED, PHASE_AXES, SUPER_RESOLVED, restored_images
from .truth import PI_RADS, StudyCase
from .zero_filled import zero_filled

Baseline = Callable[[StudyCase], Result]
TITLES = {
    TaskId.ANATOMY_SEGMENTATION: "mean-shape",
    TaskId.LESION_SEGMENTATION: "no-lesion",
    TaskId.CLASSIFICATION: "class-prior",
    TaskId.SUPER_RESOLUTION: "zero-filled",
    TaskId.DISTORTION_CORRECTION: "uncorrected",
    TaskId.ADC_TRANSLATION: "mean-adc",
}
_ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
_SHAPE_SIZE, _SHAPE_SPACING_MM = (64, 64, 64), (1.5, 1.5, 1.5)
_HALF = 0.5


def trivial_baseline(task: TaskId, training: Sequence[StudyCase]) -> Baseline:
    """The baseline of a task, with what it takes from training cases.

    Raises:
        DatasetError: The training cases lack what it needs.
    """
    if task is TaskId.SUPER_RESOLUTION:
        return _zero_filled
    if task is TaskId.DISTORTION_CORRECTION:
        return _uncorrected
    if task is TaskId.LESION_SEGMENTATION:
        return _no_lesion
    if not training:
        raise DatasetError(f"The trivial baseline of {task} needs training cases, got none.")
    if task is TaskId.CLASSIFICATION:
        return _class_prior(training)
    return _mean_adc(training) if task is TaskId.ADC_TRANSLATION else _mean_shape(training)


def _zero_filled(study: StudyCase) -> Result:
    plain = zero_filled(study.case[MRSequence.T2W].to_nearest_lps())
    image = plain.with_array(np.maximum(plain.array, 0))
    return Result(study.case.id, study.task, _source(study.task), images={SUPER_RESOLVED: image})


def _uncorrected(study: StudyCase) -> Result:
    hbv, adc = study.case[MRSequence.HBV], study.case[MRSequence.ADC]
    field_mm = np.zeros((*hbv.geometry.shape, 3), np.float32)
    images = {HBV_CORRECTED: hbv, ADC_CORRECTED: adc}
    return Result(study.case.id, study.task, _source(study.task), images=images, displacement_mm=field_mm)


def _no_lesion(study: StudyCase) -> Result:
    t2w = study.case[MRSequence.T2W]
    nothing = t2w.with_array(np.zeros(t2w.geometry.shape, np.uint8))
    improbable = {str(Label.CSPCA): t2w.with_array(np.zeros(t2w.geometry.shape, np.float32))}
    values = {str(Label.CSPCA): 1}
    return Result(study.case.id, study.task, _source(study.task), values, nothing, improbable)


def _class_prior(training: Sequence[StudyCase]) -> Baseline:
    categories = [study.category for study in training]
    prior = {name: categories.count(name) / len(categories) for name in PI_RADS}

    def baseline(study: StudyCase) -> Result:
        return Result(study.case.id, study.task, _source(study.task), class_probabilities=dict(prior))

    return baseline


def _mean_adc(training: Sequence[StudyCase]) -> Baseline:
    inside, outside = (np.concatenate(parts) for parts in zip(*map(_adc_of_tissue, training), strict=True))
    if not len(inside) or not len(outside):
        raise DatasetError("The mean ADC needs training cases whose ADC shows tissue inside and outside of the gland.")
    means = np.array([outside.mean(), inside.mean()], np.float32)

    def baseline(study: StudyCase) -> Result:
        grid = study.case[MRSequence.T2W].geometry
        gland = _gland(study).resample_to(grid, "nearest").array > 0
        adc = Volume(means[gland.astype(int)], grid, ADC_SYNTHETIC)
        return Result(study.case.id, study.task, _source(study.task), images={ADC_SYNTHETIC: adc})

    return baseline


def _adc_of_tissue(study: StudyCase) -> tuple[np.ndarray, np.ndarray]:
    """Values of the true ADC inside and outside of the gland, where it shows tissue."""
    adc = study.images[ADC_SYNTHETIC]
    gland = _gland(study).resample_to(adc.geometry, "nearest").array > 0
    tissue = adc.array > 0
    return adc.array[gland & tissue], adc.array[~gland & tissue]


def _mean_shape(training: Sequence[StudyCase]) -> Baseline:
    zones = _ZONES if all(zone in study.masks for study in training for zone in _ZONES) else (Label.PROSTATE,)
    shares: list[np.ndarray] = [
        np.stack([_centered(study.masks[zone], _box(study)) for study in training]).mean(axis=0) for zone in zones
    ]

    def baseline(study: StudyCase) -> Result:
        grid = study.case[MRSequence.T2W].geometry
        placed = {
            str(zone): Volume(share, _box(study)).resample_to(grid) for zone, share in zip(zones, shares, strict=True)
        }
        stacked = np.stack([volume.array for volume in placed.values()])
        labels = np.where(stacked.sum(axis=0) > _HALF, stacked.argmax(axis=0) + 1, 0).astype(np.uint8)
        values = {name: number for number, name in enumerate(placed, start=1)}
        return Result(study.case.id, study.task, _source(study.task), values, Volume(labels, grid, "labels"), placed)

    return baseline


def _box(study: StudyCase) -> Geometry:
    """A grid of fixed size around the middle of the T2w, along its axes."""
    seen = study.case[MRSequence.T2W].to_nearest_lps().geometry
    direction = np.reshape(seen.direction, (3, 3))
    corner = seen.center_mm - direction @ ((np.array(_SHAPE_SIZE) - 1) / 2 * np.array(_SHAPE_SPACING_MM))
    x, y, z = (float(v) for v in corner)
    return Geometry(_SHAPE_SIZE, _SHAPE_SPACING_MM, (x, y, z), seen.direction)


def _centered(mask: Volume, box: Geometry) -> np.ndarray:
    return mask.with_array((mask.array > 0).astype(np.float32)).resample_to(box).array


def _gland(study: StudyCase) -> Volume:
    if study.gland is None:
        raise DatasetError(f"The mean ADC needs the gland of case '{study.case.id}', which has no mask. Draw one.")
    return study.gland


def _source(task: TaskId) -> Provenance:
    return Provenance(TITLES[task], TITLES[task].replace("-", " "), "trivial", "", "none", "cpu")


# Distortion correction without any training: register the high-b image to T2w, along the phase axis alone.
#
# What many clinics' tools do: a smooth B-spline displacement that maximizes mutual information (Mattes et al., IEEE TMI
# 22:120 (2003)). Both images are compared on the diffusion grid with its axes straightened, where the phase axis is a
# coordinate axis, so that all other components of the displacement can be held at 0.

TITLE = "registration"
_SPEC = MODELS[f"profound-restoration-{TaskId.DISTORTION_CORRECTION}"]
_CONTROL_MM = (60.0, 60.0, 60.0)
_BINS, _SAMPLED, _SEED = 32, 0.25, 1
_ITERATIONS, _STEP_MM, _LEAST_STEP_MM = 40, 0.5, 0.02


def registered(study: StudyCase) -> Result:
    """The corrected images of a case whose high-b image was registered to its T2w."""
    source = Provenance(
        TITLE, "B-spline registration", "specialised", "", f"SimpleITK {sitk.Version_VersionString()}", "cpu"
    )
    grid = study.case[Sequence_of_terms.HBV].to_nearest_lps().geometry
    along_mm = displacement_along(study.case, grid, PHASE_AXES[study.phase_axis])
    place = Prepared(
        array=along_mm[None],
        geometry=grid,
        reference=study.case[Sequence_of_terms.HBV].geometry,
        starts=((0, 0, 0),),
        patch=grid.shape,
        scales=(),
        centered_on="whole volume",
    )
    return restored_images(along_mm[None], place, study.case, _SPEC, source, study.phase_axis)


def displacement_along(case: Case, grid: Geometry, axis: int) -> np.ndarray:
    """Where the signal of each place went, in millimeters along an axis of the grid.

    Args:
        case: Has T2w and hbv.
        grid: The diffusion grid, axes nearest to L, P, S.
        axis: Index axis (0 x, 1 y) of the phase encoding.

    Returns:
        (D, H, W), float32.
    """
    fixed, moving = (
        _straight(case[sequence].resample_to(grid).array, grid)
        for sequence in (Sequence_of_terms.T2W, Sequence_of_terms.HBV)
    )
    mesh = [max(round(extent / control), 1) for extent, control in zip(grid.extent_mm, _CONTROL_MM, strict=True)]
    spline = sitk.BSplineTransformInitializer(fixed, mesh, order=3)
    found = _method(spline, axis).Execute(fixed, moving)
    field = sitk.TransformToDisplacementField(found, sitk.sitkVectorFloat64, *_lattice(fixed))
    return np.ascontiguousarray(sitk.GetArrayFromImage(field)[..., axis], np.float32)


def _method(spline: sitk.BSplineTransform, axis: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(spline, inPlace=True)
    each = len(spline.GetParameters()) // 3  # x of all control points, then y, then z
    weights = np.zeros(3 * each)
    weights[axis * each : (axis + 1) * each] = 1.0
    method.SetOptimizerAsRegularStepGradientDescent(_STEP_MM, _LEAST_STEP_MM, _ITERATIONS)
    method.SetOptimizerWeights(weights.tolist())
    method.SetShrinkFactorsPerLevel([2])  # the field is smooth, and diffusion's own voxels hold little more
    method.SetSmoothingSigmasPerLevel([1.0])
    method.SetNumberOfThreads(1)  # the order of sums, and so the last digits, hang on it
    return method


def _straight(array: np.ndarray, grid: Geometry) -> sitk.Image:
    """An image on the grid's voxels with its origin at 0 and its axes along the coordinates."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.SetSpacing(grid.spacing_mm)
    return image


def _lattice(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
