"""Task and networks on the panel: what is offered, what is chosen, what is known of it. Needs Qt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qt
from slicer.i18n import tr as _

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.catalog import read_catalog
from VFMTransferLib.core.terms import Arm, TaskId
from VFMTransferLib.tasks import TASKS

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..runs import ArmInScene
from ..setup.network_card import cardOf
from ..setup.networks import (
    FileChecks,
    RunTimes,
    Store,
    brokenText,
    defaultChoice,
    importedText,
    offered,
    taskTitle,
    whyNotChosen,
)
from ..signals import Signal
from .network_actions import Importing, NetworkMenu

_USUAL_TASK = TaskId.ANATOMY_SEGMENTATION


class NetworksSection:
    """Offers the tasks and the networks of this computer, and shows a card of each that is chosen.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Tells whether a run is on its way, and how long it took.
        store: Keeps how long a network took; by default Slicer's settings.

    Attributes:
        changed: Emitted when other networks are on this computer.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic, store: Store | None = None) -> None:
        self._ui, self._logic = ui, logic
        self._parameters: VFMTransferParameterNode | None = None
        self._times = RunTimes(store if store is not None else qt.QSettings())
        self._checks = FileChecks()
        self._catalog = read_catalog()
        self.changed = Signal()
        self._note = ""
        self._shown: tuple[object, ...] = ()
        self._combos = {"A": ui.bundleAComboBox, "B": ui.bundleBComboBox}
        self._cards = {"A": ui.bundleACardLabel, "B": ui.bundleBCardLabel}
        ui.taskComboBox.connect("activated(int)", self.onTask)
        for letter, combo in self._combos.items():
            combo.connect("activated(int)", lambda index, letter=letter: self.onNetwork(letter, index))
        buttons = {"A": ui.bundleAMenuButton, "B": ui.bundleBMenuButton}
        self._menus = {letter: NetworkMenu(button, self._checks, self) for letter, button in buttons.items()}
        self._importing = Importing(ui, self)
        logic.armLoaded.connect(self.onArmLoaded)

    # ---- what the panel and the logic say

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Other choices, or none; where nothing is chosen yet, the usual pair is."""
        self._parameters = parameters
        self._shown = ()
        if parameters is None:
            return
        self._catalog = read_catalog()
        if parameters.task not in list(TaskId):  # of a newer version of the module
            self._note = _("Task '{task}' is not known here.").format(task=parameters.task)
            parameters.task = str(_USUAL_TASK)
        if not parameters.bundleA and not parameters.bundleB:
            self._chooseDefault()

    def update(self) -> None:
        """Show what is chosen, and what can be done with it."""
        chosen = self._parameters
        if chosen is None:
            return
        key = (id(self._catalog), chosen.task, chosen.bundleA, chosen.bundleB)
        if key != self._shown:  # a list that is open stays open
            self._shown = key
            self._fillTasks()
            self._fillNetworks()
        self._showCards()
        self._importing.update(isFree=not self._logic.isRunning)
        self._ui.networksNoteLabel.text = "\n".join(filter(None, (self._note, brokenText(self._catalog))))

    def close(self) -> None:
        """Stop what goes on outside the panel."""
        self._importing.close()

    def whyNot(self) -> str:
        """A sentence where a chosen network is not here, so that no run can begin; empty where all are."""
        chosen = self._parameters
        names = () if chosen is None else (chosen.bundleA, chosen.bundleB)
        return next(filter(None, (whyNotChosen(self._catalog, chosen.task, name) for name in names)), "")

    def onArmLoaded(self, arm: ArmInScene) -> None:
        self._times.remember(arm.numbers)

    # ---- what the user does

    def onTask(self, index: int) -> None:
        """The user chose a task: its usual networks are chosen with it."""
        task = self._ui.taskComboBox.itemData(index)
        if self._parameters is not None and task != self._parameters.task:
            self._note = ""
            self._parameters.task = task
            self._chooseDefault()

    def onNetwork(self, letter: str, index: int) -> None:
        if self._parameters is not None:
            self._note = ""
            setattr(self._parameters, f"bundle{letter}", self._combos[letter].itemData(index) or "")

    # ---- what the menus and the import ask

    @property
    def machine(self) -> dict[str, Any] | None:
        """What is known of this computer."""
        return self._logic.machine

    def say(self, sentence: str, details: str = "") -> None:
        """Show a sentence below the networks."""
        self._note = sentence
        self._ui.networksNoteLabel.toolTip = details
        self.update()

    def rereadCatalog(self) -> None:
        """Take what is on the disk now."""
        self._catalog = read_catalog()
        self.update()
        self.changed.emit()

    def forget(self, bundle: Bundle) -> None:
        """A network is gone: where it was chosen, the usual one is."""
        self._catalog = read_catalog()
        if self._parameters is not None:
            gone = {bundle.name, str(bundle.folder)}
            usual = defaultChoice(self._catalog, self._parameters.task)
            for letter, name in zip("AB", usual, strict=True):
                if getattr(self._parameters, f"bundle{letter}") in gone:
                    setattr(self._parameters, f"bundle{letter}", name)
        self.update()
        self.changed.emit()

    def welcome(self, folder: str) -> str:
        """A network is new: it is chosen where it fits, and otherwise it is said where it is.

        Returns:
            What is said.
        """
        self._catalog = read_catalog()
        found = next(bundle for bundle in self._catalog.bundles if str(bundle.folder) == folder)
        sentence = importedText(found, self._parameters.task) if self._parameters is not None else ""
        for key, bundle in self._offered().items():
            if bundle == found:
                setattr(self._parameters, "bundleB" if found.arm == Arm.SCRATCH else "bundleA", key)
        self.say(sentence)
        self.changed.emit()
        return sentence

    # ---- widgets

    def _offered(self) -> dict[str, Bundle]:
        return {} if self._parameters is None else offered(self._catalog, self._parameters.task)

    def _chooseDefault(self) -> None:
        self._parameters.bundleA, self._parameters.bundleB = defaultChoice(self._catalog, self._parameters.task)

    def _fillTasks(self) -> None:
        combo = self._ui.taskComboBox
        combo.clear()
        for task in TASKS:
            combo.addItem(taskTitle(self._catalog, task), str(task))
        combo.setCurrentIndex(combo.findData(self._parameters.task))

    def _fillNetworks(self) -> None:
        choices = self._offered()
        for letter, combo in self._combos.items():
            combo.clear()
            if letter == "B" or not choices:
                combo.addItem(_("None"), "")
            for key, bundle in choices.items():
                combo.addItem(bundle.title, key)
            name = getattr(self._parameters, f"bundle{letter}")
            if combo.findData(name) < 0 and name:  # chosen on another computer: shown, so that it can be changed
                combo.addItem(_("{name} (not here)").format(name=Path(name).name), name)
            combo.setCurrentIndex(max(combo.findData(name), 0))

    def _showCards(self) -> None:
        choices = self._offered()
        for letter, label in self._cards.items():
            name = getattr(self._parameters, f"bundle{letter}")
            bundle = choices.get(name)
            self._menus[letter].setBundle(bundle, isFree=not self._logic.isRunning)
            if bundle is None:
                label.text = whyNotChosen(self._catalog, self._parameters.task, name) or self._noneText(letter)
                label.toolTip = ""
            else:
                card = cardOf(bundle, self._checks.stateOf(bundle), self._times.last(bundle, self._device()))
                label.text, label.toolTip = card.text, card.details

    def _noneText(self, letter: str) -> str:
        if self._offered():
            return "" if letter == "A" else _("Only A is run.")
        return _("No network for this task is on this computer. Import one under Set-up.") if letter == "A" else ""

    def _device(self) -> str:
        """Where a network would run, as far as that is known."""
        if self._parameters.device != "auto":
            return self._parameters.device
        default = (self._logic.machine or {}).get("default")
        return default["device"] if default else ""
