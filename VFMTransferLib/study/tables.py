"""The cells of a study: one training, one baseline or one pretraining each, in the order in which they are run.

The order makes a study readable wherever it is stopped: what costs nothing first, then every encoder and task with the
first seed of all arms, then with the second.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..core.errors import ConfigError, DatasetError
from ..core.files import atomic_file, writing
from ..tasks import TASKS
from .config import StudyConfig

PRETRAINING = "pretraining"
REGISTRATION = "registration"
FAMILIES = ("profound", "provicnet")
KEYS = ("encoder", "task", "arm", "seed")


@dataclass(frozen=True, order=True)
class Cell:
    """One cell.

    Attributes:
        encoder: As the tables' column: an encoder, a specialised network, `registration`, or a baseline.
        task: The task; empty of a pretraining.
        arm: One of `grid_tables.ARMS`, or `PRETRAINING`.
        seed: Of head, order and views.
    """

    encoder: str
    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return ".".join(part for part in (self.task, self.encoder, self.arm, str(self.seed)) if part)

    @property
    def is_trained(self) -> bool:
        """Whether a network learns in it."""
        return self.arm != "trivial" and self.encoder != REGISTRATION

    @property
    def family(self) -> str:
        """The family whose settings it has; a specialised network has ProFound's."""
        return self.encoder if self.encoder in FAMILIES else FAMILIES[0]

    @property
    def needs(self) -> Cell | None:
        """The pretraining that it starts from."""
        return pretraining(self.encoder) if self.arm == "pretrained" else None


def pretraining(encoder: str) -> Cell:
    """The cell of an encoder's pretraining."""
    return Cell(encoder, "", PRETRAINING, 0)


def study_cells(config: StudyConfig) -> tuple[Cell, ...]:
    """All cells in their order; a pretraining stands before the first cell that needs it."""
    return tuple(dict.fromkeys(_with_needs(_measured(config))))


def chosen_cells(cells: Iterable[Cell], only: Mapping[str, Iterable[str]]) -> tuple[Cell, ...]:
    """The cells whose columns are among those that are wanted, and what they need.

    Args:
        cells: In their order.
        only: Column, one of `KEYS` → values that it may have; all columns must agree.

    Raises:
        ConfigError: No cell is wanted.
    """
    wanted = {key: set(values) for key, values in only.items()}
    chosen = [cell for cell in cells if all(str(getattr(cell, key)) in values for key, values in wanted.items())]
    if not chosen:
        told = " ".join(f"{key}={','.join(sorted(values))}" for key, values in wanted.items())
        raise ConfigError(f"The study must have a cell of {told}, but has none. Look into its configuration.")
    return tuple(dict.fromkeys(_with_needs(chosen)))


def _measured(config: StudyConfig) -> Iterator[Cell]:
    """What the tables have rows of."""
    first = config.seeds[0]
    for task, settings in config.tasks.items():
        yield Cell(TASKS[task].baseline, task, "trivial", first)
        if REGISTRATION in settings.specialised:
            yield Cell(REGISTRATION, task, "specialised", first)
    for seed in config.seeds:
        for task, settings in config.tasks.items():
            for encoder in config.encoders:
                if settings.fit(encoder) is not None:
                    yield Cell(encoder, task, "scratch", seed)
                    yield Cell(encoder, task, "pretrained", seed)
            yield from (Cell(row, task, "specialised", seed) for row in settings.specialised if row != REGISTRATION)


def _with_needs(cells: Iterable[Cell]) -> Iterator[Cell]:
    for cell in cells:
        if cell.needs is not None:
            yield cell.needs
        yield cell


# What one cell of a study came to, as a file of its own, and all of them as the study's tables.

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


# The tables that a study leaves behind: one row a training, a measured case, a point of a learning curve, a distance.
#
# They are CSV files beside each other in one folder; everything that a study concludes is computed from them.

ARMS = ("pretrained", "scratch", "specialised", "trivial")
RUNS, METRICS, CURVES, DISTANCES = "runs.csv", "metrics.csv", "curves.csv", "distances.csv"


@dataclass(frozen=True)
class RunRow:
    """One training, or one trivial baseline.

    Attributes:
        encoder: `profound` or `provicnet`; of other arms what they are, as `dynunet` or `sinc`.
        task: Its id, as in `tasks.TASKS`.
        arm: One of `ARMS`.
        seed: Of head, order and views.
        metric: The task's primary measure.
        higher_is_better: Its direction.
        value: Mean over the test cases, or a statistic of all of them.
        steps: Steps trained; 0 for a trivial baseline.
        steps_to_best: Step of the best validation value.
        device_seconds: Time on the device; of a CPU its processor time, with one thread that of a core.
        n_test_cases: Cases that `value` rests on.
        config_sha256: Of everything that decides the training.
    """

    encoder: str
    task: str
    arm: str
    seed: int
    metric: str
    higher_is_better: bool
    value: float
    steps: int
    steps_to_best: int
    device_seconds: float
    n_test_cases: int
    config_sha256: str


@dataclass(frozen=True)
class MetricRow:
    """One number of one case.

    Attributes:
        data: `phantom`, or `real` for cases that nothing was trained on.
        case: Name of the case; empty for a statistic of all cases.
    """

    encoder: str
    task: str
    arm: str
    seed: int
    data: str
    case: str
    metric: str
    value: float


@dataclass(frozen=True)
class CurveRow:
    """One point of a learning curve: the validation value after so many steps."""

    encoder: str
    task: str
    arm: str
    seed: int
    step: int
    value: float


@dataclass(frozen=True)
class DistanceRow:
    """How far fine-tuning moved a layer's features; see `distance.Distance`.

    Attributes:
        layer: `encoder` for its final features, else the name of a layer.
    """

    encoder: str
    task: str
    seed: int
    layer: str
    d2p: float
    p_value: float
    d2p_low_bandwidth: float
    d2p_high_bandwidth: float
    n_cases: int


@dataclass(frozen=True)
class StudyTables:
    """All tables of a study."""

    runs: tuple[RunRow, ...]
    metrics: tuple[MetricRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    distances: tuple[DistanceRow, ...] = ()


def read_tables(folder: Path) -> StudyTables:
    """Read the tables of a study; all but the runs may be missing.

    Raises:
        DatasetError: A table is missing or cannot be understood; the message names file, line and column.
    """
    if not (folder / RUNS).is_file():
        raise DatasetError(f"A study's folder must hold {RUNS}, but '{folder.name}' does not. Run the study first.")
    runs = read_rows(folder / RUNS, RunRow)
    for number, row in enumerate(runs, start=2):
        if row.arm not in ARMS:
            raise DatasetError(f"{RUNS}, line {number}: arm must be one of {', '.join(ARMS)}, got '{row.arm}'.")
    return StudyTables(
        runs,
        _rows_if_there(folder / METRICS, MetricRow),
        _rows_if_there(folder / CURVES, CurveRow),
        _rows_if_there(folder / DISTANCES, DistanceRow),
    )


def write_tables(tables: StudyTables, folder: Path) -> None:
    """Write all tables, each whole or not at all.

    Raises:
        OutputError: The folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / RUNS, RunRow, tables.runs)
    write_rows(folder / METRICS, MetricRow, tables.metrics)
    write_rows(folder / CURVES, CurveRow, tables.curves)
    write_rows(folder / DISTANCES, DistanceRow, tables.distances)


def read_rows(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """The rows of one table, strictly: its columns are the fields of `kind`, in their order.

    Raises:
        DatasetError: Columns or a value are wrong.
    """
    names, types = _names(kind), get_type_hints(kind)
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if list(reader.fieldnames or ()) != names:
            found = ",".join(reader.fieldnames or ()) or "none"
            raise DatasetError(f"{path.name} must have the columns {','.join(names)}, but has {found}.")
        rows = []
        for number, row in enumerate(reader, start=2):
            try:
                rows.append(kind(**{name: _value(row[name], types[name]) for name in names}))
            except (TypeError, ValueError) as error:
                raise DatasetError(f"{path.name}, line {number}, cannot be understood: {error}.") from error
    return tuple(rows)


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write one table; numbers keep all their digits."""
    names = _names(kind)
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_text(getattr(row, name)) for name in names] for row in rows)


def _rows_if_there(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    return read_rows(path, kind) if path.is_file() else ()


def _names(kind: type) -> Sequence[str]:
    return [field.name for field in fields(kind)]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def _value(text: str | None, kind: type) -> object:
    if text is None:
        raise ValueError("a column is missing")
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"true or false was expected, got '{text}'")
        return text == "true"
    if kind is float:
        return float(text) if text else math.nan
    return kind(text)
