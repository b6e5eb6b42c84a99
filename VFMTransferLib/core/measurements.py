"""Numbers that a radiologist reads beside the images: of the gland and of each image's quality. No voxels here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GlandMeasurements:
    """The prostate's size, as PI-RADS v2.1 measures it, and PSA density where a PSA was given.

    Attributes:
        transverse_mm: Largest diameter from left to right in an axial slice.
        anteroposterior_mm: Largest diameter from front to back in the mid-sagittal plane.
        longitudinal_mm: From apex to base in the mid-sagittal plane.
        ellipsoid_ml: Product of the three diameters, times pi / 6.
        segmented_ml: Volume of the mask.
        source: Whose mask it is.
        psa_ng_ml: Prostate-specific antigen as it was entered.
        psa_density_ellipsoid: PSA through the ellipsoid's volume, ng/ml².
        psa_density_segmented: PSA through the mask's volume, ng/ml².
    """

    transverse_mm: float
    anteroposterior_mm: float
    longitudinal_mm: float
    ellipsoid_ml: float
    segmented_ml: float
    source: str
    psa_ng_ml: float | None = None
    psa_density_ellipsoid: float | None = None
    psa_density_segmented: float | None = None

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Value and what it is, as a person reads them; nothing of a PSA that nobody gave."""
        diameters = " x ".join(f"{d:.0f}" for d in (self.transverse_mm, self.anteroposterior_mm, self.longitudinal_mm))
        found = [
            (f"{diameters} mm", "diameters: transverse x front to back x apex to base"),
            (f"{self.segmented_ml:.1f} ml", f"volume of the prostate's mask ({self.source})"),
            (f"{self.ellipsoid_ml:.1f} ml", "volume as an ellipsoid, diameters by PI-RADS v2.1"),
        ]
        if self.psa_density_segmented is not None and self.psa_density_ellipsoid is not None:
            found += [
                (f"{self.psa_density_segmented:.2f} ng/ml²", f"PSA density, {self.psa_ng_ml:g} ng/ml by the mask"),
                (f"{self.psa_density_ellipsoid:.2f} ng/ml²", "PSA density by the ellipsoid"),
            ]
        return found


@dataclass(frozen=True)
class Acquisition:
    """How an image was acquired, as its DICOM headers state it; nothing of a patient.

    Attributes:
        phase_mm: Voxel along the phase-encoding axis as it was acquired, before interpolation.
        frequency_mm: The same along the frequency-encoding axis.
        thickness_mm: Of a slice, without the gap to the next.
        phase_axis: `left-right` or `anterior-posterior`: along which phase was encoded.
        is_phase_positive: Vendor's polarity along that axis, where it is stated.
        b_values: Measured b values of the series, s/mm², lowest first.
        highest_b: Highest b value, measured or calculated.
        other_planes: T2w series of other planes in the exam, as `sagittal`.
        is_study: Whether a whole DICOM study was searched for other planes and b values.
    """

    phase_mm: float | None = None
    frequency_mm: float | None = None
    thickness_mm: float | None = None
    phase_axis: str | None = None
    is_phase_positive: bool | None = None
    b_values: tuple[float, ...] = ()
    highest_b: float | None = None
    other_planes: tuple[str, ...] = ()
    is_study: bool = False


@dataclass(frozen=True)
class QualityCriterion:
    """One criterion of image quality, with all that it was decided by.

    Attributes:
        name: As files have it, as `t2w-field-of-view`.
        title: As a person reads it.
        value: The number, or null where it is not known.
        text: The value as it is shown.
        unit: Of the value.
        threshold: What it is measured against.
        is_met: Null where that cannot be decided.
        source: Who set the threshold.
        sentence: What it means here.
    """

    name: str
    title: str
    value: float | None
    text: str
    unit: str
    threshold: str
    is_met: bool | None
    source: str
    sentence: str
