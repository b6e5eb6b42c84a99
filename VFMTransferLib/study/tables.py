"""The tables that a study leaves behind, and the result of one run, which is one row of some of them.

Tables are CSV files beside each other in one folder: one row a training, a measured case, a point of a learning curve,
a distance. Everything that a study concludes is computed from them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from ..core.errors import DatasetError
from ..core.files import atomic_file, spreadsheet_row, text_of_cell, write_file, writing
from .config import PRETRAINED, RunKey, label_of, split_arm

if TYPE_CHECKING:
    from .workspace import Workspace

SCRATCH = "scratch"
ARMS = (PRETRAINED, SCRATCH, "specialised", "trivial")
RUNS, METRICS, CURVES, DISTANCES = "runs.csv", "metrics.csv", "curves.csv", "distances.csv"
CANDIDATES = "candidates.csv"
LATE = 0.2  # the last part of a fixed number of steps in which the best validation value must not lie
Row = TypeVar("Row")


@dataclass(frozen=True)
class _RowOfRun:
    """The columns that a run has in every table; of arms without an encoder it is what they are, as `mean-shape`."""

    encoder: str
    task: str
    arm: str
    seed: int


OfRun = TypeVar("OfRun", bound=_RowOfRun)


@dataclass(frozen=True)
class RunRow(_RowOfRun):
    """One training, or one naive baseline.

    Attributes:
        value: Of the primary measure: mean over the test cases, or a statistic of all of them.
        steps: 0 for a baseline that is not trained.
        steps_to_best: Step of the best validation value.
        device_seconds: Time on the device; of a CPU its processor time, with one thread that of a core.
        n_test_cases: Cases that `value` rests on.
        ended: Of a training with patience `plateau`, or `budget` where it still improved; empty of others, and tables
            without such trainings lack the column.
        labelled_cases, trained_on: As of `RunKey`; tables without label efficiency lack these columns.
        learning_rate, encoder_learning_rate: Of several rates those that the validation score has chosen; 0 of runs
            with one rate, and tables without others lack these columns.
        diverged: How many of several rates diverged, and were left out; tables where none did lack the column.
    """

    metric: str
    higher_is_better: bool
    value: float
    steps: int
    steps_to_best: int
    device_seconds: float
    n_test_cases: int
    ended: str = ""
    labelled_cases: int = 0
    trained_on: str = ""
    learning_rate: float = 0.0
    encoder_learning_rate: float = 0.0
    diverged: int = 0

    @property
    def is_improving(self) -> bool:
        """Whether it still improved where it ended: stopped by its budget, or best in the last fifth of its steps."""
        if self.ended:
            return self.ended == "budget"
        return self.steps > 0 and self.steps_to_best > (1 - LATE) * self.steps


@dataclass(frozen=True)
class MetricRow(_RowOfRun):
    """One number of one case.

    Attributes:
        data: `phantom`, or `real` for cases that did not train the network.
        case: Name of the case; empty for a statistic of all cases.
        labelled_cases, trained_on: As of `RunRow`.
    """

    data: str
    case: str
    metric: str
    value: float
    labelled_cases: int = 0
    trained_on: str = ""


@dataclass(frozen=True)
class CurveRow(_RowOfRun):
    """One point of a learning curve: the validation value after so many steps."""

    step: int
    value: float
    labelled_cases: int = 0
    trained_on: str = ""


@dataclass(frozen=True)
class CandidateRow(_RowOfRun):
    """A place that may be a lesion, on a case that tests; see `metrics.detection`.

    Attributes:
        data, case: As of `MetricRow`.
        confidence: The largest probability there.
        is_hit: Whether a lesion is there.
    """

    data: str
    case: str
    confidence: float
    is_hit: bool
    labelled_cases: int = 0
    trained_on: str = ""


OfSize = TypeVar("OfSize", RunRow, MetricRow, CurveRow, CandidateRow)


@dataclass(frozen=True)
class DistanceRow:
    """How far fine-tuning moved a layer's features; see `features.Distance`. The last layer is `encoder`.

    The column `encoder` holds `RunKey.label`, so that several pretrainings of one encoder are kept apart.
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
    """All tables of a study; candidates are of lesion segmentation alone."""

    runs: tuple[RunRow, ...]
    metrics: tuple[MetricRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    distances: tuple[DistanceRow, ...] = ()
    candidates: tuple[CandidateRow, ...] = ()

    def of_size(self, labelled_cases: int = 0, trained_on: str = "") -> StudyTables:
        """The rows of runs of one size of label efficiency; by default those of all other runs, with all distances."""

        def kept(rows: tuple[OfSize, ...]) -> tuple[OfSize, ...]:
            return tuple(row for row in rows if (row.labelled_cases, row.trained_on) == (labelled_cases, trained_on))

        return StudyTables(
            kept(self.runs), kept(self.metrics), kept(self.curves), self.distances, kept(self.candidates)
        )

    def by_pretraining(self, *, repeats_scratch: bool = True) -> StudyTables:
        """The same with each pretraining of an encoder as an encoder of its own, under `RunKey.label`.

        An encoder with one pretraining stays as it is.

        Args:
            repeats_scratch: Each stands beside the encoder's runs from scratch, which so come up several times;
                otherwise once, under the encoder's own name.
        """
        labels: dict[str, dict[str, None]] = {}
        for run in self.runs:
            if split_arm(run.arm)[0] == PRETRAINED:
                labels.setdefault(run.encoder, {})[label_of(run.encoder, run.arm)] = None

        def labeled(rows: tuple[OfRun, ...]) -> tuple[OfRun, ...]:
            found: list[OfRun] = []
            for row in rows:
                arm, name = split_arm(row.arm)
                if name:
                    found.append(replace(row, encoder=label_of(row.encoder, row.arm), arm=arm))
                elif arm == SCRATCH and repeats_scratch:
                    found += [replace(row, encoder=label) for label in labels.get(row.encoder, {row.encoder: None})]
                else:
                    found.append(row)
            return tuple(found)

        return StudyTables(
            labeled(self.runs), labeled(self.metrics), labeled(self.curves), self.distances, labeled(self.candidates)
        )


def read_tables(folder: Path) -> StudyTables:
    """Read the tables of a study, all but the runs if they are there; DatasetError names file, line and column."""
    if not (folder / RUNS).is_file():
        raise DatasetError(f"A study's folder must hold {RUNS}, but '{folder.name}' does not. Run the study first.")
    runs = read_rows(folder / RUNS, RunRow)
    for number, row in enumerate(runs, start=2):
        if split_arm(row.arm)[0] not in ARMS:
            raise DatasetError(f"{RUNS}, line {number}: arm must be one of {', '.join(ARMS)}, got '{row.arm}'.")
    return StudyTables(
        runs,
        read_rows_if_any(folder / METRICS, MetricRow),
        read_rows_if_any(folder / CURVES, CurveRow),
        read_rows_if_any(folder / DISTANCES, DistanceRow),
        read_rows_if_any(folder / CANDIDATES, CandidateRow),
    )


def write_tables(tables: StudyTables, folder: Path) -> None:
    """Write all tables, each whole or not at all, that of candidates where there are any; OutputError if the folder
    cannot be written.

    The runs come last, so that a run in their table has its rows in all others whenever the process ends.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if tables.candidates:
        write_rows(folder / CANDIDATES, CandidateRow, tables.candidates)
    else:
        with writing(folder):
            (folder / CANDIDATES).unlink(missing_ok=True)
    write_rows(folder / METRICS, MetricRow, tables.metrics)
    write_rows(folder / CURVES, CurveRow, tables.curves)
    write_rows(folder / DISTANCES, DistanceRow, tables.distances)
    write_rows(folder / RUNS, RunRow, tables.runs)


def read_rows(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """The rows of one table, strictly: its columns are the fields of `kind`, in their order; DatasetError if not.

    Columns that have a default may lack.
    """
    types = get_type_hints(kind)
    known = fields(kind)  # type: ignore[arg-type]
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a byte order mark
        reader = csv.DictReader(stream)
        try:
            there = list(reader.fieldnames or ())
            names = [field.name for field in known if field.default is MISSING or field.name in there]
            if there != names:
                found = ",".join(there) or "none"
                raise DatasetError(f"{path.name} must have the columns {','.join(names)}, but has {found}.")
            for row in reader:
                if None in row:
                    raise ValueError("it has more cells than columns, as where a number has a decimal comma")
                rows.append(kind(**{name: _value(row[name], types[name]) for name in names}))
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path.name} must be text in UTF-8, but is not. Save it as CSV UTF-8.") from error
        except csv.Error as error:  # the line that cannot be parsed is not counted
            raise DatasetError(f"{path.name}, line {reader.line_num + 1}, cannot be understood: {error}.") from error
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{path.name}, line {reader.line_num}, cannot be understood: {error}.") from error
    return tuple(rows)


def read_rows_if_any(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """As `read_rows`; none where there is no such table."""
    return read_rows(path, kind) if path.is_file() else ()


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write one table; numbers keep all their digits. A column where all have the default is left out."""
    rows = list(rows)
    names = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.default is MISSING or any(getattr(row, field.name) != field.default for row in rows)
    ]
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(spreadsheet_row({name: _cell(getattr(row, name)) for name in names}) for row in rows)


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if isinstance(value, float) and math.isnan(value) else value


def _value(text: str | None, kind: type) -> object:
    if text is None:
        raise ValueError("a column is missing")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"true or false was expected, got '{text}'")
        return text.lower() == "true"
    if kind is str:
        return text_of_cell(text)
    return math.nan if kind is float and not text else kind(text)


@dataclass(frozen=True)
class RunResult:
    """A run that is done: the real cases it was measured on, and its rows of the tables.

    It lies in the run's own folder: to train a run again, delete that folder.
    """

    key: RunKey
    row: RunRow
    real_cases: tuple[str, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    distances: tuple[DistanceRow, ...] = ()
    candidates: tuple[CandidateRow, ...] = ()


def write_result(result: RunResult, workspace: Workspace) -> None:
    """Write a run's result, whole or not at all; OutputError if the folder cannot be written."""
    write_file(workspace.result(result.key), json.dumps(asdict(result), indent=1) + "\n")


def read_result(workspace: Workspace, run: RunKey) -> RunResult | None:
    """The result of a run; None where it has none; DatasetError if the file is damaged."""
    path = workspace.result(run)
    if not path.is_file():
        return None
    kinds: dict[str, type] = {
        "metrics": MetricRow,
        "curves": CurveRow,
        "distances": DistanceRow,
        "candidates": CandidateRow,
    }
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = {name: tuple(kind(**values) for values in document[name]) for name, kind in kinds.items()}
        return RunResult(run, RunRow(**document["row"]), tuple(document["real_cases"]), **rows)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"The result of '{run.title}' cannot be read. Delete its folder in work/runs.") from error


def collect_tables(results: Iterable[RunResult]) -> StudyTables:
    """The rows of all results, in their order."""
    found = list(results)
    return StudyTables(
        tuple(result.row for result in found),
        *(
            tuple(row for result in found for row in getattr(result, name))
            for name in ("metrics", "curves", "distances", "candidates")
        ),
    )
