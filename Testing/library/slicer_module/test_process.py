"""Child processes of the library, by a stand-in for `qt.QProcess` that starts real ones."""

import sys

import pytest
from child_processes import is_alive
from qt_stand_ins import AnEventLoop
from slicer_scenes import slicer  # noqa: F401  (skips where there is no MRML)

from VFMTransferLib.core import __version__
from VFMTransferSlicer.workers.process import NOT_STARTED, LibraryProcess


@pytest.fixture
def loop() -> AnEventLoop:
    return AnEventLoop()


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def ends() -> list[tuple]:
    return []


@pytest.fixture
def run(loop, heard, ends, tmp_path):
    """Starts `python -m a_program` with a source, or a command of the library."""

    def start(source: str | None, *arguments: str, python: str = sys.executable) -> LibraryProcess:
        module = {} if source is None else {"module": "a_program"}
        (tmp_path / "a_program.py").write_text(source or "", "utf-8")

        def make_process(program: str, additions: dict[str, str]):
            return loop.make_process(program, {**additions, "PYTHONPATH": str(tmp_path)})

        process = LibraryProcess(
            arguments, heard.append, lambda *end: ends.append(end), make_process, python=python, **module
        )
        process.start()
        return process

    return start


def test_a_command_of_the_library_runs_from_any_folder(run, loop, ends, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = run(None, "--version")
    loop.turn_until(lambda: ends)
    assert (ends[0][0], ends[0][1].split()[-1], process.isRunning) == (0, __version__, False)


def test_a_program_that_cannot_be_started_ends_too(run, loop, ends):
    run("", python="no-such-python")
    loop.turn_until(lambda: ends)
    assert ends == [(NOT_STARTED, "", [])]


@pytest.mark.skipif(sys.platform == "win32", reason="processes are looked for by Unix's means")
def test_cancel_ends_also_what_a_launcher_started(run, loop, heard, ends):
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    process = run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{child}'''])")
    loop.turn_until(lambda: heard)
    process.cancel()
    loop.turn_until(lambda: ends)
    assert ends
    loop.turn_until(lambda: not is_alive(int(heard[0])), within_s=5)
