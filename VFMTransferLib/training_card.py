"""The model card of a bundle that this project trained: what it is made of, how good it is, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bundle import Bundle
from .model_card import model_card
from .recipe import Recipe

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
