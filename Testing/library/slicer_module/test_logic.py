"""The module's logic on Slicer's real MRML, with a real worker, which is really killed."""

import os
import signal
import sys

import numpy as np
import pytest
from qt_stand_ins import AnEventLoop, a_qt_worker
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, slicer

from VFMTransferLib.core.errors import (
    JobError,
    MissingSequenceError,
    WorkerError,
)
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferLib.worker.messages import Progress
from VFMTransferSlicer.logic import TransferLogic, missingInputs
from VFMTransferSlicer.results.record import readRecord

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SHIPPED = ("profound-prostate-demo-pretrained", "profound-prostate-demo-scratch")
ANATOMY = "anatomy-segmentation"


@pytest.fixture(scope="module")
def client():
    with WorkerClient(environment=ENVIRONMENT) as client:
        yield client


@pytest.fixture
def logic(client):
    return TransferLogic(client)


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def t2w(scene):
    """Oblique, and under a transform that turns and moves it."""
    node = add_volume(scene, an_oblique_t2w(), "T2")
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    return node


def segmentations(scene) -> list:
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene)


def test_a_second_run_overwrites_nothing(logic, scene, t2w):
    first = logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])[0].segmentation
    second = logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])[0].segmentation
    assert segmentations(scene) == [first, second]
    assert first.GetName() != second.GetName()


def test_a_run_works_again_after_the_scene_was_closed(logic, scene, t2w):
    logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
    scene.Clear(False)
    again = add_volume(scene, an_oblique_t2w(), "Again")
    arms = logic.run(task=ANATOMY, t2w=again, bundles=[SHIPPED[0]])
    assert segmentations(scene) == [arms[0].segmentation]


def test_a_scene_closed_in_the_middle_is_told_and_gets_no_nodes(logic, scene, t2w):
    logic.progress.connect(lambda progress: scene.Clear(False) if progress.stage == "write" else None)
    with pytest.raises(JobError, match="no longer in the scene"):
        logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
    assert segmentations(scene) == []


def test_signals_tell_progress_each_arm_and_the_end(logic, t2w):
    heard = []
    logic.progress.connect(lambda progress: heard.append((progress.arm, progress.stage)))
    logic.armLoaded.connect(lambda arm: heard.append(arm.bundle))
    logic.finished.connect(heard.append)
    logic.run(task=ANATOMY, t2w=t2w)
    assert [word for word in heard if isinstance(word, str)] == [*SHIPPED, "done"]
    assert {(0, "infer"), (1, "infer")} <= {word for word in heard if isinstance(word, tuple)}


def test_two_networks_are_compared_and_their_report_stays_until_the_next_run(logic, t2w, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compared = []
    logic.compared.connect(compared.append)
    logic.run(task=ANATOMY, t2w=t2w)
    first = logic.lastRun
    assert compared == [first]
    assert first.comparison["task"] == ANATOMY
    assert sorted(path.name for path in first.folder.iterdir()) == ["comparison.csv", "comparison.json", "report"]
    logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
    assert (first.folder, logic.lastRun.comparison, list(tmp_path.iterdir())) == (None, None, [])


def test_gland_reference_and_region_go_to_the_worker_and_leave_no_node(logic, scene, t2w):
    truth = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Truth")
    inside = np.zeros_like(slicer.util.arrayFromVolume(t2w), np.uint8)
    inside[tuple(slice(n // 4, -n // 4) for n in inside.shape)] = 1
    slicer.util.updateVolumeFromArray(truth, inside)
    truth.CopyOrientation(t2w)
    truth.SetAndObserveTransformNodeID(t2w.GetTransformNodeID())
    bounds = [0.0] * 6
    t2w.GetRASBounds(bounds)
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    roi.SetCenterWorld([(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)])
    roi.SetSizeWorld([bounds[2 * axis + 1] - bounds[2 * axis] for axis in range(3)])
    logic.run(task=ANATOMY, t2w=t2w, gland=truth, reference=truth, roi=roi)
    assert logic.lastRun.comparison["has_reference"]
    assert slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode", scene) == [truth]


def test_a_loop_over_many_studies_leaks_neither_nodes_nor_folders(logic, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counts = []
    for _ in range(3):
        node = add_volume(scene, an_oblique_t2w(), "T2")
        logic.run(task=ANATOMY, t2w=node)
        scene.Clear(False)
        counts.append(scene.GetNumberOfNodes())
    assert len(set(counts)) == 1
    assert len(list(tmp_path.iterdir())) == 1  # the report of the last one
    logic.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_a_killed_worker_is_one_sentence_and_the_next_run_works(scene, t2w):
    with WorkerClient(environment=ENVIRONMENT) as mortal:
        logic = TransferLogic(mortal)
        sentences, victims = [], [mortal.start().process_id]
        logic.failed.connect(lambda sentence, details: sentences.append(sentence))

        def kill(progress: Progress) -> None:
            while victims:
                os.kill(victims.pop(), signal.SIGKILL)

        logic.progress.connect(kill)
        with pytest.raises(WorkerError, match="The worker was killed: most likely out of memory"):
            logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
        assert len(sentences) == 1
        assert not logic.isRunning
        assert len(logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])) == 1


def test_a_canceled_run_keeps_the_arm_that_is_done(logic, scene, t2w):
    outcomes = []
    logic.armLoaded.connect(lambda arm: logic.cancel())
    logic.finished.connect(outcomes.append)
    arms = logic.run(task=ANATOMY, t2w=t2w)
    assert outcomes == ["canceled"]
    assert [arm.bundle for arm in arms] == [SHIPPED[0]]
    assert segmentations(scene) == [arms[0].segmentation]


def test_a_missing_volume_is_named_before_anything_starts(logic, t2w):
    with pytest.raises(MissingSequenceError, match=r"Anatomy segmentation needs T2w\. Select a volume\."):
        logic.run(task=ANATOMY)
    sentence = "Lesion segmentation needs T2w, high-b DWI, ADC, but lacks high-b DWI, ADC. Select a volume for each."
    assert missingInputs("lesion-segmentation", {Sequence.T2W: t2w}) == sentence
    assert missingInputs(ANATOMY, {Sequence.T2W: t2w}) == ""
    sentence = "Lesion segmentation needs T2w, high-b DWI, ADC. Select a volume for each."
    assert missingInputs("lesion-segmentation", {}) == sentence


def test_a_blinded_run_leaves_nothing_in_the_scene_before_its_order_is_drawn(logic, t2w, scene):
    seen, drawn = [], []

    def names() -> list[str]:
        return [scene.GetNthNode(index).GetName() or "" for index in range(scene.GetNumberOfNodes())]

    def draw(run):
        drawn.append([arm.numbers["model"]["arm"] for arm in run.arms])
        seen.append(names())
        return ["Right", "Left"]

    before = names()
    logic.blind = draw
    logic.progress.connect(lambda progress: seen.append(names()))
    arms = logic.run(task=ANATOMY, t2w=t2w)
    assert all(found == before for found in seen)
    assert drawn == [["pretrained", "scratch"]]
    assert [arm.segmentation.GetName().rpartition("(")[2] for arm in arms] == ["Right)", "Left)"]
    there = [name.rpartition("(")[2] for name in names() if name.endswith(("(Left)", "(Right)"))]
    assert there == sorted(there)  # the order of the nodes names no network
    assert not any(arm.segmentation.GetDisplayNode().GetVisibility() for arm in arms)
    assert logic.lastRun.comparison is not None
    assert [arm.title for arm in readRecord(scene).arms] == ["Right", "Left"]  # if the scene is saved now
    assert not [name for name in names() if "pretrained" in name or "scratch" in name]


def test_a_run_during_a_run_is_refused(logic, t2w):
    refused = []

    def run_again(progress: Progress) -> None:
        try:
            logic.run(task=ANATOMY, t2w=t2w)
        except JobError as error:
            refused.append(str(error))

    logic.progress.connect(run_again)
    logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
    assert set(refused) == {"A run must be finished before the next one begins. Wait for it, or cancel it."}


def test_a_folder_of_cases_becomes_a_summary_and_is_gone_on_with(logic, a_study, tmp_path):
    heard = []
    logic.caseDone.connect(heard.append)
    output = tmp_path / "Ergebnisse für alle"
    done = logic.runFolder(a_study.parent, output, ANATOMY, [SHIPPED[0]])
    assert [case.outcome for case in done] == ["done"]
    assert heard == done
    assert (output / "summary.csv").is_file()
    again = logic.runFolder(a_study.parent, output, ANATOMY, [SHIPPED[0]])
    assert [case.outcome for case in again] == ["skipped"]


@pytest.fixture(scope="module")
def loop():
    return AnEventLoop()


@pytest.fixture(scope="module")
def qt_worker(loop):
    worker = a_qt_worker(loop)
    yield worker
    worker.close()


@pytest.fixture
def qt_logic(qt_worker):
    return TransferLogic(qt_worker)


def test_a_run_that_is_not_waited_for_returns_at_once_and_fills_its_list_later(qt_logic, loop, t2w):
    outcomes = []
    qt_logic.finished.connect(outcomes.append)
    arms = qt_logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
    assert (arms, qt_logic.isRunning) == ([], True)
    loop.turn_until(lambda: outcomes)
    assert ([arm.bundle for arm in arms], outcomes, qt_logic.isRunning) == (list(SHIPPED), ["done"], False)
