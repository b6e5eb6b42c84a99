"""The inputs on the panel: the volumes of a case, how they lie to each other, sample cases. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from VFMTransferLib.bundles.catalog import find_bundle
from VFMTransferLib.core.errors import PsaError, VFMTransferError
from VFMTransferLib.core.measurements import PHASE_AXES, read_psa
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.tasks import TASKS

from ..inputs.dicom import databaseTag, phaseAxisOf
from ..inputs.geometry import Described, describeGeometry
from ..inputs.samples import (
    SAMPLE_SEED,
    PhantomInScene,
    PhantomMaker,
    findPhantom,
    isPhantomTruth,
    nameOf,
    seedOf,
    seedsIn,
    showInViews,
)
from ..inputs.studies import findStudy
from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..workers.process import MakeProcess, newProcess

# A case comes into the scene volume by volume; so long after the last one it counts as whole.
_SETTLED_MS = 400
_WARNING = "⚠"
_AS_STATED = "auto"
_OPTIONAL = ("gland", "reference", "roi")  # what belongs to one case only


class InputsSection(VTKObservationMixin):
    """Chooses volumes for the user, and shows how they lie. What the user chose stays as it is.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the state of a run.
        later: Calls a function after so many milliseconds.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.
        show: Shows a volume that the user chose.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        logic: TransferLogic,
        later: Callable[[int, Callable[[], None]], None] = lambda ms, slot: qt.QTimer.singleShot(ms, slot),
        makeProcess: MakeProcess = newProcess,
        show: Callable[[slicer.vtkMRMLScalarVolumeNode], None] = showInViews,
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui, self._logic, self._later, self._show = ui, logic, later, show
        self._parameters: VFMTransferParameterNode | None = None
        self._maker = PhantomMaker(lambda step: later(0, step), makeProcess)
        self._maker.loaded.connect(self.onPhantom)
        self._maker.failed.connect(self.onPhantomFailed)
        self._labels = {
            Sequence.T2W: ui.t2wGeometryLabel,
            Sequence.HBV: ui.hbvGeometryLabel,
            Sequence.ADC: ui.adcGeometryLabel,
        }
        self._arrivals = 0
        self._described: tuple = ()
        self._offered: set[str] = set()
        self._setAside: slicer.vtkMRMLNode | None = None
        self._about = ""  # ID of the T2w beside which mask, PSA and phase axis were chosen
        for axis, title in zip((_AS_STATED, *PHASE_AXES), (_("As DICOM states"), *map(_, PHASE_AXES)), strict=True):
            ui.phaseAxisComboBox.addItem(title, axis)
        ui.phaseAxisComboBox.connect("activated(int)", self.onPhaseAxis)
        ui.fillButton.connect("clicked(bool)", self.onFill)
        ui.sampleButton.connect("clicked(bool)", self.onSample)
        ui.phantomButton.connect("clicked(bool)", self.onNewPhantom)

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Other choices, or none; where nothing is chosen, the newest case is."""
        self.removeObservers()
        self._parameters = parameters
        self._described = ()
        self._about = _caseOf(parameters)
        if parameters is not None:
            self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded)
            if not any(self._volumes().values()):
                self._offered.clear()
                if not self._maker.isBusy:
                    self._showMessage("")  # what it was about left with its scene
            self._fillEmpty()

    def close(self) -> None:
        """Leave no phantom in the making behind."""
        self.removeObservers()
        self._maker.cancel()

    def update(self) -> None:
        """Say how the chosen volumes lie, and what can be clicked."""
        isFree = self._parameters is not None and not self._logic.isRunning and not self._maker.isBusy
        for button in (self._ui.fillButton, self._ui.sampleButton, self._ui.phantomButton):
            button.enabled = isFree
        if self._parameters is not None:
            if cleared := self._followCase(self._parameters.t2w):
                self._showMessage(cleared)
            self._fitReference()
            self._describe()
            self._checkPsa()
            self._checkPhaseAxis()

    def onNodeAdded(self, caller=None, event=None) -> None:
        """Something came into the scene; when no more comes, it may be a case."""
        self._arrivals += 1
        arrival = self._arrivals
        self._later(_SETTLED_MS, lambda: arrival == self._arrivals and self._fillEmpty())

    def onVolumeMoved(self, caller=None, event=None) -> None:
        if self._parameters is not None:
            self._describe()

    def onFill(self, checked: bool = False) -> None:
        """The user chooses the newest case, whatever was chosen before."""
        found = findStudy(slicer.mrmlScene, databaseTag)
        cleared = ""
        if not found.isEmpty:
            cleared = self._choose(found.volumes)
            self._takeTruth()
        self._showMessage(" ".join(filter(None, [cleared, *found.sentences])))

    def onSample(self, checked: bool = False) -> None:
        self._make(SAMPLE_SEED)

    def onNewPhantom(self, checked: bool = False) -> None:
        """Another phantom than those that are there, and than the sample."""
        self._make(max({SAMPLE_SEED} | seedsIn(slicer.mrmlScene)) + 1)

    def onPhantom(self, phantom: PhantomInScene) -> None:
        """A phantom is there: it is chosen, for the user requested it."""
        cleared = ""
        if self._parameters is not None:
            cleared = self._choose(phantom.volumes)
            self._takeTruth()
            self._show(phantom.volumes[Sequence.T2W])
        loaded = _("{name} is loaded.").format(name=nameOf(phantom.seed))
        self._showMessage(" ".join(filter(None, [cleared, loaded])))
        self.update()

    def onPhantomFailed(self, sentence: str, details: str) -> None:
        self._showMessage(sentence, details)
        self.update()

    def _make(self, seed: int) -> None:
        self._showMessage(_("Making {name}; it takes some seconds.").format(name=nameOf(seed)))
        with slicer.util.tryWithErrorDisplay(_("The phantom could not be made.")):
            self._maker.make(seed, slicer.mrmlScene)
        self.update()

    def _fillEmpty(self) -> None:
        """Choose the newest case where nothing is chosen, or what arrived of it since; never replace a choice."""
        if self._parameters is None or self._logic.isRunning or self._maker.isBusy:
            return
        chosen = self._volumes()
        if all(chosen.values()):
            return
        found = findStudy(slicer.mrmlScene, databaseTag)
        if any(node is not None and node is not found.volumes[sequence] for sequence, node in chosen.items()):
            return
        # What was offered once, and is not chosen, the user has declined.
        new = {
            sequence: node
            for sequence, node in found.volumes.items()
            if node is not None and chosen[sequence] is None and node.GetID() not in self._offered
        }
        if new:
            self._offered |= {node.GetID() for node in new.values()}
            cleared = self._set(new)
            self._takeTruth()
            self._showMessage(" ".join(filter(None, [cleared, *found.sentences])))

    def _choose(self, volumes: dict[Sequence, slicer.vtkMRMLScalarVolumeNode | None]) -> str:
        """Choose a case; what was chosen beside another one is cleared, which the answer states."""
        cleared = self._clearOptional() if volumes[Sequence.T2W] is not self._parameters.t2w else ""
        return self._set(volumes) or cleared

    def _followCase(self, t2w: slicer.vtkMRMLScalarVolumeNode | None) -> str:
        """With another T2w, clear what was chosen beside the former: a PSA or a mask is of one patient."""
        if t2w is None or t2w.GetID() == self._about:
            return ""
        former, self._about = self._about, t2w.GetID()
        return self._clearOptional() if former else ""

    def _clearOptional(self) -> str:
        """Clear what belongs to one case only; a sentence where anything was there."""
        chosen = self._parameters
        isAny = _hasOptional(chosen) or self._setAside is not None
        for name in _OPTIONAL:
            setattr(chosen, name, None)
        chosen.psa, chosen.phaseAxis, self._setAside = "", _AS_STATED, None
        return _("PSA, phase axis and masks were those of another case, and were cleared.") if isAny else ""

    def _set(self, volumes: dict[Sequence, slicer.vtkMRMLScalarVolumeNode | None]) -> str:
        cleared = self._followCase(volumes.get(Sequence.T2W))
        for sequence, node in volumes.items():
            setattr(self._parameters, str(sequence), node)
        return cleared

    def _volumes(self) -> dict[Sequence, slicer.vtkMRMLScalarVolumeNode | None]:
        return {sequence: getattr(self._parameters, str(sequence)) for sequence in Sequence}

    def _takeTruth(self) -> None:
        """Of a phantom the truth is known; where no other reference is chosen, it is the reference."""
        chosen = self._parameters
        phantom = findPhantom(slicer.mrmlScene, seedOf(chosen.t2w))
        if phantom is not None and chosen.reference is None:
            chosen.reference = phantom.truth

    def _fitReference(self) -> None:
        """Set a phantom's truth, which was chosen for the user, aside while the task gives no segments."""
        chosen, givesSegments = self._parameters, TASKS[self._parameters.task].marks_voxels
        if isPhantomTruth(chosen.reference) and not givesSegments:
            self._setAside, chosen.reference = chosen.reference, None
        elif chosen.reference is not None or givesSegments:
            aside, self._setAside = self._setAside, None
            if aside is not None and chosen.reference is None and aside.GetScene() is not None:
                chosen.reference = aside

    def _describe(self) -> None:
        """Fill the lines below the selectors, if anything changed that they show."""
        volumes = self._volumes()
        about = volumes[TASKS[self._parameters.task].reference]
        state = (self._parameters.task, self._parameters.bundleA, *(_stateOf(node) for node in volumes.values()))
        if state == self._described:
            return
        self._described = state
        self._watch(volumes.values())
        spec = self._spec()
        for sequence, node in volumes.items():
            described = Described("") if node is None else describeGeometry(node, sequence, spec, about)
            label = self._labels[sequence]
            label.text = "\n".join(_lines(described))
            label.visible = bool(label.text)

    def _checkPsa(self) -> None:
        """A sentence below the PSA where it cannot be one."""
        label, text = self._ui.psaNoteLabel, ""
        try:
            if self._parameters.psa.strip():
                read_psa(self._parameters.psa)
        except PsaError as error:
            text = f"{_WARNING} {error}"
        label.text, label.visible = text, bool(text)

    def _checkPhaseAxis(self) -> None:
        """For tasks that depend on it: what DICOM states of the phase encoding, or the question which it was."""
        chosen = self._parameters
        isShown = TASKS[chosen.task].uses_phase_axis
        combo, label = self._ui.phaseAxisComboBox, self._ui.phaseAxisNoteLabel
        for widget in (self._ui.phaseAxisLabel, combo, label):
            widget.visible = isShown
        if not isShown:
            return
        combo.setCurrentIndex(max(combo.findData(chosen.phaseAxis), 0))
        stated = phaseAxisOf(chosen.hbv, databaseTag) or phaseAxisOf(chosen.adc, databaseTag)
        if not stated and chosen.phaseAxis == _AS_STATED:
            label.text = (
                f"{_WARNING} The phase-encoding axis of the diffusion images is unknown. Select it; otherwise "
                f"{next(iter(PHASE_AXES))} is assumed, and the result states so."
            )
        elif stated and chosen.phaseAxis not in (_AS_STATED, stated):
            label.text = f"{_WARNING} DICOM states {stated}."
        else:
            label.text = f"DICOM states {stated}." if stated else ""
        label.visible = bool(label.text)

    def onPhaseAxis(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.phaseAxis = self._ui.phaseAxisComboBox.itemData(index)

    def _watch(self, volumes: Iterable[slicer.vtkMRMLScalarVolumeNode | None]) -> None:
        """Observe when a volume is moved, which changes no choice."""
        self.removeObservers(self.onVolumeMoved)
        for node in volumes:
            if node is not None:
                self.addObserver(node, slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self.onVolumeMoved)

    def _spec(self) -> ModelSpec | None:
        try:
            return find_bundle(self._parameters.bundleA).spec if self._parameters.bundleA else None
        except VFMTransferError:  # the section of the networks reports it
            return None

    def _showMessage(self, sentence: str, details: str = "") -> None:
        self._ui.studyNoteLabel.text = sentence
        self._ui.studyNoteLabel.toolTip = details


def _hasOptional(chosen: VFMTransferParameterNode) -> bool:
    """Whether anything is chosen that belongs to one case only."""
    isAny = bool(chosen.psa.strip()) or chosen.phaseAxis != _AS_STATED
    return isAny or any(getattr(chosen, name) is not None for name in _OPTIONAL)


def _caseOf(chosen: VFMTransferParameterNode | None) -> str:
    """ID of the T2w beside which something was chosen; `?` of one that is gone, empty where nothing was."""
    if chosen is None or chosen.t2w is not None:
        return "" if chosen is None else chosen.t2w.GetID()
    return "?" if _hasOptional(chosen) else ""


def _lines(described: Described) -> Iterable[str]:
    if described.line:
        yield described.line
    yield from (f"{_WARNING} {warning}" for warning in described.warnings)


def _stateOf(node: slicer.vtkMRMLScalarVolumeNode | None) -> tuple:
    """What changes with all that is shown of a volume."""
    if node is None:
        return ()
    parent, image = node.GetParentTransformNode(), node.GetImageData()
    return (
        node.GetID(),
        node.GetMTime(),
        image.GetMTime() if image is not None else 0,
        (parent.GetID(), parent.GetTransformToWorldMTime()) if parent is not None else (),
    )
