"""The rows of a batch: one a case and bundle, read from the files that it left, and `summary.csv` of all."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..bundles.bundle import Bundle
from ..core.files import atomic_file
from ..io.results import RESULT
from ..tasks import TASKS

SUMMARY = "summary.csv"
COMPARISON = "comparison.json"
BETWEEN_ARMS = "a-b"
_SHOWN_DIGITS = 12  # of the checksum, enough to distinguish weights
_DECIMALS = 6

Status = Literal["done", "failed", "waiting"]
Value = float | int | str | None


@dataclass(frozen=True)
class Row:
    """One case and one bundle.

    Attributes:
        case: Name of its folder.
        arm: `pretrained`, `scratch` or empty.
        sha256: The first digits of the weights' checksum.
        status: Whether its results are there; `waiting` before its turn.
        message: Why it failed.
        values: Column → number. Those that begin with `a-b` are how far both arms agree, not whether either is correct.
    """

    case: str
    bundle: str
    arm: str
    sha256: str
    task: str
    status: Status
    message: str = ""
    values: dict[str, Value] = field(default_factory=dict)

    def cells(self) -> dict[str, Value]:
        """Column → what stands there."""
        about = {name: value for name, value in asdict(self).items() if name != "values"}
        rounded = {n: round(v, _DECIMALS) if isinstance(v, float) else v for n, v in self.values.items()}
        return {**about, **rounded}


def read_row(folder: Path, case: str, bundle: Bundle, status: Status, message: str = "") -> Row:
    """The row of a case, whose results lie in `folder`, and a bundle; numbers are read only of what is done."""
    values: dict[str, Value] = {}
    if status == "done":
        values = _numbers(read_json(folder / bundle.name / RESULT) or {})
        for one in (read_json(folder / COMPARISON) or {}).get("measures", []):
            if one["between"] == BETWEEN_ARMS:
                values[f"{BETWEEN_ARMS} {one['measure']} {one['subject']}"] = one["value"]
    short = bundle.weights_sha256[:_SHOWN_DIGITS]
    return Row(case, bundle.name, str(bundle.arm or ""), short, str(bundle.spec.task), status, message, values)


def write_summary(rows: list[Row], path: Path) -> None:
    """Write all rows; a column that some rows lack is empty there."""
    cells = [row.cells() for row in rows]
    columns = dict.fromkeys(name for row in cells for name in row)
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(cells)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _numbers(result: dict[str, Any]) -> dict[str, Value]:
    """The numbers of a `result.json`."""
    lesions = result.get("lesions", [])
    values: dict[str, Value] = {"seconds": round(sum(result.get("seconds", {}).values()), 2)}
    values |= {f"volume_ml {name}": volume for name, volume in result.get("volumes_ml", {}).items()}
    task = TASKS.get(result.get("task", ""))
    if task is not None and task.finds_lesions:
        values["lesions"] = len(lesions)
        values["largest_lesion_ml"] = max((lesion["volume_ml"] for lesion in lesions), default=0.0)
        values["highest_confidence"] = max((lesion["confidence"] for lesion in lesions), default=None)
    probabilities = {**result.get("class_probabilities", {}), **result.get("derived_probabilities", {})}
    return values | {f"probability {name}": probability for name, probability in probabilities.items()}
