"""Two networks on one case, to the report: what `compare` and the demo share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .case import Case
from .predict import predict_each, save_result
from .report import write_report
from .roi import within_roi
from .study.comparison import Comparison, compare
from .study.image_sources import Reference
from .volume import Volume

SIDES = ("a", "b")


def run_side_by_side(
    case: Case,
    pair: tuple[Bundle, Bundle],
    folder: Path,
    reference: Reference | None = None,
    *,
    reference_labels: dict[str, int] | None = None,
    roi: Volume | None = None,
    on_progress: Callable[[str, float], None] | None = None,
    **running: Any,
) -> tuple[Comparison, Path]:
    """Run both networks, compare them, and write the report with each network's own files in `a/` and `b/`.

    Args:
        case: The study.
        pair: A and B.
        folder: Where everything goes; exists.
        reference: The truth, where it is known; see `compare`.
        reference_labels: Structure → value in the reference; see `compare`.
        roi: Mask of a region of interest; of a reference that is a label map, too, only what lies inside counts.
        on_progress: Called with the stage and the fraction that is done.
        running: What else `predict` takes: runtime, device, precision, crop, threshold.

    Returns:
        The comparison and the report's page.
    """
    if roi is not None and isinstance(reference, Volume) and pair[0].spec.prediction_task.output == "segmentation":
        case, reference = within_roi(case, reference, roi)
    results = predict_each(case, pair, on_progress=on_progress, roi=roi, **running)
    comparison = compare(case, results[0], results[1], reference, reference_labels=reference_labels)
    for side, result in zip(SIDES, results, strict=True):
        save_result(result, folder / side)
    return comparison, write_report(comparison, folder, pair)
