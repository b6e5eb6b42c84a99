"""The model card of a bundle that a recipe trained: what it is made of, how good it is beside the naive baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..bundles.bundle import Bundle, model_card
from ..tasks import TASKS

_OF_COHORT = ("auroc", "quadratic_weighted_kappa", "ece", "average_precision")


def recipe_card(bundle: Bundle, *, training: str, attribution: str, notes: Sequence[str], limits: Sequence[str]) -> str:
    """The card, Markdown: facts of the bundle, then training, measurements and limits.

    Args:
        bundle: The bundle, with all that was measured.
        training: What trained it, in sentences.
        attribution: Whose images and masks.
        notes: What to know of the measurements.
        limits: Limits of use.
    """
    assert bundle.spec.task is not None
    sections = [model_card(replace(bundle, training={}, metrics={})).rstrip()]
    sections += ["## Training", training, attribution, "## Measured"]
    for part, found in bundle.metrics.items():
        sections += [f"**{part[0].upper()}{part[1:]}**", *_measured(found, bundle.spec.task)]
    sections += [*notes, "## Limits", "\n".join(f"- {limit}" for limit in limits)]
    return "\n\n".join(sections) + "\n"


def _measured(found: Mapping[str, Any], task: str) -> list[str]:
    """Table of cases and their mean, each value before that of the naive baseline."""
    names = [name for name in TASKS[task].card_measures if any(name in values for values in found["cases"].values())]
    naive = found.get("trivial", {})
    head = ["case", *(f"{name}: network | naive" for name in names)]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * (1 + 2 * len(names))]
    rows += [
        "| " + " | ".join([case, *_cells(values, naive.get("cases", {}).get(case, {}), names)]) + " |"
        for case, values in found["cases"].items()
    ]
    rows.append("| " + " | ".join(["mean", *_cells(found["cohort"], naive.get("cohort", {}), names)]) + " |")
    direction = "higher" if TASKS[task].higher_is_better else "lower"
    notes = [f"Primary: {TASKS[task].metric}, {direction} is better."]
    if "what" in naive:
        notes.append(f"Naive baseline: {naive['what']}.")
    statistics = [f"{name} {found['cohort'][name]:.3f}" for name in _OF_COHORT if name in found["cohort"]]
    if statistics:
        notes.append(f"Of all cases: {', '.join(statistics)}.")
    if "uncalibrated" in found:
        before = ", ".join(f"{name} {value:.3f}" for name, value in found["uncalibrated"].items())
        notes.append(f"Before calibration: {before}.")
    return ["\n".join(rows), " ".join(notes)]


def _cells(network: Mapping[str, float], naive: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [
        " | ".join(f"{values[name]:.4g}" if name in values else "" for values in (network, naive)) for name in names
    ]
