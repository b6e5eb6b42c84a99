"""The warm worker as Slicer drives it: real processes behind a stand-in for `qt.QProcess`, really killed."""

import os
import re
import sys

import pytest
from child_processes import is_alive
from images import a_t2w
from qt_stand_ins import AnEventLoop, a_qt_worker
from slicer_scenes import slicer  # noqa: F401  (skips where there is no MRML)

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.io import write_volume
from VFMTransferLib.worker.messages import ArmResult, Error, Finished, ImageFile, Progress, Run

NETWORK = "profound-prostate-demo-pretrained"
unix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
# A script for this Python, whose path may hold a space: sh hands it on, and Python reads that line as a text.
BY_THIS_PYTHON = f"""#!/bin/sh
''''exec "{sys.executable}" "$0" "$@" # '''
"""
# What Slicer's launcher does: it runs another program, hands on its exit code, and hides its signal.
A_LAUNCHER = f"""{BY_THIS_PYTHON}
import subprocess, sys
code = subprocess.run([sys.executable, *sys.argv[1:]]).returncode
if code < 0:
    print("error: [python-real] exit abnormally - Report the problem.", file=sys.stderr)
sys.exit(1 if code < 0 else code)
"""


@pytest.fixture(scope="module")
def loop() -> AnEventLoop:
    return AnEventLoop()


@pytest.fixture(scope="module")
def worker(loop):
    worker = a_qt_worker(loop, sys.executable)
    yield worker
    worker.close()


@pytest.fixture
def mortal(loop, tmp_path):
    """A worker of its own, behind a launcher."""
    launcher = tmp_path / "a launcher"
    launcher.write_text(A_LAUNCHER, "utf-8")
    launcher.chmod(0o755)
    worker = a_qt_worker(loop, str(launcher))
    yield worker
    worker.close()


@pytest.fixture
def heard() -> list:
    return []


@pytest.fixture
def a_run(tmp_path) -> Run:
    write_volume(a_t2w(), tmp_path / "t2w.nrrd")
    images = {Sequence.T2W: ImageFile("t2w.nrrd")}
    return Run("a job", "anatomy-segmentation", str(tmp_path), images, (NETWORK,))


def outcome(heard: list) -> str:
    return heard[-1].outcome if heard and isinstance(heard[-1], Finished) else ""


def errors(heard: list) -> list[str]:
    return [reply.sentence for reply in heard if isinstance(reply, Error)]


def test_a_job_begins_at_once_and_its_results_come_while_the_loop_turns(worker, loop, a_run, heard):
    worker.submit(a_run, heard.append)
    assert (worker.is_busy, outcome(heard)) == (True, "")
    loop.turn_until(lambda: outcome(heard))
    assert outcome(heard) == "done"
    assert [reply.networks_loaded for reply in heard if isinstance(reply, ArmResult)] == [1]
    assert any(isinstance(reply, Progress) for reply in heard)


def test_the_next_job_finds_the_worker_warm_and_may_be_waited_for(worker, a_run, heard):
    former = worker.ready.process_id
    worker.submit(a_run, heard.append)
    worker.wait(lambda: outcome(heard))
    assert worker.ready.process_id == former
    assert [reply.networks_loaded for reply in heard if isinstance(reply, ArmResult)] == [0]


def test_a_job_is_canceled_by_a_word_and_the_worker_lives_on(worker, loop, a_run, heard):
    worker.submit(a_run, heard.append)
    loop.turn_until(lambda: heard)
    worker.cancel(a_run.job)
    loop.turn_until(lambda: outcome(heard))
    assert (outcome(heard), errors(heard)) == ("canceled", [])


@unix_only
@pytest.mark.parametrize(("number", "says"), [(9, "killed: most likely out of memory"), (11, r"crashed \(SIGSEGV\)")])
def test_a_worker_that_dies_behind_its_launcher_is_one_sentence(mortal, loop, a_run, heard, number, says):
    mortal.submit(a_run, heard.append)
    loop.turn_until(lambda: heard)
    os.kill(mortal.ready.process_id, number)
    loop.turn_until(lambda: outcome(heard))
    assert outcome(heard) == "failed"
    (sentence,) = errors(heard)
    assert re.search(says, sentence)


def test_closing_ends_the_process_and_nobody_hears_of_the_job(loop, a_run, heard):
    worker = a_qt_worker(loop, sys.executable)
    worker.submit(a_run, heard.append)
    loop.turn_until(lambda: heard)
    process = worker.ready.process_id
    worker.close()
    told = len(heard)
    loop.turn_until(lambda: not is_alive(process), within_s=5)
    assert len(heard) == told
    assert not worker.is_busy
