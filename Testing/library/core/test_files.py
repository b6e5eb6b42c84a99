"""Files and folders that appear whole: what others may do with them."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.files import (
    atomic_file,
    atomic_folder,
    locked,
    remove_leftovers,
    spreadsheet_cell,
    spreadsheet_row,
    text_of_cell,
)


def test_a_failure_takes_the_parents_away_that_it_made(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "old" / "new" / "deep" / "out"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with (
        pytest.raises(OutputError, match="'file' must be a folder to hold 'out'"),
        atomic_folder(tmp_path / "file" / "out"),
    ):
        pytest.fail("The block ran.")


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions.")
def test_a_folder_and_its_files_get_ordinary_permissions(tmp_path):
    with atomic_folder(tmp_path / "out") as work:
        (work / "sub").mkdir()
        (work / "sub" / "private.bin").write_bytes(b"x")
        (work / "sub" / "private.bin").chmod(0o600)
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    (ordinary / "file").write_bytes(b"x")
    for ours, usual in ((tmp_path / "out", ordinary), (tmp_path / "out" / "sub" / "private.bin", ordinary / "file")):
        assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions.")
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_permissions_follow_the_umask_which_is_never_changed(tmp_path, mask, monkeypatch):
    before = os.umask(mask)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("Other threads would write with another umask."))
        with atomic_folder(tmp_path / "out") as work:
            (work / "file").write_bytes(b"x")
        with atomic_file(tmp_path / "file") as part:
            part.chmod(0o600)
    finally:
        monkeypatch.undo()
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "out/file", "file")]
    assert modes == [0o777 & ~mask, 0o666 & ~mask, 0o666 & ~mask]


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions.")
def test_a_folder_that_is_replaced_keeps_its_permissions(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private").chmod(0o2750)
    with atomic_folder(tmp_path / "private", overwrite=True) as work:
        assert stat.S_IMODE(work.stat().st_mode) == 0o2750  # while it is written too
        (work / "file").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o2750
    assert stat.S_IMODE((tmp_path / "private" / "file").stat().st_mode) == 0o640


def test_a_disk_that_is_mounted_at_the_folder_is_known_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    with (
        pytest.raises(OutputError, match=r"a disk is mounted there.* Name a folder inside it\."),
        atomic_folder(tmp_path / "out"),
    ):
        pytest.fail("The block ran.")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def write_with_failing_rename(folder, monkeypatch, failing, failure):
    (folder / "out").mkdir()
    (folder / "out" / "earlier").write_text("x")
    real, calls = Path.rename, []

    def rename(self, target):
        calls.append(target)
        if len(calls) == failing:
            raise failure
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with atomic_folder(folder / "out", overwrite=True) as work:
        (work / "result").write_text("hours of work")


@pytest.mark.parametrize("failing", [1, 2])
def test_an_interrupted_exchange_of_folders_leaves_the_earlier_one_alone(tmp_path, monkeypatch, failing):
    with pytest.raises(KeyboardInterrupt):
        write_with_failing_rename(tmp_path, monkeypatch, failing, KeyboardInterrupt())
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["out", "out/earlier"]


@pytest.mark.parametrize("failing", [1, 2])
def test_beside_a_folder_that_cannot_be_replaced_lies_what_was_written(tmp_path, monkeypatch, failing):
    with pytest.raises(OutputError, match=r"a program uses it.*What was written is kept in 'out-1'\."):
        write_with_failing_rename(tmp_path, monkeypatch, failing, OSError(errno.EBUSY, "busy"))
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"out/earlier", "out-1/result"}


@pytest.mark.parametrize("name", ["out", "out/notes"])
def test_what_came_to_the_place_during_the_block_stays_and_what_was_written_lies_beside_it(tmp_path, name):
    def write() -> None:
        with atomic_folder(tmp_path / "out") as work:
            (work / "result").write_text("hours of work")
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("others")

    (tmp_path / "out-1").mkdir()
    with pytest.raises(OutputError, match=r"'out' must not exist yet, but does\..* is kept in 'out-2'\."):
        write()
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {name: "others", "out-2/result": "hours of work"}


def test_a_folder_that_cannot_be_replaced_is_known_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "out")  # for whom root may write all
    with pytest.raises(OutputError, match="'out' could not be written: permission denied"):  # noqa: SIM117
        with atomic_folder(tmp_path / "out"):
            pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("is_replaced", [True, False])
def test_of_two_that_write_one_folder_at_once_each_keeps_its_own(tmp_path, is_replaced):
    def check(folder: Path) -> None:  # each takes what the other writes for something that it may replace
        assert folder.is_dir() or not folder.exists()

    def write_both() -> None:
        with atomic_folder(tmp_path / "out", overwrite=True, check=check) as slow:
            (slow / "result").write_text("slow")
            with atomic_folder(tmp_path / "out", overwrite=True, check=check) as fast:
                (fast / "result").write_text("fast")

    if is_replaced:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "earlier").write_text("replaced by both")
    with pytest.raises(OutputError, match=r"What was written is kept in 'out-1'\."):
        write_both()
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"out/result": "fast", "out-1/result": "slow"}


def test_what_comes_while_the_folders_are_exchanged_stays_too(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "earlier").write_text("x")
    real = Path.rename

    def rename(self, target):
        real(self, target)
        if target.name == "out" and target.parent != tmp_path:  # set aside
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "other").write_text("x")

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(OutputError, match="'out' must not exist yet, but does"),
        atomic_folder(tmp_path / "out", overwrite=True) as work,
    ):
        (work / "new").write_text("x")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"out/other", "out-1/earlier", "out-2/new"}


@pytest.mark.parametrize("name", [".", "..", "here"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, name):
    (tmp_path / "out" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "out" / "here")
    given = Path(name) if name != "here" else tmp_path / "out" / "here"
    with (
        pytest.raises(OutputError, match=r"is the current folder, or holds it\. Name a folder inside it\."),
        atomic_folder(given, overwrite=True),
    ):
        pytest.fail("The block ran.")
    with atomic_folder(Path("inside")) as work:
        (work / "new").write_text("x")
    assert Path("inside/new").is_file()


def test_a_name_that_is_too_long_is_to_be_shortened(tmp_path):
    with pytest.raises(OutputError, match="must have a shorter name"), atomic_folder(tmp_path / ("x" * 250)):
        pytest.fail("The block ran.")


def test_a_file_takes_its_place_whole_by_a_rename(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")
    with atomic_file(target) as part:
        part.write_text("new", encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "old"
        written = part.stat().st_ino
    assert target.stat().st_ino == written  # the very file, not a copy that a crash could cut short
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")

    def write_half() -> None:
        with atomic_file(target) as part:
            part.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_lock_is_held_by_one_and_ends_with_a_killed_process(tmp_path):
    path = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from VFMTransferLib.core.files import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(BlockingIOError), locked(path):
        pass
    other.kill()
    other.wait(60)
    with locked(path), pytest.raises(BlockingIOError), locked(path):
        pass
    with locked(path):  # it was given back
        pass


STARTED = """
import os, sys, signal
from pathlib import Path
from VFMTransferLib.core.files import atomic_file, atomic_folder
folder = Path(sys.argv[1])
"""
KILLED = """
with atomic_folder(folder / "out", overwrite=True) as work, atomic_file(folder / "numbers.csv") as part:
    (work / "half").write_text("x")
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal.")
def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path):
    subprocess.run([sys.executable, "-c", STARTED + KILLED, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".part-notes").write_text("a user's own")
    with atomic_folder(tmp_path / "out") as work:
        (work / "whole").write_text("x")
    with atomic_file(tmp_path / "numbers.csv") as part:
        part.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-notes", "numbers.csv", "out"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal.")
def test_a_folder_that_was_written_by_way_of_another_one_goes_with_the_next_writing(tmp_path):
    nested = "with atomic_folder(folder / 'out') as work, atomic_folder(work): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", STARTED + nested, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_folder(tmp_path / "out") as work:
        (work / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_living_process_writes_stays(tmp_path):
    with atomic_folder(tmp_path / "out") as work, atomic_file(tmp_path / "numbers.csv") as part:
        remove_leftovers(tmp_path)
        with atomic_file(tmp_path / "numbers.csv") as other:
            other.write_text("first")
        assert work.is_dir()
        part.write_text("second")
    assert (tmp_path / "numbers.csv").read_text() == "second"


def test_a_folder_that_was_set_aside_by_a_killed_process_goes_back(tmp_path):
    with atomic_folder(tmp_path / "out") as work:
        (work / "earlier").write_text("x")
        machine = work.name.split(".")[2].split("-")[0]
    aside = tmp_path / f".out.{machine}-999999999-0123abcd.old"
    aside.mkdir()
    (tmp_path / "out").rename(aside / "out")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "earlier").exists()


def test_leftovers_of_another_machine_go_after_a_day(tmp_path):
    part = tmp_path / ".part-00000000-1-0123abcd-numbers.csv"
    part.write_text("half")
    remove_leftovers(tmp_path)
    assert part.exists()
    os.utime(part, (0, 0))
    remove_leftovers(tmp_path)
    assert not part.exists()


def test_hidden_files_of_a_user_stay_however_like_leftovers_they_are_named(tmp_path):
    names = [".config.yaml.old", ".env.local.old", ".notes.txt.part", ".part-1-notes.txt", ".part-notes"]
    for name in names:
        (tmp_path / name).write_text("a user's own")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".runs.baseline.old").mkdir()
    os.utime(tmp_path / ".runs.baseline.old", (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, ".runs.baseline.old"])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "plain", "'quoted'", ""])
def test_text_that_a_spreadsheet_would_run_is_a_text_in_a_cell_and_comes_back(text):
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert text_of_cell(cell) == text
    assert spreadsheet_cell(-1.5) == -1.5
    assert spreadsheet_row({"text": text, "number": -1.5}) == {"text": cell, "number": -1.5}


@pytest.mark.parametrize(
    ("text", "is_number"), [("-1.5", True), ("-1,5e-07", True), ("-1+2", False), ("-1.5.2", False)]
)
def test_a_negative_number_that_was_read_is_no_formula(text, is_number):
    assert spreadsheet_cell(text) == (text if is_number else f"'{text}")
    assert text_of_cell(spreadsheet_cell(text)) == text


def test_every_writer_of_spreadsheets_escapes_its_rows():
    root = Path(__file__).resolve().parents[3]
    files = [path for top in ("VFMTransfer", "VFMTransferLib") for path in (root / top).rglob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in files]
    writers = [source for source in sources if "csv.DictWriter(" in source]
    assert writers
    assert all(source.count("spreadsheet_row") >= 2 for source in writers)  # imported, and used
    assert not [source for source in sources if "csv.writer(" in source]
