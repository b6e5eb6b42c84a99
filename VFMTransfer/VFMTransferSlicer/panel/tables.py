"""Tables on a narrow panel: as high as their rows, as wide as their words, and copied with Ctrl+C. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import qt
import slicer

MOST_HEIGHT_PX = 240  # a longer table scrolls


@dataclass(frozen=True)
class Cell:
    """A text, and what more is said of it under the mouse."""

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
class Shown:
    """What a table shows.

    Attributes:
        columns: Their titles.
        lines: From top to bottom.
        areNumbers: Whether cells stand at the right.
    """

    columns: Sequence[str] = ()
    lines: Sequence[Line] = ()
    areNumbers: bool = False

    @property
    def text(self) -> str:
        """As spreadsheets take it from the clipboard."""
        head = ["", *(title.replace("\n", " ") for title in self.columns)]
        rows = [head, *([line.title, *(cell.text for cell in line.cells)] for line in self.lines)]
        return "\n".join("\t".join(row) for row in rows)


def setUpTable(table: qt.QTableWidget, shown: Callable[[], Shown]) -> None:
    """Let columns be as wide as their words, and let Ctrl+C copy the whole table.

    Args:
        table: The widget.
        shown: What it shows at that moment.
    """
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    table.setVerticalScrollMode(qt.QAbstractItemView.ScrollPerPixel)
    table.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Fixed)
    copy = qt.QShortcut(qt.QKeySequence("Ctrl+C"), table)
    copy.setContext(qt.Qt.WidgetShortcut)
    copy.connect("activated()", lambda: slicer.app.clipboard().setText(shown().text))


def fillTable(table: qt.QTableWidget, shown: Shown) -> None:
    """Show it; a table without rows is not shown at all."""
    table.clearContents()
    table.setRowCount(len(shown.lines))
    table.setColumnCount(len(shown.columns))
    table.setHorizontalHeaderLabels(list(shown.columns))
    side = qt.Qt.AlignRight if shown.areNumbers else qt.Qt.AlignLeft
    for y, line in enumerate(shown.lines):
        head = _item(Cell(line.title, line.tip), qt.Qt.AlignLeft)
        if not line.cells:
            font = head.font()
            font.setBold(True)
            head.setFont(font)
        table.setVerticalHeaderItem(y, head)
        for x, cell in enumerate(line.cells):
            table.setItem(y, x, _item(cell, side))
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
    table.setFixedHeight(min(rows + head + bar + 2 * table.frameWidth, MOST_HEIGHT_PX))
