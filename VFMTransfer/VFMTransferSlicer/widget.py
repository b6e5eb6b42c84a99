"""The panel: choose a study, a task and two networks, run them, read the numbers side by side."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from VFMTransferLib.bundle import Bundle
from VFMTransferLib.catalog import list_bundles
from VFMTransferLib.job import Progress
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.terms import LABEL_TERMS, Arm, Sequence, TaskId

from .layout import VIEWS, SideBySide
from .logic import TransferLogic, missingInputs
from .parameters import VFMTransferParameterNode
from .runs import ArmInScene


class Panel(VTKObservationMixin):
    """Keeps widgets, parameter node and logic in step.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Runs what is chosen; it was given a process.
        makeLayout: Makes the comparison's layout; called when it is first wanted, for it needs a main window.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic, makeLayout: Callable[[], SideBySide]) -> None:
        VTKObservationMixin.__init__(self)
        self.ui = ui
        self.logic = logic
        self._parameters: VFMTransferParameterNode | None = None
        self._guiTag = None
        self._makeLayout = makeLayout
        self._layout: SideBySide | None = None
        self._arms: list[ArmInScene] = []
        self._networks = 1
        self._volume: slicer.vtkMRMLScalarVolumeNode | None = None
        for task in TASKS.values():
            ui.taskComboBox.addItem(task.title, str(task.id))
        ui.taskComboBox.connect("activated(int)", self.onTask)
        ui.bundleAComboBox.connect("activated(int)", self.onBundles)
        ui.bundleBComboBox.connect("activated(int)", self.onBundles)
        ui.runButton.connect("clicked(bool)", self.onRun)
        ui.cancelButton.connect("clicked(bool)", self.onCancel)
        ui.compareButton.connect("toggled(bool)", self.onCompare)
        logic.progress.connect(self.onProgress)
        logic.armLoaded.connect(self.onArm)
        logic.failed.connect(self.onFailed)
        logic.finished.connect(self.onFinished)

    def setParameterNode(self, parameters: VFMTransferParameterNode | None) -> None:
        """Show these choices, and write into them; None leaves the panel without any."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._guiTag)
            self.removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self._parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.onParameters)
            self._select(self.ui.taskComboBox, parameters.task)
            self._fillBundles()
        self.onParameters()

    def onParameters(self, caller=None, event=None) -> None:
        """Say whether a run can begin, and if not, what is missing."""
        missing = self._missing()
        isRunning = self.logic.isRunning
        self.ui.runButton.enabled = not missing and not isRunning
        self.ui.runButton.toolTip = missing or _("Run the chosen networks on this study.")
        self.ui.cancelButton.enabled = isRunning
        self.ui.inputsCollapsibleButton.enabled = not isRunning
        self.ui.compareButton.enabled = bool(self._segmentations()) and not isRunning

    def onTask(self, index: int) -> None:
        """The user chose a task: its networks are offered."""
        self._parameters.task = self.ui.taskComboBox.itemData(index)
        self._parameters.bundleA = self._parameters.bundleB = ""
        self._fillBundles()

    def onBundles(self, index: int) -> None:
        """The user chose a network."""
        self._parameters.bundleA = _chosen(self.ui.bundleAComboBox)
        self._parameters.bundleB = _chosen(self.ui.bundleBComboBox)

    def onRun(self, checked: bool = False) -> None:
        """Begin a run; the signals of the logic tell the rest."""
        chosen = self._parameters
        bundles = [name for name in (chosen.bundleA, chosen.bundleB) if name]
        self.clear()
        self._networks = len(bundles)
        with slicer.util.tryWithErrorDisplay(_("The run could not begin."), waitCursor=True):
            self._volume = chosen.t2w
            self.logic.run(chosen.task, chosen.t2w, chosen.adc, chosen.hbv, bundles, waitForCompletion=False)
            self._say(_("Starting the worker"))
        self.onParameters()

    def onCancel(self, checked: bool = False) -> None:
        """Stop the run; what is finished stays."""
        self._say(_("Canceling"))
        self.logic.cancel()

    def onCompare(self, isShown: bool) -> None:
        """Show the networks side by side, or go back to the user's former layout."""
        if isShown and self._segmentations():
            if self._layout is None:
                self._layout = self._makeLayout()
            self._layout.show(self._volume, self._segmentations())
        elif self._layout is not None:
            self._layout.restore()

    def clear(self) -> None:
        """Forget the results of the last run; their nodes stay."""
        self.ui.compareButton.checked = False
        self._arms = []
        self._showNumbers()

    def onProgress(self, progress: Progress) -> None:
        self.ui.progressBar.value = round(100 * (progress.arm + progress.fraction) / self._networks)
        self._say(f"{progress.bundle}: {progress.stage}")

    def onArm(self, arm: ArmInScene) -> None:
        self._arms.append(arm)
        self._showNumbers()

    def onFailed(self, sentence: str, details: str) -> None:
        self._say(sentence, details)

    def onFinished(self, outcome: str) -> None:
        if outcome != "failed":  # the sentence of the failure stays
            self._say(_("Canceled") if outcome == "canceled" else _("Done"))
        self.ui.progressBar.value = 100 if outcome == "done" else 0
        self.onParameters()

    def _missing(self) -> str:
        chosen = self._parameters
        if chosen is None:
            return _("Open the module to choose a study.")
        if not chosen.bundleA and not chosen.bundleB:
            return _("Choose a network. Where none is offered, none for this task is on this computer.")
        return missingInputs(
            chosen.task, {Sequence.T2W: chosen.t2w, Sequence.HBV: chosen.hbv, Sequence.ADC: chosen.adc}
        )

    def _segmentations(self) -> dict[str, slicer.vtkMRMLSegmentationNode]:
        """View → what is drawn in it; empty where there is nothing to draw, or no longer."""
        found = {view: arm.segmentation for view, arm in zip(list(VIEWS)[1:], self._arms, strict=False)}
        alive = {view: node for view, node in found.items() if node is not None and node.GetScene() is not None}
        return alive if self._volume is not None and self._volume.GetScene() is not None else {}

    def _fillBundles(self) -> None:
        """Offer the networks for the task; where nothing is chosen yet, the first of each arm."""
        bundles = list_bundles(TaskId(self._parameters.task))
        chosen = self._parameters.bundleA, self._parameters.bundleB
        if not any(chosen):
            chosen = tuple(_first(bundles, arm) for arm in (Arm.PRETRAINED, Arm.SCRATCH))
        for combo, name in zip((self.ui.bundleAComboBox, self.ui.bundleBComboBox), chosen, strict=True):
            combo.clear()
            combo.addItem(_("None"), "")
            for bundle in bundles:
                combo.addItem(bundle.title, bundle.name)
            self._select(combo, name)
        self.onBundles(0)

    def _select(self, combo: qt.QComboBox, value: str) -> None:
        combo.setCurrentIndex(max(combo.findData(value), 0))

    def _say(self, sentence: str, details: str = "") -> None:
        self.ui.statusLabel.text = sentence
        self.ui.statusLabel.toolTip = details

    def _showNumbers(self) -> None:
        """One column a network, one row a number."""
        columns = [_numbersOf(arm) for arm in self._arms]
        rows = list(dict.fromkeys(name for column in columns for name in column))
        table = self.ui.resultsTable
        table.setColumnCount(len(columns))
        table.setRowCount(len(rows))
        table.setHorizontalHeaderLabels([arm.numbers["model"]["title"] for arm in self._arms])
        table.setVerticalHeaderLabels(rows)
        for x, column in enumerate(columns):
            for y, name in enumerate(rows):
                table.setItem(y, x, qt.QTableWidgetItem(column.get(name, "")))


def _chosen(combo: qt.QComboBox) -> str:
    return combo.itemData(combo.currentIndex) or ""


def _first(bundles: list[Bundle], arm: Arm) -> str:
    return next((bundle.name for bundle in bundles if bundle.arm == arm), "")


def _numbersOf(arm: ArmInScene) -> dict[str, str]:
    """What is shown of a result: row → text."""
    titles = {str(label): term.title for label, term in LABEL_TERMS.items()}
    numbers = {f"{titles.get(name, name)}, ml": f"{ml:.1f}" for name, ml in arm.numbers["volumes_ml"].items()}
    probabilities = arm.numbers["class_probabilities"] | arm.numbers["derived_probabilities"]
    return numbers | {f"P({name})": f"{value:.2f}" for name, value in probabilities.items()}
