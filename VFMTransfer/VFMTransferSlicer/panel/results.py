"""Results on the panel: the numbers side by side, where to go first, and what can be saved. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.bundles.catalog import find_bundle
from VFMTransferLib.core.errors import VFMTransferError
from VFMTransferLib.core.terms import Label
from VFMTransferLib.evaluation.measures import MIN_DIFFERENCE_ML, Between, label_title
from VFMTransferLib.tasks import TASKS

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..results.export import (
    PAGE_SUFFIXES,
    SCENE_SUFFIX,
    proposedName,
    saveNumbers,
    saveReport,
    saveScene,
    whyNoNumbers,
    whyNoReport,
)
from ..results.numbers import (
    COLUMNS,
    SUMMARY,
    Finding,
    Findings,
    NumbersTable,
    Ras,
    findingsOf,
    numbersOf,
    ofAnotherCase,
    transferNote,
)
from ..runs import RunInScene
from .dialogs import askForFile
from .reading import notWhileBlinded

_SMALL = 0.85  # of the font's size
MAX_HEIGHT_PX = 600  # a longer table scrolls


@dataclass(frozen=True)
class Cell:
    """A text and its tooltip."""

    text: str
    tip: str = ""


@dataclass(frozen=True)
class Line:
    """A row.

    Attributes:
        title: Beside it; may be empty.
        cells: One a column; none for a heading.
        tip: Of the title.
    """

    title: str = ""
    cells: Sequence[Cell] = ()
    tip: str = ""


@dataclass(frozen=True)
class TableContent:
    """What a table shows.

    Attributes:
        columns: Their titles.
        lines: From top to bottom.
        areNumbers: Whether cells stand at the right.
        wrapped: Titles of the columns that share the width that the others leave, in several lines where they must.
    """

    columns: Sequence[str] = ()
    lines: Sequence[Line] = ()
    areNumbers: bool = False
    wrapped: Sequence[str] = ()

    @property
    def text(self) -> str:
        """As spreadsheets take it from the clipboard."""
        head = ["", *(title.replace("\n", " ") for title in self.columns)]
        rows = [head, *([line.title, *(cell.text for cell in line.cells)] for line in self.lines)]
        return "\n".join("\t".join(row) for row in rows)


def setUpTable(table: qt.QTableWidget, shown: Callable[[], TableContent]) -> None:
    """Let columns be as wide as their words, and let Ctrl+C copy the whole table.

    Args:
        table: The widget.
        shown: What it shows at that moment.
    """
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    font = table.font
    font.setPointSizeF(font.pointSizeF() * _SMALL)  # all columns of a comparison with a reference fit into the panel
    for widget in (table, table.horizontalHeader(), table.verticalHeader()):
        widget.setFont(font)
    fitting = qt.QTimer(table)  # when all rows have their new heights, which wrapped words set
    fitting.setSingleShot(True)
    fitting.connect("timeout()", lambda: _fitHeight(table))
    table.verticalHeader().connect("sectionResized(int,int,int)", lambda *_: fitting.start())
    table.setVerticalScrollMode(qt.QAbstractItemView.ScrollPerPixel)
    table.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Fixed)
    copy = qt.QShortcut(qt.QKeySequence("Ctrl+C"), table)
    copy.setContext(qt.Qt.WidgetShortcut)
    copy.connect("activated()", lambda: slicer.app.clipboard().setText(shown().text))


def fillTable(table: qt.QTableWidget, shown: TableContent) -> None:
    """Show it; a table without rows is not shown at all."""
    table.clearContents()
    table.setRowCount(len(shown.lines))
    table.setColumnCount(len(shown.columns))
    table.setHorizontalHeaderLabels(list(shown.columns))
    side = qt.Qt.AlignRight if shown.areNumbers else qt.Qt.AlignLeft
    for y, line in enumerate(shown.lines):
        head = _item(Cell(line.title, line.tip), qt.Qt.AlignLeft)
        if not line.cells:
            font = table.font
            font.setBold(True)
            head.setFont(font)
        table.setVerticalHeaderItem(y, head)
        for x, cell in enumerate(line.cells):
            table.setItem(y, x, _item(cell, side))
    for x, title in enumerate(shown.columns):
        fills = title in shown.wrapped
        table.horizontalHeader().setSectionResizeMode(
            x, qt.QHeaderView.Stretch if fills else qt.QHeaderView.ResizeToContents
        )
    table.visible = bool(shown.lines)
    _fitHeight(table)


def _item(cell: Cell, side: qt.Qt.AlignmentFlag) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(cell.text)
    item.setToolTip(cell.tip)
    item.setTextAlignment(int(side) | int(qt.Qt.AlignVCenter))
    return item


def _fitHeight(table: qt.QTableWidget) -> None:
    """Show all rows without a bar of its own, which nobody finds inside a panel that scrolls itself."""
    rows, head = table.verticalHeader().length(), table.horizontalHeader().sizeHint.height()
    bar = table.horizontalScrollBar().sizeHint.height()  # there may be one where the panel is narrow
    table.setFixedHeight(min(rows + head + bar + 2 * table.frameWidth, MAX_HEIGHT_PX))


class Exports:
    """Saves the last run.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the run.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic) -> None:
        self._ui, self._logic = ui, logic
        self._saved: RunInScene | None = None
        self._tips = {
            button: button.toolTip for button in (ui.exportReportButton, ui.exportCsvButton, ui.exportSceneButton)
        }
        ui.exportReportButton.connect("clicked(bool)", self.onReport)
        ui.exportCsvButton.connect("clicked(bool)", self.onNumbers)
        ui.exportSceneButton.connect("clicked(bool)", self.onScene)

    def update(self, isBlinded: bool) -> None:
        """Enable what can be saved, and show why the rest cannot.

        Args:
            isBlinded: Whether the networks' names are hidden, which files would reveal.
        """
        run = self._logic.lastRun
        if run is not self._saved:  # a message on another run
            self._saved = run
            self._showMessage("")
        hidden = notWhileBlinded() if isBlinded else ""
        running = _("Wait until the run has finished.") if self._logic.isRunning else ""
        reasons = {
            self._ui.exportReportButton: whyNoReport(run),
            self._ui.exportCsvButton: whyNoNumbers(run),
            self._ui.exportSceneButton: whyNoNumbers(run),
        }
        for button, why in reasons.items():
            why = hidden or running or why
            button.enabled = not why
            button.toolTip = why or self._tips[button]

    def onReport(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        filters = _("Web page") + " (*.html);;" + _("Folder with page, picture and tables") + " (*)"
        path = askForFile(_("Save report"), proposedName(run, datetime.now(), PAGE_SUFFIXES[0]), filters)
        if path is not None:
            self.save(path.name, lambda: saveReport(run, path))

    def onNumbers(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        path = askForFile(_("Save numbers"), proposedName(run, datetime.now(), ".csv"), _("Table") + " (*.csv)", ".csv")
        if path is not None:
            self.save(path.name, lambda: saveNumbers(run, path))

    def onScene(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        path = askForFile(
            _("Save scene"),
            proposedName(run, datetime.now(), SCENE_SUFFIX),
            _("Scene") + f" (*{SCENE_SUFFIX})",
            SCENE_SUFFIX,
        )
        if path is not None:
            self.save(path.name, lambda: saveScene(path, slicer.util.saveScene))

    def save(self, what: str, write: Callable[[], object]) -> None:
        """Write, and show the outcome.

        Args:
            what: Named in the sentence.
            write: Raises a `VFMTransferError` where it cannot.
        """
        try:
            with slicer.util.WaitCursor():
                write()
        except VFMTransferError as error:
            self._showMessage(str(error))
            return
        except OSError as error:  # a drive that was pulled out, a folder that is gone
            reason = error.strerror or type(error).__name__
            self._showMessage(
                _("Could not save {what}: {reason}. Choose another place.").format(what=what, reason=reason)
            )
            return
        self._showMessage(_("Saved {what}.").format(what=what))

    def _showMessage(self, sentence: str) -> None:
        self._ui.exportStatusLabel.text = sentence
        self._ui.exportStatusLabel.visible = bool(sentence)


_NO_NUMBER = "–"
_WARNING_STYLE = "font-weight: bold"
_SHORT_COLUMNS = {
    Between.REFERENCE: "Ref.",
    Between.A_B: "A vs\nB",
    Between.A_REFERENCE: "A vs\nref.",
    Between.B_REFERENCE: "B vs\nref.",
    Between.INPUT_REFERENCE: "Input\nvs ref.",
    Between.NAIVE_REFERENCE: "Naive\nvs ref.",
}
_SHORT_GROUPS = {label_title(Label.CSPCA): "csPCa"}
_LONGEST_TITLE = 24  # characters; longer ones would push the numbers out of a narrow panel


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
        self._parameters: VFMTransferParameterNode | None = None
        self._seen: tuple | None = None
        self._findings = Findings()
        self._isUnfolded = False
        self._shown = {ui.resultsTable: TableContent(), ui.findingsTable: TableContent()}
        for table in self._shown:
            setUpTable(table, lambda table=table: self._shown[table])
        ui.findingsTable.verticalHeader().hide()
        ui.findingsTable.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        ui.findingsTable.connect("cellClicked(int,int)", self.onFinding)
        ui.findingsTable.connect("cellActivated(int,int)", self.onFinding)

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Results do not hang on what is chosen for the next run, but a case that is not theirs is stated."""
        self._parameters = parameters

    def setBlinded(self, isBlinded: bool) -> None:
        """Hide what distinguishes A from B as long as the networks are read blinded."""
        self._isBlinded = isBlinded
        self.update()

    def update(self) -> None:
        """Show what is new, and show what can be saved."""
        run = None if self._isBlinded else self._logic.lastRun
        seen = (None, self._isBlinded)
        if run is not None:
            seen = (run, len(run.arms), run.comparison is not None, self._ofAnotherCase(run))
        if self._seen != seen:  # filling a table takes time, and would lose what is selected in it
            self._seen = seen
            self._show(run)
        self._exports.update(self._isBlinded)

    def onFinding(self, row: int, column: int) -> None:
        """Go there; the last row of folded differences shows them."""
        listed = self._listed()
        if row < len(listed):
            self._jumpTo(listed[row].positionRas)
        elif not self._isUnfolded:
            self._isUnfolded = True
            self._showFindings()

    def _show(self, run: RunInScene | None) -> None:
        numbers = numbersOf(run) if run is not None else NumbersTable()
        self._findings, self._isUnfolded = findingsOf(run) if run is not None else Findings(), False
        self._shown[self._ui.resultsTable] = _numbersShown(numbers)
        fillTable(self._ui.resultsTable, self._shown[self._ui.resultsTable])
        self._showFindings()
        warnings = [*filter(None, [self._ofAnotherCase(run)]), *numbers.warnings]
        notes = [*warnings, *numbers.notes, self._findings.note]
        if self._isBlinded:
            notes = [_("Results are hidden while the networks are read blinded.")]
        _setText(self._ui.resultsNoteLabel, " ".join(filter(None, notes)))
        self._ui.resultsNoteLabel.styleSheet = _WARNING_STYLE if warnings and not self._isBlinded else ""
        _setText(self._ui.transferLabel, _transferOf(run) if run is not None and run.arms else "")

    def _ofAnotherCase(self, run: RunInScene | None) -> str:
        if run is None:
            return ""
        return ofAnotherCase(run, getattr(self._parameters, str(TASKS[run.task].reference), None))

    def _listed(self) -> tuple[Finding, ...]:
        return self._findings.shown + (self._findings.folded if self._isUnfolded else ())

    def _showFindings(self) -> None:
        folded = 0 if self._isUnfolded else len(self._findings.folded)
        shown = self._shown[self._ui.findingsTable] = _findingsShown(self._listed(), folded)
        fillTable(self._ui.findingsTable, shown)


def _numbersShown(numbers: NumbersTable) -> TableContent:
    """One heading a structure or image, so that the titles beside the rows are short."""
    lines: list[Line] = []
    group = ""
    for row in numbers.rows:
        if row.group != group:
            group = row.group
            lines.append(Line(_shortened(_SHORT_GROUPS.get(group, group)), tip=group))
        found = [row.cells.get(column) for column in numbers.columns]
        cells = [Cell(cell.text, cell.note) if cell is not None else Cell(_NO_NUMBER) for cell in found]
        tip = f"{row.title}: {row.definition}" if row.definition else row.title
        lines.append(Line(f"  {_shortened(row.title)}" if group else _shortened(row.title), cells, tip))
    return TableContent(
        [_SHORT_COLUMNS.get(column, COLUMNS[column]) for column in numbers.columns], lines, areNumbers=True
    )


def _shortened(title: str) -> str:
    """A long title without its middle, for its ends matter most."""
    if len(title) <= _LONGEST_TITLE:
        return title
    half = _LONGEST_TITLE // 2
    return f"{title[:half].rstrip()}…{title[-half:].lstrip()}"


def format_pair(found: Finding, text: Callable[[Finding], str]) -> str:
    """Of a lesion that A and B share, what each has."""
    return text(found) if found.other is None else f"{text(found)} / {text(found.other)}"


def _classesOf(found: Finding) -> str:
    """One class where A and B say the same, or one of them says nothing about it; else both."""
    return found.a or found.b if found.a == found.b or not (found.a and found.b) else f"{found.a} / {found.b}"


def _findingsShown(findings: tuple[Finding, ...], folded: int = 0) -> TableContent:
    """What is known of no place gets no column; in the end a row for so many that are folded.

    Coordinates of the scanner stand in the tooltip where the place in the gland is known.
    """
    inGland = _("In the\ngland")  # on two lines, since a narrow panel would cut it
    columns: list[tuple[str, Callable[[Finding], str]]] = [
        (_("What"), lambda found: found.kind),
        (inGland, lambda found: found.inGland),
        (_("Class"), _classesOf),
        (_("ml"), lambda found: format_pair(found, lambda one: f"{one.volumeMl:.2f}")),
        (
            _("mm"),
            lambda found: "" if found.diameterMm is None else format_pair(found, lambda one: _diameter(one.diameterMm)),
        ),
        (_("Zone"), lambda found: "" if found.inGland else found.zone),
        (_("ADC"), lambda found: "" if found.meanAdc is None else format_pair(found, lambda one: _number(one.meanAdc))),
        (_("Conf."), _confidenceOf),
        (_("Where, mm"), lambda found: "" if found.inGland else found.place),
    ]
    known = [(title, text) for title, text in columns if any(text(found) for found in findings)]

    def tipOf(found: Finding) -> str:
        where = found.inGland and _("{place} mm").format(place=found.place)
        return "\n".join(filter(None, (found.sectors, where, _("Click to go there."))))

    lines = [Line(cells=[Cell(text(found), tipOf(found)) for _title, text in known]) for found in findings]
    if folded:
        words = _("{count} below {limit} ml").format(count=folded, limit=MIN_DIFFERENCE_ML)
        lines.append(Line(cells=[Cell(f"+ {words}", _("Click to list them."))]))
    return TableContent(
        [title for title, _text in known] or [_("What")], lines, wrapped=(_("What"), inGland, _("Class"))
    )


def _number(value: float | None) -> str:
    return _NO_NUMBER if value is None else f"{value:.0f}"


def _diameter(mm: float | None) -> str:
    """With a decimal, since whole ones would hide on which side of the 15 mm of PI-RADS it lies."""
    return _NO_NUMBER if mm is None else f"{mm:.1f}"


def _confidenceOf(found: Finding) -> str:
    return "" if found.confidence is None else format_pair(found, lambda one: format_percent(one.confidence))


def format_percent(value: float | None) -> str:
    return _NO_NUMBER if value is None else f"{value:.2f}"


def _transferOf(run: RunInScene) -> str:
    """The transfer study's result for this encoder and task; nothing where the network is no longer in the catalog."""
    if not SUMMARY.is_file():
        return ""
    try:
        return transferNote(find_bundle(run.arms[0].bundle).spec.family, run.task)
    except VFMTransferError:
        return ""


def _setText(label: qt.QLabel, text: str) -> None:
    label.text = text
    label.visible = bool(text)
