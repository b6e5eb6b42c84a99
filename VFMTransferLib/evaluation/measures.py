"""What a comparison is made of: numbers, places where A and B differ, and their names as a radiologist reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ..core.terms import LABEL_TERMS, Arm, Label, Sequence

if TYPE_CHECKING:  # Slicer's window reads these words, and must not wait for SimpleITK
    from ..core.result import Result
    from ..core.volume import IntTriple, Triple

ALL_CLASSES = "all classes"


MIN_DIFFERENCE_ML = 0.05
"""Smaller regions in which A and B differ are folded away where people read them; ours."""


class Between(StrEnum):
    """Whom a number is about. Agreement of A with B does not show whether either is right."""

    A = "a"
    B = "b"
    REFERENCE = "reference"
    A_B = "a-b"
    A_REFERENCE = "a-reference"
    B_REFERENCE = "b-reference"
    INPUT_REFERENCE = "input-reference"
    NAIVE_REFERENCE = "naive-reference"


@dataclass(frozen=True)
class Kind:
    """How a measure is shown."""

    title: str
    unit: str = ""  # empty where it has none or takes the image's
    higher_is_better: bool | None = None  # against a reference; None where there is no direction
    decimals: int = 3
    definition: str = ""


KINDS: dict[str, Kind] = {
    "volume_ml": Kind("Volume", "ml", decimals=2),
    "volume_difference_ml": Kind("Volume difference", "ml", decimals=2, definition="the first volume minus the second"),
    "dice": Kind("Dice", higher_is_better=True, definition="2|A∩B| / (|A| + |B|) over voxels"),
    "expected_dice": Kind("Expected Dice", definition="estimated without a reference, with its interval; ours"),
    "hausdorff95_mm": Kind(
        "HD95", "mm", False, 2, "the larger of the two directed 95th percentiles of the 3D surface distance"
    ),
    "lesions_matched": Kind(
        "Lesions matched",
        "",
        True,
        0,
        "regions of the first and of the second that overlap with an IoU of at least 0.1",
    ),
    "lesions_added": Kind(
        "Lesions added", "", False, 0, "regions of the first only; false positives against a reference"
    ),
    "lesions_missed": Kind(
        "Lesions missed", "", False, 0, "regions of the second only; false negatives against a reference"
    ),
    "mean_difference": Kind("Mean difference", decimals=1, definition="mean of the first image minus the second"),
    "mae": Kind("MAE", higher_is_better=False, decimals=1, definition="mean absolute difference"),
    "psnr_db": Kind("PSNR", "dB", True, 2, "10 log10(data range² / mean squared difference)"),
    "ssim": Kind("SSIM", "", True, 3, "structural similarity in plane, Gaussian window of 1.5 px, K1 .01, K2 .03"),
    "displacement_difference_mm": Kind(
        "Displacement difference", "mm", False, 2, "mean length of the difference vector"
    ),
    "probability": Kind("Probability"),
    "probability_difference": Kind("Probability difference", definition="A minus B"),
    "total_variation": Kind(
        "Total variation distance",
        "",
        False,
        3,
        "share of the probability that A and B give to different classes: half the sum of absolute differences",
    ),
    "log_loss": Kind("Log loss", higher_is_better=False, definition="−ln of the probability given to the true class"),
}


@dataclass(frozen=True)
class Measure:
    """One number of a comparison."""

    kind: str  # key of `KINDS`; the function's name in `metrics` where there is one
    subject: str  # a structure, an output image (with `, gland` where measured inside the gland only), or a class
    between: Between
    value: float  # `nan` where it is undefined, `inf` for the PSNR of equal images
    unit: str = ""
    note: str = ""  # why there is no value, or what the value depends on

    @property
    def title(self) -> str:
        return KINDS[self.kind].title

    @property
    def text(self) -> str:
        """The value as shown, without its unit."""
        if math.isnan(self.value):
            return "n/a"
        if math.isinf(self.value):
            return "∞"
        return f"{self.value:z.{KINDS[self.kind].decimals}f}"  # no -0.0


def measure(kind: str, subject: str, between: Between, value: float, note: str = "", unit: str = "") -> Measure:
    """A measure in its kind's own unit, or in `unit` where the kind has none."""
    return Measure(kind, subject, between, float(value), KINDS[kind].unit or unit, note)


@dataclass(frozen=True)
class Disagreement:
    """A connected region where A and B differ in the same way."""

    index: int  # 1 for the largest
    a_label: str
    b_label: str
    volume_ml: float
    center_mm: Triple  # a voxel of the region near its middle, LPS
    center_index: IntTriple  # the same voxel (x, y, z) on the grid with its axes nearest L, P, S
    slice_index: int  # slice in which most of it lies, from 0 at the inferior end
    position: str = ""  # in the gland, as `right, mid, posterior`; empty where the gland is not known


SEQUENCE_TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "High-b DWI", Sequence.ADC: "ADC"}
ARM_TITLES = {str(Arm.PRETRAINED): "Pretrained", str(Arm.SCRATCH): "From scratch"}
_TITLES = {
    ALL_CLASSES: "All classes",
    "displacement": "Displacement",
    str(Label.BACKGROUND): "Background",
    **{str(label): term.title for label, term in LABEL_TERMS.items()},
}


def label_title(name: str) -> str:
    """Title of a label or class; a name that is not ours stays as it is."""
    return _TITLES.get(name, name.replace("structure-", "Structure "))


def subject_title(name: str) -> str:
    """Title of a measure's subject: a label, a class, or an output image."""
    for sequence, title in SEQUENCE_TITLES.items():
        if name.startswith(f"{sequence}-"):
            return f"{title} {name.removeprefix(f'{sequence}-').replace('-', ' ')}"
    return label_title(name)


def arm_title(result: Result) -> str:
    """How an arm is called in views: where its weights started, or the bundle's title."""
    return ARM_TITLES.get(result.provenance.arm, result.provenance.title)


def unit_title(unit: str) -> str:
    """A unit as it is printed."""
    return unit.replace("1e-6", "10⁻⁶")


def quantity_title(value: str, unit: str) -> str:
    """A number with its unit, a power of ten as a factor; `n/a` has no unit."""
    if not unit or value == "n/a":
        return value
    return f"{value} {'× ' if unit.startswith('1e') else ''}{unit_title(unit)}"


def place_title(point_mm: Iterable[float]) -> str:
    """A point in LPS millimeters by anatomical directions."""
    sides = zip(point_mm, ("LR", "PA", "SI"), strict=True)
    return " ".join(f"{side[int(v < 0)]}\u00a0{abs(v):.1f}" for v, side in sides)
