"""What is saved with the scene, and is there again when it is loaded."""

import tempfile
from pathlib import Path
from unittest.mock import patch

import slicer
import vtk
from in_slicer import MODULE, PAIR, PanelTest, ownViews

from VFMTransferSlicer.panel import results


class SceneTest(PanelTest):
    def test_choices_and_results_survive_saving_and_loading(self):
        self.chooseStudy()
        self.assertEqual(self.runBoth(), "done")
        volumes = {arm.bundle: arm.numbers["volumes_ml"] for arm in self.logic.lastRun.arms}
        self._saveAndLoad()
        parameters = self.logic.getParameterNode()
        self.assertEqual(parameters.t2w.GetName(), "t2w")
        self.assertEqual((parameters.task, parameters.bundleA, parameters.bundleB), ("anatomy-segmentation", *PAIR))
        self.assertEqual(self.ui.t2wSelector.currentNode(), parameters.t2w)
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        self.assertEqual({node.GetAttribute("VFMTransfer.Bundle") for node in segmentations}, set(volumes))
        for node in segmentations:
            codes = []
            for index in range(node.GetSegmentation().GetNumberOfSegments()):
                segment = node.GetSegmentation().GetNthSegment(index)
                code = vtk.reference("")
                self.assertTrue(segment.GetTag(segment.GetTerminologyEntryTagName(), code))
                codes.append(str(code))
            for prostate_or_zone in ("41216001", "279706003", "399384005"):
                self.assertEqual(sum(f"SCT^{prostate_or_zone}^" in code for code in codes), 1, codes)

    def test_a_loaded_scene_is_reviewed_as_it_was(self):
        self.chooseStudy()
        self.assertEqual(self.runBoth(), "done")
        before = self._tables()
        self._saveAndLoad()
        self.assertEqual(self._tables(), before)
        self.assertTrue(self.ui.sideBySideButton.enabled)
        self.ui.sideBySideButton.click()
        self.settle()
        self.assertIn("VFMTransferA", ownViews())
        for button in (self.ui.exportReportButton, self.ui.exportCsvButton, self.ui.exportSceneButton):
            self.assertTrue(button.enabled, button.toolTip)
        with tempfile.TemporaryDirectory() as folder:
            page, numbers = Path(folder) / "report.html", Path(folder) / "numbers.csv"
            for button, path in ((self.ui.exportReportButton, page), (self.ui.exportCsvButton, numbers)):
                with patch.object(results, "askForFile", lambda *_, path=path: path):
                    button.click()
            self.assertIn("For research use only", page.read_text(encoding="utf-8"))
            self.assertIn("dice", numbers.read_text(encoding="utf-8-sig"))

    def _tables(self) -> list[list[str]]:
        tables = (self.ui.resultsTable, self.ui.findingsTable)
        return [
            [table.item(y, x).text() if table.item(y, x) else "" for y in range(table.rowCount) for x in range(3)]
            for table in tables
        ]

    def test_a_loaded_scene_runs_again(self):
        self.chooseStudy()
        self._saveAndLoad()
        self.assertTrue(self.ui.runButton.enabled, self.ui.runButton.toolTip)
        self.assertEqual(self.runBoth(), "done")

    def test_a_scene_that_is_loaded_during_a_run_is_reviewed_as_it_was(self):
        self.chooseStudy()
        self.assertEqual(self.runBoth(), "done")
        before = self._tables()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))

            def load() -> None:
                slicer.mrmlScene.Clear()
                slicer.util.loadScene(path)

            self.onFirst(self.logic.progress, lambda progress: progress.stage == "infer", load)
            self.assertEqual(self.runBoth(), "canceled", self.failures)
        self.settle()
        self.assertEqual(self._tables(), before)

    def test_choices_follow_when_another_module_was_open_meanwhile(self):
        volumes = self.chooseStudy()
        slicer.util.selectModule("Data")
        slicer.util.selectModule(MODULE)
        self.assertEqual(self.logic.getParameterNode().t2w, next(iter(volumes.values())))
        self.assertTrue(self.ui.runButton.enabled)

    def _saveAndLoad(self) -> None:
        with tempfile.TemporaryDirectory(prefix="VFM Transfer ä ") as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path)
        slicer.app.processEvents()
