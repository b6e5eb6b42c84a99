"""The buttons that save a run: each says what it wrote, or why it cannot. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.core.errors import VFMTransferError

from ..logic import TransferLogic
from ..results.export import (
    PAGE_SUFFIXES,
    SCENE_SUFFIX,
    proposedName,
    saveNumbers,
    saveReport,
    saveScene,
    saveSegmentations,
    whyNoNumbers,
    whyNoReport,
    whyNoSegmentations,
)
from ..runs import RunInScene

_SEG_MODULE = "DICOMSegmentationPlugin"


class Exports:
    """Saves the last run.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the run.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic) -> None:
        self._ui, self._logic = ui, logic
        self._saved: RunInScene | None = None
        self._hasSegExporter = find_spec(_SEG_MODULE) is not None
        self._tips = {
            button: button.toolTip
            for button in (ui.exportReportButton, ui.exportCsvButton, ui.exportSceneButton, ui.exportSegButton)
        }
        ui.exportReportButton.connect("clicked(bool)", self.onReport)
        ui.exportCsvButton.connect("clicked(bool)", self.onNumbers)
        ui.exportSceneButton.connect("clicked(bool)", self.onScene)
        ui.exportSegButton.connect("clicked(bool)", self.onSegmentations)

    def update(self, isBlinded: bool) -> None:
        """Enable what can be saved, and say why the rest cannot.

        Args:
            isBlinded: Whether the networks' names are hidden, which files would tell.
        """
        run = self._logic.lastRun
        if run is not self._saved:  # what was said of another run
            self._saved = run
            self._say("")
        hidden = _("Not while the networks are read blinded.") if isBlinded else ""
        running = _("Wait for the end of the run.") if self._logic.isRunning else ""
        reasons = {
            self._ui.exportReportButton: whyNoReport(run),
            self._ui.exportCsvButton: whyNoNumbers(run),
            self._ui.exportSceneButton: whyNoNumbers(run),
            self._ui.exportSegButton: whyNoSegmentations(run, self._hasSegExporter),
        }
        for button, why in reasons.items():
            why = hidden or running or why
            button.enabled = not why
            button.toolTip = why or self._tips[button]

    def onReport(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        filters = _("Web page") + " (*.html);;" + _("Folder with page, picture and tables") + " (*)"
        path = _askForFile(_("Save report"), proposedName(run, datetime.now(), PAGE_SUFFIXES[0]), filters)
        if path is not None:
            self.save(path.name, lambda: saveReport(run, path))

    def onNumbers(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        path = _askForFile(
            _("Save numbers"), proposedName(run, datetime.now(), ".csv"), _("Table") + " (*.csv)", ".csv"
        )
        if path is not None:
            self.save(path.name, lambda: saveNumbers(run, path))

    def onScene(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        path = _askForFile(
            _("Save scene"),
            proposedName(run, datetime.now(), SCENE_SUFFIX),
            _("Scene") + f" (*{SCENE_SUFFIX})",
            SCENE_SUFFIX,
        )
        if path is not None:
            self.save(path.name, lambda: saveScene(path, slicer.util.saveScene))

    def onSegmentations(self, checked: bool = False) -> None:
        run = self._logic.lastRun
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Save DICOM SEG in"))
        if folder:
            self.save(_("the segmentations of A and B"), lambda: _saveSegmentations(run, Path(folder)))

    def save(self, what: str, write: Callable[[], object]) -> None:
        """Write, and say how it went.

        Args:
            what: Named in the sentence.
            write: Raises a `VFMTransferError` where it cannot.
        """
        try:
            with slicer.util.WaitCursor():
                write()
        except VFMTransferError as error:
            self._say(str(error))
            return
        except OSError as error:  # a drive that was pulled out, a folder that is gone
            reason = error.strerror or type(error).__name__
            self._say(_("Could not save {what}: {reason}. Choose another place.").format(what=what, reason=reason))
            return
        self._say(_("Saved {what}.").format(what=what))

    def _say(self, sentence: str) -> None:
        self._ui.exportStatusLabel.text = sentence
        self._ui.exportStatusLabel.visible = bool(sentence)


def _saveSegmentations(run: RunInScene, folder: Path) -> None:
    from DICOMSegmentationPlugin import DICOMSegmentationExporter  # of Slicer 5.12, or of an extension

    saveSegmentations(run, folder, DICOMSegmentationExporter, datetime.now())


def _askForFile(title: str, name: str, filters: str, suffix: str = "") -> Path | None:
    """Ask where to save; None if the user thought better of it.

    Args:
        title: Of the dialog.
        name: Proposed.
        filters: As Qt writes them.
        suffix: Added where the user left it out; the dialog has asked before an existing file is replaced, but not
            this one.
    """
    chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, filters)
    if not chosen:
        return None
    path = Path(chosen)
    if suffix and path.suffix.lower() != suffix:
        path = path.with_name(path.name + suffix)
        question = _("'{name}' is there already. Replace it?").format(name=path.name)
        if path.exists() and not slicer.util.confirmOkCancelDisplay(question, title):
            return None
    return path
