"""What a radiologist asks of a case beside masks: image quality, the ADC fit, the sector map, DICOM. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from VFMTransferLib.core.decoding import from_json
from VFMTransferLib.core.errors import VFMTransferError
from VFMTransferLib.core.result import Lesion
from VFMTransferLib.core.terms import RESEARCH_USE, Sequence
from VFMTransferLib.radiology.sector_map import SectorDrawing, draw_sectors
from VFMTransferLib.worker.messages import Exported

from ..inputs.dicom import dicomFilesOf, theDatabase
from ..inputs.diffusion import SERIES_CLASSES, exportSeries, loadFit, readBValues, seriesIn
from ..inputs.exporting import EXPORTED, exportVolume, maskOf, writeExported
from ..logic import TransferLogic, newTemporaryFolder
from ..parameters import VFMTransferParameterNode
from ..results.dicom import DICOM_SUFFIX, dicomCommand, whyNoDicom, writeExam
from ..results.export import proposedName
from ..runs import RunInScene
from ..workers.commands import LibraryCommand
from ..workers.process import MakeProcess, newProcess
from ..workers.steps import Steps
from .reading import notWhileBlinded

# Choices follow each other quickly while a case is loaded; so long after the last one the images are checked.
_SETTLED_MS = 1500
_ROLES = (Sequence.T2W, Sequence.HBV, Sequence.ADC)
_COMPUTED_B = 1500.0

Later = Callable[[int, Callable[[], None]], None]


def _qtLater(milliseconds: int, slot: Callable[[], None]) -> None:
    qt.QTimer.singleShot(milliseconds, slot)


def _command(later: Later, makeProcess: MakeProcess) -> LibraryCommand:
    return LibraryCommand(lambda step: later(0, step), newTemporaryFolder, makeProcess)


def _showNote(label: qt.QLabel, sentence: str, details: str = "") -> None:
    """A sentence below a section, with details as its tooltip; no line without one."""
    label.text, label.toolTip, label.visible = sentence, details, bool(sentence)


def _contentOf(mask: slicer.vtkMRMLNode) -> vtk.vtkObject:
    """The object whose time of modification changes when a mask is edited."""
    return mask.GetSegmentation() if mask.IsA("vtkMRMLSegmentationNode") else mask.GetImageData() or mask


class QualitySection(VTKObservationMixin):
    """Checks the images of a case before anything runs: each criterion with value, threshold and source, and no score.

    The criteria of a run, which also knows where the prostate is, stand in its notes and its report.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the state of a run.
        later: Calls a function after so many milliseconds.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.
    """

    def __init__(
        self, ui: SimpleNamespace, logic: TransferLogic, later: Later = _qtLater, makeProcess: MakeProcess = newProcess
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui, self._logic, self._later = ui, logic, later
        self._parameters: VFMTransferParameterNode | None = None
        self._checks = _command(later, makeProcess)
        self._checks.failed.connect(self._onFailed)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self._wanted: tuple = ()  # the images that are chosen
        self._checked: tuple = ()  # those whose criteria are shown
        ui.qualityButton.connect("clicked(bool)", self.onCheck)
        self._show([], "")

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        self._parameters = parameters
        if parameters is not None and self._checked != self._wanted and not self._checks.isBusy:
            self._wanted = ()  # their choice settled while the user was elsewhere

    def onSceneStartClose(self, caller=None, event=None) -> None:
        self._checks.cancel()
        self._wanted = self._checked = ()

    def close(self) -> None:
        """Leave no child process behind."""
        self.removeObservers()
        self._checks.cancel()

    def update(self) -> None:
        """Check the images when their choice has settled."""
        chosen = self._volumes()
        self._ui.qualityButton.enabled = bool(chosen) and not self._logic.isRunning
        if self._parameters is None or self._logic.isRunning:  # whose results bring criteria
            return
        wanted = self._state()
        if wanted == self._wanted:
            return
        self._wanted, self._checked = wanted, ()
        self._checks.cancel()
        self._show([], _("Not checked yet.") if chosen else "")
        if chosen:
            self._later(_SETTLED_MS, lambda: self._checkSettled(wanted))

    def onCheck(self, checked: bool = False) -> None:
        """Check them now, also when they were checked before."""
        chosen = self._volumes()
        if not chosen or self._logic.isRunning:
            return
        state, gland = self._state(), self._parameters.gland
        _showNote(self._ui.qualityNoteLabel, _("Checking the images."))

        def write(folder: Path) -> Steps:
            images = {}
            for sequence, node in chosen.items():
                images[sequence] = exportVolume(node, folder, sequence)
                yield
            mask = None if gland is None else maskOf(gland, next(iter(chosen.values())), folder, "gland")
            files = dicomFilesOf(chosen, theDatabase())
            writeExported(Exported(images, gland=mask, dicom=files), folder)
            yield

        def take(document: dict[str, Any], folder: Path) -> Steps:
            self._checked = state
            lacking = "" if gland is not None else _("The coverage of the prostate follows with a mask.")
            self._show(
                document["quality"], "\n".join(filter(None, (*(note["text"] for note in document["notes"]), lacking)))
            )
            yield

        with slicer.util.tryWithErrorDisplay(_("The images could not be checked.")):
            self._checks.start(write, lambda folder: ["quality", "--exported", str(folder / EXPORTED), "--json"], take)

    def _checkSettled(self, wanted: tuple) -> None:
        if wanted == self._wanted and wanted != self._checked and not self._logic.isRunning:
            self.onCheck()

    def _onFailed(self, sentence: str, details: str) -> None:
        self._show([], sentence, details)

    def _volumes(self) -> dict[Sequence, slicer.vtkMRMLScalarVolumeNode]:
        if self._parameters is None:
            return {}
        found = {sequence: getattr(self._parameters, str(sequence)) for sequence in _ROLES}
        return {sequence: node for sequence, node in found.items() if node is not None and node.GetImageData()}

    def _state(self) -> tuple:
        """What changes with the images that are chosen."""
        gland = None if self._parameters is None else self._parameters.gland
        nodes = [
            (node.GetID(), node.GetImageData().GetMTime(), transform.GetTransformToWorldMTime() if transform else 0)
            for node in self._volumes().values()
            for transform in (node.GetParentTransformNode(),)
        ]
        return (*nodes, () if gland is None else (gland.GetID(), _contentOf(gland).GetMTime()))

    def _show(self, criteria: list[dict[str, Any]], note: str, details: str = "") -> None:
        self._ui.qualityLabel.text = qualityText(criteria)
        self._ui.qualityLabel.visible = bool(criteria)
        unmet = [found for found in criteria if found["is_met"] is False]
        title = _("Image quality")
        if criteria:
            title = _("Image quality: {unmet} of {all} criteria not met").format(unmet=len(unmet), all=len(criteria))
        self._ui.qualityCollapsibleButton.text = title
        _showNote(self._ui.qualityNoteLabel, note, details)


def qualityText(criteria: list[dict[str, Any]]) -> str:
    """Criteria as rich text that fits a panel of any width, those that are not met first."""
    marks = {True: _("met"), False: _("not met"), None: _("not known")}
    ordered = sorted(criteria, key=lambda found: found["is_met"] is not False)
    return "".join(
        "<p style='margin: 0 0 5px'><b>{title}: {text}</b> – {mark}<br/>{threshold} ({source}). {sentence}</p>".format(
            mark=marks[found["is_met"]],
            **{key: escape(found[key]) for key in ("title", "text", "threshold", "source", "sentence")},
        )
        for found in ordered
    )


class DiffusionSection(VTKObservationMixin):
    """Fits the ADC of a diffusion series in the scene, with its residual, and computes another b value.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the state of a run.
        later, makeProcess: As for `QualitySection`.
    """

    def __init__(
        self, ui: SimpleNamespace, logic: TransferLogic, later: Later = _qtLater, makeProcess: MakeProcess = newProcess
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui, self._logic = ui, logic
        self._parameters: VFMTransferParameterNode | None = None
        self._fit = _command(later, makeProcess)
        self._fit.failed.connect(self._onFailed)
        self._fit.finished.connect(self.update)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self._series: slicer.vtkMRMLNode | None = None
        ui.computedBSpinBox.value = _COMPUTED_B
        ui.fitButton.connect("clicked(bool)", self.onFit)
        ui.seriesSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self.update())
        self._note("")

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        self._parameters = parameters

    def onSceneStartClose(self, caller=None, event=None) -> None:
        self._fit.cancel()

    def close(self) -> None:
        """Leave no child process behind."""
        self.removeObservers()
        self._fit.cancel()

    def update(self) -> None:
        """Offer the b values that a series states."""
        series = self._ui.seriesSelector.currentNode()
        if series is not self._series:
            self._series = series
            self._describe(series)
        isFree = None not in (series, self._parameters) and not self._logic.isRunning and not self._fit.isBusy
        self._ui.fitButton.enabled = isFree

    def onFit(self, checked: bool = False) -> None:
        """Fit the series that is chosen."""
        chosen, series = self._parameters, self._ui.seriesSelector.currentNode()
        b = float(self._ui.computedBSpinBox.value)
        try:
            bValues = readBValues(self._ui.bValuesLineEdit.text, seriesIn(series).frames)
        except VFMTransferError as error:
            self._note(str(error))
            return
        loaded: dict[str, Any] = {}

        def arguments(folder: Path) -> list[str]:
            output = str(folder / "fit")
            return ["diffusion", "--exported", str(folder / EXPORTED), "--b", f"{b:g}", "--output", output, "--json"]

        def take(document: dict[str, Any], folder: Path) -> Steps:
            yield from loadFit(document, folder / "fit", series, loaded)
            self._note(fitText(document))
            self._choose(chosen, loaded)

        self._note(_("Fitting the series."))
        with slicer.util.tryWithErrorDisplay(_("The series could not be fitted.")):
            self._fit.start(
                lambda folder: exportSeries(series, bValues, chosen.gland, chosen.t2w, folder), arguments, take
            )
        self.update()

    def _choose(self, chosen: VFMTransferParameterNode, loaded: Mapping[str, Any]) -> None:
        """Take the ADC and the computed image as inputs where none was chosen."""
        computed = next((node for kind, node in loaded.items() if kind.endswith("-computed")), None)
        for name, node in (("adc", loaded.get("adc")), ("hbv", computed)):
            if getattr(chosen, name) is None and node is not None:
                setattr(chosen, name, node)

    def _describe(self, series: slicer.vtkMRMLNode | None) -> None:
        if series is None:
            self._note("")
            return
        if not any(series.IsA(name) for name in SERIES_CLASSES):
            self._note(_("Choose a sequence or a multi-volume of several b values."))
            return
        found = seriesIn(series)
        self._ui.bValuesLineEdit.text = " ".join(f"{b:g}" for b in found.bValues)
        known = _("{count} frames.").format(count=found.frames)
        self._note(known if found.bValues else f"{known} " + _("Their b values are not stated; enter one for each."))

    def _onFailed(self, sentence: str, details: str) -> None:
        self._note(sentence, details)
        self.update()

    def _note(self, sentence: str, details: str = "") -> None:
        _showNote(self._ui.fitNoteLabel, sentence, details)


def fitText(document: Mapping[str, Any]) -> str:
    """What the fit found, in sentences: which b values, where it is poor and why."""
    where = _("the prostate") if document["region"] == "prostate" else _("the image")
    fitted = _("Fitted to b {values} s/mm².").format(values=", ".join(f"{b:g}" for b in document["b_values"]))
    poor = [f"{words}: {share:.1%}" for words, share in document["shares"].items()]
    fit = _("Poor fit in {where}: {shares}.").format(where=where, shares="; ".join(poor)) if poor else _("Good fit.")
    return " ".join([fitted, fit, *(note["text"] for note in document["notes"]), RESEARCH_USE])


class SectorMapSection:
    """The sector map of PI-RADS v2.1 with the lesions of A and B.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the run.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic) -> None:
        self._ui, self._logic = ui, logic
        self._isBlinded = False
        self._seen: tuple | None = None

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """The map does not hang on what is chosen for the next run."""

    def setBlinded(self, isBlinded: bool) -> None:
        """Hide what distinguishes A from B as long as the networks are read blinded."""
        self._isBlinded = isBlinded
        self.update()

    def update(self) -> None:
        """Draw what is new."""
        run = None if self._isBlinded else self._logic.lastRun
        seen = (run, len(run.arms)) if run is not None else (None, 0)
        if seen == self._seen:
            return
        self._seen = seen
        drawing = sectorMapOf(run) if run is not None else None
        label, note = self._ui.sectorMapLabel, ""
        label.visible = drawing is not None
        if drawing is not None:
            schemes = "; ".join(drawing.schemes)
            note = _("Front of the gland up, the patient's right on the left.")
            note += " " + _("Sectors: {schemes}.").format(schemes=schemes) if schemes else ""
            pixmap = qt.QPixmap()
            svg = drawing.svg(max(label.width, 1) / drawing.width)
            if pixmap.loadFromData(qt.QByteArray(svg.encode("utf-8")), "SVG"):
                label.setPixmap(pixmap)
                label.setFixedHeight(pixmap.height())
        _showNote(self._ui.sectorMapNoteLabel, note)


def sectorMapOf(run: RunInScene) -> SectorDrawing | None:
    """The map of a run's lesions; None without a lesion in the gland."""
    lesions: list[tuple[str, Lesion]] = []
    widths: dict[str, float] = {}
    for who, arm in zip("ab", run.arms, strict=False):
        lesions += [(who, from_json(Lesion, found, "lesion")) for found in arm.numbers["lesions"]]
        if gland := arm.numbers.get("gland"):
            widths[who] = gland["transverse_mm"]
    return draw_sectors(lesions, widths)


class DicomSection:
    """Writes the last run as DICOM: segmentations, structured reports, derived images.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the run.
        later, makeProcess: As for `QualitySection`.
    """

    def __init__(
        self, ui: SimpleNamespace, logic: TransferLogic, later: Later = _qtLater, makeProcess: MakeProcess = newProcess
    ) -> None:
        self._ui, self._logic = ui, logic
        self._writer = _command(later, makeProcess)
        self._writer.failed.connect(self._onFailed)
        self._writer.finished.connect(self.update)
        self._isBlinded = False
        self._tip = ui.exportDicomButton.toolTip
        self._run: RunInScene | None = None
        ui.exportDicomButton.connect("clicked(bool)", self.onWrite)
        self._note("")

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """What is written does not hang on what is chosen for the next run."""

    def setBlinded(self, isBlinded: bool) -> None:
        """Write nothing as long as the networks are read blinded: it names them."""
        self._isBlinded = isBlinded
        self.update()

    def close(self) -> None:
        """Leave no child process behind."""
        self._writer.cancel()

    def update(self) -> None:
        """Enable what can be written, and show why it cannot."""
        run = self._logic.lastRun
        if run is not self._run:
            self._run = run
            self._note("")
        why = notWhileBlinded() if self._isBlinded else ""
        why = why or (_("Wait until the run has finished.") if self._logic.isRunning or self._writer.isBusy else "")
        why = why or whyNoDicom(run)
        self._ui.exportDicomButton.enabled = not why
        self._ui.exportDicomButton.toolTip = why or self._tip

    def onWrite(self, checked: bool = False) -> None:
        """Ask for a folder, and write a new one into it."""
        parent = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Save DICOM in"))
        if parent:
            self.write(Path(parent) / proposedName(self._logic.lastRun, datetime.now(), f"-{DICOM_SUFFIX}"))

    def write(self, target: Path) -> None:
        """Write the last run into a new folder."""
        run = self._logic.lastRun

        def take(document: dict[str, Any], folder: Path) -> Steps:
            count = len(document["files"])
            self._note(_("Saved {count} DICOM files in '{name}'.").format(count=count, name=target.name))
            yield

        self._note(_("Writing DICOM."))
        with slicer.util.tryWithErrorDisplay(_("DICOM could not be written.")):
            self._writer.start(
                lambda folder: writeExam(run, folder),
                lambda folder: dicomCommand(run, folder / EXPORTED, target),
                take,
            )
        self.update()

    def _onFailed(self, sentence: str, details: str) -> None:
        self._note(sentence, details)
        self.update()

    def _note(self, sentence: str, details: str = "") -> None:
        _showNote(self._ui.dicomNoteLabel, sentence, details)
