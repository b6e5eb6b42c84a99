"""The text files of a bundle that people read: model card and licence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..core.terms import RESEARCH_USE
from .metadata import task_title

if TYPE_CHECKING:
    from .bundle import Bundle

_DEMONSTRATION = (
    "**Demonstration network.** Small, trained by this project to show the product. It is not the published "
    "network and says nothing about how good that is."
)


def model_card(bundle: Bundle) -> str:
    """The model card, Markdown, made from the metadata."""
    spec, grid = bundle.spec, bundle.spec.preprocess
    inputs = ", ".join("zeros" if s is None else s.value for s in grid.sequences)
    facts = {
        "Task": task_title(spec),
        "Arm": bundle.arm or "none",
        "Architecture": f"{spec.title} ({spec.paper})",
        "Input channels": inputs,
        "Grid": f"{' x '.join(f'{s:g}' for s in grid.spacing_mm)} mm (x, y, z)",
        "Window": f"{' x '.join(map(str, grid.patch))} voxels (slices, rows, columns)",
        "Normalization": grid.normalization,
        "Output channels": ", ".join(spec.labels) or str(spec.head.out_channels),
        **({} if bundle.calibration is None else {"Calibration": bundle.calibration.note}),
        "Version": bundle.version,
        "License of the weights": bundle.license,
    }
    sections = [f"# {bundle.title}", bundle.description, f"{RESEARCH_USE}"]
    if bundle.demonstration:
        sections.append(_DEMONSTRATION)
    sections.append("\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]))
    sections += _json_section("Training", bundle.training) + _json_section("Measured", bundle.metrics)
    return "\n\n".join(sections) + "\n"


def license_text(bundle: Bundle) -> str:
    """What `LICENSE` states where the weights came with no text of their own."""
    return (
        f"License of these weights: {bundle.license}.\n\n"
        f"The architecture is described at {bundle.spec.paper}; its authors' code is under {bundle.spec.license}.\n"
        f"{RESEARCH_USE}\n"
    )


def _json_section(title: str, content: dict[str, Any]) -> list[str]:
    if not content:
        return []
    return [f"## {title}", f"```json\n{json.dumps(content, indent=2, ensure_ascii=False)}\n```"]
