"""Comparisons as files: JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic_file, writing
from ..result import Provenance
from ..terms import RESEARCH_USE
from .comparison import Comparison
from .measures import Measure

if TYPE_CHECKING:
    from .cohort import Cohort

FORMAT = "vfm-transfer/comparison/1"
COHORT_FORMAT = "vfm-transfer/cohort/1"


def save_comparison(comparison: Comparison, folder: Path) -> tuple[Path, Path]:
    """Write `comparison.json` and `comparison.csv`.

    Returns:
        The two paths.

    Raises:
        OutputError: The folder cannot be written.
    """
    rows = [{"case": comparison.case.id, "task": str(comparison.a.task), **measure_row(m)} for m in comparison.measures]
    return _save(Path(folder), "comparison", comparison_document(comparison), rows)


def save_cohort(cohort: Cohort, folder: Path) -> tuple[Path, Path]:
    """Write `cohort.json` and `cohort.csv`.

    Raises:
        OutputError: The folder cannot be written.
    """
    document = cohort_document(cohort)
    return _save(Path(folder), "cohort", document, document["rows"])


def cohort_document(cohort: Cohort) -> dict[str, Any]:
    """A cohort as JSON takes it; numbers that are not finite are None."""
    return {
        "format": COHORT_FORMAT,
        "note": RESEARCH_USE,
        "cases": list(cohort.case_ids),
        "confidence": cohort.confidence,
        "seed": cohort.seed,
        "rows": [{key: _finite(value) for key, value in asdict(row).items()} for row in cohort.rows],
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison but its voxels, as JSON takes it: no path, no patient data."""
    return {
        "format": FORMAT,
        "note": RESEARCH_USE,
        "case": comparison.case.id,
        "task": str(comparison.a.task),
        "a": provenance_document(comparison.a.provenance),
        "b": provenance_document(comparison.b.provenance),
        "has_reference": comparison.has_reference,
        "true_class": comparison.true_class,
        "focus_slice": comparison.focus_slice,
        "measures": [measure_row(m) for m in comparison.measures],
        "disagreements": [asdict(d) for d in comparison.disagreements],
        "lesions": {
            "a": [asdict(lesion) for lesion in comparison.a.lesions],
            "b": [asdict(lesion) for lesion in comparison.b.lesions],
        },
        "notes": [*comparison.case.notes, *comparison.notes],
    }


def measure_row(measure: Measure) -> dict[str, Any]:
    """One measure as a row; a value that is no finite number is None, with the reason in `note`."""
    reason = "the images are equal" if math.isinf(measure.value) else ""
    return {
        "subject": measure.subject,
        "measure": measure.kind,
        "between": str(measure.between),
        "value": _finite(measure.value),
        "unit": measure.unit,
        "note": "; ".join(filter(None, (reason, measure.note))),
    }


def provenance_document(provenance: Provenance) -> dict[str, Any]:
    """A result's origin as JSON takes it."""
    return {**asdict(provenance), "notes": list(provenance.notes)}


def _save(folder: Path, stem: str, document: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[Path, Path]:
    json_path, csv_path = folder / f"{stem}.json", folder / f"{stem}.csv"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(json_path) as part:
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    with atomic_file(csv_path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    return json_path, csv_path


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
