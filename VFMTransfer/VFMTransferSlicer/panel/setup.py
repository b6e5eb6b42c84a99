"""Setup on the panel: what is there, what works, what can be installed. Needs Qt."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.inference.doctor import describe

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..setup.install import (
    BUILDS,
    Plan,
    bestBuild,
    buildUnavailableReason,
    consent,
    install,
    installUnavailableReason,
    planInstall,
    planTorch,
)
from ..setup.machine_report import Report, isReady, lacking, needsRepair, reportText, statusLines
from ..workers.process import LibraryProcess, theWorker
from .networks import confirm

# So long after the last change of the path of Python it is taken to be whole.
_SETTLED_MS = 800


class SetupSection:
    """Inspects the worker's Python when the panel is first opened, and changes it on request.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Receives what was found, and emits it.
        later: Calls a function after so many milliseconds.
        ask: Asks the user before anything is changed.
        makeChild: As `LibraryProcess`.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        logic: TransferLogic,
        later: Callable[[int, Callable[[], None]], Any] = lambda ms, slot: qt.QTimer.singleShot(ms, slot),
        ask: Callable[[str], bool] = confirm,
        makeChild: Callable[..., LibraryProcess] = LibraryProcess,
    ) -> None:
        self._ui, self._logic, self._later, self._ask, self._makeChild = ui, logic, later, ask, makeChild
        self._inspection: LibraryProcess | None = None
        self._isFirst = True
        self._paths = 0
        self._status = self._outcome = ""
        ui.setupLogTextEdit.visible = False
        ui.setupPackageComboBox.connect("activated(int)", lambda index: self.update())
        ui.setupInstallButton.connect("clicked(bool)", self.onInstall)
        ui.runInstallButton.connect("clicked(bool)", self.onInstall)
        ui.setupCheckButton.connect("clicked(bool)", self.onCheck)
        ui.setupTorchButton.connect("clicked(bool)", self.onTorch)
        ui.setupCopyReportButton.connect("clicked(bool)", self.onCopyReport)
        ui.pythonPathLineEdit.connect("currentPathChanged(QString)", self.onPython)
        ui.pythonPathLineEdit.connect("validInputChanged(bool)", self.onPython)  # an emptied path emits no change

    @property
    def report(self) -> Report | None:
        """What was found; None before the first check. `logic.inspected` is emitted when that changes."""
        return self._logic.machine

    # ---- what the panel reports

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Inspect when the panel is first open; nothing is done when the module is loaded."""
        if parameters is not None and self._isFirst:
            self._isFirst = False
            self._later(0, self.inspect)

    def update(self) -> None:
        """Show what was found, and what can be done about it."""
        ui, report = self._ui, self.report
        isFree = report is not None and self._inspection is None and not self._logic.isRunning
        package = self._package()
        why = buildUnavailableReason(report, package) if report is not None and package else ""
        ui.setupStatusLabel.text = "\n".join(filter(None, (self._outcome, self._status)))
        ui.setupPackageComboBox.enabled = isFree
        for button in (ui.setupInstallButton, ui.runInstallButton):
            button.enabled = isFree and not why
            button.toolTip = why or _("Install it into Slicer's Python, after asking.")
        ui.runInstallButton.visible = report is not None and not isReady(report)
        ui.setupCheckButton.enabled = self._inspection is None
        ui.setupTorchButton.enabled = isFree
        ui.setupCopyReportButton.enabled = report is not None

    def close(self) -> None:
        """Stop inspecting."""
        child, self._inspection = self._inspection, None
        if child is not None:
            child.cancel()

    def unavailableReason(self) -> str:
        """A sentence where no run can begin; empty where one can, or before the first check."""
        if self.report is None or isReady(self.report):
            return ""
        missing = lacking(self.report) if self.report["default"] is not None else ["ONNX Runtime"]
        return _("Setup: install {packages}.").format(packages=", ".join(missing))

    # ---- looking

    def inspect(self) -> None:
        """Look at the worker's Python, in a child process, in place of one that is looked at now."""
        self.close()

        def onDone(exitCode: int, output: str, lastLines: list[str]) -> None:
            if self._inspection is child:
                self._inspection = None
                self._onInspected(json.loads(output) if exitCode == 0 else None, lastLines)

        child = self._inspection = self._makeChild(["doctor", "--json"], lambda line: None, onDone)
        self._status = _("Looking at what is installed…")
        child.start()
        self.update()

    def _onInspected(self, report: Report | None, lastLines: list[str]) -> None:
        self._status = _("Python could not be inspected; it needs 3.11 or newer. Check its path.")
        if report is None:
            for line in lastLines:
                self._log(line)
        else:
            self._status = "\n".join(statusLines(report))
            self._fillPackages(report)
        if report is None or not isReady(report) or needsRepair(report):
            self._ui.setupCollapsibleButton.collapsed = False
        self._logic.setMachine(report)
        self.update()

    def onCheck(self, checked: bool = False) -> None:
        self._outcome = ""
        self.inspect()

    def onPython(self, path: str | bool) -> None:
        """The user chose another Python; each letter of its path is a change."""
        self._paths += 1
        mark = self._paths
        self._later(_SETTLED_MS, lambda: self.inspect() if mark == self._paths else None)

    def onCopyReport(self, checked: bool = False) -> None:
        versions = {"Slicer": slicer.app.applicationVersion, "Qt": qt.qVersion()}
        slicer.app.clipboard().setText(reportText(self.report, describe, versions))
        self._outcome = _("The report is on the clipboard.")
        self.update()

    # ---- changing

    def onInstall(self, checked: bool = False) -> None:
        """Install the chosen build, after asking."""
        self._install(planInstall(self.report, self._package()))

    def onTorch(self, checked: bool = False) -> None:
        """Install PyTorch, which importing checkpoints needs, after asking."""
        self._install(planTorch(self.report))

    def _install(self, plan: Plan) -> None:
        self._outcome = ""
        if not plan.requirements:
            self._outcome = _("PyTorch and what goes with it are installed.")
        elif theWorker().is_busy:  # for the console; it holds the files that are to be replaced
            self._outcome = _("A run is in progress. Wait for it, or cancel it.")
        elif why := installUnavailableReason(self.report, plan):
            self._outcome = why
        elif self._ask(consent(plan, self.report["site_packages"]["folder"])):
            theWorker().close()  # the next run starts another
            try:
                install(plan)
                self._outcome = _("Installed.")
            except OutputError as error:
                self._outcome = str(error)
            self.inspect()
        self.update()

    # ---- widgets

    def _package(self) -> str:
        combo = self._ui.setupPackageComboBox
        return combo.itemData(combo.currentIndex) or ""

    def _fillPackages(self, report: Report) -> None:
        combo = self._ui.setupPackageComboBox
        wanted = self._package() or bestBuild(report)
        combo.clear()
        for package, build in BUILDS.items():
            combo.addItem(f"{package} ({build.title})", package)
        combo.setCurrentIndex(combo.findData(wanted))

    def _log(self, line: str) -> None:
        self._ui.setupLogTextEdit.visible = True
        self._ui.setupLogTextEdit.appendPlainText(line)
