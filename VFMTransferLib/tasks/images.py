"""Results that are images: super-resolved T2w, corrected diffusion with its displacement field, synthetic ADC.

What a network's one output channel means stands beside its row in `registry.py`.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..core.case import Case
from ..core.placement import Prepared, to_reference
from ..core.result import Provenance, Result
from ..core.terms import Sequence, TaskId
from ..core.volume import Geometry, Volume
from ..encoders.base import ModelSpec
from .zero_filled import zero_filled

SUPER_RESOLVED = "t2w-super-resolved"
HBV_CORRECTED = "hbv-corrected"
ADC_CORRECTED = "adc-corrected"
ADC_SYNTHETIC = "adc-synthetic"
ADC_PER_OUTPUT = 1000.0  # networks give ADC in 1e-3 mm²/s, volumes hold 1e-6 mm²/s

# Phase-encoding axis by the index axis of a grid whose axes run nearest to Left, Posterior, Superior.
PHASE_AXES = {"left-right": 0, "anterior-posterior": 1}


def restored_images(
    output: np.ndarray,
    prepared: Prepared,
    case: Case,
    spec: ModelSpec,
    provenance: Provenance,
    phase_axis: str = "left-right",
) -> Result:
    """The result of an image-to-image network.

    Args:
        output: (1, D, H, W) on `prepared.region`.
        prepared: The record of where the input lay and how it was normalized.
        case: The study.
        spec: The network.
        provenance: Where the output came from; notes are added.
        phase_axis: Along which axis of the patient the diffusion images are distorted, a key of `PHASE_AXES`.
    """
    if spec.task is TaskId.SUPER_RESOLUTION:
        return _super_resolved(output[0], prepared, case, provenance)
    if spec.task is TaskId.ADC_TRANSLATION:
        return _synthetic_adc(output[0], prepared, case, provenance)
    return _undistorted(output[0], prepared, case, provenance, phase_axis)


def _super_resolved(residual: np.ndarray, prepared: Prepared, case: Case, provenance: Provenance) -> Result:
    """The T2w by zero-filled k-space on twice its matrix, plus what the network adds, in the T2w's own intensities."""
    plain = zero_filled(case[Sequence.T2W])
    grid = plain.geometry
    added = to_reference(residual * prepared.scales[0].std, prepared, SUPER_RESOLVED, target=grid)
    array = np.maximum(plain.array + added.array, 0)
    provenance = provenance.with_notes("The network adds detail to the T2w interpolated by zero-filled k-space.")
    images = {SUPER_RESOLVED: Volume(array, grid, SUPER_RESOLVED)}
    return Result(case.id, TaskId.SUPER_RESOLUTION, provenance, images=images)


def _synthetic_adc(output: np.ndarray, prepared: Prepared, case: Case, provenance: Provenance) -> Result:
    adc = to_reference(np.maximum(output, 0) * ADC_PER_OUTPUT, prepared, ADC_SYNTHETIC)
    provenance = provenance.with_notes(
        "adc-synthetic was made from T2w alone (1e-6 mm²/s); it was not measured.",
        "Where diffusion shows nothing (fat, air, cortical bone) nothing was learned, and its values mean nothing.",
    )
    return Result(case.id, TaskId.ADC_TRANSLATION, provenance, images={ADC_SYNTHETIC: adc})


def _undistorted(
    along_phase_mm: np.ndarray, prepared: Prepared, case: Case, provenance: Provenance, phase_axis: str
) -> Result:
    """Diffusion images pulled along the displacement; signal is kept, so the high-b image is scaled by the Jacobian."""
    if phase_axis not in PHASE_AXES:
        raise ValueError(f"The phase axis must be one of {', '.join(PHASE_AXES)}, got '{phase_axis}'.")
    axis = PHASE_AXES[phase_axis]
    hbv, adc = case[Sequence.HBV], case[Sequence.ADC]
    field_mm = displacement_field(along_phase_mm, prepared, axis)
    jacobian = to_reference(jacobian_along(along_phase_mm, prepared.geometry, axis), prepared, "jacobian", fill=1.0)
    warped = warp(hbv, field_mm, prepared.reference)
    images = {
        HBV_CORRECTED: Volume(
            warped.array * jacobian.resample_to(hbv.geometry, fill=1.0).array, hbv.geometry, HBV_CORRECTED
        ),
        ADC_CORRECTED: warp(adc, field_mm, prepared.reference, ADC_CORRECTED),
    }
    note = f"Displacement is along the patient's {phase_axis} axis; a point p of the corrected image shows p + d(p)."
    return Result(
        case.id, TaskId.DISTORTION_CORRECTION, provenance.with_notes(note), images=images, displacement_mm=field_mm
    )


def displacement_field(along_phase_mm: np.ndarray, prepared: Prepared, axis: int) -> np.ndarray:
    """LPS vectors (D, H, W, 3) in mm on the reference's own grid, of a displacement along one axis of the network's."""
    length_mm = to_reference(along_phase_mm, prepared, "displacement").array
    direction = np.reshape(prepared.geometry.direction, (3, 3))[:, axis]
    return length_mm[..., None] * direction.astype(np.float32)


def jacobian_along(along_phase_mm: np.ndarray, geometry: Geometry, axis: int) -> np.ndarray:
    """How much each voxel was stretched: 1 + the displacement's derivative along the axis, at least 0.

    Squeezed signal piles up and stretched signal thins out (Jezzard and Balaban, Magn Reson Med 1995;34:65-73).
    """
    array_axis = 2 - axis
    if along_phase_mm.shape[array_axis] == 1:
        return np.ones_like(along_phase_mm)
    return np.maximum(1 + np.gradient(along_phase_mm, geometry.spacing_mm[axis], axis=array_axis), 0)


def warp(volume: Volume, field_mm: np.ndarray, grid: Geometry, name: str | None = None) -> Volume:
    """A volume on its own grid whose point p shows what lay at p + d(p), linearly.

    Args:
        volume: The image.
        field_mm: LPS vectors (D, H, W, 3) on `grid`; there is no displacement outside of it.
        grid: Grid of the field.
        name: Name of the result; the volume's by default.
    """
    image = sitk.GetImageFromArray(field_mm.astype(np.float64), isVector=True)
    image.CopyInformation(grid.image())
    moved = sitk.Resample(
        sitk.Cast(volume.to_sitk(), sitk.sitkFloat32),
        volume.geometry.image(),
        sitk.DisplacementFieldTransform(image),
        sitk.sitkLinear,
        0.0,
    )
    return Volume(sitk.GetArrayFromImage(moved), volume.geometry, name or volume.name)
