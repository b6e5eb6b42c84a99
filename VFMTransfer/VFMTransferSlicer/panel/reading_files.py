"""The buttons that save readings, and that go on with saved ones. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.core.errors import VFMTransferError

from ..reading.readings import ReadingTable, readCsv, writeCsv


class ReadingFiles:
    """Brings readings from the scene into files, and from files into the scene.

    Args:
        ui: The panel's widgets.
        table: Gives the table in the scene; called with True it makes one.
        say: Shows a sentence.
        taken: Called when there are more readings than before.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        table: Callable[[bool], ReadingTable | None],
        say: Callable[[str], None],
        taken: Callable[[], None],
    ) -> None:
        self._ui, self._table, self._say, self._taken = ui, table, say, taken
        ui.readingExportButton.connect("clicked(bool)", self.onExport)
        ui.readingResumeButton.connect("clicked(bool)", self.onResume)

    def update(self, *, canSave: bool, canTake: bool) -> None:
        self._ui.readingExportButton.enabled = canSave
        self._ui.readingResumeButton.enabled = canTake

    def onExport(self, checked: bool = False) -> None:
        """Save all readings as CSV; those that are not revealed stay sealed in it."""
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save readings"), "readings.csv", _("Table") + " (*.csv)"
        )
        if not path:
            return
        try:
            writeCsv(self._table(True).readings(), Path(path))
        except (VFMTransferError, OSError) as error:
            self._say(str(error))
        else:
            self._say(_("Saved {name}.").format(name=Path(path).name))

    def onResume(self, checked: bool = False) -> None:
        """Take the readings of a CSV file into the scene."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Go on with readings"), "", _("Table") + " (*.csv)"
        )
        if not path:
            return
        try:
            taken = self._table(True).add(readCsv(Path(path)))
        except VFMTransferError as error:
            self._say(str(error))
        else:
            self._say(_("{count} readings taken from {name}.").format(count=taken, name=Path(path).name))
            self._taken()
