"""Results on the panel: the numbers side by side, where to look first, and what can be saved. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import qt
from slicer.i18n import tr as _

from VFMTransferLib.bundles.catalog import find_bundle
from VFMTransferLib.core.errors import VFMTransferError

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..results.findings import Finding, Findings, Ras, findingsOf
from ..results.numbers_table import COLUMNS, NumbersTable, numbersOf
from ..results.transfer_note import SUMMARY, transferNote
from ..runs import RunInScene
from .exports import Exports
from .tables import Cell, Line, Shown, fillTable, setUpTable

_NO_NUMBER = "–"
_LONGEST_TITLE = 30  # characters; longer ones would push the numbers out of a narrow panel


class ResultsSection:
    """Shows the last run as far as it has come.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the run.
        jumpTo: Goes to a place (RAS millimeters) in the views.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic, jumpTo: Callable[[Ras], None]) -> None:
        self._ui, self._logic, self._jumpTo = ui, logic, jumpTo
        self._exports = Exports(ui, logic)
        self._isBlinded = False
        self._seen: tuple | None = None
        self._findings = Findings()
        self._shown = {ui.resultsTable: Shown(), ui.findingsTable: Shown()}
        for table in self._shown:
            setUpTable(table, lambda table=table: self._shown[table])
        ui.findingsTable.verticalHeader().hide()
        ui.findingsTable.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        ui.findingsTable.connect("cellClicked(int,int)", self.onFinding)
        ui.findingsTable.connect("cellActivated(int,int)", self.onFinding)

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Results do not hang on what is chosen for the next run."""

    def setBlinded(self, isBlinded: bool) -> None:
        """Hide what tells A from B as long as the networks are read blinded."""
        self._isBlinded = isBlinded
        self.update()

    def update(self) -> None:
        """Show what is new, and say what can be saved."""
        run = None if self._isBlinded else self._logic.lastRun
        seen = (run, len(run.arms), run.comparison is not None) if run is not None else (None, self._isBlinded)
        if self._seen != seen:  # filling a table takes time, and would lose what is selected in it
            self._seen = seen
            self._show(run)
        self._exports.update(self._isBlinded)

    def onFinding(self, row: int, column: int) -> None:
        """Go there."""
        if row < len(self._findings.shown):
            self._jumpTo(self._findings.shown[row].positionRas)

    def _show(self, run: RunInScene | None) -> None:
        numbers = numbersOf(run) if run is not None else NumbersTable()
        self._findings = findingsOf(run) if run is not None else Findings()
        self._shown[self._ui.resultsTable] = _numbersShown(numbers)
        self._shown[self._ui.findingsTable] = _findingsShown(self._findings.shown)
        for table, shown in self._shown.items():
            fillTable(table, shown)
        notes = [*numbers.notes, self._findings.note]
        if self._isBlinded:
            notes = [_("Results are hidden while the networks are read blinded.")]
        _say(self._ui.resultsNoteLabel, " ".join(filter(None, notes)))
        _say(self._ui.transferLabel, _transferOf(run) if run is not None and run.arms else "")


def _numbersShown(numbers: NumbersTable) -> Shown:
    """One heading a structure or image, so that the titles beside the rows are short."""
    lines: list[Line] = []
    group = ""
    for row in numbers.rows:
        if row.group != group:
            group = row.group
            lines.append(Line(_shortened(group), tip=group))
        found = [row.cells.get(column) for column in numbers.columns]
        cells = [Cell(cell.text, cell.note) if cell is not None else Cell(_NO_NUMBER) for cell in found]
        tip = f"{row.title}: {row.definition}" if row.definition else row.title
        lines.append(Line(f"  {_shortened(row.title)}" if group else _shortened(row.title), cells, tip))
    return Shown([COLUMNS[column].replace(" vs ", " vs\n") for column in numbers.columns], lines, areNumbers=True)


def _shortened(title: str) -> str:
    """A long title without its middle, for its ends tell most."""
    if len(title) <= _LONGEST_TITLE:
        return title
    half = _LONGEST_TITLE // 2
    return f"{title[:half].rstrip()}…{title[-half:].lstrip()}"


def _findingsShown(findings: tuple[Finding, ...]) -> Shown:
    """What is known of no place gets no column."""
    columns: list[tuple[str, Callable[[Finding], str]]] = [
        (_("What"), lambda found: found.kind),
        (_("A says"), lambda found: found.a),
        (_("B says"), lambda found: found.b),
        (_("ml"), lambda found: f"{found.volumeMl:.2f}"),
        (_("Where, mm"), lambda found: found.place),
        (_("Zone"), lambda found: found.zone),
        (_("ADC"), lambda found: "" if found.meanAdc is None else f"{found.meanAdc:.0f}"),
        (_("Conf."), lambda found: "" if found.confidence is None else f"{found.confidence:.2f}"),
    ]
    known = [(title, text) for title, text in columns if any(text(found) for found in findings)]
    tip = _("Click to go there.")
    lines = [Line(cells=[Cell(text(found), tip) for _title, text in known]) for found in findings]
    return Shown([title for title, _text in known], lines)


def _transferOf(run: RunInScene) -> str:
    """What the study says of this encoder and task; nothing where the network is no longer in the catalog."""
    if not SUMMARY.is_file():
        return ""
    try:
        return transferNote(find_bundle(run.arms[0].bundle).spec.family, run.task)
    except VFMTransferError:
        return ""


def _say(label: qt.QLabel, text: str) -> None:
    label.text = text
    label.visible = bool(text)
