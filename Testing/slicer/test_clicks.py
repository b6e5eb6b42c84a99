"""Click through the panel: sample study, both networks, results, side by side, and back."""

import slicer
from in_slicer import PAIR, PanelTest, waitFor

from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.tasks import TASKS
from VFMTransferSlicer.views.layout import TWO_ROWS_ID


class ClickTest(PanelTest):
    def test_the_sample_study_is_made_run_and_shown(self):
        self.ui.sampleButton.click()
        waitFor(lambda: self.ui.runButton.enabled, "The sample study")
        self.assertIsNotNone(self.ui.t2wSelector.currentNode())
        self.assertEqual(self.runBoth(), "done")
        run = self.logic.lastRun
        self.assertEqual([arm.bundle for arm in run.arms], list(PAIR))
        self.assertGreater(self.ui.resultsTable.rowCount, 0)
        self.assertEqual(self.ui.progressABar.value, self.ui.progressABar.maximum)

    def test_a_run_is_shown_side_by_side_and_the_users_layout_comes_back(self):
        layout = slicer.app.layoutManager()
        layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.chooseStudy()
        self.assertEqual(self.runBoth(), "done")
        self.assertEqual(layout.layout, TWO_ROWS_ID)
        for expected in (slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, TWO_ROWS_ID) * 2:
            self.ui.sideBySideButton.click()
            self.settle()
            self.assertEqual(layout.layout, expected)

    def test_each_tool_of_the_views_can_be_clicked(self):
        self.chooseStudy()
        self.assertEqual(self.runBoth(), "done")
        for button in (self.ui.flickerButton, self.ui.checkerboardButton, self.ui.revealButton):
            for isOn in (True, False):
                button.click()
                slicer.app.processEvents()
                self.assertEqual(button.checked, isOn, button.text)
        self.ui.fadeSlider.value = 0.5
        self.ui.secondRowCheckBox.click()
        self.settle()

    def test_the_pair_of_each_task_runs(self):
        self.chooseStudy()
        for task in TASKS:
            with self.subTest(task=task):
                combo = self.ui.taskComboBox
                combo.setCurrentIndex(combo.findData(task))
                combo.activated(combo.currentIndex)  # Qt emits it for the user only
                self.assertTrue(self.ui.runButton.enabled, self.ui.runButton.toolTip)
                self.assertEqual(self.runBoth(), "done", self.failures)
                run = self.logic.lastRun
                self.assertEqual(run.task, task)
                self.assertEqual([arm.bundle for arm in run.arms], [bundle.name for bundle in default_pair(task)])
                self.assertGreater(self.ui.resultsTable.rowCount, 0)

    def test_run_says_what_is_missing(self):
        self.assertFalse(self.ui.runButton.enabled)
        self.assertIn("T2w", self.ui.runButton.toolTip)

    def test_a_second_run_overwrites_nothing(self):
        self.chooseStudy()
        for _ in range(2):
            self.assertEqual(self.runBoth(), "done")
        names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
        self.assertEqual(len(set(names)), 4, names)

    def test_results_lie_beside_their_study_and_say_where_they_are_from(self):
        self.chooseStudy()
        self.runBoth()
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        about = self.logic.lastRun.about
        parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(about))
        for arm in self.logic.lastRun.arms:
            item = hierarchy.GetItemByDataNode(arm.segmentation)
            self.assertEqual(hierarchy.GetItemParent(item), parent)
            self.assertEqual(arm.segmentation.GetAttribute("VFMTransfer.Bundle"), arm.bundle)
            self.assertEqual(len(arm.segmentation.GetAttribute("VFMTransfer.Sha256")), 64)
