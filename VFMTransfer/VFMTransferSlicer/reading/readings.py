"""Readings in a table node, which is saved with the scene, and in a CSV file; and which network was preferred.

Needs MRML, but no Qt.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from math import comb
from pathlib import Path

import numpy as np
import slicer
import vtk

from VFMTransferLib.core.files import atomic_file, spreadsheet_row, text_of_cell
from VFMTransferLib.tasks import TASKS

from ..runs import RunInScene
from .blinded import CONFIDENCES, Network, Reading, ReadingError, Side, Subject

TABLE_NAME = "VFM Transfer readings"
# The last two are empty until the reading is revealed.
COLUMNS = (
    *("case", "study", "task", "bundle_a", "sha256_a", "bundle_b", "sha256_b"),
    *("seal", "side", "confidence", "seconds", "time", "left", "preferred"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODING = "utf-8-sig"  # spreadsheets take a file without the mark for one of their own code page


def networksOf(run: RunInScene) -> tuple[Network, Network]:
    """The pair that a run compares, A and then B.

    Raises:
        ReadingError: It has not the results of two different networks.
    """
    if len(run.arms) != 2:
        raise ReadingError(
            f"A reading needs the results of two networks, but there are {len(run.arms)}. Run both first."
        )
    first, second = (Network(arm.bundle, arm.numbers["model"]["sha256"]) for arm in run.arms)
    if first.sha256 == second.sha256:
        raise ReadingError("A reading needs two different networks, but A and B are the same. Choose another B.")
    return first, second


def subjectOf(run: RunInScene) -> Subject:
    """What a finished run gives to read. Reads every voxel of its case.

    Raises:
        ReadingError: It has not the results of two different networks, there is nothing of them to see, or its
            case was deleted.
    """
    networks = networksOf(run)
    if not TASKS[run.task].output.has_voxels:
        raise ReadingError("A reading needs something to look at, but this task gives numbers. Choose another task.")
    if not run.isInScene:
        raise ReadingError("A reading needs the case in the scene, but it was deleted. Load it, and run both again.")
    voxels = np.ascontiguousarray(slicer.util.arrayFromVolume(run.about))
    return Subject(run.about.GetName(), sha256(voxels).hexdigest()[:16], str(run.task), networks)


class ReadingTable:
    """The readings in a table node, a row each.

    Args:
        node: Made by `newTable`, or loaded with a scene.
    """

    def __init__(self, node: slicer.vtkMRMLTableNode) -> None:
        self.node = node

    def readings(self) -> list[Reading]:
        """All of them, in the order in which they were first given.

        Raises:
            ReadingError: The table was changed by hand.
        """
        table = self.node.GetTable()
        rows = range(table.GetNumberOfRows())
        columns = {name: table.GetColumnByName(name) for name in COLUMNS}
        _requireColumns(self.node.GetName(), [name for name, column in columns.items() if column is not None])
        texts = ({name: column.GetVariantValue(y).ToString() for name, column in columns.items()} for y in rows)
        return [_fromRow(row, f"Row {y} of '{self.node.GetName()}'") for y, row in enumerate(texts, 1)]

    def find(self, subject: Subject) -> Reading | None:
        """The reading of a subject, if there is one."""
        return next((reading for reading in self.readings() if reading.subject.isSameAs(subject)), None)

    def put(self, reading: Reading) -> None:
        """Write a reading; it takes the place of an earlier one of the same subject.

        Raises:
            ReadingError: The earlier one was revealed, and is final.
        """
        former = self.find(reading.subject)
        if former is not None and former.isRevealed:
            raise ReadingError(
                f"A revealed reading is final, but '{reading.subject.case}' was read again. Read another case."
            )
        self._write(_withReading(self.readings(), reading))

    def reveal(self, subject: Subject | None = None) -> None:
        """Make the reading of a subject final, or all of them, with the network that was preferred."""
        readings = self.readings()
        isMeant = [subject is None or reading.subject.isSameAs(subject) for reading in readings]
        self._write(
            reading.revealed() if isFinal else reading for reading, isFinal in zip(readings, isMeant, strict=True)
        )

    def add(self, readings: Iterable[Reading]) -> int:
        """Take readings from elsewhere. Of a subject that is known, the final one stays.

        Returns:
            How many were taken.
        """
        known = self.readings()
        taken = 0
        for reading in readings:
            former = next((one for one in known if one.subject.isSameAs(reading.subject)), None)
            if former is None or (reading.isRevealed and not former.isRevealed):
                known = _withReading(known, reading)
                taken += 1
        self._write(known)
        return taken

    def _write(self, readings: Iterable[Reading]) -> None:
        rows = [_toRow(reading) for reading in readings]
        table = vtk.vtkTable()
        for name in COLUMNS:
            column = vtk.vtkStringArray()
            column.SetName(name)
            for row in rows:
                column.InsertNextValue(_plain(row[name]))
            table.AddColumn(column)
        self.node.SetAndObserveTable(table)


def _plain(text: str) -> str:
    """The text as VTK reads it again from a saved table, where it escapes neither quotes nor tabs."""
    return _CONTROL.sub(" ", text).replace('"', "'")


def newTable(scene: slicer.vtkMRMLScene) -> ReadingTable:
    """An empty table in the scene; nobody can type into it."""
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(TABLE_NAME))
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    table = ReadingTable(node)
    table._write([])
    return table


def writeCsv(readings: Iterable[Reading], path: Path) -> None:
    """Write readings as a file that `readCsv` reads, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_file(path) as part, part.open("w", encoding=_ENCODING, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(spreadsheet_row(_toRow(reading)) for reading in readings)


def readCsv(path: Path) -> list[Reading]:
    """Read what `writeCsv` wrote.

    Raises:
        ReadingError: It is another file, or was changed so that it contradicts itself.
    """
    try:
        with path.open(encoding=_ENCODING, newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            _requireColumns(path.name, reader.fieldnames or ())
            rows = ({column: text_of_cell(row[column]) for column in COLUMNS} for row in reader)
            return [_fromRow(row, f"Row {y} of '{path.name}'") for y, row in enumerate(rows, 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadingError(f"'{path.name}' cannot be read as a CSV file of readings. Choose another.") from error


def _withReading(readings: Iterable[Reading], new: Reading) -> list[Reading]:
    """The new one stands where the earlier one of its subject stood, else last."""
    result = list(readings)
    for y, reading in enumerate(result):
        if reading.subject.isSameAs(new.subject):
            result[y] = new
            return result
    return [*result, new]


def _requireColumns(name: str, found: Iterable[str]) -> None:
    if missing := [column for column in COLUMNS if column not in found]:
        raise ReadingError(
            f"'{name}' is no table of readings; it lacks {', '.join(missing)}. Choose a file that this module saved."
        )


def _toRow(reading: Reading) -> dict[str, str]:
    """The reading as texts; what would unblind it is missing until it is revealed."""
    subject = reading.subject
    (first, second) = subject.networks
    values = (
        *(subject.case, subject.study, subject.task, first.bundle, first.sha256, second.bundle, second.sha256),
        *(reading.seal, str(reading.side), str(reading.confidence), f"{reading.seconds:.1f}", reading.time),
        *((reading.left, reading.preferred) if reading.isRevealed else ("", "")),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _fromRow(row: Mapping[str, str], where: str) -> Reading:
    """Understand a row, and check that it agrees with itself.

    Raises:
        ReadingError: It does not.
    """
    networks = (Network(row["bundle_a"], row["sha256_a"]), Network(row["bundle_b"], row["sha256_b"]))
    subject = Subject(row["case"], row["study"], row["task"], networks)
    try:
        confidence, seconds, side = int(row["confidence"]), float(row["seconds"]), Side(row["side"])
        isSound = confidence in CONFIDENCES and seconds >= 0 and bool(bytes.fromhex(row["seal"]))
        isSound = isSound and datetime.fromisoformat(row["time"]).tzinfo is not None
    except ValueError as error:
        raise ReadingError(_unsound(where)) from error
    reading = Reading(subject, row["seal"], side, confidence, seconds, row["time"], isRevealed=bool(row["preferred"]))
    if not isSound or any(_toRow(reading)[name] != row[name] for name in ("left", "preferred")):
        raise ReadingError(_unsound(where))
    return reading


def _unsound(where: str) -> str:
    return f"{where} was changed since it was saved. Use a copy that nobody edited."


# Of fewer readings with a preference even unanimous ones have p >= 0.05: 2 / 2**5 = 0.0625, but 2 / 2**6 = 0.031.
FEWEST_FOR_SIGNIFICANCE = 6


@dataclass(frozen=True)
class Tally:
    """Counts of the revealed readings of one pair of networks at one task.

    Attributes:
        a, b: How often each was preferred.
        equal: How often neither was.
        sealed: Readings that are not revealed yet, which count nowhere else.
    """

    a: int
    b: int
    equal: int
    sealed: int

    @property
    def preferences(self) -> int:
        """Readings that prefer one: the n of the sign test."""
        return self.a + self.b

    @property
    def pValue(self) -> float:
        return signTest(self.a, self.b)


def signTest(a: int, b: int) -> float:
    """Exact two-sided sign test: how likely a split at least as uneven is, if neither network is better.

    Ties are dropped, as Dixon and Mood do (The statistical sign test, J Am Stat Assoc 41, 1946, 557-566).

    Args:
        a, b: How often each was preferred.

    Returns:
        p in (0, 1]; 1 where nothing was preferred.
    """
    n = a + b
    tail = sum(comb(n, k) for k in range(min(a, b) + 1))
    return min(1.0, 2 * tail / 2**n)


def tallyOf(readings: Iterable[Reading], task: str, networks: tuple[Network, Network]) -> Tally:
    """Count the readings of a pair of networks at a task, of all cases.

    Readings of the pair in which A and B had changed places count for the network, not for the letter.
    """
    a, b = (network.sha256 for network in networks)
    counts = {a: 0, b: 0, "": 0}
    sealed = 0
    for reading in readings:
        checksums = [network.sha256 for network in reading.subject.networks]
        if reading.subject.task != task or set(checksums) != {a, b}:
            continue
        if reading.isRevealed:
            preferred = dict(zip("AB", checksums, strict=True)).get(reading.preferred, "")
            counts[preferred] += 1
        else:
            sealed += 1
    return Tally(counts[a], counts[b], counts[""], sealed)
