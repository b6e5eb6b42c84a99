"""Diffusion images are pulled back along the phase axis by the displacement that a network finds beside T2w.

A scan is distorted as one echo-planar readout does it: its signals at b 0 and at the high b are moved, and the ADC is
taken of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ...core.case import MAX_ADC, Case
from ...core.errors import DatasetError
from ...core.measurements import PHASE_AXES, DiceEstimate
from ...core.notes import Note
from ...core.placement import NetworkInput, to_reference
from ...core.result import Provenance, Result
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, Volume
from ...metrics.agreement import data_range, dice, mae
from ...phantom import distort
from ...phantom.canvas import Lattice, smooth_field
from ..base import CaseScore, LabeledCase, Method, NetworkOutput, finite
from ..image_to_image import ImageTask, image_errors

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import DistortionTraining

HBV_CORRECTED = "hbv-corrected"
ADC_CORRECTED = "adc-corrected"
ASSUMED_B = 1400.0  # s/mm², of each case's high-b image, whatever it states; the rule below was chosen with it
PHASE_VOXEL_MM = 2.0  # of the readout; a diffusion image that was interpolated later still moved by these
SLOW_MM, FAST_MM = 90.0, 45.0  # how fast the field varies that a shim leaves over, as in the phantoms
# Standard deviation of the Gaussian by which displacements of neighboring slices are made alike; chosen on phantoms and
# on three exams (docs/not-shipped.md), and short against `FAST_MM`.
ACROSS_SLICES_MM = 10.0
_READOUT_S, _SHIM_SLOW_HZ, _SHIM_FAST_HZ = 0.042, 18.0, 8.0  # of a scan that is distorted once
_PER_MM2 = 1e-6
_HALF = 0.5
# Of the rule by which a correction is withheld; chosen on phantoms and known fields on three exams (docs/results.md).
MIN_MATCH_RISE, MIN_SHIFT_MM = 0.05, 1.0
_MATCH_MM, _MATCH_SMOOTH_MM, _DARK = 12.0, 2.0, 0.002
_MIDDLE_MM = (35.0, 24.0)  # radius in plane and half the height around the middle of the T2w
# Of the registration.
_CONTROL_MM = (60.0, 60.0, 60.0)
_BINS, _SAMPLED, _SEED = 32, 0.25, 1
_ITERATIONS, _STEP_MM, _MIN_STEP_MM = 40, 0.5, 0.02


class DistortionCorrection(ImageTask):
    """Truth: the scan itself; the network sees it as a known off-resonance field distorts it further."""

    id = "distortion-correction"
    title = "Distortion correction"
    short_title = "distortion"
    network_title = "distortion correction of diffusion"
    intended_use = (
        "Research on restoration: high-b image and ADC moved along the phase axis, beside the uncorrected ones."
    )
    inappropriate_settings = (
        "Measurement or fusion that relies on where a lesion lies on the corrected image.",
        "Diffusion whose phase axis is not known, or is not an axis that trained the network.",
        "Metal, or gas that moves: what it displaces is no smooth field.",
    )
    stop_using_when = (
        "Corrections are withheld on most cases.",
        "The gland lies worse on T2w after a correction than before.",
    )
    sequences = (MRSequence.T2W, MRSequence.HBV, MRSequence.ADC)
    reference = MRSequence.HBV
    head = "matching"
    uses_phase_axis = True
    outputs = (HBV_CORRECTED, ADC_CORRECTED)
    baseline = "uncorrected"
    naive_title = "Uncorrected"
    card_measures = ("psnr_db", "ssim", "displacement_mm", "displacement_mm gland", "gland_overlap", "psnr_db unscaled")
    example_measures = ("psnr_db", "displacement_mm")

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        if phantom.diffusion is None:
            raise DatasetError(f"A phantom for {self.title} must be made with hbv and adc.")
        axis = phantom.acquisition["diffusion"]["phase_axis"]
        return self.labeled(
            phantom.case,
            gland=phantom.gland,
            images={
                HBV_CORRECTED: phantom.diffusion.hbv_undistorted,
                ADC_CORRECTED: phantom.diffusion.adc_undistorted,
            },
            along_phase_mm=phantom.diffusion.displacement_mm,
            phase_axis=next(name for name, number in PHASE_AXES.items() if number == axis),
        )

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        """Both diffusion images as one echo-planar readout would distort them."""
        labeled, rng = self.labeled(case, gland=gland, is_phantom=False), np.random.default_rng(seed)
        hbv, adc = case[MRSequence.HBV].to_nearest_lps(), case[MRSequence.ADC].to_nearest_lps()
        adc_there = adc.resample_to(hbv.geometry)
        axis = PHASE_AXES[labeled.phase_axis]
        shift_mm = smooth_field_hz(hbv.geometry, rng) * np.float32(_READOUT_S * PHASE_VOXEL_MM * rng.choice([-1, 1]))
        shift = shift_mm / np.float32(hbv.geometry.spacing_mm[axis])
        high, base = signals_of(hbv, adc_there)
        moved_high, moved_adc = distorted_images(high, base, shift, 2 - axis)
        moved = {
            MRSequence.HBV: Volume(moved_high, hbv.geometry, "hbv"),
            MRSequence.ADC: Volume(moved_adc, hbv.geometry, "adc"),
        }
        return replace(
            labeled,
            case=replace(labeled.case, volumes={**labeled.case.volumes, **moved}),
            images={HBV_CORRECTED: hbv, ADC_CORRECTED: adc_there},
            along_phase_mm=Volume(shift_mm, hbv.geometry, "displacement"),
        )

    def decode(self, output: NetworkOutput) -> Result:
        """As the network found it; of one that sees each slice alone, smoothed across slices."""
        along_mm, prepared, source = output.logits[0], output.prepared, output.provenance
        if output.spec.is_slice_based:
            along_mm = smooth_across_slices(along_mm, prepared.geometry.spacing_mm[2])
            source = source.with_notes(
                Note(
                    "smoothed",
                    f"The displacement was smoothed across slices (Gaussian, {ACROSS_SLICES_MM:g} mm; ours), each of "
                    "which the network sees alone.",
                )
            )
        return self.undistorted(along_mm, prepared, output.case, source, output.options.phase_axis)

    def undistorted(
        self, along_phase_mm: np.ndarray, prepared: NetworkInput, case: Case, provenance: Provenance, phase_axis: str
    ) -> Result:
        """Diffusion images pulled along a displacement; signal is kept: the high-b image is scaled by the Jacobian."""
        axis = PHASE_AXES[phase_axis]
        hbv, adc = case[MRSequence.HBV], case[MRSequence.ADC]
        field_mm = displacement_field(along_phase_mm, prepared, axis)
        jacobian = to_reference(jacobian_along(along_phase_mm, prepared.geometry, axis), prepared, "jacobian", fill=1.0)
        warped = warp(hbv, field_mm, prepared.reference)
        kept = warped.array * jacobian.resample_to(hbv.geometry, fill=1.0).array
        images = {
            HBV_CORRECTED: Volume(kept, hbv.geometry, HBV_CORRECTED),
            ADC_CORRECTED: warp(adc, field_mm, prepared.reference, ADC_CORRECTED),
        }
        note = Note(
            "displacement",
            f"Displacement is along the patient's {phase_axis} axis; a point p of the corrected image shows p + d(p).",
        )
        return Result(case.id, self.id, provenance.with_notes(note), images=images, displacement_mm=field_mm)

    def checked(self, result: Result, case: Case, gland: Volume | None) -> Result:
        """The correction, or the images as they were where it is small or hardly improves their match with T2w.

        The rule is ours: in and around the gland the mean displacement must reach `MIN_SHIFT_MM`, half a voxel of the
        readout, and `match_with_t2w` must rise by the share `MIN_MATCH_RISE`.
        """
        t2w, hbv, adc = (case[sequence] for sequence in self.sequences)
        field_mm = result.displacement_mm
        if field_mm is None:
            raise ValueError("A correction must come with its displacement.")
        length_mm = hbv.with_array(np.linalg.norm(field_mm, axis=-1).astype(np.float32)).to_nearest_lps()
        near = region_of_match(t2w.geometry, length_mm.geometry, gland)
        shift_mm = float(length_mm.array[near].mean()) if near.any() else 0.0
        # Without the Jacobian: how bright an image is says nothing of where things lie.
        moved = [warp(image, field_mm, hbv.geometry) for image in (hbv, adc)]
        before, after = (match_with_t2w(t2w, *images, gland) for images in ((hbv, adc), (moved[0], moved[1])))
        where = "at the gland" if gland is not None else "in the middle of the image, since no gland is known"
        numbers = f"match {before:.4f} to {after:.4f}, mean displacement {shift_mm:.1f} mm; rule ours"
        if shift_mm >= MIN_SHIFT_MM and after > 0 and after >= before * (1 + MIN_MATCH_RISE):
            note = Note("correction-kept", f"The correction improves the match with T2w {where} ({numbers}).")
            return replace(result, provenance=result.provenance.with_notes(note))
        note = Note(
            "correction-withheld",
            f"The correction was withheld and the images are uncorrected: it must move tissue by {MIN_SHIFT_MM:g} mm "
            f"and raise the match with T2w by {MIN_MATCH_RISE:.0%} {where}, but does not ({numbers}).",
            "caution",
        )
        images = {name: Volume(v.array, v.geometry, name) for name, v in zip(self.outputs, (hbv, adc), strict=True)}
        provenance = result.provenance.with_notes(note)
        return replace(result, images=images, displacement_mm=np.zeros_like(field_mm), provenance=provenance)

    def caution(self, estimate: DiceEstimate | None, is_withheld: bool) -> str:
        if not is_withheld:
            return ""
        return "The correction was withheld: these images are uncorrected. Why is in the notes on the network."

    def score(self, result: Result, labeled: LabeledCase) -> CaseScore:
        """Errors of the images, and of the displacement along the phase axis in millimeters, where there is signal.

        `unscaled` are those of the high-b image without the Jacobian's help to intensities, and `gland_overlap` is the
        Dice of the gland's outline on T2w and on the corrected diffusion.
        """
        truth = labeled.along_phase_mm
        if truth is None or result.displacement_mm is None:
            raise ValueError("A displacement must be known and found for it to be scored.")
        grid = result.images[HBV_CORRECTED].geometry
        axis = np.reshape(truth.geometry.direction, (3, 3))[:, PHASE_AXES[labeled.phase_axis]]
        found, there = result.displacement_mm @ axis, truth.resample_to(grid).array
        tissue = labeled.images[HBV_CORRECTED].resample_to(grid).array > 0
        values = {"displacement_mm": mae(found, there, tissue)}
        if labeled.gland is not None:
            gland = labeled.gland.resample_to(grid, "nearest").array > 0
            values["displacement_mm gland"] = mae(found, there, tissue & gland)
            values["gland_overlap"] = gland_overlap(labeled, result.displacement_mm)
        # Moved as found, but not scaled: without what the Jacobian does to intensities.
        moved = warp(labeled.case[MRSequence.HBV], result.displacement_mm, grid)
        placed = labeled.images[HBV_CORRECTED].resample_to(grid)
        span = data_range(placed.array, tissue) if tissue.any() else 0.0
        for region, mask in {"": tissue, **({} if labeled.gland is None else {" gland": tissue & gland})}.items():
            found_errors = image_errors(moved, placed, mask, span)
            values |= {
                f"{kind} unscaled{region}": found_errors[kind] for kind in ("psnr_db", "ssim") if kind in found_errors
            }
        images = super().score(result, labeled)
        return replace(images, values={**images.values, **finite(values)})

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """The diffusion images as they are."""

        def baseline(labeled: LabeledCase) -> Result:
            hbv, adc = labeled.case[MRSequence.HBV], labeled.case[MRSequence.ADC]
            field_mm = np.zeros((*hbv.geometry.shape, 3), np.float32)
            images = {HBV_CORRECTED: hbv, ADC_CORRECTED: adc}
            return self.baseline_result(labeled, images=images, displacement_mm=field_mm)

        return baseline

    def methods(self) -> Mapping[str, Method]:
        return {"registration": self.registered}

    def registered(self, labeled: LabeledCase) -> Result:
        """The corrected images of a case whose high-b image was registered to its T2w, along the phase axis alone."""
        runtime = f"SimpleITK {sitk.Version_VersionString()}"
        source = Provenance("registration", "B-spline registration", "specialised", "", runtime, "cpu")
        hbv = labeled.case[MRSequence.HBV]
        grid = hbv.to_nearest_lps().geometry
        along_mm = displacement_along(labeled.case, grid, PHASE_AXES[labeled.phase_axis])
        place = NetworkInput(
            array=along_mm[None],
            geometry=grid,
            reference=hbv.geometry,
            starts=((0, 0, 0),),
            patch=grid.shape,
            scales=(),
            centered_on="whole volume",
        )
        return self.undistorted(along_mm, place, labeled.case, source, labeled.phase_axis)

    def training(self) -> DistortionTraining:
        from .training import DistortionTraining

        return DistortionTraining(self)


def region_of_match(t2w: Geometry, grid: Geometry, gland: Volume | None) -> np.ndarray:
    """In and around the gland (D, H, W), bool; without a mask the middle of the T2w stands in."""
    spacing_mm = grid.spacing_mm[::-1]
    mask = None if gland is None else gland.resample_to(grid, "nearest").array > 0
    if mask is not None and mask.any():
        return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing_mm) < _MATCH_MM)
    middle = grid.to_index(t2w.center_mm)[::-1]
    z, y, x = ((np.arange(n) - m) * s for n, m, s in zip(grid.shape, middle, spacing_mm, strict=True))
    return np.asarray((np.abs(z)[:, None, None] < _MIDDLE_MM[1]) & (np.hypot(y[:, None], x) < _MIDDLE_MM[0]))


def match_with_t2w(t2w: Volume, hbv: Volume, adc: Volume, gland: Volume | None) -> float:
    """How well edges of diffusion lie on those of T2w in and around the gland: 0..1, comparable within one case only.

    The mean of the normalized gradient field (Haber and Modersitzki, MICCAI 2006, LNCS 4191:726) of T2w with
    ln(signal at b 0), which high-b image and ADC give, and with ADC: the squared cosine between in-plane gradients,
    each damped by its root mean square. All are smoothed in plane, since an image that was moved is smoother.
    """
    hbv = hbv.to_nearest_lps()
    grid = hbv.geometry
    near = region_of_match(t2w.geometry, grid, gland)
    steps_mm = grid.spacing_mm[1::-1]
    widths = (0.0, *(_MATCH_SMOOTH_MM / step for step in steps_mm))
    base = ndimage.gaussian_filter(hbv.array * _rise_to_b0(adc, grid), widths)
    bright = float(np.percentile(base[near], 95)) if near.any() else 0.0
    if bright <= 0:
        return 0.0
    diffusion = adc.with_array(np.clip(adc.array, 0, MAX_ADC)).resample_to(grid).array
    fixed, *moving = (
        np.stack(np.gradient(image, *steps_mm, axis=(1, 2)))
        for image in (
            ndimage.gaussian_filter(np.asarray(t2w.resample_to(grid).array, np.float32), widths),
            np.log(np.maximum(base, 0) + _DARK * bright),
            ndimage.gaussian_filter(np.asarray(diffusion, np.float32), widths),
        )
    )
    return float(np.mean([_aligned(fixed[:, near], image[:, near]) for image in moving]))


def _aligned(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared cosine between gradients (2, N), damped where they are small."""
    squares = [(image.astype(np.float64) ** 2).sum(0) for image in (first, second)]
    damped = [square + square.mean() for square in squares]
    dots = (first.astype(np.float64) * second).sum(0)
    return float((dots**2 / np.maximum(damped[0] * damped[1], np.finfo(float).tiny)).mean())


def gland_overlap(labeled: LabeledCase, field_mm: np.ndarray) -> float:
    """Dice of the gland's outline on T2w and on diffusion that is pulled along a field of LPS vectors (D, H, W, 3).

    Where the outline lies on the distorted diffusion follows from the true displacement.
    """
    grid, truth = labeled.case[MRSequence.HBV].geometry, labeled.along_phase_mm
    if labeled.gland is None or truth is None:
        raise ValueError("The gland and the true displacement must be known.")
    own = truth.geometry
    gland = (labeled.gland.resample_to(own, "nearest").array > 0).astype(np.float32)
    axis = PHASE_AXES[labeled.phase_axis]
    shift = truth.array / np.float32(own.spacing_mm[axis])
    signal, moved = (distort(image, shift, 2 - axis) for image in (np.ones_like(gland), gland))
    outline = Volume(np.where(signal > 0, moved / np.maximum(signal, 1e-6), 0).astype(np.float32), own)
    corrected = warp(outline.resample_to(grid), field_mm, grid).array > _HALF
    return dice(corrected, labeled.gland.resample_to(grid, "nearest").array > 0)


def smooth_field_hz(geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """An off-resonance field as a shim leaves it over: (D, H, W) in Hz, slowly varying."""
    lattice = Lattice(geometry.shape, geometry.spacing_mm[::-1])
    return _SHIM_SLOW_HZ * smooth_field(lattice, rng, SLOW_MM) + _SHIM_FAST_HZ * smooth_field(lattice, rng, FAST_MM)


def signals_of(hbv: Volume, adc: Volume) -> np.ndarray:
    """Signals (2, D, H, W) at the high b and at b 0, on the high-b image's grid."""
    high = np.maximum(hbv.array.astype(np.float32), 0)
    return np.stack([high, high * _rise_to_b0(adc, hbv.geometry)])


def _rise_to_b0(adc: Volume, grid: Geometry) -> np.ndarray:
    """Signal at b 0 divided by that at the high b (D, H, W). One saturated voxel must not outweigh all others."""
    tissue = adc.with_array(np.clip(adc.array, 0, MAX_ADC))
    return np.exp(np.float32(ASSUMED_B * _PER_MM2) * tissue.resample_to(grid).array)


def distorted_images(
    high: np.ndarray, base: np.ndarray, shift_voxels: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    """High-b image and ADC (1e-6 mm²/s) of signals (D, H, W) that were moved along an array axis."""
    moved_high, moved_base = (distort(signal, shift_voxels, axis) for signal in (high, base))
    seen = (moved_high > 0) & (moved_base > 0)
    ratio = np.divide(moved_base, moved_high, out=np.ones_like(moved_base), where=seen)
    adc = np.where(seen, np.log(np.maximum(ratio, 1.0)) / (ASSUMED_B * _PER_MM2), 0).astype(np.float32)
    return moved_high, adc


def smooth_across_slices(along_mm: np.ndarray, slice_mm: float) -> np.ndarray:
    """A displacement (D, H, W) as a field that varies slowly from slice to slice has it; the first axis is smoothed."""
    width = ACROSS_SLICES_MM / slice_mm
    return ndimage.gaussian_filter1d(along_mm.astype(np.float32, copy=False), width, axis=0, mode="nearest")


def displacement_field(along_phase_mm: np.ndarray, prepared: NetworkInput, axis: int) -> np.ndarray:
    """LPS vectors (D, H, W, 3) in mm on the reference's own grid, of a displacement along one axis of the network's."""
    length_mm = to_reference(along_phase_mm, prepared, "displacement").array
    direction = np.reshape(prepared.geometry.direction, (3, 3))[:, axis]
    return length_mm[..., None] * direction.astype(np.float32)


def jacobian_along(along_phase_mm: np.ndarray, geometry: Geometry, axis: int) -> np.ndarray:
    """How much each voxel was stretched: 1 + the displacement's derivative along the axis, at least 0.

    Squeezed signal piles up and stretched signal thins out (Jezzard and Balaban, Magn Reson Med 1995;34:65-73).
    """
    if along_phase_mm.shape[2 - axis] == 1:
        return np.ones_like(along_phase_mm)
    return np.maximum(1 + np.gradient(along_phase_mm, geometry.spacing_mm[axis], axis=2 - axis), 0)


def warp(volume: Volume, field_mm: np.ndarray, grid: Geometry, name: str | None = None) -> Volume:
    """A volume on its own grid whose point p shows what lay at p + d(p), linearly.

    The field is of LPS vectors (D, H, W, 3) on `grid`; there is no displacement outside of it.
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


def displacement_along(case: Case, grid: Geometry, axis: int) -> np.ndarray:
    """Where the signal of each place went, in millimeters along an axis of the grid, by registration of hbv to T2w.

    What many clinics' tools do: a smooth B-spline displacement that maximizes mutual information (Mattes et al., IEEE
    TMI 22:120 (2003)). Both images are compared on the diffusion grid with its axes straightened, where the phase axis
    is a coordinate axis, so that all other components of the displacement can be held at 0.

    The grid is that of diffusion with axes nearest to L, P, S; the array (D, H, W), float32.
    """
    fixed, moving = (
        sitk.GetImageFromArray(np.ascontiguousarray(case[sequence].resample_to(grid).array, np.float32))
        for sequence in (MRSequence.T2W, MRSequence.HBV)
    )
    for image in (fixed, moving):
        image.SetSpacing(grid.spacing_mm)
    mesh = [max(round(extent / control), 1) for extent, control in zip(grid.extent_mm, _CONTROL_MM, strict=True)]
    spline = sitk.BSplineTransformInitializer(fixed, mesh, order=3)
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
    found = method.Execute(fixed, moving)
    lattice = fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    field = sitk.TransformToDisplacementField(found, sitk.sitkVectorFloat64, *lattice)
    return np.ascontiguousarray(sitk.GetArrayFromImage(field)[..., axis], np.float32)


TASK = DistortionCorrection()
