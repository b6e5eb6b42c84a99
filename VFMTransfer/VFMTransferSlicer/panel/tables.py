"""Tables on a narrow panel: as high as their rows, as wide as their words, and copied with Ctrl+C. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import qt
import slicer

MOST_HEIGHT_PX = 420  # a longer table scrolls


@dataclass(frozen=True)
class Shown:
    """What a table shows.

    Attributes:
        columns: Their titles.
        rows: Title, tooltip and cells of each, a cell being its text and its tooltip.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]

    @property
    def text(self) -> str:
        """As spreadsheets take it from the clipboard."""
        head = ["", *(title.replace("\n", " ") for title in self.columns)]
        lines = [head, *([title, *(text for text, _ in cells)] for title, _, cells in self.rows)]
        return "\n".join("\t".join(line) for line in lines)


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
    table.setRowCount(len(shown.rows))
    table.setColumnCount(len(shown.columns))
    table.setHorizontalHeaderLabels(list(shown.columns))
    for y, (title, tip, cells) in enumerate(shown.rows):
        head = qt.QTableWidgetItem(title)
        head.setToolTip(tip)
        table.setVerticalHeaderItem(y, head)
        for x, (text, cellTip) in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(cellTip)
            table.setItem(y, x, item)
    table.visible = bool(shown.rows)
    _fitHeight(table)


def _fitHeight(table: qt.QTableWidget) -> None:
    """Show all rows without a bar of its own, which nobody finds inside a panel that scrolls itself."""
    rows, head = table.verticalHeader().length(), table.horizontalHeader().sizeHint.height()
    bar = table.horizontalScrollBar().sizeHint.height()  # there may be one where the panel is narrow
    table.setFixedHeight(min(rows + head + bar + 2 * table.frameWidth, MOST_HEIGHT_PX))
