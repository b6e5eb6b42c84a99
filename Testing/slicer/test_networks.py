"""Networks and setup on the panel: the usual pair, an import, a choice that is not here, what runs it all."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import slicer
from in_slicer import PAIR, EventLoopWatch, PanelTest, waitFor

from VFMTransferLib.bundles.catalog import FOLDER_VARIABLE, shipped_folder
from VFMTransferLib.bundles.metadata import METADATA
from VFMTransferSlicer.panel import networks

NEW = "my-gland"


class NetworksTest(PanelTest):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="VFM Netze "))
        self.addCleanup(shutil.rmtree, self.folder)
        environment = mock.patch.dict(os.environ, {FOLDER_VARIABLE: str(self.folder / "own")})
        environment.start()
        self.addCleanup(environment.stop)
        super().setUp()

    def chosen(self, letter: str) -> str:
        combo = getattr(self.ui, f"bundle{letter}ComboBox")
        return combo.itemData(combo.currentIndex)

    def bundle(self, name: str) -> Path:
        """A copy of a shipped network, under another name."""
        folder = self.folder / name
        shutil.copytree(shipped_folder() / PAIR[1], folder)
        document = json.loads((folder / METADATA).read_text("utf-8"))
        document["name"], document["vfm_transfer"]["name"] = "My gland", name
        (folder / METADATA).write_text(json.dumps(document), "utf-8")
        return folder

    def importByClick(self, path: Path) -> None:
        """Click Import, and choose a file in the dialog, which no test can click."""
        dialog = SimpleNamespace(getOpenFileNames=lambda *_: [str(path)])
        with mock.patch.object(networks, "qt", SimpleNamespace(QFileDialog=dialog)):
            self.ui.importFileButton.click()
        waitFor(lambda: self.ui.importFileButton.enabled, "The import")

    def action(self, letter: str, title: str):
        menu = getattr(self.ui, f"bundle{letter}MenuButton").menu()
        return next(action for action in menu.actions() if action.text == title)

    def test_the_usual_pair_is_chosen_with_its_cards(self):
        self.assertEqual((self.chosen("A"), self.chosen("B")), PAIR)
        self.assertIn("Pretrained, demonstration network", self.ui.bundleACardLabel.text)
        self.assertIn("From scratch, demonstration network", self.ui.bundleBCardLabel.text)
        self.assertEqual(self.ui.taskComboBox.count, 6)

    def test_set_up_looks_by_itself_while_the_window_goes_on(self):
        with EventLoopWatch() as watch:
            self.ui.setupCheckButton.click()
            waitFor(lambda: self.ui.setupCheckButton.enabled, "The look at this Python")
        self.assertTrue(self.ui.setupStatusLabel.text.startswith("Ready: "), self.ui.setupStatusLabel.text)
        self.assertLess(watch.busiest_s, 0.1)
        self.ui.setupCopyReportButton.click()
        report = slicer.app.clipboard().text()
        self.assertIn("ONNX Runtime", report)
        self.assertNotIn(str(Path.home()) + os.sep, report)

    def test_a_network_is_imported_checked_and_deleted(self):
        packed = shutil.make_archive(str(self.folder / "packed"), "zip", self.bundle(NEW))
        self.importByClick(Path(packed))
        self.assertIn("Imported 'My gland', and chose it.", self.ui.networksNoteLabel.text)
        self.assertEqual(self.chosen("B"), NEW)
        self.action("B", "Check files").trigger()
        waitFor(lambda: "are intact" in self.ui.networksNoteLabel.text, "The check")
        self.action("B", "Delete…").trigger()
        self.assertEqual(self.chosen("B"), PAIR[1])
        self.assertFalse((self.folder / "own" / NEW).exists())
        self.assertFalse(self.action("B", "Delete…").enabled)

    def test_a_damaged_network_is_not_imported(self):
        folder = self.bundle(NEW)
        with (folder / "models" / "model.safetensors").open("ab") as file:
            file.write(b"x")
        self.importByClick(Path(shutil.make_archive(str(self.folder / "packed"), "zip", folder)))
        self.assertIn("sha256", self.ui.networksNoteLabel.text)
        self.assertEqual(self.chosen("B"), PAIR[1])

    def test_a_saved_choice_that_is_not_here_is_said_and_kept(self):
        self.importByClick(Path(shutil.make_archive(str(self.folder / "packed"), "zip", self.bundle(NEW))))
        scene = self.folder / "Szene.mrb"
        self.assertTrue(slicer.util.saveScene(str(scene)))
        slicer.mrmlScene.Clear()
        waitFor(lambda: self.chosen("B") == PAIR[1], "The usual pair in an empty scene")
        shutil.rmtree(self.folder / "own")
        slicer.util.loadScene(str(scene))
        waitFor(lambda: self.chosen("B") == NEW, "The saved choice")
        self.assertIn(f"Network '{NEW}' is not on this computer.", self.ui.bundleBCardLabel.text)
        self.assertIn(f"Network '{NEW}' is not on this computer.", self.ui.runButton.toolTip)
        self.assertFalse(self.ui.runButton.enabled)
