"""What a comparison is made of: numbers with their unit and reason, and places where A and B differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Slicer's window reads these words, and must not wait for SimpleITK
    from ..core.volume import IntTriple, Triple


ALL_CLASSES = "all classes"


class Between(StrEnum):
    """Whom a number is about. Agreement of A with B does not show whether either is right."""

    A = "a"
    B = "b"
    REFERENCE = "reference"
    A_B = "a-b"
    A_REFERENCE = "a-reference"
    B_REFERENCE = "b-reference"
    INPUT_REFERENCE = "input-reference"


@dataclass(frozen=True)
class Kind:
    """How a measure is shown.

    Attributes:
        unit: Its own unit; empty where it has none or takes the image's.
        higher_is_better: Direction against a reference; None where there is none.
        decimals: Digits shown after the point.
        definition: What it is, in a sentence.
    """

    title: str
    unit: str = ""
    higher_is_better: bool | None = None
    decimals: int = 3
    definition: str = ""


KINDS: dict[str, Kind] = {
    "volume_ml": Kind("Volume", "ml", decimals=2),
    "volume_difference_ml": Kind("Volume difference", "ml", decimals=2, definition="the first volume minus the second"),
    "dice": Kind("Dice", higher_is_better=True, definition="2|A∩B| / (|A| + |B|) over voxels"),
    "hausdorff95_mm": Kind(
        "HD95", "mm", False, 2, "the larger of the two directed 95th percentiles of surface distance, in space"
    ),
    "lesions_matched": Kind(
        "Lesions matched",
        "",
        True,
        0,
        "regions of the first and of the second that overlap with an IoU of at least 0.1",
    ),
    "lesions_added": Kind("Lesions added", "", False, 0, "regions of the first alone; false ones against a reference"),
    "lesions_missed": Kind("Lesions missed", "", False, 0, "regions of the second alone"),
    "mean_difference": Kind("Mean difference", decimals=1, definition="mean of the first image minus the second"),
    "mae": Kind("MAE", higher_is_better=False, decimals=1, definition="mean absolute difference"),
    "psnr_db": Kind("PSNR", "dB", True, 2, "10 log10(data range² / mean squared difference)"),
    "ssim": Kind(
        "SSIM",
        higher_is_better=True,
        definition="structural similarity in plane, Gaussian window of 1.5 px, K1 .01, K2 .03",
    ),
    "displacement_difference_mm": Kind(
        "Displacement difference", "mm", False, 2, "mean length of the difference vector"
    ),
    "probability": Kind("Probability"),
    "probability_difference": Kind("Probability difference", definition="A minus B"),
    "total_variation": Kind(
        "Total variation distance",
        higher_is_better=False,
        definition="half the sum of absolute probability differences",
    ),
    "log_loss": Kind("Log loss", higher_is_better=False, definition="−ln of the probability given to the true class"),
}


@dataclass(frozen=True)
class Measure:
    """One number of a comparison.

    Attributes:
        kind: Key of `KINDS`; the function's name in `metrics` where there is one.
        subject: What was measured: a structure, an output image (with `, gland` where measured
            inside the gland only), or a class.
        value: The number; `nan` where it is undefined, `inf` for the PSNR of equal images.
        note: Why there is no value, or what the value depends on.
    """

    kind: str
    subject: str
    between: Between
    value: float
    unit: str = ""
    note: str = ""

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
        return f"{self.value:.{KINDS[self.kind].decimals}f}"


def measure(kind: str, subject: str, between: Between, value: float, note: str = "", unit: str = "") -> Measure:
    """A measure in its kind's own unit, or in `unit` where the kind has none."""
    return Measure(kind, subject, between, float(value), KINDS[kind].unit or unit, note)


@dataclass(frozen=True)
class Disagreement:
    """A connected region where A and B differ in the same way.

    Attributes:
        index: 1 for the largest.
        a_label: A's label there.
        b_label: B's label there.
        center_mm: A voxel of the region near its middle, LPS.
        center_index: The same voxel (x, y, z) on the grid with its axes nearest L, P, S.
        slice_index: Slice in which most of it lies, from 0 at the inferior end.
    """

    index: int
    a_label: str
    b_label: str
    volume_ml: float
    center_mm: Triple
    center_index: IntTriple
    slice_index: int
