"""What every training of the study has in common: where its checkpoint lies, and what its bundle records of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bundles.bundle import Bundle
from ..bundles.model_card import model_card
from ..core.decoding import to_json
from ..core.terms import TaskId
from ..tasks.base import TASKS
from .optimization import Run
from .recipes import PairRecipe, Recipe

VERSION = "1.0.0"  # of the bundles


def checkpoints(bundle_folder: Path) -> Path:
    """Where the training of a bundle keeps its checkpoint: beside the bundle, which is written whole at the end."""
    return bundle_folder.parent / f"{bundle_folder.name}.training"


def draws_of(batch: int | None) -> str:
    """How samples draw: the study's own batches as they always did, others so that processes draw their own only."""
    return "step" if batch is None else "sample"


def recorded(config: object) -> dict[str, Any]:
    """A configuration without its network, which the bundle states itself."""
    document: dict[str, Any] = to_json(config)
    del document["model"]
    return document


def course(run: Run) -> dict[str, Any]:
    """How a run went, and on how many devices it was divided."""
    told = {"steps": run.step, "seconds": round(run.seconds, 1), "history": run.history}
    how = {"devices": run.division.processes, "accumulation": run.division.accumulation}
    return told if run.division.parts == 1 else {**told, **how}


# The model card of a bundle that this project trained: what it is made of, how good it is, as tables.

_CAVEATS = """\
- Trained on very few patients, all scanned on one maker's 3 T scanners. Expect failures elsewhere; look at each result.
- Its labels came from another network, not from a reader: agreement with them is not accuracy.
- It marks the whole prostate only. It says nothing of cancer.
- It was not tested on patients after treatment, with hip implants, or with an endorectal coil."""


def training_card(bundle: Bundle, recipe: Recipe) -> str:
    """The card, Markdown: facts of the bundle, then training, measurements and limits."""
    sections = [model_card(replace(bundle, training={}, metrics={})).rstrip()]
    sections += ["## Training", _training(recipe), *bundle.training.get("remarks", []), recipe.attribution]
    if bundle.metrics:
        sections += ["## Measured", *_measured(bundle.metrics, recipe)]
    sections += ["## Limits", _CAVEATS]
    return "\n\n".join(sections) + "\n"


def _training(recipe: Recipe) -> str:
    """What trained it, in sentences."""
    split, part = recipe.split, recipe.finetune
    softened = (
        f" Each label is the mean of that mask and the prediction of a network that was trained without the case "
        f"({recipe.crossfit.folds} folds), unless these two agree to a Dice below {recipe.crossfit.least_agreement:g}."
        if recipe.crossfit.folds
        else ""
    )
    return (
        f"Training cases: {', '.join(split.train)}. Cases that chose nothing and are only measured: "
        f"{', '.join([*split.validation, *split.test]) or 'none'}. Masks: `{recipe.labels}`.{softened} "
        f"{part.schedule.steps} steps of one view each, {part.phantom_share:.0%} of them of {recipe.phantoms.count} "
        f"procedural phantoms; seed {recipe.seed}. Both arms differ in the encoder's initial weights only. "
        "The whole recipe is in `configs/metadata.json`."
    )


def _measured(metrics: dict[str, Any], recipe: Recipe) -> list[str]:
    """A table of all cases and references, with who took part in training."""
    references = recipe.evaluation.references
    head = ["case", "", "volume ml", *(f"{r}: {m}" for r in references for m in ("Dice", "HD95 mm"))]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, found in metrics["cases"].items():
        role = "training" if name in recipe.split.train else "unseen"
        cells = [name, role, f"{found['volume_ml']:.0f}"]
        for reference in references:
            values = found.get(reference, {})
            cells += [_number(values.get("dice"), 3), _number(values.get("hd95_mm"), 1)]
        rows.append("| " + " | ".join(cells) + " |")
    return ["\n".join(rows), *(f"{note}" for note in metrics.get("notes", []))]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# The model card of a bundle trained by a pair's recipe: what it is made of, and how good it is beside nothing.

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
    sections += ["## Training", _training_of_study_card(bundle, recipe), recipe.attribution, "## Measured"]
    for part, found in bundle.metrics.items():
        sections += [f"**{part.capitalize()}**", *_part(found, recipe.task)]
    sections += ["## Limits", "\n".join(f"- {limit}" for limit in recipe.limits)]
    return "\n\n".join(sections) + "\n"


def _training_of_study_card(bundle: Bundle, recipe: PairRecipe) -> str:
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
