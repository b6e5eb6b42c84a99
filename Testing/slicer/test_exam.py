"""The exam layout in its window: which views come, that they are linked, and that the user's layout comes back."""

import slicer
from in_slicer import PanelTest, ownViews, waitFor

from VFMTransferSlicer.views.cells import ADC, CORONAL, HBV, SAGITTAL, T2W

FORMER = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
AXIAL = (T2W, ADC, HBV)


class ExamTest(PanelTest):
    def setUp(self) -> None:
        super().setUp()
        slicer.app.layoutManager().setLayout(FORMER)
        self.volumes = self.chooseStudy()
        self.ui.examButton.click()
        self.settle()

    def test_one_click_shows_five_views_and_another_one_the_users_layout(self):
        self.assertEqual(sorted(ownViews()), sorted((*AXIAL, CORONAL, SAGITTAL)))
        shown = {tag: self._logic(tag).GetSliceCompositeNode().GetBackgroundVolumeID() for tag in (T2W, ADC, HBV)}
        self.assertEqual(shown, dict(zip((T2W, ADC, HBV), self._ids("t2w", "adc", "hbv"), strict=True)))
        normals = [self._normal(tag) for tag in (T2W, CORONAL, SAGITTAL)]
        axes = [max(range(3), key=lambda row: abs(normal[row])) for normal in normals]
        self.assertEqual(axes, [2, 1, 0])
        self.ui.examButton.click()
        waitFor(lambda: not ownViews(), "The end of the exam's views")
        self.assertEqual(slicer.app.layoutManager().layout, FORMER)

    def test_axial_views_move_together(self):
        interactor = slicer.app.layoutManager().sliceWidget(ADC).sliceView().renderWindow().GetInteractor()
        before = self._logic(T2W).GetSliceNode().GetSliceOffset()
        interactor.SetEventInformation(100, 100, 0, 0)
        interactor.MouseWheelForwardEvent()
        self.settle()
        offsets = {round(self._logic(tag).GetSliceNode().GetSliceOffset(), 2) for tag in AXIAL}
        self.assertEqual(len(offsets), 1)
        self.assertNotAlmostEqual(offsets.pop(), before, places=2)

    def test_a_run_takes_the_place_of_the_exam_and_one_click_leads_back(self):
        self.assertEqual(self.runBoth(), "done", self.failures)
        self.settle()
        self.assertTrue(self.ui.sideBySideButton.checked)
        self.assertFalse(self.ui.examButton.checked)
        self.ui.examButton.click()
        self.settle()
        self.assertTrue(self.ui.examButton.checked)
        self.ui.examButton.click()
        waitFor(lambda: not ownViews(), "The end of the exam's views")
        self.assertEqual(slicer.app.layoutManager().layout, FORMER)

    def test_a_scene_that_is_closed_takes_the_views_along(self):
        slicer.mrmlScene.Clear()
        waitFor(lambda: not ownViews(), "The end of the exam's views")
        self.assertEqual(slicer.app.layoutManager().layout, FORMER)
        self.assertFalse(self.ui.examButton.enabled)

    def _ids(self, *names: str) -> list[str]:
        return [self.volumes[name].GetID() for name in names]

    def _normal(self, tag: str) -> list[float]:
        matrix = self._logic(tag).GetSliceNode().GetSliceToRAS()
        return [matrix.GetElement(row, 2) for row in range(3)]

    def _logic(self, tag: str) -> slicer.vtkMRMLSliceLogic:
        return slicer.app.applicationLogic().GetSliceLogicByLayoutName(tag)
