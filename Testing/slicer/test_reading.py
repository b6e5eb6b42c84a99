"""Blinded reading from the first click to the tally, and over saving and loading."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import slicer
from in_slicer import PAIR, PanelTest

from VFMTransferSlicer.panel import reading
from VFMTransferSlicer.reading.readings import ReadingTable

BUNDLE = "VFMTransfer.Bundle"


class ReadingTest(PanelTest):
    def tearDown(self) -> None:
        if self.ui.readingStartButton.checked:  # reading goes on from study to study
            self.ui.readingStartButton.click()
        super().tearDown()

    def test_a_reading_is_taken_revealed_and_saved(self):
        self.chooseStudy()
        self.runBoth()
        self.ui.readingStartButton.click()
        self._requireHidden()
        self.ui.readingRightButton.click()
        self.assertTrue(self.ui.readingRightButton.checked)
        self._requireHidden()
        self.ui.readingRevealButton.click()
        slicer.app.processEvents()
        readings = self._readings()
        self.assertEqual([one.isRevealed for one in readings], [True])
        self.assertIn("You preferred", self.ui.readingStatusLabel.text)
        tally = self.ui.readingTallyLabel.text
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "reading.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            self.assertEqual(self.ui.readingTallyLabel.text, "No readings yet.")
            slicer.util.loadScene(path)
        slicer.app.processEvents()
        self.assertEqual(self._readings(), readings)
        self.assertEqual(self.ui.readingTallyLabel.text, tally)

    def test_a_run_that_begins_while_reading_goes_on_is_blinded_from_its_first_moment(self):
        self.chooseStudy()
        self.ui.readingStartButton.click()
        self.onFirst(self.logic.armLoaded, lambda arm: True, self._requireUnseen)
        self.assertEqual(self.runBoth(), "done")
        self._requireHidden()

    def test_readings_go_on_from_a_file(self):
        self.chooseStudy()
        self.runBoth()
        self.ui.readingStartButton.click()
        self.ui.readingLeftButton.click()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "Lesungen für März.csv"
            dialog = SimpleNamespace(getSaveFileName=lambda *_: str(path), getOpenFileName=lambda *_: str(path))
            with patch.object(reading, "qt", SimpleNamespace(QFileDialog=dialog)):
                self.ui.readingExportButton.click()
                slicer.mrmlScene.Clear()
                self.ui.readingResumeButton.click()
        self.assertEqual([one.side for one in self._readings()], ["left"])

    def _requireUnseen(self) -> None:
        """The first network's answer is in no view yet."""
        self._requireHidden()
        self.assertEqual(self._visibleAnswers(), [])

    def _requireHidden(self) -> None:
        """Nothing that is visible on the panel or in a view names a network and a side."""
        shown = [self.ui.resultsTable, self.ui.findingsTable]
        self.assertFalse(any(widget.visible and widget.rowCount for widget in shown))
        for name in ("readingStatusLabel", "readingTallyLabel"):
            text = self.ui.__dict__[name].text
            self.assertFalse("Left was" in text or "preferred" in text, text)
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if node.GetLayoutName().startswith("VFMTransfer") and node.IsMappedInLayout():
                self.assertNotIn(node.GetLayoutLabel(), ("A", "B", *PAIR))
        self.assertLessEqual({node.GetName() for node in self._visibleAnswers()}, {"Left", "Right"})

    def _visibleAnswers(self):
        answers = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node.GetAttribute(BUNDLE)]
        return [node for node in answers if node.GetDisplayNode().GetVisibility()]

    def _readings(self):
        return ReadingTable(self.logic.getParameterNode().readingTable).readings()
