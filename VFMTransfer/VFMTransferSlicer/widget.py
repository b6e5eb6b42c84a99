"""The panel: its sections, put together and told of every change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import vtk
from slicer.util import VTKObservationMixin

from .layout import SideBySide
from .logic import TransferLogic
from .panel import Section
from .panel.device import DeviceSection
from .panel.networks import NetworksSection
from .panel.run import RunSection
from .panel.setup import SetupSection
from .panel.study import StudySection
from .parameters import VFMTransferParameterNode

# A section that changes a choice while it is told of another one: all are told once more, but not for ever.
_MOST_ROUNDS = 5


def makeSections(ui: SimpleNamespace, logic: TransferLogic, makeLayout: Callable[[], SideBySide]) -> list[Section]:
    """The sections from top to bottom.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Runs what is chosen.
        makeLayout: Makes the comparison's layout; called when it is first wanted, for it needs a main window.
    """
    networks, setup = NetworksSection(ui, logic), SetupSection(ui, logic)
    run = RunSection(ui, logic, (setup.whyNot, networks.whyNot))
    return [StudySection(ui, logic), networks, DeviceSection(ui, logic), setup, run]


class Panel(VTKObservationMixin):
    """Keeps the sections, the parameter node and the logic in step.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Its signals tell when the state of a run changes.
        sections: Told of every change, in this order.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic, sections: Sequence[Section]) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._sections = sections
        self._parameters: VFMTransferParameterNode | None = None
        self._guiTag: int | None = None
        self._isUpdating = self._isStale = False
        for signal in (logic.started, logic.armLoaded, logic.compared, logic.finished):
            signal.connect(lambda *_: self.update())
        self.update()

    @property
    def parameters(self) -> VFMTransferParameterNode | None:
        return self._parameters

    def setParameterNode(self, parameters: VFMTransferParameterNode | None) -> None:
        """Show these choices, and write into them; None leaves the panel without any."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._guiTag)
            self.removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self.update)
        self._parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self._ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.update)
        for section in self._sections:
            section.setParameters(parameters)
        self.update()

    def update(self, caller=None, event=None) -> None:
        """Tell all sections that something changed."""
        self._isStale = True
        if self._isUpdating:
            return
        self._isUpdating = True
        try:
            for _ in range(_MOST_ROUNDS):
                if not self._isStale:
                    return
                self._isStale = False
                for section in self._sections:
                    section.update()
        finally:
            self._isUpdating = False
