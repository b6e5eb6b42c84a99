"""Task and networks on the panel: what is offered, what is chosen, its card and files; import and removal. Needs Qt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.catalog import read_catalog, remove_bundle, user_folder
from VFMTransferLib.bundles.importing import name_of
from VFMTransferLib.core.errors import VFMTransferError
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.tasks import DEFAULT_TASK, TASKS

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..runs import startFirst
from ..setup.networks import (
    brokenText,
    canDelete,
    cardOf,
    choiceUnavailableReason,
    defaultChoice,
    importedText,
    needsTorch,
    offered,
    taskTitle,
)
from ..signals import Signal
from ..workers.process import LibraryProcess

_CARD_SIZE = (640, 560)


def confirm(question: str) -> bool:
    """Ask the user; in testing mode, where nobody answers, yes."""
    return slicer.app.testingEnabled() or slicer.util.confirmOkCancelDisplay(question)


class NetworkMenu:
    """The menu of one network.

    Args:
        button: Opens it.
        networks: The section.
        makeChild: As `LibraryProcess`.
        ask: Asks the user before something is deleted.
    """

    def __init__(
        self,
        button: qt.QToolButton,
        networks: NetworksSection,
        makeChild: Callable[..., LibraryProcess] = LibraryProcess,
        ask: Callable[[str], bool] = confirm,
    ) -> None:
        self._button, self._networks = button, networks
        self._makeChild, self._ask = makeChild, ask
        self._bundle: Bundle | None = None
        self._menu = qt.QMenu(button)
        self._menu.toolTipsVisible = True  # why a network cannot be deleted; menus show none by default
        self._add(_("Show card"), self.onCard)
        self._add(_("Check files"), self.onCheck)
        self._add(_("Show folder"), self.onFolder)
        self._deleteAction = self._add(_("Delete…"), self.onDelete)
        button.setMenu(self._menu)
        button.setPopupMode(qt.QToolButton.InstantPopup)

    def setBundle(self, bundle: Bundle | None, isFree: bool) -> None:
        """Which network it is about; `isFree` is whether it may be deleted now."""
        self._bundle = bundle
        self._button.enabled = bundle is not None
        why = canDelete(bundle) if bundle is not None else ""
        self._deleteAction.enabled = bundle is not None and not why and isFree
        self._deleteAction.toolTip = why

    def onCard(self, checked: bool = False) -> None:
        """Show the model card, which can be long, in a window of its own."""
        path = self._bundle.card_path
        text = path.read_text(encoding="utf-8") if path.is_file() else self._bundle.description
        dialog = qt.QDialog(slicer.util.mainWindow())
        dialog.setWindowTitle(self._bundle.title)
        browser = qt.QTextBrowser(dialog)
        browser.setMarkdown(text)
        browser.setOpenExternalLinks(True)
        qt.QVBoxLayout(dialog).addWidget(browser)
        dialog.resize(*_CARD_SIZE)
        dialog.setAttribute(qt.Qt.WA_DeleteOnClose)
        dialog.show()

    def onCheck(self, checked: bool = False) -> None:
        """Hash all files, which takes a while for large ones, in a child process."""
        bundle = self._bundle

        def onDone(exitCode: int, output: str, lastLines: list[str]) -> None:
            sentence = "" if exitCode == 0 else (lastLines or [_("The check did not run.")])[-1]
            self._networks.showMessage(sentence or _("The files of '{title}' are intact.").format(title=bundle.title))

        self._networks.showMessage(_("Checking the files of '{title}'").format(title=bundle.title))
        self._makeChild(["models", "check", str(bundle.folder)], lambda line: None, onDone).start()

    def onFolder(self, checked: bool = False) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._bundle.folder)))

    def onDelete(self, checked: bool = False) -> None:
        """Delete one of the user's own, after asking."""
        bundle = self._bundle
        if not self._ask(_("Delete the network '{title}' from this computer?").format(title=bundle.title)):
            return
        try:
            remove_bundle(bundle.name)
        except VFMTransferError as error:
            self._networks.showMessage(str(error))
            return
        self._networks.forget(bundle)
        self._networks.showMessage(_("Deleted '{title}'.").format(title=bundle.title))

    def _add(self, title: str, slot: Callable[[bool], None]) -> qt.QAction:
        action = self._menu.addAction(title)
        action.connect("triggered(bool)", slot)
        return action


class Importing:
    """Adds networks from files, in a child process.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        networks: The section.
        makeChild: As `LibraryProcess`.
        ask: Asks the user before something is replaced.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        networks: NetworksSection,
        makeChild: Callable[..., LibraryProcess] = LibraryProcess,
        ask: Callable[[str], bool] = confirm,
    ) -> None:
        self._ui, self._networks = ui, networks
        self._makeChild, self._ask = makeChild, ask
        self._child: LibraryProcess | None = None
        self._lines: list[str] = []
        ui.importFileButton.connect("clicked(bool)", self.onFile)
        ui.importFolderButton.connect("clicked(bool)", self.onFolder)

    def update(self, isFree: bool) -> None:
        for button in (self._ui.importFileButton, self._ui.importFolderButton):
            button.enabled = isFree and self._child is None

    def close(self) -> None:
        """Stop an import, which leaves nothing behind."""
        child, self._child = self._child, None
        if child is not None:
            child.cancel()

    def onFile(self, checked: bool = False) -> None:
        # The files of one network may be several: ProViCNet's three and its fusion.
        chosen = qt.QFileDialog.getOpenFileNames(
            slicer.util.mainWindow(),
            _("Import a network"),
            "",
            _("Networks (*.zip *.pth *.pt *.ckpt *.safetensors);;All files (*)"),
        )
        self.importPaths([Path(path) for path in chosen])

    def onFolder(self, checked: bool = False) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Import a network"))
        self.importPaths([Path(chosen)] if chosen else [])

    def importPaths(self, paths: Sequence[Path]) -> None:
        """Import one network of these files; nothing happens where there are none."""
        if not paths:
            return
        try:
            if why := self._unavailableReason(list(paths)):
                self._showMessage(why)
                return
            options = self._replacing(list(paths))
        except VFMTransferError as error:
            self._showMessage(str(error))
            return
        if options is None:
            return
        self._lines.clear()
        arguments = ["models", "import", "--json", *options, *map(str, paths)]

        def onDone(exitCode: int, output: str, lastLines: list[str]) -> None:
            if self._child is child:  # else the panel is gone
                self._finish(exitCode, output, lastLines)

        child = self._child = self._makeChild(arguments, self._lines.append, onDone)
        self._showMessage(_("Importing {name}").format(name=", ".join(path.name for path in paths)))
        child.start()

    def _unavailableReason(self, paths: list[Path]) -> str:
        if not needsTorch(paths) or self._networks.machine is None:
            return ""
        if "version" in self._networks.machine["runtimes"]["torch"]:
            return ""
        return _(
            "This is a checkpoint of a network's authors. Reading it takes PyTorch: press PyTorch… under Setup, and "
            "import it again then."
        )

    def _replacing(self, paths: list[Path]) -> list[str] | None:
        """Options for a network whose name is taken; None where the user keeps the one that is there."""
        if needsTorch(paths):
            return []
        name, folder = name_of(paths[0]), user_folder()
        if folder is None or not (folder / name).exists():
            return []
        isWanted = self._ask(_("There is a network '{name}' already. Replace it?").format(name=name))
        return ["--overwrite"] if isWanted else None

    def _finish(self, exitCode: int, output: str, lastLines: list[str]) -> None:
        self._child = None
        if exitCode == 0:
            self._log(self._networks.welcome(json.loads(output)["folder"]))
            return
        sentence = lastLines[-1] if lastLines else _("The import ended with {code}.").format(code=exitCode)
        self._showMessage(sentence, "\n".join(self._lines))
        self._networks.rereadCatalog()

    def _showMessage(self, sentence: str, details: str = "") -> None:
        """Show a sentence at the networks, and here at the buttons."""
        self._networks.showMessage(sentence, details)
        self._log(sentence)

    def _log(self, line: str) -> None:
        self._ui.setupLogTextEdit.visible = True
        self._ui.setupLogTextEdit.appendPlainText(line)


_USUAL_TASK = DEFAULT_TASK


class NetworksSection:
    """Offers the tasks and the networks of this computer, and shows a card of each that is chosen.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the state of a run.

    Attributes:
        changed: Emitted when other networks are on this computer.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic) -> None:
        self._ui, self._logic = ui, logic
        self._parameters: VFMTransferParameterNode | None = None
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
        self._menus = {letter: NetworkMenu(button, self) for letter, button in buttons.items()}
        self._importing = Importing(ui, self)

    # ---- what the panel and the logic report

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Other choices, or none; where nothing is chosen yet, the usual pair is."""
        self._parameters = parameters
        self._shown = ()
        if parameters is None:
            return
        self._catalog = read_catalog()
        if parameters.task not in TASKS:  # of a newer version of the module
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

    def unavailableReason(self) -> str:
        """A sentence where a chosen network is not here, so that no run can begin; empty where all are."""
        chosen = self._parameters
        names = () if chosen is None else (chosen.bundleA, chosen.bundleB)
        return next(filter(None, (choiceUnavailableReason(self._catalog, chosen.task, name) for name in names)), "")

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

    def showMessage(self, sentence: str, details: str = "") -> None:
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
        """A network is new: it is chosen where it fits, and otherwise a message names its place.

        Returns:
            The message.
        """
        self._catalog = read_catalog()
        found = next(bundle for bundle in self._catalog.bundles if str(bundle.folder) == folder)
        sentence = importedText(found, None if self._parameters is None else self._parameters.task)
        for key, bundle in self._offered().items():
            if bundle == found:
                setattr(self._parameters, "bundleB" if found.arm == Arm.SCRATCH else "bundleA", key)
        self.showMessage(sentence)
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
                combo.addItem(startFirst(bundle.title, bundle.arm), key)
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
                label.text = choiceUnavailableReason(self._catalog, self._parameters.task, name) or self._noneText(
                    letter
                )
                label.toolTip = ""
            else:
                card = cardOf(bundle)
                label.text, label.toolTip = card.text, card.details

    def _noneText(self, letter: str) -> str:
        if self._offered():
            return "" if letter == "A" else _("Only A is run.")
        return _("No network for this task is on this computer. Import one under Setup.") if letter == "A" else ""
