"""What a radiologist asks of a case, in Slicer: quality before a run, the sector map, the ADC fit, DICOM out."""

import importlib.util
import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import numpy as np
import slicer
from exams import ADatabase, loadSeries, writeExam
from in_slicer import PanelTest, loadStudy, waitFor

from VFMTransferLib.core.terms import Sequence


class RadiologistsTest(PanelTest):
    """Choices that tests of both kinds make."""

    def chooseTask(self, task: str) -> None:
        combo = self.ui.taskComboBox
        combo.setCurrentIndex(combo.findData(task))
        combo.activated(combo.currentIndex)
        waitFor(lambda: self.ui.runButton.enabled, "Run can be clicked")

    def section(self, name: str):
        sections = slicer.util.getModuleWidget("VFMTransfer").panel._sections
        return next(section for section in sections if type(section).__name__ == name)


class RadiologyTest(RadiologistsTest):
    def test_the_quality_of_the_images_is_there_before_anything_runs(self):
        self.chooseStudy()
        waitFor(lambda: self.ui.qualityLabel.text, "The criteria of image quality")
        self.assertIsNone(self.logic.lastRun)
        for words in (
            "T2w, field of view: ",
            "120 to 200 mm (PI-RADS v2.1)",
            "Diffusion, tilt against T2w",
            "not known",
        ):
            self.assertIn(words, self.ui.qualityLabel.text)
        self.assertIn("criteria not met", self.ui.qualityCollapsibleButton.text)

    def test_lesions_are_drawn_on_the_sector_map(self):
        self.chooseStudy()
        self.chooseTask("lesion-segmentation")
        self.assertEqual(self.runBoth(), "done", self.failures)
        waitFor(lambda: self.ui.sectorMapLabel.visible and self.ui.sectorMapLabel.pixmap is not None, "The sector map")
        self.assertIn("Sectors:", self.ui.sectorMapNoteLabel.text)

    def test_a_sequence_of_b_values_gives_adc_residual_and_a_computed_image(self):
        volumes = loadStudy(Sequence.T2W, Sequence.ADC)
        adc = slicer.util.arrayFromVolume(volumes[Sequence.ADC]).astype(np.float32)
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "DWI")
        sequence.SetIndexName("b-value")
        for b in (50, 400, 1000):
            frame = slicer.modules.volumes.logic().CloneVolume(volumes[Sequence.ADC], f"b{b}")
            slicer.util.updateVolumeFromArray(frame, (900 * np.exp(-b * 1e-6 * adc)).astype(np.float32))
            sequence.SetDataNodeAtValue(frame, str(b))
            slicer.mrmlScene.RemoveNode(frame)
        self.ui.t2wSelector.setCurrentNode(volumes[Sequence.T2W])
        slicer.mrmlScene.RemoveNode(volumes[Sequence.ADC])
        self.ui.seriesSelector.setCurrentNode(sequence)
        waitFor(lambda: self.ui.fitButton.enabled, "Fit can be clicked")
        self.assertEqual(self.ui.bValuesLineEdit.text, "50 400 1000")
        self.ui.fitButton.click()
        waitFor(lambda: self.ui.fitButton.enabled, "The end of the fit")
        self.assertIn("Fitted to b 50, 400, 1000", self.ui.fitNoteLabel.text)
        fitted = self.ui.adcSelector.currentNode()
        self.assertTrue(fitted.GetName().startswith("DWI ADC (fitted)"), fitted.GetName())
        found = slicer.util.arrayFromVolume(fitted)
        np.testing.assert_allclose(found[adc > 0], adc[adc > 0], rtol=1e-2, atol=2)
        self.assertTrue(self.ui.hbvSelector.currentNode().GetName().startswith("DWI b1500 (computed)"))
        names = " ".join(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
        self.assertTrue(all(title in names for title in ("DWI ADC residual", "DWI ADC fit problems")), names)

    def test_the_phase_axis_is_asked_for_where_dicom_does_not_state_it(self):
        self.chooseStudy()
        self.assertFalse(self.ui.phaseAxisComboBox.visible)
        self.chooseTask("distortion-correction")
        self.assertTrue(self.ui.phaseAxisComboBox.visible)
        self.assertIn("is unknown", self.ui.phaseAxisNoteLabel.text)
        self.assertEqual(self.runBoth(), "done", self.failures)
        notes = " ".join(note["text"] for note in self.logic.lastRun.arms[0].numbers["notes"])
        self.assertIn("left-right was assumed", notes)
        combo = self.ui.phaseAxisComboBox
        combo.setCurrentIndex(combo.findData("anterior-posterior"))
        combo.activated(combo.currentIndex)
        self.assertEqual(self.ui.phaseAxisNoteLabel.text, "")
        self.assertEqual(self.runBoth(), "done", self.failures)
        self.assertEqual(self.logic.lastRun.arms[0].numbers["options"]["phase_axis"], "anterior-posterior")


@unittest.skipIf(importlib.util.find_spec("highdicom") is None, "highdicom is not in Slicer's Python.")
class DicomTest(RadiologistsTest):
    """The same panel with an exam that was loaded from DICOM."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="VFM exam "))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        volumes = loadStudy()
        writeExam(volumes, self.folder / "exam")
        slicer.mrmlScene.Clear()
        database = ADatabase(self.folder / "exam")
        before = getattr(slicer, "dicomDatabase", None)
        slicer.dicomDatabase = database
        self.addCleanup(setattr, slicer, "dicomDatabase", before)
        self.volumes = {
            sequence: loadSeries(self.folder / "exam" / str(sequence), database, str(sequence)) for sequence in volumes
        }
        for sequence, node in self.volumes.items():
            getattr(self.ui, f"{sequence}Selector").setCurrentNode(node)

    def test_every_tasks_result_is_written_as_dicom_and_is_valid(self):
        for task in ("lesion-segmentation", "distortion-correction", "adc-translation"):
            with self.subTest(task=task):
                self.chooseTask(task)
                self.assertEqual(self.runBoth(), "done", self.failures)
                self.assertTrue(self.ui.exportDicomButton.enabled, self.ui.exportDicomButton.toolTip)
                target = self.folder / task
                self.section("DicomSection").write(target)
                waitFor(lambda: self.ui.exportDicomButton.enabled, "The end of writing")
                self.assertIn("Saved", self.ui.dicomNoteLabel.text)
                files = sorted(target.rglob("*.dcm"))
                self.assertTrue(files)
                self.check(files)

    def check(self, files: list[Path]) -> None:
        """Identity taken over, and valid where `dciodvfy` is there."""
        import pydicom

        for file in files:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            self.assertEqual((header.PatientID, header.AccessionNumber), ("MRN-4711", "ACC-99"))
        if shutil.which("dciodvfy") is None:
            return
        for file in files:
            found = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
            errors = [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
            self.assertEqual(errors, [], file.name)

    def test_numbers_are_equal_in_the_report_and_in_the_panel(self):
        import highdicom

        self.chooseTask("lesion-segmentation")
        self.assertEqual(self.runBoth(), "done", self.failures)
        target = self.folder / "out"
        self.section("DicomSection").write(target)
        waitFor(lambda: self.ui.exportDicomButton.enabled, "The end of writing")
        for index, arm in enumerate(self.logic.lastRun.arms):
            folder = target / f"{index}-{arm.bundle}"
            groups = highdicom.sr.srread(folder / "measurements.dcm").content.get_volumetric_roi_measurement_groups()
            volumes = [
                float(measurement.value)
                for group in groups
                for measurement in group.get_measurements()
                if measurement.name.meaning == "Volume"
            ]
            expected = [lesion["volume_ml"] for lesion in arm.numbers["lesions"]]
            np.testing.assert_allclose(sorted(volumes)[-len(expected) :], sorted(expected), rtol=1e-5)

    def test_the_phase_axis_and_b_value_are_those_of_dicom(self):
        self.chooseTask("distortion-correction")
        self.assertEqual(self.ui.phaseAxisNoteLabel.text, "DICOM states anterior-posterior.")
        self.assertEqual(self.runBoth(), "done", self.failures)
        numbers = self.logic.lastRun.arms[0].numbers
        self.assertIn("as DICOM states", " ".join(note["text"] for note in numbers["notes"]))
        found = {row["name"]: row for row in numbers["quality"]}
        self.assertEqual(found["dwi-high-b"]["value"], 1400.0)

    def test_a_volume_that_was_moved_is_not_written(self):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = slicer.util.vtkMatrixFromArray(np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
        transform.SetMatrixTransformToParent(matrix)
        self.volumes[Sequence.T2W].SetAndObserveTransformNodeID(transform.GetID())
        self.chooseTask("anatomy-segmentation")
        self.assertEqual(self.runBoth(), "done", self.failures)
        target = self.folder / "moved"
        self.section("DicomSection").write(target)
        waitFor(lambda: self.ui.exportDicomButton.enabled, "The end of writing")
        self.assertIn("t2w does not lie where its DICOM files state", self.ui.dicomNoteLabel.text)
        self.assertFalse(target.exists())
        self.assertNotIn("MRN-4711", json.dumps(self.ui.dicomNoteLabel.toolTip))
