"""A radiologist's walk from an exam's DICOM files to the report, as `docs/slicer.md` has it: by clicks alone."""

import importlib.util
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import slicer
from exams import writeExam
from in_slicer import PanelTest, loadStudy, ownViews, waitFor

from VFMTransferSlicer.panel import results
from VFMTransferSlicer.panel.views import FLICKER_KEY
from VFMTransferSlicer.views.layout import TWO_ROWS_ID

REAL_EXAM = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom" / "ProstateX-0000"
FORMER = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
WIDEST_PX = 1500


class WalkTest(PanelTest):
    def setUp(self) -> None:
        super().setUp()
        if not hasattr(slicer.modules, "dicom") or importlib.util.find_spec("dcmqi") is None:
            self.skipTest("This Slicer lacks DICOM, or dcmqi, by which its plugins read segmentations and reports.")
        self.folder = Path(tempfile.mkdtemp(prefix="VFM walk ä "))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        slicer.app.layoutManager().setLayout(FORMER)

    def test_from_a_phantoms_dicom_files_to_its_report(self):
        writeExam(loadStudy(), self.folder / "exam")
        slicer.mrmlScene.Clear()
        self.walk(self.folder / "exam")

    def test_from_a_real_exams_dicom_files_to_its_report(self):
        if not REAL_EXAM.is_dir():
            self.skipTest("The real DICOM exam is not here.")
        self.walk(REAL_EXAM)

    def walk(self, exam: Path) -> None:
        from DICOMLib import DICOMUtils

        window = slicer.util.mainWindow()
        window.resize(WIDEST_PX, 950)
        with DICOMUtils.TemporaryDICOMDatabase(str(self.folder / "database")) as database:
            DICOMUtils.importDicom(str(exam), database)
            for patient in database.patients():
                DICOMUtils.loadPatientByUID(patient)
            self.ui.fillButton.click()
            for selector in (self.ui.t2wSelector, self.ui.hbvSelector, self.ui.adcSelector):
                self.assertIsNotNone(selector.currentNode(), selector.objectName)
            waitFor(lambda: self.ui.qualityLabel.text, "The criteria of image quality")
            self.ui.qualityCollapsibleButton.collapsed = False  # whose sentences are the longest of the panel
            self.ui.examButton.click()
            self.settle()
            self.assertEqual(len(ownViews()), 5)
            self.ui.psaLineEdit.setText("6.5")
            self.ui.psaLineEdit.editingFinished()
            self.ui.taskComboBox.setCurrentIndex(self.ui.taskComboBox.findData("lesion-segmentation"))
            self.ui.taskComboBox.activated(self.ui.taskComboBox.currentIndex)
            waitFor(lambda: self.ui.runButton.enabled, "Run can be clicked")
            self.assertEqual(self.runBoth(), "done", self.failures)
            self.assertEqual(slicer.app.layoutManager().layout, TWO_ROWS_ID)
            self.assertLessEqual(window.width, WIDEST_PX)
            self.ui.findingsTable.cellClicked(0, 0)
            shortcuts = [child for child in window.children() if child.inherits("QShortcut")]
            flip = next(key for key in shortcuts if key.key.toString() == FLICKER_KEY)
            before = self.ui.fadeSlider.value
            for isOther in (True, False):
                flip.activated()
                slicer.app.processEvents()
                self.assertEqual(self.ui.fadeSlider.value != before, isOther)
            page = self.save(self.ui.exportReportButton, "report.html").read_text(encoding="utf-8")
            for words in ("PSA density", "For research use only", "Image quality"):
                self.assertIn(words, page)
            scene = self.save(self.ui.exportSceneButton, "scene.mrb")
            self.ui.sideBySideButton.click()
            waitFor(lambda: not ownViews(), "The end of our views")
            self.assertEqual(slicer.app.layoutManager().layout, FORMER)
            self.writeAsDicom("written")
            volumes = sorted(
                lesion["volume_ml"] for arm in self.logic.lastRun.arms for lesion in arm.numbers["lesions"]
            )
            slicer.mrmlScene.Clear()
            loaded = self.readBySlicer(database, self.folder / "written")
            np.testing.assert_allclose(loaded, volumes, rtol=1e-5)
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(str(scene))
            slicer.app.processEvents()
            self.writeAsDicom("written again")
        first, again = (self.measurements(name) for name in ("written", "written again"))
        self.assertTrue(first)
        self.assertEqual(first, again)

    def save(self, button, name: str) -> Path:
        with patch.object(results, "askForFile", lambda *_: self.folder / name):
            button.click()
        waitFor((self.folder / name).is_file, name)
        return self.folder / name

    def writeAsDicom(self, name: str) -> None:
        sections = slicer.util.getModuleWidget("VFMTransfer").panel._sections
        writer = next(section for section in sections if type(section).__name__ == "DicomSection")
        self.assertTrue(self.ui.exportDicomButton.enabled, self.ui.exportDicomButton.toolTip)
        writer.write(self.folder / name)
        waitFor(lambda: self.ui.exportDicomButton.enabled, "The end of writing")
        self.assertIn("Saved", self.ui.dicomNoteLabel.text)

    def readBySlicer(self, database, folder: Path) -> list[float]:
        """Volumes of the lesions, ml, as Slicer's own plugin for SR TID 1500 loads them with their segmentations."""
        from DICOMLib import DICOMUtils

        DICOMUtils.importDicom(str(folder), database)
        for file in sorted(folder.rglob("measurements.dcm")):
            plugin = slicer.modules.dicomPlugins["DICOMTID1500Plugin"]()
            (report,) = plugin.examineForImport([[str(file)]])
            self.assertTrue(plugin.load(report), report.name)
        found = []
        for node in slicer.util.getNodesByClass("vtkMRMLTableNode"):
            names = [node.GetTable().GetColumnName(column) for column in range(node.GetNumberOfColumns())]
            column = names.index("Volume [ml]")
            found += [float(node.GetCellText(row, column)) for row in range(node.GetNumberOfRows())]
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        self.assertEqual(len(found), sum(node.GetSegmentation().GetNumberOfSegments() for node in segmentations))
        return sorted(found)

    def measurements(self, name: str) -> list[tuple[str, str, float]]:
        """Network, measurement and value of every structured report of a folder."""
        import highdicom

        found = []
        for file in sorted((self.folder / name).rglob("measurements.dcm")):
            for group in highdicom.sr.srread(file).content.get_volumetric_roi_measurement_groups():
                found += [(file.parent.name, m.name.meaning, float(m.value)) for m in group.get_measurements()]
        return found
