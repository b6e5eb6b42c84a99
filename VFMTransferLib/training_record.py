"""What every training of the study has in common: where its checkpoint lies, and what its bundle records of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .optimization import Run
from .spec_json import to_json

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
