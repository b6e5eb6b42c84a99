"""The first run: a study, both networks of the shipped anatomy pair, one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .case import Case
from .catalog import default_pair
from .io import output_folder, read_case
from .phantom import make_phantom
from .side_by_side import run_side_by_side
from .terms import Sequence, TaskId
from .volume import Volume

PHANTOM_SEED = 7


def run_demo(
    folder: Path, case_folder: Path | None = None, on_progress: Callable[[str, float], None] | None = None
) -> Path:
    """Compare the pretrained and the from-scratch network on a study, or on a phantom whose truth is known.

    Args:
        folder: Where the report goes; new, empty, or an earlier output, which is replaced.
        case_folder: A study with a T2w; a phantom without it.
        on_progress: Called with the stage and the fraction that is done.

    Returns:
        The report's page.

    Raises:
        VFMTransferError: The study, the shipped networks or the folder cannot be used.
    """
    pair = default_pair(TaskId.ANATOMY_SEGMENTATION)
    with output_folder(folder) as work:
        case, truth = (read_case(case_folder), None) if case_folder else _phantom()
        _, page = run_side_by_side(case, pair, work, truth, on_progress=on_progress)
    return folder / page.name


def _phantom() -> tuple[Case, Volume]:
    """A synthetic study, and its gland as the truth."""
    phantom = make_phantom(PHANTOM_SEED, sequences=[Sequence.T2W])
    return phantom.case, phantom.gland
