"""Running on the panel: runtime and device, Run and Cancel, the progress of each network, errors. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.core import __version__
from VFMTransferLib.core.errors import VFMTransferError
from VFMTransferLib.core.measurements import read_psa
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.worker.messages import Log, Progress

from ..logic import TransferLogic, missingInputs
from ..parameters import VFMTransferParameterNode
from ..runs import ArmClock, ArmInScene, RunInScene
from ..setup.machine_report import detailsOf, devices, gpuUnavailableReason, namesIn, withoutNames
from ..workers.process import PYTHON_SETTING, chosenPython

_MINUTE_S = 60
_MAX_S = 90  # from here on in minutes
_DONE = "done"  # no word of the worker's


def stageTitle(stage: str) -> str:
    """What the worker does, in plain words."""
    titles = {
        "images": _("Reading the images"),
        "read": _("Loading the network"),
        "preprocess": _("Preparing the images"),
        "infer": _("Running the network"),
        "postprocess": _("Finishing the result"),
        "write": _("Writing the result"),
        "compare": _("Comparing both"),
        "report": _("Writing the report"),
    }
    return titles.get(stage, stage)


class ProgressRow:
    """The title, the bar and the words of one network.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        letter: `A` or `B`.
    """

    def __init__(self, ui: SimpleNamespace, letter: str) -> None:
        self.letter = letter
        self._clock = ArmClock()
        self._title = getattr(ui, f"progress{letter}TitleLabel")
        self._bar = getattr(ui, f"progress{letter}Bar")
        self._words = getattr(ui, f"progress{letter}Label")

    def clear(self, isShown: bool) -> None:
        """Begin again."""
        self._clock = ArmClock()
        self._bar.value = 0
        self._words.text = _("waits") if isShown else ""
        for widget in (self._title, self._bar, self._words):
            widget.visible = isShown

    def receive(self, progress: Progress) -> None:
        """Show how far it is."""
        self._clock.receive(progress.stage, progress.fraction)
        self._bar.value = round(100 * progress.fraction)
        title = stageTitle(progress.stage)
        remaining = self._clock.remaining_s
        self._words.text = title if remaining is None else f"{title}, {_remainingWords(remaining)}"

    def finish(self, seconds: float) -> None:
        """Its result is there."""
        self._bar.value = 100
        self._words.text = _("Done in {seconds:.1f} s").format(seconds=seconds)
        self._clock.receive(_DONE, 1.0)

    def end(self) -> None:
        """Nothing more comes; what is not finished never will be."""
        if self._clock.stage != _DONE:
            self._bar.value = 0
            self._words.text = _("not finished")


def _remainingWords(seconds: float) -> str:
    if seconds > _MAX_S:
        return _("about {minutes} min left").format(minutes=round(seconds / _MINUTE_S))
    return _("about {seconds} s left").format(seconds=max(1, round(seconds)))


_RUNTIMES = {"auto": "", "onnx": "ONNX Runtime", "torch": "PyTorch"}
# What every computer has; shown before the first check at this one.
_EVERYWHERE = {"cpu": "CPU"}


class DeviceSection:
    """Offers what this computer was found to have; until then what every computer has.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has what was found on this computer.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic) -> None:
        self._ui = ui
        self._logic = logic
        self._parameters: VFMTransferParameterNode | None = None
        for runtime, title in _RUNTIMES.items():
            ui.runtimeComboBox.addItem(title or _("Automatic"), runtime)
        ui.regionComboBox.addItem(_("Around the prostate"), "gland")
        ui.regionComboBox.addItem(_("Whole images"), "whole")
        ui.pythonPathLineEdit.currentPath = chosenPython()
        ui.runtimeComboBox.connect("activated(int)", self.onRuntime)
        ui.deviceComboBox.connect("activated(int)", self.onDevice)
        ui.regionComboBox.connect("activated(int)", self.onRegion)
        ui.pythonPathLineEdit.connect("currentPathChanged(QString)", self.onPython)
        ui.pythonPathLineEdit.connect("validInputChanged(bool)", self.onPython)  # an emptied path emits no change
        logic.inspected.connect(lambda machine: self.update())
        self._offered: dict[str, str] = {}

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        self._parameters = parameters

    def update(self) -> None:
        chosen = self._parameters
        runtime, device = ("auto", "auto") if chosen is None else (chosen.runtime, chosen.device)
        _select(self._ui.runtimeComboBox, runtime)
        self._offerDevices(runtime, device)
        _select(self._ui.regionComboBox, "gland" if chosen is None else chosen.region)
        machine = self._logic.machine
        self._ui.deviceReasonLabel.text = "" if machine is None else gpuUnavailableReason(machine)

    def onRuntime(self, index: int) -> None:
        """The user chose a runtime; a device of another one means nothing to it."""
        if self._parameters is not None:
            self._parameters.runtime = self._ui.runtimeComboBox.itemData(index)
            if self._parameters.device not in self._devices(self._parameters.runtime):
                self._parameters.device = "auto"

    def onDevice(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.device = self._ui.deviceComboBox.itemData(index)

    def onRegion(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.region = self._ui.regionComboBox.itemData(index)

    def onPython(self, path: str | bool) -> None:
        """The user chose another Python; it is taken with the next run."""
        qt.QSettings().setValue(PYTHON_SETTING, self._ui.pythonPathLineEdit.currentPath)

    def _devices(self, runtime: str) -> dict[str, str]:
        """Name of a device → what to call it; those that work here, as far as that is known."""
        machine = self._logic.machine
        return {"auto": _("Automatic")} | (_EVERYWHERE if machine is None else devices(machine, runtime))

    def _offerDevices(self, runtime: str, device: str) -> None:
        # One that was chosen on another computer is shown too, so that it can be changed.
        offered = {**self._devices(runtime)}
        offered.setdefault(device, device)
        combo = self._ui.deviceComboBox
        if offered != self._offered:  # a list that is open stays open
            self._offered = offered
            combo.clear()
            for name, title in offered.items():
                combo.addItem(title, name)
        _select(combo, device)


def _select(combo: Any, value: str) -> None:
    combo.setCurrentIndex(max(combo.findData(value), 0))


_LINES_OF_LOG = 200
_OF_BOTH = ("compare", "report")  # stages that come after both networks


class RunSection:
    """Starts and stops runs, and shows their progress.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Runs what is chosen.
        preconditions: Each returns the reason why no run can begin, or an empty text.
    """

    def __init__(
        self, ui: SimpleNamespace, logic: TransferLogic, preconditions: tuple[Callable[[], str], ...] = ()
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._preconditions = preconditions
        self._parameters: VFMTransferParameterNode | None = None
        self._rows = [ProgressRow(ui, letter) for letter in "AB"]
        self._arms: list[ProgressRow] = []
        self._isCanceling = False
        self._hasRun = False
        self._stage = ""
        self._log: list[str] = []  # without names, unlike what the user sees
        self._names: dict[str, str] = {}  # of all runs so far → what to write instead
        self._withheld: list[str] | None = None  # lines, while the networks are read blinded
        self._error = ""
        ui.runButton.connect("clicked(bool)", self.onRun)
        ui.cancelButton.connect("clicked(bool)", self.onCancel)
        ui.copyDetailsButton.connect("clicked(bool)", self.onCopyDetails)
        logic.started.connect(self.onStarted)
        logic.progress.connect(self.onProgress)
        logic.armLoaded.connect(self.onArmLoaded)
        logic.failed.connect(self.onFailed)
        logic.logged.connect(self.onLogged)
        logic.finished.connect(self.onFinished)
        self._showRows([])

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        self._parameters = parameters

    def setBlinded(self, isBlinded: bool) -> None:
        """Withhold what the log says as long as the networks are read blinded."""
        withheld, self._withheld = self._withheld, [] if isBlinded else None
        if isBlinded and withheld is None:
            self._write(_("The log is hidden during a blinded reading."))
        for line in withheld or ():
            self._write(line)

    def update(self) -> None:
        """Show whether a run can begin, and if not, what is missing."""
        missing, isRunning, networks = self._missing(), self._logic.isRunning, self._networks()
        areTwo = len(networks) != 1
        ui = self._ui
        ui.runButton.text = _("Run both") if areTwo else _("Run")
        ui.runButton.enabled = not missing and not isRunning
        ready = _("Run both networks on this case.") if areTwo else _("Run this network on this case.")
        ui.runButton.toolTip = _("A run is in progress.") if isRunning else missing or ready
        ui.cancelButton.enabled = isRunning and not self._isCanceling
        ui.runReasonLabel.text = "" if isRunning else missing
        ui.runReasonLabel.visible = bool(ui.runReasonLabel.text)
        if self._hasRun and not isRunning and self._logic.lastRun is None:  # its scene was closed
            self._hasRun = False
            self._showRows([])
            self._show("")
        for section in (ui.studyCollapsibleButton, ui.networksCollapsibleButton, ui.advancedCollapsibleButton):
            section.enabled = not isRunning
        if ui.runButton.enabled:  # so that they are loaded while the user still looks at the images
            self._logic.prepare(list(networks.values()), self._parameters.runtime, self._parameters.device)

    def onRun(self, checked: bool = False) -> None:
        """Begin a run; the signals of the logic report the rest."""
        chosen = self._parameters
        try:
            self._logic.run(
                chosen.task,
                chosen.t2w,
                chosen.adc,
                chosen.hbv,
                list(self._networks().values()),
                Options(
                    chosen.runtime,
                    chosen.device,
                    region=chosen.region,
                    phase_axis=chosen.phaseAxis,
                    psa_ng_ml=read_psa(chosen.psa) if chosen.psa.strip() else None,
                ),
                waitForCompletion=False,
                gland=chosen.gland,
                reference=chosen.reference,
                roi=chosen.roi,
            )
        except VFMTransferError as error:
            self._showMessage(str(error))

    def onCancel(self, checked: bool = False) -> None:
        """Stop the run; what is finished stays."""
        self._isCanceling = True
        self._showMessage(_("Canceling"))
        self.update()
        self._logic.cancel()

    def onCopyDetails(self, checked: bool = False) -> None:
        """Copy what a bug report needs."""
        chosen = self._parameters
        facts = {"VFM Transfer": __version__, "Slicer": slicer.app.applicationVersion}
        if chosen is not None:
            facts |= {"Task": chosen.task, "Networks": ", ".join(self._networks().values())}
            facts |= {"Runtime": chosen.runtime, "Device": chosen.device}
        for arm in self._logic.lastRun.arms if self._logic.lastRun is not None else ():
            facts[arm.bundle] = ", ".join(f"{name} {version}" for name, version in arm.numbers["versions"].items())
        text = detailsOf(facts, self._log[-_LINES_OF_LOG:], self._error)
        slicer.app.clipboard().setText(text)
        self._showMessage(_("Details are on the clipboard."))

    def onStarted(self, run: RunInScene) -> None:
        self._isCanceling, self._error, self._stage, self._hasRun = False, "", "", True
        letters = list(self._networks()) or ["A", "B"]
        self._showRows([row for row in self._rows if row.letter in letters])
        self._showMessage(_("Writing the images, starting the worker"))

    def onProgress(self, progress: Progress) -> None:
        if progress.cases > 1:  # the console runs a folder
            case = _("Case {case} of {cases}").format(case=progress.case + 1, cases=progress.cases)
            self._show(f"{case}: {stageTitle(progress.stage)}")
            return
        if progress.arm >= len(self._arms):  # the console may run more networks than the panel shows
            return
        row = self._arms[progress.arm]
        title = stageTitle(progress.stage)
        if progress.stage not in _OF_BOTH:
            title = f"{row.letter}: {title}"
            row.receive(progress)
        if title != self._stage:
            self._stage = title
            self._note(title)
            if not self._isCanceling:
                self._show(title)

    def onArmLoaded(self, arm: ArmInScene) -> None:
        index = len(self._logic.lastRun.arms) - 1
        seconds = sum(arm.numbers["seconds"].values())
        device = f"{arm.numbers['model']['runtime']}, {arm.numbers['model']['device']}"
        self._note(
            _("{bundle}: in the scene, took {seconds:.1f} s ({device})").format(
                bundle=arm.bundle, seconds=seconds, device=device
            )
        )
        if index < len(self._arms):
            self._arms[index].finish(seconds)

    def onFailed(self, sentence: str, details: str) -> None:
        self._error = self._withoutNames(details)
        self._showMessage(sentence)
        self._ui.logCollapsibleButton.collapsed = False

    def onLogged(self, log: Log) -> None:
        self._note(log.text if log.level == "info" else _("Warning: {text}").format(text=log.text))

    def onFinished(self, outcome: str) -> None:
        self._isCanceling, self._hasRun = False, self._logic.lastRun is not None
        if outcome == "done":
            self._showMessage(_("Done"))
        elif outcome == "canceled":
            kept = bool(self._logic.lastRun is not None and self._logic.lastRun.arms)
            self._showMessage(_("Canceled; what was finished is in the scene.") if kept else _("Canceled"))
        for row in self._arms:  # the sentence of a failure stays
            row.end()

    def _missing(self) -> str:
        chosen = self._parameters
        if chosen is None:
            return _("Open the module to choose a case.")
        if not self._networks():
            return _("Choose a network. Where none is offered, none for this task is on this computer.")
        if why := next(filter(None, (precondition() for precondition in self._preconditions)), ""):
            return why
        return missingInputs(
            chosen.task, {Sequence.T2W: chosen.t2w, Sequence.HBV: chosen.hbv, Sequence.ADC: chosen.adc}
        )

    def _networks(self) -> dict[str, str]:
        """`A` and `B` → the bundle that is chosen, if one is."""
        chosen = self._parameters
        both = {} if chosen is None else {"A": chosen.bundleA, "B": chosen.bundleB}
        return {letter: bundle for letter, bundle in both.items() if bundle}

    def _showRows(self, rows: list[ProgressRow]) -> None:
        self._arms = rows
        for row in self._rows:
            row.clear(isShown=row in rows)

    def _showMessage(self, sentence: str) -> None:
        self._show(sentence)
        self._note(sentence)

    def _show(self, sentence: str) -> None:
        self._ui.statusLabel.text = sentence

    def _note(self, line: str) -> None:
        line = f"{datetime.now():%H:%M:%S}  {line}"
        self._log.append(self._withoutNames(line))
        if self._withheld is None:
            self._write(line)
        else:
            self._withheld.append(line)

    def _withoutNames(self, text: str) -> str:
        """What is copied, cleared while its run is on its way: later the run and its nodes may be gone."""
        self._names |= namesIn(self._logic.nodes)
        return withoutNames(text, self._names)

    def _write(self, line: str) -> None:
        text = self._ui.logTextEdit
        text.appendPlainText(line)
        text.verticalScrollBar().setValue(text.verticalScrollBar().maximum)
