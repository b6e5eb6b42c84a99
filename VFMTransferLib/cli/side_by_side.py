"""Two networks on one case, to the report: what `compare` and the demo share."""

from __future__ import annotations

from pathlib import Path

from ..bundles.bundle import Bundle
from ..bundles.catalog import default_pair
from ..core.case import Case
from ..core.placement import within_roi
from ..core.terms import Label, OnProgress
from ..core.volume import Volume
from ..encoders.base import ModelSpec
from ..evaluation.comparison import Comparison, compare
from ..evaluation.outputs import Reference
from ..inference.predict import CasePredictor, PredictOptions, require_fit
from ..io import output_folder, read_case
from ..io.results import save_result
from ..phantom import Phantom, make_phantom
from ..report import write_report
from ..tasks import DEFAULT_TASK, task_of

SIDES = ("a", "b")


def run_side_by_side(
    case: Case,
    pair: tuple[Bundle, Bundle],
    folder: Path,
    reference: Reference | None = None,
    *,
    reference_labels: dict[str, int] | None = None,
    options: PredictOptions | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Comparison, Path]:
    """Run both networks, compare them, and write the report with each network's own files in `a/` and `b/`.

    Args:
        case: The case.
        pair: A and B.
        folder: Where everything goes; exists.
        reference: The truth, where it is known; see `compare`.
        reference_labels: Structure → value in the reference; see `compare`.
        options: How networks are run. Inside a region of interest only, a reference that is a label map counts too.
        on_progress: Called with the stage and the fraction that is done.

    Returns:
        The comparison and the report's page.
    """
    for bundle in pair:
        require_fit(case, bundle)
    options = options or PredictOptions()
    roi = options.roi
    if roi is not None and isinstance(reference, Volume) and task_of(pair[0].spec).output == "segmentation":
        case, reference = within_roi(case, reference, roi)
    predictor = CasePredictor(case, options)
    report = on_progress or (lambda stage, fraction: None)
    a = predictor.predict(pair[0], lambda stage, fraction: report(stage, fraction / 2))
    b = predictor.predict(pair[1], lambda stage, fraction: report(stage, (1 + fraction) / 2))
    comparison = compare(case, a, b, reference, reference_labels=reference_labels)
    for side, result in zip(SIDES, (a, b), strict=True):
        save_result(result, folder / side)
    return comparison, write_report(comparison, folder, pair)


PHANTOM_SEED = 7
ZONE_VALUES = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}


def run_demo(folder: Path, case_folder: Path | None = None, on_progress: OnProgress | None = None) -> Path:
    """Compare the pretrained and the from-scratch network on a case, or on a phantom whose truth is known.

    Args:
        folder: Where the report goes; new, empty, or an earlier output, which is replaced.
        case_folder: A case with a T2w; a phantom without it.
        on_progress: Called with the stage and the fraction that is done.

    Returns:
        The report's page.

    Raises:
        VFMTransferError: The case, the shipped networks or the folder cannot be used.
    """
    pair = default_pair(DEFAULT_TASK)
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
    """A phantom's truth of what an anatomy network marks: the zones with their values, or the whole gland."""
    if set(ZONE_VALUES) <= set(spec.labels):
        return phantom.zones, ZONE_VALUES
    return phantom.gland, None
