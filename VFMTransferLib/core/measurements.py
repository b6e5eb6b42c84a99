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
