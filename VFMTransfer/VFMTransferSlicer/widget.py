"""The panel: its sections, put together and updated with every change."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import vtk
from slicer.util import VTKObservationMixin

from .logic import TransferLogic
from .panel import Closing, Section
from .panel.inputs import InputsSection
from .panel.networks import NetworksSection
from .panel.radiology import DicomSection, DiffusionSection, QualitySection, SectorMapSection
from .panel.reading import ReadingSection
from .panel.results import ResultsSection
from .panel.run import DeviceSection, RunSection
from .panel.setup import SetupSection
from .panel.views import ViewSection
from .parameters import VFMTransferParameterNode

# A section may change a choice while it is updated: all are updated again, but not for ever.
_MAX_ROUNDS = 5


def makeSections(ui: SimpleNamespace, logic: TransferLogic) -> list[Section]:
    """The sections, connected with each other; one that others depend on comes first.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Runs what is chosen.
    """
    study, networks, device = InputsSection(ui, logic), NetworksSection(ui, logic), DeviceSection(ui, logic)
    setup, views = SetupSection(ui, logic), ViewSection(ui, logic)
    run = RunSection(ui, logic, (setup.unavailableReason, networks.unavailableReason))
    networks.changed.connect(run.update)
    results, reading = ResultsSection(ui, logic, views.jumpTo), ReadingSection(ui, logic, views)
    quality, diffusion = QualitySection(ui, logic), DiffusionSection(ui, logic)
    sectors, dicom = SectorMapSection(ui, logic), DicomSection(ui, logic)
    for section in (results, views, sectors, dicom, run):  # they tell the networks apart
        reading.blinded.connect(section.setBlinded)
    return [study, networks, device, setup, quality, diffusion, run, results, sectors, dicom, views, reading]


class Panel(VTKObservationMixin):
    """Keeps the sections, the parameter node and the logic in step.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Its signals report the state of a run.
        sections: Updated with every change, in this order.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic, sections: Sequence[Section]) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._sections = sections
        self._parameters: VFMTransferParameterNode | None = None
        self._guiTag: int | None = None
        self._isUpdating = self._isStale = False
        for signal in (logic.started, logic.armLoaded, logic.compared, logic.finished, logic.inspected):
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

    def close(self) -> None:
        """Leave nothing behind in the application."""
        self.setParameterNode(None)
        for section in self._sections:
            if isinstance(section, Closing):
                section.close()

    def update(self, caller=None, event=None) -> None:
        """Update all sections."""
        self._isStale = True
        if self._isUpdating:
            return
        self._isUpdating = True
        try:
            for _ in range(_MAX_ROUNDS):
                if not self._isStale:
                    return
                self._isStale = False
                for section in self._sections:
                    section.update()
        finally:
            self._isUpdating = False
