"""What one cell of a study came to, as a file of its own, and all of them as the study's tables."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..atomic import atomic_file, writing
from ..errors import DatasetError
from .grid_cells import Cell
from .grid_tables import CurveRow, DistanceRow, MetricRow, RunRow, StudyTables, write_tables

FORMAT = 1
Row = TypeVar("Row")


@dataclass(frozen=True)
class CellResult:
    """One cell that is done.

    Attributes:
        cell: The cell.
        config_sha256: Of everything that decides the training.
        real_cases: Real cases that it was measured on.
        seconds: Time on the device, training, without measuring and saving.
        run: Its row, but of a pretraining.
        metrics, curves, distances: Its other rows.
    """

    cell: Cell
    config_sha256: str
    real_cases: tuple[str, ...] = ()
    seconds: float = 0.0
    run: RunRow | None = None
    metrics: tuple[MetricRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    distances: tuple[DistanceRow, ...] = ()


def results_folder(folder: Path) -> Path:
    """Where the cells of a study keep their results."""
    return folder / "work" / "results"


def result_path(folder: Path, cell: Cell) -> Path:
    """The file of a cell's result."""
    return results_folder(folder) / f"{cell.name}.json"


def write_result(result: CellResult, folder: Path) -> Path:
    """Write a cell's result, whole or not at all.

    Raises:
        OutputError: The folder cannot be written.
    """
    path = result_path(folder, result.cell)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": FORMAT, **_without_nan(asdict(result))}
    with atomic_file(path) as part:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_result(folder: Path, cell: Cell) -> CellResult | None:
    """The result of a cell; None where it has none, or one of another version.

    Raises:
        DatasetError: The file is damaged.
    """
    path = result_path(folder, cell)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            return None
        kinds = {"metrics": MetricRow, "curves": CurveRow, "distances": DistanceRow}
        rows: dict[str, Any] = {
            name: tuple(_row(kind, values) for values in document.pop(name)) for name, kind in kinds.items()
        }
        run, cell = document.pop("run"), Cell(**document.pop("cell"))
        real = tuple(document.pop("real_cases"))
        return CellResult(cell, run=None if run is None else _row(RunRow, run), real_cases=real, **rows, **document)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path.name} must be the result of a cell, but cannot be understood. Remove it.") from error


def collect_tables(results: Iterable[CellResult]) -> StudyTables:
    """The rows of all results, in their order."""
    found = list(results)
    return StudyTables(
        tuple(result.run for result in found if result.run is not None),
        tuple(row for result in found for row in result.metrics),
        tuple(row for result in found for row in result.curves),
        tuple(row for result in found for row in result.distances),
    )


def write_collected(results: Iterable[CellResult], folder: Path) -> None:
    """Write the tables of all results that are there.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_tables(collect_tables(results), folder)


def sha256_of(document: Any) -> str:
    """Checksum of a JSON document, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_nan(value: Any) -> Any:
    """JSON has no `nan`: it becomes null."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


def _row(kind: type[Row], values: dict[str, Any]) -> Row:
    """A row; null stands for `nan`, since no column of a row is optional."""
    return kind(**{name: math.nan if value is None else value for name, value in values.items()})
