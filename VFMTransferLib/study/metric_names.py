"""The numbers of a study as a person reads them: title, unit and direction by the names that the scores bear.

A name is a measure, then what it is of: `psnr_db`, `mae adc-corrected gland`, `dice peripheral-zone`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.terms import TaskId
from ..evaluation.images import ADC_UNIT, ARBITRARY_UNIT
from ..evaluation.titles import subject_title
from ..tasks.images import ADC_CORRECTED

GLAND = "gland"


@dataclass(frozen=True)
class MetricName:
    """How a number is shown.

    Attributes:
        title: What it is.
        unit: Its unit; empty where it has none.
        higher_is_better: Its direction; None where neither is better.
        decimals: Digits after the point.
    """

    title: str
    unit: str = ""
    higher_is_better: bool | None = True
    decimals: int = 3

    def text(self, value: float) -> str:
        """A value without its unit."""
        if math.isnan(value):
            return "n/a"
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{round(value, self.decimals) + 0.0:.{self.decimals}f}"  # which has no negative zero


_KINDS = {
    "dice": MetricName("Dice"),
    "hd95_mm": MetricName("HD95", "mm", False, 2),
    "volume_error_ml": MetricName("Volume error", "ml", False, 2),
    "volume_in_vain_ml": MetricName("Marked where no lesion is", "ml", False, 2),
    "lesions_missed": MetricName("Lesions missed", "", False, 2),
    "lesions_added": MetricName("Lesions added", "", False, 2),
    "average_precision": MetricName("Average precision of lesions"),
    "auroc": MetricName("AUROC"),
    "quadratic_weighted_kappa": MetricName("Quadratic-weighted kappa"),
    "p_cspca": MetricName("P(csPCa)", "", None),
    "is_cspca": MetricName("csPCa is there (truth)", "", None, 0),
    "ece": MetricName("Expected calibration error", "", False),
    "brier": MetricName("Brier score", "", False),
    "log_loss": MetricName("Log loss", "", False),
    "psnr_db": MetricName("PSNR", "dB", True, 2),
    "ssim": MetricName("SSIM"),
    "mae": MetricName("MAE", ARBITRARY_UNIT, False, 1),
    "displacement_mm": MetricName("Displacement error", "mm", False, 2),
}


def metric_name(name: str, task: str) -> MetricName:
    """How a number of a task is shown; one that is not known keeps its name, without a direction.

    Args:
        name: As in the study's tables.
        task: As in the study's tables.
    """
    kind, *subjects = name.split(" ")
    found = _KINDS.get(kind, MetricName(kind, "", None))
    is_adc = task == TaskId.ADC_TRANSLATION or ADC_CORRECTED in subjects
    unit = ADC_UNIT if kind == "mae" and is_adc else found.unit
    places = [subject_title(subject) for subject in subjects if subject != GLAND]
    title = ", ".join([found.title, *places, *(["in the gland"] if GLAND in subjects else [])])
    return MetricName(title, unit, found.higher_is_better, found.decimals)
