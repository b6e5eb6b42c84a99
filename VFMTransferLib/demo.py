"""The first run: a study, both networks of the shipped anatomy pair, one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .catalog import default_pair
from .io import output_folder, read_case
from .phantom import Phantom, make_phantom
from .registry import ModelSpec
from .side_by_side import run_side_by_side
from .terms import Label, TaskId
from .volume import Volume

PHANTOM_SEED = 7
ZONE_VALUES = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}


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
        if case_folder is not None:
            _, page = run_side_by_side(read_case(case_folder), pair, work, on_progress=on_progress)
        else:
            phantom = make_phantom(PHANTOM_SEED)
            truth, labels = truth_for(phantom, pair[0].spec)
            _, page = run_side_by_side(
                phantom.case, pair, work, truth, reference_labels=labels, on_progress=on_progress
            )
    return folder / page.name


def truth_for(phantom: Phantom, spec: ModelSpec) -> tuple[Volume, dict[str, int] | None]:
    """What a phantom knows of what an anatomy network marks: the zones with their values, or the whole gland."""
    if set(ZONE_VALUES) <= set(spec.labels):
        return phantom.zones, ZONE_VALUES
    return phantom.gland, None
