"""A run in its scene: written, read back whole, and not where it is no longer whole."""

import numpy as np
import pytest
from slicer_runs import a_segmentation_run, an_image_run
from slicer_scenes import a_scene, add_volume, an_oblique_t2w

from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.results.export import saveReport, whyNoReport
from VFMTransferSlicer.results.numbers import numbersOf
from VFMTransferSlicer.results.record import readRecord, writeRecord

SHAPE = an_oblique_t2w().array.shape
PAGE = "<html><body>Für Forschung</body></html>"


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def t2w(scene):
    return add_volume(scene, an_oblique_t2w(), "T2")


@pytest.fixture
def run(scene, t2w):
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 5:9, 6:11] = 1
    comparison = {"measures": [], "disagreements": [], "focus_slice": 3, "has_reference": False, "notes": []}
    return a_segmentation_run(scene, t2w, labels, labels, comparison=comparison)


def reloaded(scene):
    """As the logic of an application that was just started finds it."""
    return TransferLogic(worker=object.__new__(FakeWorker)).restore(scene)


class FakeWorker:
    """Stands for a worker that is never asked."""

    def call_soon(self, step) -> None:
        step()


def test_a_run_is_read_back_whole(scene, run):
    writeRecord(run, PAGE)
    found = reloaded(scene)
    assert found is not run
    assert (found.task, found.about, dict(found.inputs)) == (run.task, run.about, dict(run.inputs))
    assert [(arm.bundle, arm.numbers, arm.segmentation) for arm in found.arms] == [
        (arm.bundle, arm.numbers, arm.segmentation) for arm in run.arms
    ]
    assert found.comparison == run.comparison
    assert numbersOf(found) == numbersOf(run)


def test_a_run_that_is_read_blinded_comes_back_as_one(scene, run):
    for arm, title in zip(run.arms, ("Right", "Left"), strict=True):
        arm.title = title
    writeRecord(run, PAGE)
    assert [arm.title for arm in reloaded(scene).arms] == ["Right", "Left"]


def test_images_come_back_by_their_names(scene, t2w):
    run = an_image_run(scene, t2w, an_oblique_t2w().geometry, *np.zeros((2, *SHAPE), np.float32))
    writeRecord(run)
    assert [arm.images for arm in reloaded(scene).arms] == [arm.images for arm in run.arms]


def test_the_report_can_be_saved_from_the_scene(scene, run, tmp_path):
    writeRecord(run, PAGE)
    found = reloaded(scene)
    assert whyNoReport(found) == ""
    saveReport(found, tmp_path / "page.html")
    saveReport(found, tmp_path / "folder")
    for path in (tmp_path / "page.html", tmp_path / "folder" / "report.html"):
        assert path.read_text(encoding="utf-8") == PAGE


def test_written_again_it_takes_the_place_of_the_first(scene, run):
    for _ in range(2):
        writeRecord(run, PAGE)
    assert scene.GetNumberOfNodesByClass("vtkMRMLTextNode") == 2


def test_without_its_case_nothing_is_restored(scene, t2w, run):
    writeRecord(run)
    scene.RemoveNode(t2w)
    assert readRecord(scene) is None
