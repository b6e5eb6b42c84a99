"""What was edited in Segment Editor after a run, in Slicer: seen in the views, and not saved as the network's alone."""

import importlib.util
import shutil
import tempfile
from pathlib import Path

import slicer
from exams import writeExam
from in_slicer import PanelTest, loadStudy, waitFor

from VFMTransferLib.core.terms import Label
from VFMTransferSlicer.views.pairs import labelPair

MARGIN_MM = 3.0


class EditsTest(PanelTest):
    def setUp(self) -> None:
        super().setUp()
        if not hasattr(slicer.modules, "dicom") or importlib.util.find_spec("dcmqi") is None:
            self.skipTest("This Slicer lacks DICOM, or dcmqi, by which its plugin writes segmentations.")
        self.folder = Path(tempfile.mkdtemp(prefix="VFM edits ä "))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def test_an_edited_segment_is_shown_as_it_is_and_not_written_as_the_networks(self):
        from DICOMLib import DICOMUtils

        writeExam(loadStudy(), self.folder / "exam")
        slicer.mrmlScene.Clear()
        with DICOMUtils.TemporaryDICOMDatabase(str(self.folder / "database")) as database:
            DICOMUtils.importDicom(str(self.folder / "exam"), database)
            for patient in database.patients():
                DICOMUtils.loadPatientByUID(patient)
            self.ui.fillButton.click()
            waitFor(lambda: self.ui.runButton.enabled, "Run can be clicked")
            self.assertEqual(self.runBoth(), "done", self.failures)
            run = self.logic.lastRun
            self.ui.checkerboardButton.click()
            self.settle()
            self.ui.checkerboardButton.click()
            before = labelPair(run).first.copy()
            grow(run.arms[0].segmentation, run.about, str(Label.TRANSITION_ZONE))
            self.assertTrue((labelPair(run).first != before).any())
            self.assertTrue(self.writeAsDicom().startswith("Segmentation '"), self.ui.dicomNoteLabel.text)
            self.assertIn("was changed since the network gave it", self.ui.dicomNoteLabel.text)
            self.assertEqual(list((self.folder / "written").rglob("*.dcm")), [])

    def section(self, name: str):
        sections = slicer.util.getModuleWidget("VFMTransfer").panel._sections
        return next(section for section in sections if type(section).__name__ == name)

    def writeAsDicom(self) -> str:
        writer = self.section("DicomSection")
        writer.write(self.folder / "written")
        waitFor(lambda: self.ui.exportDicomButton.enabled, "The end of writing")
        return self.ui.dicomNoteLabel.text


def grow(segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, segment: str) -> None:
    """Grow a segment by Segment Editor's effect Margin."""
    widget = slicer.qMRMLSegmentEditorWidget()
    widget.setMRMLScene(slicer.mrmlScene)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    node.SetOverwriteMode(node.OverwriteNone)
    widget.setMRMLSegmentEditorNode(node)
    widget.setSegmentationNode(segmentation)
    widget.setSourceVolumeNode(volume)
    widget.setCurrentSegmentID(segment)
    widget.setActiveEffectByName("Margin")
    effect = widget.activeEffect()
    effect.setParameter("MarginSizeMm", str(MARGIN_MM))
    effect.self().onApply()
    widget.setActiveEffectByName("")
    widget.setMRMLSegmentEditorNode(None)
    slicer.mrmlScene.RemoveNode(node)
    slicer.app.processEvents()
