"""What can be done with a network: look at its card and files, delete it, import another one. Needs Qt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.bundles.archive import name_of
from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.catalog import remove_bundle, user_folder
from VFMTransferLib.core.errors import VFMTransferError

from ..setup.networks import FileChecks, canDelete, needsTorch
from ..workers.process import LibraryProcess

_CARD_SIZE = (640, 560)


class Networks(Protocol):
    """What the section does for its menus and its import."""

    @property
    def machine(self) -> dict[str, Any] | None: ...

    def say(self, sentence: str, details: str = "") -> None: ...

    def rereadCatalog(self) -> None: ...

    def forget(self, bundle: Bundle) -> None: ...

    def welcome(self, folder: str) -> str: ...


def confirm(question: str) -> bool:
    """Ask the user; in testing mode, where nobody answers, yes."""
    return slicer.app.testingEnabled() or slicer.util.confirmOkCancelDisplay(question)


class NetworkMenu:
    """The menu of one network.

    Args:
        button: Opens it.
        checks: Remembers what was found of the files.
        networks: The section.
        makeChild: As `LibraryProcess`.
        ask: Asks the user before something is deleted.
    """

    def __init__(
        self,
        button: qt.QToolButton,
        checks: FileChecks,
        networks: Networks,
        makeChild: Callable[..., LibraryProcess] = LibraryProcess,
        ask: Callable[[str], bool] = confirm,
    ) -> None:
        self._button, self._checks, self._networks = button, checks, networks
        self._makeChild, self._ask = makeChild, ask
        self._bundle: Bundle | None = None
        self._menu = qt.QMenu(button)
        self._add(_("Show card"), self.onCard)
        self._add(_("Check files"), self.onCheck)
        self._add(_("Show folder"), self.onFolder)
        self._deleteAction = self._add(_("Delete…"), self.onDelete)
        button.setMenu(self._menu)
        button.setPopupMode(qt.QToolButton.InstantPopup)

    def setBundle(self, bundle: Bundle | None, isFree: bool) -> None:
        """Which network it is about; `isFree` says whether it may be deleted now."""
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
            self._checks.note(bundle, sentence)
            self._networks.say(sentence or _("The files of '{title}' are intact.").format(title=bundle.title))

        self._networks.say(_("Checking the files of '{title}'").format(title=bundle.title))
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
            self._networks.say(str(error))
            return
        self._networks.forget(bundle)
        self._networks.say(_("Deleted '{title}'.").format(title=bundle.title))

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
        networks: Networks,
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
            if why := self._whyNot(list(paths)):
                self._say(why)
                return
            options = self._replacing(list(paths))
        except VFMTransferError as error:
            self._say(str(error))
            return
        if options is None:
            return
        self._lines.clear()
        arguments = ["models", "import", "--json", *options, *map(str, paths)]

        def onDone(exitCode: int, output: str, lastLines: list[str]) -> None:
            if self._child is child:  # else the panel is gone
                self._finish(exitCode, output, lastLines)

        child = self._child = self._makeChild(arguments, self._lines.append, onDone)
        self._say(_("Importing {name}").format(name=", ".join(path.name for path in paths)))
        child.start()

    def _whyNot(self, paths: list[Path]) -> str:
        if not needsTorch(paths) or self._networks.machine is None:
            return ""
        if "version" in self._networks.machine["runtimes"]["torch"]:
            return ""
        return _(
            "This is a checkpoint of a network's authors. Reading it takes PyTorch: press PyTorch… under Set-up, and "
            "import it again then."
        )

    def _replacing(self, paths: list[Path]) -> list[str] | None:
        """Options for a network whose name is taken; None where the user keeps the one that is there."""
        if needsTorch(paths):
            return []
        name = name_of(paths[0])
        if not (user_folder() / name).exists():
            return []
        isWanted = self._ask(_("There is a network '{name}' already. Replace it?").format(name=name))
        return ["--overwrite"] if isWanted else None

    def _finish(self, exitCode: int, output: str, lastLines: list[str]) -> None:
        self._child = None
        if exitCode == 0:
            self._log(self._networks.welcome(json.loads(output)["folder"]))
            return
        sentence = lastLines[-1] if lastLines else _("The import ended with {code}.").format(code=exitCode)
        self._say(sentence, "\n".join(self._lines))
        self._networks.rereadCatalog()

    def _say(self, sentence: str, details: str = "") -> None:
        """Show a sentence at the networks, and here at the buttons."""
        self._networks.say(sentence, details)
        self._log(sentence)

    def _log(self, line: str) -> None:
        self._ui.setupLogTextEdit.visible = True
        self._ui.setupLogTextEdit.appendPlainText(line)
