"""Where the networks run: runtime, device and Python. Needs Qt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import qt
from slicer.i18n import tr as _

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..setup.machine_report import devices, whyNotGpu
from ..workers.process import PYTHON_SETTING, chosenPython

_RUNTIMES = {"auto": "", "onnx": "ONNX Runtime", "torch": "PyTorch"}
# What every computer has; shown until somebody looked at this one.
_EVERYWHERE = {"cpu": "CPU"}


class DeviceSection:
    """Offers what this computer was found to have; until then what every computer has.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Knows what was found on this computer.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic) -> None:
        self._ui = ui
        self._logic = logic
        self._parameters: VFMTransferParameterNode | None = None
        for runtime, title in _RUNTIMES.items():
            ui.runtimeComboBox.addItem(title or _("Automatic"), runtime)
        ui.pythonPathLineEdit.currentPath = chosenPython()
        ui.runtimeComboBox.connect("activated(int)", self.onRuntime)
        ui.deviceComboBox.connect("activated(int)", self.onDevice)
        ui.pythonPathLineEdit.connect("currentPathChanged(QString)", self.onPython)
        ui.pythonPathLineEdit.connect("validInputChanged(bool)", self.onPython)  # an emptied path tells no change
        logic.examined.connect(lambda machine: self.update())
        self._offered: dict[str, str] = {}

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        self._parameters = parameters

    def update(self) -> None:
        chosen = self._parameters
        runtime, device = ("auto", "auto") if chosen is None else (chosen.runtime, chosen.device)
        _select(self._ui.runtimeComboBox, runtime)
        self._offerDevices(runtime, device)
        machine = self._logic.machine
        self._ui.deviceReasonLabel.text = "" if machine is None else whyNotGpu(machine)

    def onRuntime(self, index: int) -> None:
        """The user chose a runtime; a device of another one means nothing to it."""
        if self._parameters is not None:
            self._parameters.runtime = self._ui.runtimeComboBox.itemData(index)
            if self._parameters.device not in self._devices(self._parameters.runtime):
                self._parameters.device = "auto"

    def onDevice(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.device = self._ui.deviceComboBox.itemData(index)

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
