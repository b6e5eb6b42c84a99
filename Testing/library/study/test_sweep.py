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

from VFMTransferLib.cli import TERMINATED, main
from VFMTransferLib.core.errors import ClusterError, DatasetError, OutputError
from VFMTransferLib.core.files import _machine
from VFMTransferLib.report.study_page import write_study_report
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.sweep import Sweep, SweepObserver, Unobserved, open_sweep, run_on, run_sweep
from VFMTransferLib.study.tables import networks_of, read_tables
from VFMTransferLib.study.workspace import Workspace

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


def a_study_of_images() -> dict:
    return a_small_study() | {"tasks": {IMAGES: {"profound": {"steps": 2}}}, "measurements": 1}


def done_here(folder: Path, document: dict, only: dict, **options) -> Path:
    """The folder of a study that this process has run."""
    sweep = prepared_sweep(folder / "study", write_config(folder, document), only=only, **options)
    for run in sweep.runs:
        run_one(run, sweep.config, sweep.workspace, networks=sweep.networks)
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
    command = [sys.executable, "-m", "VFMTransferLib", "study", "--resume", "--workers", str(workers)]
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
    runs = [path.parent.name for path in (folder / "work" / "cells").glob("*/checkpoint.pt")]
    return any(not (folder / "work" / "results" / f"{run}.json").is_file() for run in runs)


def results(folder: Path) -> int:
    return len(list((folder / "work" / "results").glob("*.json")))


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


def test_a_study_that_runs_is_left_to_its_command_until_that_ends(undisturbed, begun, tmp_path, capsys):
    driver = start(begun, workers=1)
    wait_for(lambda: is_training(begun), driver)
    part = begun / "work" / "cells" / f".part-{_machine()}-{driver.pid}-01234567-result.json"  # as the driver's own
    part.write_bytes(b"half")
    before = (begun / "config.yaml").read_bytes()
    other = write_config(tmp_path, a_small_study() | {"measurements": 3})
    assert main(["study", "--resume", "--config", str(other), "-o", str(begun)]) == 1
    assert f"The study is already run by process {driver.pid}" in capsys.readouterr().err
    assert part.exists()
    assert (begun / "config.yaml").read_bytes() == before

    workers = workers_of(driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(PATIENCE_S) == TERMINATED
    assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []
    assert not (begun / "work" / "running.json").exists()
    assert set(timeless(begun).runs) <= set(timeless(undisturbed).runs)
    with open_sweep(begun, resume=True) as sweep:
        assert not part.exists()
        assert sweep.pending()


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("VFMTransferLib.core.cluster._ANSWER_S", 1)
    config, message = write_config(tmp_path, a_small_study()), r"The scheduler at tcp://127\.0\.0\.1:9 must answer"
    with pytest.raises(ClusterError, match=message), open_sweep(tmp_path / "study", config) as sweep:
        run_sweep(sweep, scheduler="tcp://127.0.0.1:9")
    assert not (sweep.workspace.work / "running.json").exists()


@pytest.mark.parametrize("content", ["null", "[]", "7", "{", "[" * 100_000, '{"process": null}'])
def test_a_mark_of_a_running_study_that_cannot_be_is_none(tmp_path, content):
    workspace = Workspace(tmp_path)
    with workspace.locked() as token:
        assert workspace.is_running(token)
        (tmp_path / "work" / "running.json").write_text(content)
        assert not workspace.is_running(token)
        with pytest.raises(OutputError, match="The study is already run by process"), workspace.locked():
            pytest.fail("Two processes run one study.")


@pytest.fixture(scope="module")
def of_images(tmp_path_factory) -> Path:
    """A study whose networks differ in what they give, run by this process."""
    return done_here(tmp_path_factory.mktemp("images"), a_study_of_images(), FIRST_SEED)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_test_cases_give_the_same_tables_by_the_networks_of_a_study(of_images, tmp_path):
    before = files_of(of_images)
    again = done_here(tmp_path, a_study_of_images(), FIRST_SEED, networks=of_images)
    found, wanted = read_tables(again), read_tables(of_images)
    assert found == wanted
    assert {run.arm for run in found.runs} == {"trivial", "scratch", "pretrained"}
    assert found.distances
    assert files_of(of_images) == before
    assert not (again / "work" / "cells").exists()
    assert not (again / "work" / "pretrained").exists()


def test_the_networks_of_a_study_are_measured_on_further_phantoms(of_images, tmp_path, capsys):
    document = a_study_of_images()
    document["phantoms"]["test"] = {"first_seed": 3000, "count": 4}
    config = write_config(tmp_path, document)
    words = ["--networks", str(of_images), "--only", "seed=0", "--only", "arm=scratch,pretrained", "--workers", "1"]
    assert main(["study", "--config", str(config), *words, "-o", str(tmp_path / "further")]) == 0
    assert "The networks are those that 'study' trained." in capsys.readouterr().out
    found, trained = read_tables(tmp_path / "further"), read_tables(of_images)
    assert {row.case for row in found.metrics} == {f"phantom-{seed}" for seed in range(3000, 3004)}
    assert {row.n_test_cases for row in found.runs} == {4}
    arms = [run for run in trained.runs if run.arm != "trivial"]
    assert [(run.arm, run.seed, run.steps, run.device_seconds) for run in found.runs] == [
        (run.arm, run.seed, run.steps, run.device_seconds) for run in arms
    ]
    assert [run.value for run in found.runs] != [run.value for run in arms]
    assert found.curves == trained.curves
    # Only what tests was made.
    phantoms = (tmp_path / "further" / "work" / "phantoms").iterdir()
    assert {path.name.split("-")[1] for path in phantoms} == {f"00{seed}" for seed in range(3000, 3004)}


def test_measured_networks_stay_known_by_name(of_images, tmp_path, capsys):
    document = a_study_of_images()
    document["phantoms"]["test"] = {"first_seed": 3000, "count": 4}
    config, further = write_config(tmp_path, document), tmp_path / "further"
    renamed = shutil.copytree(of_images, tmp_path / "<renamed>")

    def run(*words):
        only = ["--only", "seed=0", "--only", "arm=scratch,pretrained"]
        found = main(["study", *only, "--workers", "1", *map(str, words)])
        return found, capsys.readouterr().err

    assert run("--config", config, "--networks", renamed, "-o", further)[0] == 0
    before = files_of(further)
    text = write_study_report(further, tmp_path / "page")[1].read_text()
    assert "These networks were trained by another study, &lt;renamed&gt;</b>" in text
    assert "<li>Not measured: ProFound (pretrained, seed 1 and 2; from scratch, seed 1 and 2) on" in text
    code, error = run("--resume", "-o", further)
    assert code == 1
    assert "'further' must be continued with the networks that it measures, those of the study '<renamed>'," in error
    assert "but there is no --networks." in error
    code, error = run("--resume", "--networks", of_images, "-o", further)
    assert code == 1
    assert "those of the study '<renamed>', but --networks names 'study'." in error
    assert files_of(further) == before
    assert run("--resume", "--networks", renamed, "-o", further)[0] == 0
    tables = ("runs.csv", "metrics.csv", "curves.csv", "distances.csv", "split.json")
    assert {name: files_of(further)[name] for name in tables} == {name: before[name] for name in tables}

    before = files_of(renamed)
    code, error = run("--resume", "--networks", of_images, "-o", renamed)
    assert code == 1
    assert "'<renamed>' must be continued without --networks, since it trains its networks itself," in error
    assert files_of(renamed) == before
    assert "trained by another study" not in write_study_report(renamed, tmp_path / "page")[1].read_text()


@pytest.mark.parametrize("content", ["", "null", "[]", '{"networks": 7}', '{"networks": NaN}', "[" * 100_000, "\udcff"])
def test_a_damaged_list_of_cases_is_an_error(tmp_path, content):
    (tmp_path / "split.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        DatasetError, match=r"^split\.json must be that of a study, but cannot be read\. Restore it, or"
    ):
        networks_of(tmp_path)


def test_networks_that_are_not_those_of_the_configuration_are_refused(of_images, tmp_path, capsys):
    study = tmp_path / "trained"
    shutil.copytree(of_images, study)
    before = files_of(study)
    document = a_study_of_images()
    document["tasks"][IMAGES]["profound"]["steps"] = 3
    other = write_config(tmp_path, document)
    same = study / "config.yaml"

    def refused(config, networks, seeds="0", folder="out"):
        words = ["--config", str(config), "--networks", str(networks), "--only", f"seed={seeds}"]
        assert main(["study", *words, "-o", str(tmp_path / folder)]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    title = f"'{IMAGES}, profound, scratch, seed 0'"
    assert f"The training of {title} must be configured as in 'trained', but for test" in refused(other, study)
    document = a_study_of_images()
    document["tasks"]["super-resolution"] = document["tasks"][IMAGES]
    more = write_config(tmp_path, document)
    assert "super-resolution, profound, scratch, seed 0' must be configured as in" in refused(more, study)
    assert "must hold the finished training of" in refused(same, study, "0,2")
    assert "must come from another study's folder" in refused(same, study, folder="trained")
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("config.yaml", "runs.csv"):
        shutil.copyfile(study / name, tables / name)
    assert "must come from another study's folder with its work folder, but 'tables'" in refused(same, tables)
    assert files_of(tables).keys() == {"config.yaml", "runs.csv"}
    assert files_of(study) == before
    (study / "work" / "cells" / f"{IMAGES}.profound.scratch.0" / "checkpoint.pt").unlink()
    assert f"must hold the finished training of {title}" in refused(same, study)
