"""A study on real worker processes: whatever is killed, its tables are those of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from small_sweeps import a_document, prepared_sweep, write_config

from VFMTransferLib.core.errors import ClusterError, DatasetError
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.sweep import Sweep, SweepObserver, Unobserved, open_sweep, run_on, run_sweep
from VFMTransferLib.study.tables import read_tables

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 900.0
TASK = "anatomy-segmentation"
IMAGES = "adc-translation"
TWO_SEEDS, FIRST_SEED = {"seed": ["0", "1"]}, {"seed": ["0"]}


def a_small_study() -> dict:
    """Trainings of about a second, of which two seeds are run."""
    document = a_document(tasks={TASK: {"profound": {"steps": 18}}}, real=None, measurements=6)
    del document["encoders"]["provicnet"]
    document["encoders"]["profound"]["pretraining"]["phantoms"]["count"] = 1
    document["phantoms"]["train"]["count"] = 1
    return document


def done_here(folder: Path, document: dict, only: dict, **options) -> Path:
    """The folder of a study that this process has run."""
    sweep = prepared_sweep(folder / "study", write_config(folder, document), only=only, **options)
    for run in sweep.runs:
        run_one(run, sweep.config, sweep.workspace)
    sweep.collect()
    return folder / "study"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The folder of the study, run by this process, one run after another."""
    return done_here(tmp_path_factory.mktemp("undisturbed"), a_small_study(), TWO_SEEDS)


@pytest.fixture
def begun(undisturbed, tmp_path) -> Path:
    """A folder in which the study has only its phantoms."""
    shutil.copytree(undisturbed / "work" / "phantoms", tmp_path / "study" / "work" / "phantoms")
    shutil.copyfile(undisturbed / "config.yaml", tmp_path / "study" / "config.yaml")
    return tmp_path / "study"


def start(folder: Path, workers: int) -> psutil.Popen:
    """The command as a user gives it."""
    command = [sys.executable, "-m", "VFMTransferLib", "study", "run", "--resume", "--workers", str(workers)]
    command += ["--only", "seed=0,1", "-o", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers_of(driver: psutil.Popen) -> list[psutil.Process]:
    found = []
    for child in driver.children(recursive=True):
        with suppress(psutil.Error):  # it may be on its way out
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def wait_for(what: Callable[[], bool], driver: psutil.Popen) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)


def is_training(folder: Path) -> bool:
    """Whether some run has a checkpoint, but no result."""
    return any(
        not (path.parent / "result.json").is_file() for path in (folder / "work" / "runs").glob("*/checkpoint.pt")
    )


def results(folder: Path) -> int:
    return len(list((folder / "work" / "runs").glob("*/result.json")))


def timeless(folder: Path):
    """All tables, but for times."""
    tables = read_tables(folder)
    return replace(tables, runs=tuple(replace(run, device_seconds=0.0) for run in tables.runs))


def test_killed_workers_and_drivers_change_nothing_but_times(undisturbed, begun):
    driver = start(begun, workers=2)
    wait_for(lambda: is_training(begun), driver)
    victim = workers_of(driver)[0]
    victim.send_signal(signal.SIGKILL)
    victim.wait(PATIENCE_S)
    at_kill = results(begun)
    wait_for(lambda: results(begun) > at_kill and is_training(begun), driver)
    wait_for(lambda: len(workers_of(driver)) == 2, driver)  # the dead one has a successor
    workers = workers_of(driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait(PATIENCE_S)
    assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []

    with open_sweep(begun, resume=True, only=TWO_SEEDS) as sweep:  # one who is killed locks nobody out
        assert run_sweep(sweep, count=1) == {}
    assert timeless(begun) == timeless(undisturbed)


class Listener(SweepObserver):
    def __init__(self) -> None:
        self.done, self.lines = [], []

    def progressed(self, run, line, share) -> None:
        self.lines.append((run, share))

    def finished(self, run) -> None:
        self.done.append(run)


def test_a_run_that_fails_stops_no_other(begun):
    for path in (begun / "work" / "phantoms").glob("phantom-002001-*"):
        path.write_bytes(b"half")  # a test phantom: the pretraining, which does not need it, goes well
    listener = Listener()
    with open_sweep(begun, resume=True, only={"seed": ["0"]}) as sweep:
        failures = run_sweep(sweep, count=1, observer=listener)
    assert [run.arm for run in listener.done] == ["pretraining"]
    assert {run.arm for run in failures} == {"trivial", "scratch", "pretrained"}
    assert {type(error) for error in failures.values()} == {DatasetError}
    assert {part for run, part in listener.lines if run.arm == "pretraining"} >= {0.0, 1.0}


class Stub:
    """A client on whose workers every run has the same end."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.status = error, "error"

    def submit(self, *args, **options):
        return self

    def add_done_callback(self, callback) -> None:
        callback(self)

    def exception(self):
        return self.error

    def nthreads(self):
        return {"one": 1}

    def cancel(self, *_) -> None:
        """Also what topics are subscribed to and left by."""

    subscribe_topic = unsubscribe_topic = cancel


def run_on_stub(sweep: Sweep, error: BaseException) -> dict:
    return run_on(Stub(error), sweep, sweep.pending(), Unobserved())


def test_what_needs_a_pretraining_fails_with_it(tmp_path):
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, a_small_study()))
    failures = run_on_stub(sweep, ValueError("broken"))
    reasons = {str(error) for run, error in failures.items() if run.arm == "pretrained"}
    assert reasons == {"The pretraining of profound failed, which it starts from."}
    assert set(failures) == set(sweep.runs)


def test_a_run_whose_workers_keep_dying_is_given_up(tmp_path):
    from distributed.scheduler import KilledWorker

    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, a_small_study()), only={"arm": ["trivial"]})
    (failure,) = run_on_stub(sweep, KilledWorker("run", None, 3)).values()
    assert "Its worker died 4 times" in str(failure)


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("VFMTransferLib.core.cluster._ANSWER_S", 1)
    config, message = write_config(tmp_path, a_small_study()), r"The scheduler at tcp://127\.0\.0\.1:9 must answer"
    with pytest.raises(ClusterError, match=message), open_sweep(tmp_path / "study", config) as sweep:
        run_sweep(sweep, scheduler="tcp://127.0.0.1:9")
    assert not (sweep.workspace.work / "running.json").exists()
