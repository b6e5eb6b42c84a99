"""The model card of a bundle trained by a pair's recipe: what it is made of, and how good it is beside nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .bundle import Bundle
from .model_card import model_card
from .pair_recipe import PairRecipe
from .tasks import TASKS
from .terms import TaskId

# What a card shows of each task, most telling first; the whole is in the metadata.
SHOWN: dict[TaskId, tuple[str, ...]] = {
    TaskId.ANATOMY_SEGMENTATION: ("dice", "hd95_mm", "volume_error_ml"),
    TaskId.LESION_SEGMENTATION: ("dice", "lesions_missed", "lesions_added", "volume_in_vain_ml"),
    TaskId.CLASSIFICATION: ("brier", "log_loss"),
    TaskId.SUPER_RESOLUTION: ("psnr_db", "ssim", "mae"),
    TaskId.DISTORTION_CORRECTION: ("psnr_db", "ssim", "displacement_mm", "displacement_mm gland"),
    TaskId.ADC_TRANSLATION: ("mae", "ssim", "mae gland"),
}


def study_card(bundle: Bundle, recipe: PairRecipe) -> str:
    """The card, Markdown: facts of the bundle, then training, measurements and limits."""
    sections = [model_card(replace(bundle, training={}, metrics={})).rstrip()]
    sections += ["## Training", _training(bundle, recipe), recipe.attribution, "## Measured"]
    for part, found in bundle.metrics.items():
        sections += [f"**{part.capitalize()}**", *_part(found, recipe.task)]
    sections += ["## Limits", "\n".join(f"- {limit}" for limit in recipe.limits)]
    return "\n\n".join(sections) + "\n"


def _training(bundle: Bundle, recipe: PairRecipe) -> str:
    start = bundle.training["start"]
    said = "random weights" if isinstance(start, str) else f"the encoder of `{start['bundle']}`"
    seconds = bundle.training.get("seconds", 0.0)
    test = ", ".join(recipe.split.test) or "none"
    return (
        f"From {said}; {bundle.training['data']}. {recipe.steps} steps, seed {recipe.seed}, "
        f"{seconds / 60:.0f} minutes of one processor core. Real cases that chose nothing, but are measured: {test}. "
        "Both arms differ in the encoder's initial weights only. Made by `make bundles`; the configuration is in "
        "`configs/metadata.json`."
    )


def _part(found: Mapping[str, Any], task: TaskId) -> list[str]:
    """Table of cases and their mean, each value before that of the trivial baseline."""
    names = [name for name in SHOWN[task] if any(name in values for values in found["cases"].values())]
    trivial = found.get("trivial", {})
    head = ["case", *(f"{name}: network | trivial" for name in names)]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * (1 + 2 * len(names))]
    rows += [
        "| " + " | ".join([case, *_cells(values, trivial.get("cases", {}).get(case, {}), names)]) + " |"
        for case, values in found["cases"].items()
    ]
    rows.append("| " + " | ".join(["mean", *_cells(found["cohort"], trivial.get("cohort", {}), names)]) + " |")
    notes = [f"`trivial`: {trivial['what']}."] if "what" in trivial else []
    statistics = {k: v for k, v in found["cohort"].items() if k in ("auroc", "quadratic_weighted_kappa", "ece")} | {
        k: v for k, v in found["cohort"].items() if k == "average_precision"
    }
    if statistics:
        notes.append("Of all cases: " + ", ".join(f"{name} {value:.3f}" for name, value in statistics.items()) + ".")
    if "uncalibrated" in found:
        before = ", ".join(f"{name} {value:.3f}" for name, value in found["uncalibrated"].items())
        notes.append(f"Before calibration: {before}.")
    direction = "higher" if TASKS[task].higher_is_better else "lower"
    return ["\n".join(rows), " ".join([f"Primary: {TASKS[task].metric}, {direction} is better.", *notes])]


def _cells(network: Mapping[str, float], trivial: Mapping[str, float], names: list[str]) -> list[str]:
    return [
        " | ".join(f"{values[name]:.4g}" if name in values else "" for values in (network, trivial)) for name in names
    ]
