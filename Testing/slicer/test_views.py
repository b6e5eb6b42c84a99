"""The views of a comparison in their window: what comes, what the mouse and keys do, and that all of it goes."""

import slicer
from in_slicer import MODULE, PanelTest, waitFor

from VFMTransferSlicer.views.cells import DIFFERENCE, T2W, A, B
from VFMTransferSlicer.views.layout import VIEW_GROUP

FORMER = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
HIDDEN = ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode", "vtkMRMLSliceDisplayNode", "vtkMRMLModelNode")


class ViewsTest(PanelTest):
    def setUp(self) -> None:
        super().setUp()
        slicer.app.layoutManager().setLayout(FORMER)
        self.chooseStudy()
        self.before = self._counts()
        self.assertEqual(self.runBoth(), "done", self.failures)
        self.settle()

    def test_each_network_is_in_its_view_and_the_user_is_given_everything_back(self):
        about = self.logic.lastRun.about.GetDisplayNode()
        for tag in (T2W, A, B):
            composite = self._logic(tag).GetSliceCompositeNode()
            self.assertEqual(composite.GetBackgroundVolumeID(), self.logic.lastRun.about.GetID())
        shown = [self._drawnIn(arm.segmentation) for arm in self.logic.lastRun.arms]
        self.assertEqual(shown, [{A}, {B}])
        window = about.GetWindow()
        about.SetWindowLevel(window / 2, about.GetLevel())
        self.ui.sideBySideButton.click()
        self.settle()
        self.assertEqual(slicer.app.layoutManager().layout, FORMER)
        self.assertEqual(self._counts(), self.before)
        self.assertEqual(about.GetAutoWindowLevel(), True)
        for arm in self.logic.lastRun.arms:
            self.assertEqual(arm.segmentation.GetDisplayNode().GetViewNodeIDs(), ())
            self.assertEqual(arm.segmentation.GetNumberOfDisplayNodes(), 1)

    def test_all_views_have_one_slice_and_one_scale_when_they_are_laid_out(self):
        nodes = [self._logic(tag).GetSliceNode() for tag in (T2W, A, B, DIFFERENCE)]
        self.assertEqual({node.GetViewGroup() for node in nodes}, {VIEW_GROUP})
        offsets = {round(node.GetSliceOffset(), 2) for node in nodes}
        scales = {round(node.GetFieldOfView()[1] / node.GetDimensions()[1], 3) for node in nodes}
        self.assertEqual((len(offsets), len(scales)), (1, 1), (offsets, scales))
        lps = self.logic.lastRun.comparison["disagreements"][0]["center_mm"]
        matrix = nodes[0].GetSliceToRAS()
        ras = (-lps[0], -lps[1], lps[2])
        away = sum((ras[row] - matrix.GetElement(row, 3)) * matrix.GetElement(row, 2) for row in range(3))
        self.assertAlmostEqual(away, 0, places=2)

    def test_scrolling_one_view_takes_the_others_along_and_not_the_users(self):
        red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").GetSliceOffset()
        interactor = self._view(A).renderWindow().GetInteractor()
        before = self._logic(B).GetSliceNode().GetSliceOffset()
        interactor.SetEventInformation(100, 100, 0, 0)
        interactor.MouseWheelForwardEvent()
        self.settle()
        offsets = {round(self._logic(tag).GetSliceNode().GetSliceOffset(), 2) for tag in (T2W, A, B)}
        self.assertEqual(len(offsets), 1)
        self.assertNotAlmostEqual(offsets.pop(), before, places=2)
        self.assertEqual(slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").GetSliceOffset(), red)

    def test_the_mouse_reveals_b_in_the_middle_view(self):
        self.ui.revealButton.click()
        labels = slicer.mrmlScene.GetNodeByID(self._logic(A).GetSliceCompositeNode().GetLabelVolumeID())
        before = slicer.util.arrayFromVolume(labels).copy()
        interactor = self._view(A).renderWindow().GetInteractor()
        width, height = self._logic(A).GetSliceNode().GetDimensions()[:2]
        changed = []
        for x in range(0, width, 15):  # along the middle, where the prostate is
            interactor.SetEventInformation(x, height // 2, 0, 0)
            interactor.MouseMoveEvent()
            changed.append((slicer.util.arrayFromVolume(labels) != before).any())
        self.assertTrue(any(changed))
        self.ui.revealButton.click()

    def test_another_layout_of_the_user_ends_the_views_and_stays(self):
        chosen = slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
        slicer.app.layoutManager().setLayout(chosen)
        self.settle()
        self.assertEqual(slicer.app.layoutManager().layout, chosen)
        self.assertFalse(self.ui.sideBySideButton.checked)
        self.assertEqual(self._counts(), self.before)

    def test_a_run_that_ends_while_another_module_is_open_leaves_the_layout_alone(self):
        self.ui.sideBySideButton.click()
        self.settle()
        self.outcomes.clear()
        self.ui.runButton.click()
        slicer.util.selectModule("Data")
        waitFor(lambda: self.outcomes, "The end of the run")
        self.settle()
        self.assertEqual(slicer.app.layoutManager().layout, FORMER)
        slicer.util.selectModule(MODULE)
        self.assertEqual(slicer.app.layoutManager().layout, FORMER)
        self.assertTrue(self.ui.sideBySideButton.enabled)

    def test_the_views_of_a_run_stay_until_the_next_one_is_there(self):
        seen = []
        self._connect(self.logic.progress, lambda progress: seen.append(self._drawnIn(former.segmentation)))
        former = self.logic.lastRun.arms[0]
        self.assertEqual(self.runBoth(), "done")
        self.assertTrue(seen)
        self.assertTrue(all(views == {A} for views in seen), seen)
        self.assertEqual(self._drawnIn(self.logic.lastRun.arms[0].segmentation), {A})

    def test_a_run_that_is_canceled_leaves_the_views_of_the_one_before(self):
        former = self.logic.lastRun
        self.outcomes.clear()
        self.ui.runButton.click()
        self.logic.cancel()
        waitFor(lambda: self.outcomes, "The end of the run")
        self.settle()
        self.assertIs(self.logic.lastRun, former)
        self.assertEqual(self._drawnIn(former.arms[0].segmentation), {A})
        self.assertTrue(self.ui.exportReportButton.enabled, self.ui.exportReportButton.toolTip)

    def test_a_scene_that_is_closed_meanwhile_takes_the_views_along(self):
        for _ in range(2):
            slicer.mrmlScene.Clear()
            self.settle()
            self.assertEqual(slicer.app.layoutManager().layout, FORMER)
            tags = [node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")]
            self.assertEqual(sorted(tags), ["Green", "Red", "Yellow"])
            self.chooseStudy()
            self.assertEqual(self.runBoth(), "done")
            self.settle()

    def _counts(self) -> dict[str, int]:
        return {kind: len(slicer.util.getNodesByClass(kind)) for kind in HIDDEN}

    def _logic(self, tag: str) -> slicer.vtkMRMLSliceLogic:
        return slicer.app.applicationLogic().GetSliceLogicByLayoutName(tag)

    def _view(self, tag: str):
        return slicer.app.layoutManager().sliceWidget(tag).sliceView()

    def _drawnIn(self, segmentation) -> set[str]:
        found = set()
        for index in range(segmentation.GetNumberOfDisplayNodes()):
            display = segmentation.GetNthDisplayNode(index)
            if display.GetVisibility2DFill() or display.GetVisibility2DOutline():
                ids = {tag: self._logic(tag).GetSliceNode().GetID() for tag in (T2W, A, B, DIFFERENCE)}
                found |= {tag for tag, id_ in ids.items() if display.IsDisplayableInView(id_)}
        return found
