"""Runs that do not wait: a real worker, a real thread, and a timer that fires when the test says so."""

import os
import time

import pytest
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer

from VFMTransferLib.job import Error, Finished, Run
from VFMTransferLib.terms import TaskId
from VFMTransferLib.worker_client import WorkerClient
from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.timed_worker import TimedWorker

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ANATOMY = TaskId.ANATOMY_SEGMENTATION
PRETRAINED, SCRATCH = "profound-prostate-demo-pretrained", "profound-prostate-demo-scratch"
WAIT_S = 60


class ATimer:
    """Stands for a `qt.QTimer`: its owner fires it."""

    def __init__(self) -> None:
        self.isActive, self.fire = False, None

    def setInterval(self, milliseconds: int) -> None:  # noqa: N802  (Qt's name)
        assert milliseconds <= 100

    def connect(self, signal: str, slot) -> None:
        assert signal == "timeout()"
        self.fire = slot

    def start(self) -> None:
        self.isActive = True

    def stop(self) -> None:
        self.isActive = False


@pytest.fixture(scope="module")
def client():
    with WorkerClient(environment=ENVIRONMENT) as client:
        yield client


@pytest.fixture
def timer() -> ATimer:
    return ATimer()


@pytest.fixture
def logic(client, timer) -> TransferLogic:
    return TransferLogic(client, TimedWorker(client, timer))


@pytest.fixture
def t2w():
    return add_volume(a_scene(), an_oblique_t2w(), "T2")


def fire_until_done(timer: ATimer) -> None:
    deadline = time.monotonic() + WAIT_S
    while timer.isActive and time.monotonic() < deadline:
        timer.fire()
    assert not timer.isActive


def test_a_run_returns_at_once_and_its_results_come_later(logic, timer, t2w):
    outcomes = []
    logic.finished.connect(outcomes.append)
    begin = time.monotonic()
    arms = logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
    assert time.monotonic() - begin < 0.5
    assert (arms, logic.isRunning) == ([], True)
    fire_until_done(timer)
    assert [arm.bundle for arm in arms] == [PRETRAINED, SCRATCH]
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [arm.segmentation for arm in arms]
    assert (outcomes, logic.isRunning) == (["done"], False)


def test_the_main_thread_is_held_for_a_moment_only(logic, timer, t2w):
    logic.run(task=ANATOMY, t2w=t2w, bundles=[PRETRAINED], waitForCompletion=False)
    longest = 0.0
    while timer.isActive:
        begin = time.monotonic()
        timer.fire()
        longest = max(longest, time.monotonic() - begin)
    assert longest < 0.5  # loading a result included; far above what it takes, for machines that do much else


def test_a_run_is_canceled_even_before_the_worker_knows_it(timer, t2w):
    with WorkerClient(environment=ENVIRONMENT) as cold:
        logic, outcomes = TransferLogic(cold, TimedWorker(cold, timer)), []
        logic.finished.connect(outcomes.append)
        arms = logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
        logic.cancel()
        fire_until_done(timer)
        assert (arms, outcomes) == ([], ["canceled"])


def test_a_python_that_does_not_start_is_told_and_ends_the_run(timer, t2w):
    absent = WorkerClient("no-such-python")
    logic, heard = TransferLogic(absent, TimedWorker(absent, timer)), []
    logic.failed.connect(lambda sentence, details: heard.append(sentence))
    logic.finished.connect(heard.append)
    logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
    fire_until_done(timer)
    assert heard[0].startswith("The worker's Python must be a program that can be started")
    assert heard[1:] == ["failed"]


def test_an_error_of_the_thread_itself_ends_the_run_too(timer):
    class Broken:
        def run(self, run):
            raise RuntimeError("broken")

    heard = []
    TimedWorker(Broken(), timer).run(a_run(), heard.append)
    fire_until_done(timer)
    assert isinstance(heard[0], Error)
    assert "RuntimeError: broken" in heard[0].details
    assert heard[1] == Finished("job", "failed")


def test_closing_in_the_middle_of_a_run_stops_it(timer, t2w):
    client = WorkerClient(environment=ENVIRONMENT)
    logic, outcomes = TransferLogic(client, TimedWorker(client, timer)), []
    logic.finished.connect(outcomes.append)
    logic.run(task=ANATOMY, t2w=t2w, waitForCompletion=False)
    logic.close()
    assert (timer.isActive, logic.isRunning, outcomes) == (False, False, [])


def a_run() -> Run:
    return Run("job", ANATOMY, "/nowhere", {"t2w": None}, ("a",))
