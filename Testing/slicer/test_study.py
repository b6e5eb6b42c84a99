"""The study on the panel: it fills by itself, says how volumes lie, and takes phantoms from Sample Data."""

import time

import slicer
from in_slicer import EventLoopWatch, PanelTest, loadStudy, waitFor

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.inputs.samples import CATEGORY, SAMPLE_SEED, nameOf

SETTLED_S = 1.0  # longer than the panel waits for more volumes
LONGEST_S = 2.0  # far less than the child needs; three views drawn in software on a busy machine take most of it


class StudyTest(PanelTest):
    def chosen(self):
        return [getattr(self.ui, f"{sequence}Selector").currentNode() for sequence in Sequence]

    def test_a_study_that_is_loaded_fills_the_empty_panel(self):
        volumes = loadStudy()
        waitFor(lambda: all(self.chosen()), "The volumes of the study")
        self.assertEqual(self.chosen(), [volumes[sequence] for sequence in Sequence])
        self.assertIn("0.6 × 0.6 × 3 mm · 320 × 320 × 23 · axial, oblique by", self.ui.t2wGeometryLabel.text)

    def test_a_study_that_is_loaded_replaces_no_choice(self):
        own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "My own choice")
        self.ui.t2wSelector.setCurrentNode(own)
        volumes = loadStudy()
        settled = time.monotonic() + SETTLED_S
        waitFor(lambda: time.monotonic() > settled, "What the panel does by itself")
        self.assertIs(self.ui.t2wSelector.currentNode(), own)
        self.ui.fillButton.click()
        self.assertEqual(self.chosen(), [volumes[sequence] for sequence in Sequence])

    def test_a_second_click_makes_no_second_sample(self):
        with EventLoopWatch() as watch:
            self.ui.sampleButton.click()
            waitFor(lambda: self.ui.sampleButton.enabled, "The sample study")
        self.assertLess(watch.longest_s, LONGEST_S)
        first, nodes = self.chosen(), slicer.mrmlScene.GetNumberOfNodes()
        self.assertEqual(self.ui.referenceSelector.currentNode().GetName(), "Phantom 7 truth (synthetic)")
        self.ui.sampleButton.click()
        waitFor(lambda: self.ui.sampleButton.enabled, "The sample study again")
        self.assertEqual(self.chosen(), first)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)

    def test_sample_data_offers_the_phantom_which_fills_the_panel(self):
        source = next(one for one in slicer.modules.sampleDataSources[CATEGORY])
        self.assertEqual(source.sampleName, nameOf(SAMPLE_SEED))
        slicer.util.selectModule("SampleData")
        source.customDownloader(source)
        waitFor(lambda: slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), "The phantom")
        slicer.util.selectModule("VFMTransfer")
        waitFor(lambda: all(self.chosen()), "The volumes of the phantom")
        self.assertIsNotNone(self.ui.referenceSelector.currentNode())
