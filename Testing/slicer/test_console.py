"""The module from Slicer's Python console, with and without a main window."""

import tempfile
import unittest
from pathlib import Path

import slicer
from in_slicer import PAIR, loadStudy, ownViews, requireRuntime, studyFolder, waitFor

from VFMTransfer import VFMTransferLogic
from VFMTransferLib.core.errors import BundleError, MissingSequenceError, VFMTransferError
from VFMTransferLib.core.terms import Sequence


class ConsoleTest(unittest.TestCase):
    def setUp(self):
        requireRuntime(self)
        slicer.mrmlScene.Clear()
        waitFor(lambda: not ownViews(), "The end of a former test's views")
        self.logic = VFMTransferLogic()
        self.addCleanup(self.logic.close)

    def test_one_call_runs_both_networks(self):
        t2w = loadStudy(Sequence.T2W)[Sequence.T2W]
        first, second = self.logic.run(task="anatomy-segmentation", t2w=t2w)
        self.assertEqual((first.bundle, second.bundle), PAIR)
        for arm in (first, second):
            self.assertGreater(arm.numbers["volumes_ml"]["prostate"], 5)
            self.assertEqual(arm.segmentation.GetSegmentation().GetNumberOfSegments(), 3)  # prostate and zones
        self.assertIsNotNone(self.logic.lastRun.comparison)

    def test_a_loop_over_studies_leaks_no_nodes(self):
        counts = []
        for _ in range(3):
            t2w = loadStudy(Sequence.T2W)[Sequence.T2W]
            for arm in self.logic.run(task="anatomy-segmentation", t2w=t2w, bundles=PAIR[:1]):
                for node in arm.nodes:
                    slicer.mrmlScene.RemoveNode(node)
            slicer.mrmlScene.RemoveNode(t2w)
            counts.append(slicer.mrmlScene.GetNumberOfNodes())
        self.assertEqual(counts[1], counts[2])

    def test_a_folder_of_cases_is_run_once(self):
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        with tempfile.TemporaryDirectory(prefix="VFM Transfer ö ") as output:
            for outcome in ("done", "skipped"):
                done = self.logic.runFolder(studyFolder().parent, Path(output) / "results", "anatomy-segmentation")
                self.assertEqual([(case.name, str(case.outcome)) for case in done], [("phantom-0007", outcome)])
            summary = (Path(output) / "results" / "summary.csv").read_text(encoding="utf-8-sig")
        self.assertIn("phantom-0007", summary)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)

    def test_what_is_missing_is_an_error_that_says_so(self):
        with self.assertRaisesRegex(MissingSequenceError, "needs T2w"):
            self.logic.run(task="anatomy-segmentation")

    def test_a_network_that_is_not_there_is_an_error_and_the_next_run_works(self):
        t2w = loadStudy(Sequence.T2W)[Sequence.T2W]
        with self.assertRaisesRegex(BundleError, "no-such-network"):
            self.logic.run(task="anatomy-segmentation", t2w=t2w, bundles=["no-such-network"])
        self.assertEqual(len(self.logic.run(task="anatomy-segmentation", t2w=t2w, bundles=PAIR[:1])), 1)

    def test_signals_tell_of_a_run(self):
        heard = []
        for name in ("started", "progress", "armLoaded", "compared", "finished"):
            getattr(self.logic, name).connect(lambda *_, name=name: heard.append(name))
        self.logic.run(task="anatomy-segmentation", t2w=loadStudy(Sequence.T2W)[Sequence.T2W])
        self.assertEqual(heard[0], "started")
        self.assertEqual(heard[-1], "finished")
        self.assertEqual(
            [name for name in heard if name in ("armLoaded", "compared")], ["armLoaded"] * 2 + ["compared"]
        )

    def test_a_volume_without_voxels_is_an_error(self):
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
        with self.assertRaisesRegex(VFMTransferError, "'nothing' must hold voxels"):
            self.logic.run(task="anatomy-segmentation", t2w=empty)
