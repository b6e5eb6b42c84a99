"""Setup on the panel: what is there, what works, what can be installed or repaired. Needs Qt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.inference.doctor import describe

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..setup.install import (
    BUILDS,
    Plan,
    TorchInstaller,
    bestBuild,
    buildUnavailableReason,
    consent,
    installUnavailableReason,
    outcomeOf,
    planInstall,
    planRepair,
    planTorchCompanions,
    torchCommands,
    torchConsent,
    torchExtensionUnavailableReason,
)
from ..setup.installer import Inspection, Installer
from ..setup.machine_report import Report, isReady, lacking, needsRepair, reportText, statusLines
from ..signals import Signal
from ..workers.process import theWorker
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

    Attributes:
        changed: Emitted when an install begins or ends, for no run can begin meanwhile.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        logic: TransferLogic,
        later: Callable[[int, Callable[[], None]], Any] = lambda ms, slot: qt.QTimer.singleShot(ms, slot),
        ask: Callable[[str], bool] = confirm,
    ) -> None:
        self._ui, self._logic, self._later, self._ask = ui, logic, later, ask
        self._inspection = Inspection(self.onReport, self.onNoReport, later)
        self._installer = Installer(self._log, self._onDownload, self._onInstalled)
        self._torch = TorchInstaller(self._log, self._onTorch)
        self._plan: Plan | None = None
        self.changed = Signal()
        self._isFirst, self._isClosed = True, False
        self._isStale = False  # the report is on a Python that is no longer the chosen one
        self._paths = 0
        self._status = ""
        self._outcome = ""
        ui.setupLogTextEdit.visible = False
        ui.setupPackageComboBox.connect("activated(int)", lambda index: self.update())
        ui.setupInstallButton.connect("clicked(bool)", self.onInstall)
        ui.runInstallButton.connect("clicked(bool)", self.onInstallFirst)
        ui.setupCheckButton.connect("clicked(bool)", self.onCheck)
        ui.setupRepairButton.connect("clicked(bool)", self.onRepair)
        ui.setupTorchButton.connect("clicked(bool)", self.onTorch)
        ui.setupCopyReportButton.connect("clicked(bool)", self.onCopyReport)
        ui.pythonPathLineEdit.connect("currentPathChanged(QString)", self.onPython)
        ui.pythonPathLineEdit.connect("validInputChanged(bool)", self.onPython)  # an emptied path emits no change

    @property
    def report(self) -> Report | None:
        """What was found; None before the first check. `logic.inspected` is emitted when that changes."""
        return self._logic.machine

    @property
    def isBusy(self) -> bool:
        """Whether something is being installed."""
        return self._installer.isRunning or self._torch.isRunning

    # ---- what the panel reports

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Inspect when the panel is first open; nothing is done when the module is loaded."""
        if parameters is not None and self._isFirst:
            self._isFirst = False
            self._later(0, self.inspect)

    def update(self) -> None:
        """Say what was found, and what can be done about it."""
        ui, report, isRunning = self._ui, self.report, self._logic.isRunning
        isCurrent = report is not None and not self._isStale and not self._inspection.isRunning
        isFree = isCurrent and not self.isBusy and not isRunning
        package = self._package()
        why = buildUnavailableReason(report, package) if report is not None and package else ""
        status = "" if self.isBusy else self._status  # which is about to change
        ui.setupStatusLabel.text = "\n".join(filter(None, (self._outcome, status)))
        ui.setupPackageComboBox.enabled = isFree
        ui.setupInstallButton.enabled = isFree and not why
        ui.setupInstallButton.toolTip = why or _("Install it into the worker's Python, after asking.")
        ui.runInstallButton.visible = report is not None and not isReady(report) and not self.isBusy
        ui.runInstallButton.enabled = ui.setupInstallButton.enabled
        ui.runInstallButton.toolTip = ui.setupInstallButton.toolTip
        ui.setupCheckButton.enabled = not self.isBusy and not self._inspection.isRunning
        ui.setupRepairButton.enabled = isFree and bool(needsRepair(report))
        ui.setupTorchButton.enabled = isFree
        ui.setupCopyReportButton.enabled = report is not None
        # Until what was installed has been tried.
        ui.pythonPathLineEdit.enabled = not self.isBusy and self._plan is None

    def close(self) -> None:
        """Stop inspecting. An install continues, for half of one is worse, without a report."""
        self._isClosed = True
        self._inspection.cancel()
        self._installer.detach()
        self._torch.detach()

    def unavailableReason(self) -> str:
        """A sentence where no run can begin; empty where one can, or before the first check."""
        if self.isBusy:
            return _("Setup: packages are being installed.")
        if self.report is not None and not isReady(self.report):
            missing = lacking(self.report) if self.report["default"] is not None else ["ONNX Runtime"]
            return _("Setup: install {packages}.").format(packages=", ".join(missing))
        return ""

    # ---- looking

    def inspect(self) -> None:
        """Look at the worker's Python, in a child process; not once the panel is gone, or while packages change."""
        if self._isClosed or self.isBusy:
            return
        self._status = _("Looking at what is installed…")
        self._inspection.start()
        self.update()

    def onCheck(self, checked: bool = False) -> None:
        self._outcome = ""
        self.inspect()

    def onPython(self, path: str | bool) -> None:
        """The user chose another Python; each letter of its path is a change."""
        self._inspection.cancel()
        self._isStale = True
        self._paths += 1
        mark = self._paths
        self._later(_SETTLED_MS, lambda: self.inspect() if mark == self._paths else None)
        self.update()

    def onReport(self, report: Report) -> None:
        self._isStale = False
        self._status = "\n".join(statusLines(report))
        self._fillPackages(report)
        if not isReady(report) or needsRepair(report):
            self._ui.setupCollapsibleButton.collapsed = False
        self._logic.setMachine(report)
        if self._plan is not None:
            self._outcome, self._plan = outcomeOf(self._plan, report, sys.modules), None
        self.update()

    def onNoReport(self, sentence: str, details: str) -> None:
        self._status, self._plan = sentence, None
        self._logic.setMachine(None)  # what was found before was another Python, or another state of this one
        self._ui.setupCollapsibleButton.collapsed = False
        for line in details.splitlines():
            self._log(line)
        self.update()

    def onCopyReport(self, checked: bool = False) -> None:
        versions = {"Slicer": slicer.app.applicationVersion, "Qt": qt.qVersion()}
        slicer.app.clipboard().setText(reportText(self.report, describe, versions))
        self._outcome = _("The report is on the clipboard.")
        self.update()

    # ---- changing

    def onInstall(self, checked: bool = False) -> None:
        """Install the chosen build, after asking."""
        self._begin(planInstall(self.report, self._package()))

    def onInstallFirst(self, checked: bool = False) -> None:
        """Install it from where Run is gray, and show how far it is."""
        self._ui.setupCollapsibleButton.collapsed = False
        self.onInstall()

    def onRepair(self, checked: bool = False) -> None:
        """Install the chosen build again, after asking."""
        self._begin(planRepair(self.report, self._package()))

    def onTorch(self, checked: bool = False) -> None:
        """Install PyTorch through its extension, then what goes with it."""
        torch = self.report["runtimes"]["torch"]
        if "version" in torch:
            self._begin(planTorchCompanions(self.report))
            return
        if why := torchExtensionUnavailableReason() or installUnavailableReason(self.report, Plan(())):
            self._outcome = why
        elif self._ask(torchConsent()):
            self._outcome = _("Installing PyTorch…")
            self._inspection.cancel()  # what it finds is about to change
            self._torch.start(torchCommands(self.report))
            self.changed.emit()
        self.update()

    def _begin(self, plan: Plan) -> None:
        if not plan.requirements:
            self._outcome = _("PyTorch and what goes with it are installed.")
        elif theWorker().is_busy:  # for the console; it holds the files that are to be replaced
            self._outcome = _("A run is in progress. Wait for it, or cancel it.")
        elif why := installUnavailableReason(self.report, plan):
            self._outcome = why
        elif self._ask(consent(plan, self.report["site_packages"]["folder"])):
            self._plan = plan
            self._outcome = _("Installing…")
            self._inspection.cancel()  # its report would be taken for the outcome
            theWorker().close()  # the next run starts another
            self._ui.setupLogTextEdit.plainText = ""
            self._installer.start(plan)
            self.changed.emit()
        self.update()

    def _onDownload(self, share: float) -> None:
        self._outcome = _("Installing… {percent} % of this download").format(percent=round(100 * share))
        self.update()

    def _onInstalled(self, sentence: str) -> None:
        """pip is done; an inspection shows whether what it installed works."""
        self._outcome = sentence or _("Installed. Trying it…")
        if sentence:
            self._plan = None
        self.inspect()
        self.changed.emit()

    def _onTorch(self, sentence: str) -> None:
        companions = planTorchCompanions(self.report)
        if sentence or not companions.requirements:
            self._outcome = sentence or _("PyTorch is installed.")
            self.inspect()
        else:  # what the user agreed to
            self._plan = companions
            self._installer.start(companions)
            self.update()
        self.changed.emit()

    # ---- widgets

    def _package(self) -> str:
        combo = self._ui.setupPackageComboBox
        return combo.itemData(combo.currentIndex) or ""

    def _fillPackages(self, report: Report) -> None:
        combo = self._ui.setupPackageComboBox
        wanted = self._package() or bestBuild(report)
        combo.clear()
        for build in BUILDS.values():
            combo.addItem(f"{build.package} ({build.title})", build.package)
        combo.setCurrentIndex(combo.findData(wanted))

    def _log(self, line: str) -> None:
        self._ui.setupLogTextEdit.visible = True
        self._ui.setupLogTextEdit.appendPlainText(line)
