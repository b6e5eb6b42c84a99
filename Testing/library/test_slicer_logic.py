"""The module's logic on Slicer's real MRML, with a real worker, which is really killed."""

import os
import signal
import sys
from pathlib import Path

import pytest
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, slicer

from VFMTransferLib.catalog import find_bundle
from VFMTransferLib.errors import JobError, MissingSequenceError, VFMTransferError, WorkerError
from VFMTransferLib.job import Progress
from VFMTransferLib.terms import Sequence, TaskId
from VFMTransferLib.worker_client import WorkerClient
from VFMTransferSlicer.logic import TransferLogic, missingInputs

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SHIPPED = ("profound-prostate-demo-pretrained", "profound-prostate-demo-scratch")
ANATOMY = TaskId.ANATOMY_SEGMENTATION


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


def test_the_folder_of_a_job_is_gone_at_its_end(logic, t2w, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logic.run(task=ANATOMY, t2w=t2w, bundles=[SHIPPED[0]])
    with pytest.raises(VFMTransferError, match="no-such-network"):
        logic.run(task=ANATOMY, t2w=t2w, bundles=["no-such-network"])
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
    with pytest.raises(MissingSequenceError, match="Anatomy segmentation needs T2w, but lacks T2w"):
        logic.run(task=ANATOMY)
    sentence = "Lesion segmentation needs T2w, high-b DWI, ADC, but lacks high-b DWI, ADC. Select a volume for each."
    assert missingInputs(TaskId.LESION_SEGMENTATION, {Sequence.T2W: t2w}) == sentence
    assert missingInputs(ANATOMY, {Sequence.T2W: t2w}) == ""


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


def test_without_a_process_a_run_must_wait(logic, t2w):
    with pytest.raises(ValueError, match="must wait"):
        logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)


def test_a_name_with_spaces_and_umlauts_does_no_harm(logic, scene, tmp_path, monkeypatch):
    folder = tmp_path / "Prüfung mit Leerzeichen"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    node = add_volume(scene, an_oblique_t2w(), "T2 schräg / Übersicht")
    arms = logic.run(task=ANATOMY, t2w=node, bundles=[Path(find_bundle(SHIPPED[0]).folder)])
    assert arms[0].segmentation.GetName() == "T2 schräg / Übersicht segmentation (pretrained)"
