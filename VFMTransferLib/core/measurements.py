"""Numbers that a radiologist reads beside the images: PSA, size of the gland, image quality. No voxels here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, get_args

from .errors import PsaError

PhaseAxis = Literal["left-right", "anterior-posterior"]
PHASE_AXES: dict[str, int] = {axis: index for index, axis in enumerate(get_args(PhaseAxis))}
"""Axis of the patient along which phase is encoded → index axis of a grid whose axes run nearest to Left, Posterior and
Superior."""


def nearest_phase_axis(direction: Sequence[float]) -> str | None:
    """The axis of `PHASE_AXES` nearest to a direction (LPS); None for one nearest to Superior."""
    along = [abs(cosine) for cosine in direction]
    return dict(enumerate(PHASE_AXES)).get(along.index(max(along)))


MAX_PSA_NG_ML = 10_000.0
"""Above, a number is in another unit: a thousandth (pg/ml) of a common value is 4000 and more."""
_PSA = re.compile(r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+))\s*(\S.*)?", re.ASCII)
_UNIT = "ng/ml"


def read_psa(text: str) -> float:
    """A PSA in ng/ml as a user writes it: `6.5` or `6.5 ng/ml`.

    Raises:
        PsaError: It is no number above 0, has a comma, or is in another unit.
    """
    match = _PSA.fullmatch(text.strip())
    if match is None:
        raise PsaError(f"The PSA must be a number in {_UNIT}, e.g. 6.5, got '{text.strip():.20}'.")
    number, unit = match.groups()
    if "," in number:
        raise PsaError(
            f"The PSA must be written with a point, e.g. {number.replace(',', '.')}, got '{number}': a comma can mean "
            "thousands."
        )
    if unit is not None and unit.lower().replace(" ", "") != _UNIT:
        raise PsaError(f"The PSA must be in {_UNIT} (1 µg/l is 1 {_UNIT}), got the unit '{unit:.20}'. Convert it.")
    return checked_psa(float(number))


def checked_psa(psa_ng_ml: float) -> float:
    """The PSA, if it can be one.

    Raises:
        PsaError: It is not above 0, or so high that it must be in another unit.
    """
    if not psa_ng_ml > 0:
        raise PsaError(
            f"The PSA must be above 0 {_UNIT}, got {psa_ng_ml:g}. Below the limit of detection, enter that limit."
        )
    if psa_ng_ml > MAX_PSA_NG_ML:
        raise PsaError(
            f"The PSA must be in {_UNIT} and at most {MAX_PSA_NG_ML:.0f}, got {psa_ng_ml:g}. In pg/ml it is 1000 times "
            "larger; convert it."
        )
    return psa_ng_ml


@dataclass(frozen=True)
class GlandMeasurements:
    """The prostate's size, as PI-RADS v2.1 measures it, and PSA density where a PSA was given.

    Attributes:
        transverse_mm: Largest diameter from left to right in an axial slice.
        anteroposterior_mm: Largest diameter from front to back in the mid-sagittal plane; null where the mask holds
            nothing there, as the next two.
        longitudinal_mm: From apex to base in the mid-sagittal plane.
        ellipsoid_ml: Product of the three diameters, times pi / 6.
        segmented_ml: Volume of the whole mask.
        source: Whose mask it is.
        psa_ng_ml: Prostate-specific antigen as it was entered.
        psa_density_ellipsoid: PSA divided by the ellipsoid's volume, ng/ml².
        psa_density_segmented: PSA divided by the mask's volume, ng/ml².
    """

    transverse_mm: float
    anteroposterior_mm: float | None
    longitudinal_mm: float | None
    ellipsoid_ml: float | None
    segmented_ml: float
    source: str
    psa_ng_ml: float | None = None
    psa_density_ellipsoid: float | None = None
    psa_density_segmented: float | None = None

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Value and what it is, as a person reads them; nothing of a PSA that nobody gave."""
        millimeters = (self.transverse_mm, self.anteroposterior_mm, self.longitudinal_mm)
        diameters = " x ".join("n/a" if mm is None else f"{mm:.0f}" for mm in millimeters)
        found = [
            (f"{diameters} mm", "diameters: transverse x AP x longitudinal"),
            (f"{self.segmented_ml:.1f} ml", f"volume of the prostate's mask ({self.source})"),
        ]
        if self.ellipsoid_ml is not None:
            found.append((f"{self.ellipsoid_ml:.1f} ml", "volume as an ellipsoid, diameters by PI-RADS v2.1"))
        if self.psa_density_segmented is not None:
            density = f"{self.psa_density_segmented:.2f} ng/ml²"
            found.append((density, f"PSA density, {self.psa_ng_ml:g} ng/ml by the mask"))
        if self.psa_density_ellipsoid is not None:
            found.append((f"{self.psa_density_ellipsoid:.2f} ng/ml²", "PSA density by the ellipsoid"))
        return found


@dataclass(frozen=True)
class DiceEstimate:
    """The Dice that a segmentation of the prostate probably has with the truth, estimated without one; ours.

    Attributes:
        dice: Expected value.
        low, high: Ends of its interval.
        coverage: Share of results on exams that were no part of the fit whose Dice lay within their interval.
        level: Expected value below which the segmentation must be checked before it is used.
        signs: What it was estimated from, as `inference/estimate.py` defines it.
    """

    dice: float
    low: float
    high: float
    coverage: float
    level: float
    signs: dict[str, float] = field(default_factory=dict)

    @property
    def is_low(self) -> bool:
        return self.dice < self.level

    @property
    def text(self) -> str:
        return f"{self.dice:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def interval_text(self) -> str:
        return f"interval that contained {self.coverage:.0%} of unseen results"

    @property
    def warning(self) -> str:
        """What must be read before the segmentation is used; empty where nothing must."""
        if not self.is_low:
            return ""
        # As many decimals as it takes to show that one is below the other.
        decimals = next(n for n in count(2) if f"{self.dice:.{n}f}" != f"{self.level:.{n}f}")
        dice = f"{self.dice:.{decimals}f} ({self.low:.2f} to {self.high:.2f})"
        return (
            f"This outline of the prostate may be wrong: its expected Dice is {dice}, below {self.level:.{decimals}f}. "
            "Check every slice of it before anything is measured by it."
        )


@dataclass(frozen=True)
class Acquisition:
    """How an image was acquired, as its DICOM headers state it; nothing of a patient.

    Attributes:
        phase_mm: Voxel along the phase-encoding axis as it was acquired, before interpolation.
        frequency_mm: The same along the frequency-encoding axis.
        thickness_mm: Of a slice, without the gap to the next.
        phase_axis: Along which phase was encoded, a key of `PHASE_AXES`.
        is_phase_positive: Vendor's polarity along that axis, where it is stated.
        b_values: Measured b values of the series, s/mm², lowest first.
        highest_b: Highest b value, measured or calculated.
        computed_b: b value for which the image was computed here from those measured; None of one as it was read.
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
    computed_b: float | None = None
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
