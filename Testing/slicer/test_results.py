"""Results on the panel: numbers, places to go to, and files that are saved by a click and open again."""

import csv
import tempfile
from pathlib import Path
from unittest.mock import patch

import slicer
from in_slicer import PanelTest, ownViews, waitFor

from VFMTransferSlicer.panel import results

UMLAUTS = "VFM Transfer Prüfung "


class ResultsTest(PanelTest):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix=UMLAUTS)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.chooseStudy()
        self.assertEqual(self.runBoth(), "done", self.failures)

    def test_numbers_and_places_stand_in_their_tables(self):
        numbers, places = self.ui.resultsTable, self.ui.findingsTable
        self.assertEqual([numbers.horizontalHeaderItem(x).text() for x in range(3)], ["A", "B", "A vs\nB"])
        self.assertEqual(numbers.verticalHeaderItem(0).text(), "Prostate")
        self.assertGreater(float(numbers.item(self._volumeRow(), 0).text()), 1)
        self.assertEqual(places.item(0, 0).text(), "Difference")
        self.assertTrue(numbers.visible and places.visible)
        self.assertIn("agreement, not accuracy", self.ui.resultsNoteLabel.text)

    def test_a_table_is_copied_as_spreadsheets_take_it(self):
        copy = next(child for child in self.ui.resultsTable.children() if child.inherits("QShortcut"))
        copy.activated()
        lines = [line.split("\t") for line in slicer.app.clipboard().text().split("\n")]
        self.assertEqual(lines[0], ["", "A", "B", "A vs B"])
        self.assertEqual(lines[1], ["Prostate"])
        row = self._volumeRow()
        self.assertEqual(lines[row + 1][0].strip(), "Volume, ml")
        self.assertEqual(lines[row + 1][1], self.ui.resultsTable.item(row, 0).text())

    def test_a_click_on_a_place_goes_there(self):
        self.ui.findingsTable.cellClicked(0, 0)
        slicer.app.processEvents()
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        lps = self.logic.lastRun.comparison["disagreements"][0]["center_mm"]
        for found, expected in zip(crosshair.GetCrosshairRAS(), (-lps[0], -lps[1], lps[2]), strict=True):
            self.assertAlmostEqual(found, expected, places=3)

    def test_each_kind_of_file_is_saved_by_its_button(self):
        for button, name in (
            (self.ui.exportReportButton, "Bericht ä.html"),
            (self.ui.exportReportButton, "Bericht"),
            (self.ui.exportCsvButton, "Zahlen ß.csv"),
            (self.ui.exportSceneButton, "Szene ö.mrb"),
        ):
            self.assertTrue(button.enabled, button.toolTip)
            self._save(button, self.folder / name)
            self.assertEqual(self.ui.exportStatusLabel.text, f"Saved {name}.")
        names = {path.name for path in self.folder.iterdir()}
        self.assertEqual(names, {"Bericht ä.html", "Bericht", "Zahlen ß.csv", "Szene ö.mrb"})
        self.assertIn("For research use only", (self.folder / "Bericht ä.html").read_text(encoding="utf-8"))
        with (self.folder / "Zahlen ß.csv").open(encoding="utf-8-sig", newline="") as stream:
            self.assertIn("dice", {row["measure"] for row in csv.DictReader(stream)})

    def test_a_saved_scene_holds_the_results_but_not_our_views(self):
        names = {node.GetName() for arm in self.logic.lastRun.arms for node in arm.nodes}
        about = {self.logic.lastRun.about.GetName()}
        self._save(self.ui.exportSceneButton, self.folder / "scene.mrb")
        slicer.mrmlScene.Clear()
        slicer.util.loadScene(str(self.folder / "scene.mrb"))
        slicer.app.processEvents()
        found = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode")}
        self.assertLessEqual(names | about, found)
        # Those of the closed scene go one by one; any that came with the file would stay.
        waitFor(lambda: not ownViews(), "The end of our views")

    def test_a_place_that_cannot_be_written_is_said(self):
        (self.folder / "file").touch()
        self._save(self.ui.exportCsvButton, self.folder / "file" / "numbers.csv")
        self.assertIn("Choose a folder that you may write to", self.ui.exportStatusLabel.text)
        self._save(self.ui.exportCsvButton, self.folder / "gone" / "numbers.csv")
        self.assertIn("no such file or directory", self.ui.exportStatusLabel.text)

    def test_what_cannot_be_saved_says_why(self):
        self.assertFalse(self.ui.exportDicomButton.enabled)
        self.assertIn("loaded from DICOM", self.ui.exportDicomButton.toolTip)
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        for button in (self.ui.exportReportButton, self.ui.exportCsvButton, self.ui.exportSceneButton):
            self.assertFalse(button.enabled)
            self.assertIn("Run networks first", button.toolTip)
        self.assertFalse(self.ui.resultsTable.visible)

    def _volumeRow(self) -> int:
        table = self.ui.resultsTable
        titles = [table.verticalHeaderItem(row).text().strip() for row in range(table.rowCount)]
        return titles.index("Volume, ml")

    def _save(self, button, path: Path) -> None:
        with patch.object(results, "askForFile", lambda *_: path):
            button.click()
        slicer.app.processEvents()
