"""The model card of a bundle, in the form of the PI-CAI challenge's algorithm cards.

These follow the Model Facts label (Sendak et al., npj Digit Med 3:41 (2020)): summary, mechanism, validation and
performance, uses and directions, warnings; among the warnings inappropriate settings, and when to stop using it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.terms import RESEARCH_USE
from ..tasks import TASKS
from .metadata import task_title

if TYPE_CHECKING:
    from .bundle import Bundle

_DEMONSTRATION = (
    "**Demonstration network.** Small, trained by this project to show the product. It is not the published "
    "network, and its results do not indicate the quality of the published network."
)
_ELSEWHERE = "Patients, scanners and protocols beyond those above were not measured: nothing is known of them."
INAPPROPRIATE = (
    "Any clinical decision: diagnosis, biopsy, treatment, follow-up.",
    "Patients after surgery, radiation, or focal or hormonal therapy of the prostate, or with a catheter, hip implant, "
    "endorectal coil or recent biopsy: no such patient was measured, even where phantoms of this kind were used for "
    "training.",
    "Scanners, field strengths, sequences or resolutions that are not among the cases above.",
    "Images that are not of the male pelvis, that show the prostate in part, or whose quality checks fail.",
)
STOP_WHEN = (
    "A note of the result states that something was withheld, left out, or not found.",
    "On own cases whose truth is known it is worse than stated here, or than the naive baseline.",
    "Scanner, coil, protocol or reconstruction software changes: measure again first.",
    "The pretrained and the from-scratch network of a pair disagree on many cases: there at least one is wrong.",
)
BEFORE_USE = (
    "Measure it on own cases whose truth is known (`vfm-transfer compare` with a reference).",
    "Look at each result over its image; the report shows both.",
)


def model_card(
    bundle: Bundle,
    *,
    population: str = "",
    training: Sequence[str] = (),
    measured: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> str:
    """The card, Markdown.

    Args:
        population: Whom its training cases stand for; by default what the metadata state of the data.
        training, measured: Paragraphs; by default the metadata as they are.
        limits: Of this network, beside those of its task and of all networks.
    """
    spec, grid = bundle.spec, bundle.spec.preprocess
    task = None if spec.task is None else TASKS[spec.task]  # an encoder alone has none
    facts = {
        "Task": task_title(spec),
        "Arm": bundle.arm or "none",
        "Architecture": f"{spec.title} ({spec.paper})",
        "Input channels": ", ".join("zeros" if s is None else s.value for s in grid.sequences),
        "Grid": f"{' x '.join(f'{s:g}' for s in grid.spacing_mm)} mm (x, y, z)",
        "Window": f"{' x '.join(map(str, grid.patch))} voxels (slices, rows, columns)",
        "Normalization": grid.normalization,
        "Output channels": ", ".join(spec.labels) or str(spec.head.out_channels),
        **({} if bundle.calibration is None else {"Calibration": bundle.calibration.note.text}),
        **({} if bundle.operating_point is None else {"Operating point": bundle.operating_point.note}),
        "Version": bundle.version,
        "License of the weights": bundle.license,
    }
    data = bundle.training.get("data")
    trained_on = population or (f"Trained on {data}." if data else "Its training cases are not stated.")
    performance = list(measured) or [_as_json(bundle.metrics) or "Nothing was measured."]
    sections = [
        f"# {bundle.title}",
        bundle.description,
        RESEARCH_USE,
        *([_DEMONSTRATION] if bundle.demonstration else []),
        "## Summary",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]),
        "## Mechanism",
        "### Population",
        f"{trained_on} {_ELSEWHERE}",
        "### Training",
        *(list(training) or [_as_json(bundle.training) or "Not stated."]),
        "## Validation and performance",
        *performance,
        "## Uses and directions",
        task.intended_use if task else "",
        _listed(BEFORE_USE),
        "## Warnings",
        *(["### Limits", _listed(limits)] if limits else []),
        "### Inappropriate settings",
        _listed((*(task.inappropriate_settings if task else ()), *INAPPROPRIATE)),
        "### Stop using it when",
        _listed((*(task.stop_using_when if task else ()), *STOP_WHEN)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def card_sections(card: str) -> dict[str, str]:
    """The text below each heading of second or third level of a card, also of the former form."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in card.splitlines():
        if line.startswith(("## ", "### ")):
            name = line.lstrip("#").strip()
        found.setdefault(name, []).append("" if line.startswith("#") else line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _as_json(content: object) -> str:
    return f"```json\n{json.dumps(content, indent=2, ensure_ascii=False)}\n```" if content else ""
