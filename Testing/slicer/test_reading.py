"""Blinded reading from the first click to the tally, and over saving and loading."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import slicer
import vtk
from in_slicer import PAIR, PanelTest

from VFMTransferSlicer.panel import reading
from VFMTransferSlicer.reading import blinded
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
        self.settle()
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

    def test_both_results_are_whole_whichever_is_left(self):
        for first in range(2):
            seal = next(f"{number:032x}" for number in range(99) if blinded.orderOf(f"{number:032x}")[0] == first)
            with self.subTest(first=first), patch.object(blinded, "newSeal", lambda _chance, seal=seal: seal):
                slicer.mrmlScene.Clear()
                self.chooseStudy()
                self.runBoth()
                names = [arm.segmentation.GetName() for arm in self.logic.lastRun.arms]
                segments = self._segments()
                self.ui.readingStartButton.click()
                self.settle()
                self.assertEqual(self._segments(), segments)
                self.ui.readingEqualButton.click()
                self.ui.readingRevealButton.click()
                self.settle()
                self.assertEqual(self._segments(), segments)
                self.assertTrue(all(map(len, segments)))
                self.assertEqual([arm.segmentation.GetName() for arm in self.logic.lastRun.arms], names)
                self.ui.readingStartButton.click()

    def test_readings_go_on_from_a_file(self):
        self.chooseStudy()
        self.runBoth()
        self.ui.readingStartButton.click()
        self.ui.readingLeftButton.click()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "Lesungen für März.csv"
            dialog = SimpleNamespace(getOpenFileName=lambda *_: str(path))
            with (
                patch.object(reading, "qt", SimpleNamespace(QFileDialog=dialog)),
                patch.object(reading, "askForFile", lambda *_: path),
            ):
                self.ui.readingExportButton.click()
                slicer.mrmlScene.Clear()
                self.ui.readingResumeButton.click()
        self.assertEqual([one.side for one in self._readings()], ["left"])

    def _segments(self) -> list[list[str]]:
        return [list(arm.segmentation.GetSegmentation().GetSegmentIDs()) for arm in self.logic.lastRun.arms]

    def test_during_a_blinded_run_nothing_of_a_result_is_in_the_scene_or_on_the_panel(self):
        self.chooseStudy()
        self.ui.readingStartButton.click()
        before, log = self._names(), self.ui.logTextEdit.plainText
        seen = []
        self._connect(self.logic.progress, lambda progress: seen.append((self._names(), self.ui.logTextEdit.plainText)))
        self.assertEqual(self.runBoth(), "done")
        for names, lines in seen:  # but for empty views, which are made ahead of time
            self.assertFalse([name for name in names - before if not name.startswith(("VFMTransfer", "Slice"))])
            self.assertNotIn("pretrained", lines.removeprefix(log))
        self._requireHidden()
        self.ui.readingLeftButton.click()
        self.ui.readingRevealButton.click()
        self.settle()
        names = self._names()
        self.assertFalse([name for name in names if "(Left" in name or "(Right" in name])
        self.assertTrue([name for name in names if "(pretrained" in name])
        self.assertTrue(all(node.GetDisplayNode().GetVisibility() for node in self._answers()))

    def _requireHidden(self) -> None:
        """Nothing that is visible on the panel or in a view names a network and a side, or shows one elsewhere."""
        shown = [self.ui.resultsTable, self.ui.findingsTable]
        self.assertFalse(any(widget.visible and widget.rowCount for widget in shown))
        for name in ("readingStatusLabel", "readingTallyLabel"):
            text = self.ui.__dict__[name].text
            self.assertFalse("Left was" in text or "preferred" in text, text)
        self.assertIn("left to right", self.ui.fadeLabel.text)
        self.assertNotIn("network A", self.ui.qualityNoteLabel.text)
        self.assertFalse([name for name in self._names() if "(pretrained" in name or "(from scratch" in name])
        self.assertFalse([node.GetName() for node in self._answers() if node.GetDisplayNode().GetVisibility()])
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if node.IsMappedInLayout():
                self.assertNotIn(node.GetLayoutLabel(), ("A", "B", *PAIR))
                self.assertFalse([word for word in self._words(node) if "retrained" in word or "scratch" in word])

    def _words(self, node: slicer.vtkMRMLSliceNode) -> list[str]:
        """What is written into a view, by us and by Slicer's data probe."""
        view = slicer.app.layoutManager().sliceWidget(node.GetLayoutName()).sliceView()
        props = view.renderWindow().GetRenderers().GetFirstRenderer().GetViewProps()
        actors = [props.GetItemAsObject(index) for index in range(props.GetNumberOfItems())]
        words = [actor.GetInput() or "" for actor in actors if actor.IsA("vtkTextActor")]
        return words + [view.cornerAnnotation().GetText(corner) or "" for corner in range(4)]

    def _names(self) -> set[str]:
        """Names of all nodes, and of all items in the tree of data."""
        scene, hierarchy = slicer.mrmlScene, slicer.mrmlScene.GetSubjectHierarchyNode()
        items = vtk.vtkIdList()
        hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
        names = {hierarchy.GetItemName(items.GetId(index)) for index in range(items.GetNumberOfIds())}
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        return names | {node.GetName() or "" for node in nodes if not node.IsA("vtkMRMLScriptedModuleNode")}

    def _answers(self):
        return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node.GetAttribute(BUNDLE)]

    def _readings(self):
        return ReadingTable(self.logic.getParameterNode().readingTable).readings()
