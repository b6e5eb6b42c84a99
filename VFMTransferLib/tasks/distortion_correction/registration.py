"""Distortion correction without training: register the high-b image to T2w, along the phase axis alone.

What many clinics' tools do: a smooth B-spline displacement that maximizes mutual information (Mattes et al., IEEE TMI
22:120 (2003)). Both images are compared on the diffusion grid with its axes straightened, where the phase axis is a
coordinate axis, so that all other components of the displacement can be held at 0.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ...core.case import Case
from ...core.terms import Sequence
from ...core.volume import Geometry

_CONTROL_MM = (60.0, 60.0, 60.0)
_BINS, _SAMPLED, _SEED = 32, 0.25, 1
_ITERATIONS, _STEP_MM, _MIN_STEP_MM = 40, 0.5, 0.02


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
        _straight(case[sequence].resample_to(grid).array, grid) for sequence in (Sequence.T2W, Sequence.HBV)
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
    method.SetOptimizerAsRegularStepGradientDescent(_STEP_MM, _MIN_STEP_MM, _ITERATIONS)
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
