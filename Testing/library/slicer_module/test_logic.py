"""The module's logic on Slicer's real MRML, with a real worker, which is really killed."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from qt_stand_ins import AnEventLoop, a_qt_worker
from slicer_runs import a_segmentation_run
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, slicer

from VFMTransferLib.bundles.catalog import find_bundle
from VFMTransferLib.core.errors import (
    JobError,
    MissingSequenceError,
    OutputError,
    UnknownTaskError,
    VFMTransferError,
    WorkerError,
)
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferLib.worker.messages import Progress
from VFMTransferSlicer.logic import TransferLogic, missingInputs
from VFMTransferSlicer.results.record import readRecord, writeRecord

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


@pytest.mark.parametrize("stage", ["infer", "write"])
def test_a_run_that_ends_with_its_scene_is_canceled_however_quick_the_worker_was(logic, scene, t2w, stage):
    """As Slicer closes one: the run is canceled first. The worker may have answered by then."""
    outcomes, failures = [], []

    def close(progress: Progress) -> None:
        if progress.stage == stage and logic.isRunning and scene.GetNumberOfNodes():
            logic.cancel()
            scene.Clear(False)

    logic.progress.connect(close)
    logic.finished.connect(outcomes.append)
    logic.failed.connect(lambda sentence, details: failures.append(sentence))
    assert logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]]) == []
    assert (outcomes, failures) == (["canceled"], [])
    assert segmentations(scene) == []


def test_a_scene_loaded_during_a_run_shows_its_own_results_at_the_end(logic, scene, t2w):
    """As Slicer loads one: the scene is closed, which cancels the run, and the saved nodes are read."""
    restored = []

    def load(progress: Progress) -> None:
        if restored:
            return
        logic.cancel()
        scene.Clear(False)
        saved = add_volume(scene, an_oblique_t2w(), "Saved")
        labels = np.ones(an_oblique_t2w().array.shape, np.uint8)
        writeRecord(a_segmentation_run(scene, saved, labels, labels))
        restored.append(logic.restore(scene))

    logic.progress.connect(load)
    shown = []
    logic.finished.connect(lambda outcome: shown.append(logic.lastRun))
    arms = logic.run(task=ANATOMY, t2w=t2w)
    assert arms == []
    assert shown[0].about.GetName() == "Saved"
    assert shown[0] is logic.lastRun


def test_signals_tell_progress_each_arm_and_the_end(logic, t2w):
    heard = []
    logic.progress.connect(lambda progress: heard.append((progress.arm, progress.stage)))
    logic.armLoaded.connect(lambda arm: heard.append(arm.bundle))
    logic.finished.connect(heard.append)
    logic.run(task=ANATOMY, t2w=t2w)
    assert [word for word in heard if isinstance(word, str)] == [*SHIPPED, "done"]
    assert {(0, "infer"), (1, "infer")} <= {word for word in heard if isinstance(word, tuple)}


def test_the_folder_of_a_job_is_gone_at_its_end(logic, t2w, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
    with pytest.raises(VFMTransferError, match="no-such-network"):
        logic.run(task=ANATOMY, t2w=t2w, bundles=["no-such-network"])
    assert list(tmp_path.iterdir()) == []


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


def test_a_run_whose_study_left_the_scene_is_forgotten(logic, scene, t2w, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logic.run(task=ANATOMY, t2w=t2w)
    scene.Clear(False)
    assert logic.lastRun is None
    assert list(tmp_path.iterdir()) == []


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


def test_a_full_disk_is_told_before_anything_starts(logic, t2w, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    with pytest.raises(OutputError, match="A run cannot be written into the temporary folder"):
        logic.run(task=ANATOMY, t2w=t2w)
    assert not logic.isRunning


def test_a_missing_volume_is_named_before_anything_starts(logic, t2w):
    with pytest.raises(MissingSequenceError, match=r"Anatomy segmentation needs T2w\. Select a volume\."):
        logic.run(task=ANATOMY)
    sentence = "Lesion segmentation needs T2w, high-b DWI, ADC, but lacks high-b DWI, ADC. Select a volume for each."
    assert missingInputs("lesion-segmentation", {Sequence.T2W: t2w}) == sentence
    assert missingInputs(ANATOMY, {Sequence.T2W: t2w}) == ""
    sentence = "Lesion segmentation needs T2w, high-b DWI, ADC. Select a volume for each."
    assert missingInputs("lesion-segmentation", {}) == sentence


def test_an_unknown_task_is_the_librarys_own_error(logic, t2w):
    with pytest.raises(UnknownTaskError, match=f"must be one of {ANATOMY}, .*, got 'dance'"):
        logic.run(task="dance", t2w=t2w)


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


@pytest.mark.parametrize("moment", ["progress", "armLoaded"])
def test_a_run_whose_blinded_reading_is_stopped_is_as_any_other(logic, t2w, monkeypatch, moment):
    kept = []
    monkeypatch.setattr(logic, "keep", kept.append)
    logic.blind = lambda run: ["Right", "Left"]
    getattr(logic, moment).connect(lambda reply: setattr(logic, "blind", None))
    arms = logic.run(task=ANATOMY, t2w=t2w)
    assert [arm.segmentation.GetName().rpartition("(")[2] for arm in arms] == ["pretrained)", "from scratch)"]
    assert all(arm.segmentation.GetDisplayNode().GetVisibility() for arm in arms)
    assert [arm.title for arm in arms] == ["", ""]
    assert kept == [logic.lastRun]


def test_a_blinded_run_whose_volume_left_the_scene_ends(logic, t2w, scene):
    def draw(run):
        scene.RemoveNode(t2w)
        return ["Left", "Right"]

    ended, failed = [], []
    logic.blind = draw
    logic.finished.connect(ended.append)
    logic.failed.connect(lambda sentence, details: failed.append(sentence))
    with pytest.raises(VFMTransferError):
        logic.run(task=ANATOMY, t2w=t2w)
    assert ended == ["failed"]
    assert "no longer in the scene" in failed[0]
    assert not logic.isRunning
    assert segmentations(scene) == []


def test_a_blinded_run_that_is_closed_while_its_arms_are_loaded_leaves_nothing(logic, t2w, scene, monkeypatch):
    seen, later = [], logic._steps._later

    def close_at_the_second(turn):
        seen.append(len(segmentations(scene)))
        if seen[-1] == 2:
            logic.close()
        later(turn)

    logic.blind = lambda run: ["Left", "Right"]
    monkeypatch.setattr(logic._steps, "_later", close_at_the_second)
    assert logic.run(task=ANATOMY, t2w=t2w) == []
    assert seen[-1] == 2
    assert segmentations(scene) == []


def test_a_blinded_run_that_is_canceled_leaves_nothing(logic, t2w, scene):
    logic.blind = lambda run: ["Left", "Right"]
    logic.progress.connect(lambda progress: logic.cancel() if progress.arm == 1 else None)
    assert logic.run(task=ANATOMY, t2w=t2w) == []
    assert segmentations(scene) == []


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


def test_without_qt_a_run_must_wait(logic, t2w):
    with pytest.raises(ValueError, match="must wait"):
        logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)


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


def test_the_same_worker_serves_runs_that_wait(qt_logic, qt_worker, t2w):
    former = qt_worker.ready and qt_worker.ready.process_id
    assert len(qt_logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])) == 1
    assert former in (None, qt_worker.ready.process_id)


def test_a_run_is_canceled_before_all_is_handed_over(qt_logic, t2w, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcomes = []
    qt_logic.finished.connect(outcomes.append)
    qt_logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
    qt_logic.cancel()
    assert (outcomes, list(tmp_path.iterdir())) == (["canceled"], [])


def test_a_volume_that_cannot_be_handed_over_is_told_by_signal(qt_logic, loop, scene):
    sentences, outcomes = [], []
    qt_logic.failed.connect(lambda sentence, details: sentences.append(sentence))
    qt_logic.finished.connect(outcomes.append)
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    qt_logic.run(task=ANATOMY, t2w=empty, waitForCompletion=False)
    loop.turn_until(lambda: outcomes)
    assert outcomes == ["failed"]
    assert sentences == ["Volume 'Empty' must hold voxels, but is empty. Load it again."]


def test_another_logic_is_told_that_the_worker_is_busy_and_does_not_end_it(qt_logic, qt_worker, loop, t2w):
    outcomes = []
    qt_logic.finished.connect(outcomes.append)
    qt_logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]], waitForCompletion=False)
    loop.turn_until(lambda: qt_worker.is_busy)
    other = TransferLogic(qt_worker)
    with pytest.raises(JobError, match="must be finished before the next one begins"):
        other.run(task=ANATOMY, t2w=t2w)
    other.close()
    loop.turn_until(lambda: outcomes)
    assert outcomes == ["done"]


def test_closing_in_the_middle_of_a_run_tells_nobody(loop, t2w):
    worker = a_qt_worker(loop)
    logic, outcomes = TransferLogic(worker), []
    logic.finished.connect(outcomes.append)
    logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
    loop.turn_until(lambda: worker.is_busy)
    logic.close()
    assert (logic.isRunning, worker.is_busy, outcomes) == (False, False, [])


def test_a_name_with_spaces_and_umlauts_does_no_harm(logic, scene, tmp_path, monkeypatch):
    folder = tmp_path / "Prüfung mit Leerzeichen"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    node = add_volume(scene, an_oblique_t2w(), "T2 schräg / Übersicht")
    arms = logic.run(task=ANATOMY, t2w=node, bundles=[Path(find_bundle(SHIPPED[0]).folder)])
    assert arms[0].segmentation.GetName() == "T2 schräg / Übersicht segmentation (pretrained)"
