"""Terms of the prostate that Slicer's own lists lack: its zones. Needs MRML, but no Qt."""

from __future__ import annotations

from pathlib import Path

import slicer

CONTEXT = "Segmentation category and type - VFM Transfer"
TERMS = Path(__file__).resolve().parents[2] / "Resources" / "Terminologies" / "VFMTransfer.term.json"


def loadTerminology(logic: slicer.vtkSlicerTerminologiesModuleLogic) -> None:
    """Let Slicer find the zones by their codes, with the colors that the networks' segments have.

    Args:
        logic: Of Slicer's module for terminologies; there once the application has started.

    Raises:
        FileNotFoundError: The list was not installed with the module.
    """
    if not logic.IsTerminologyContextLoaded(CONTEXT) and not logic.LoadTerminologyFromFile(str(TERMS)):
        raise FileNotFoundError(f"{TERMS.name} must be in the module's resources. Install VFM Transfer again.")
