"""Files and folders that appear whole: what others may do with them."""

import os
import stat
import subprocess
import sys

import pytest

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.files import atomic_file, atomic_folder, locked


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
