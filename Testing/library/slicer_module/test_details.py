"""What a report of a fault says, and what it must not."""

from pathlib import Path

import pytest
from slicer_scenes import a_scene, add_volume, an_oblique_t2w

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.runs import RunInScene
from VFMTransferSlicer.setup.machine_report import detailsOf, withoutNames


@pytest.fixture
def run() -> RunInScene:
    t2w = add_volume(a_scene(), an_oblique_t2w(), "Doe, John (1950)")
    return RunInScene("anatomy-segmentation", {Sequence.T2W: t2w}, t2w)


def test_facts_come_first_then_the_log_then_the_error():
    text = detailsOf({"Slicer": "5.12", "Device": "cpu"}, None, ["one", "two"], "Traceback")
    assert text.splitlines() == ["Slicer: 5.12", "Device: cpu", "", "Log:", "one", "two", "", "Details:", "Traceback"]


def test_a_volumes_name_is_told_by_its_role(run):
    text = detailsOf({}, run, ["Volume 'Doe, John (1950)' must hold voxels, but is empty."], "")
    assert "Volume '<t2w>' must hold voxels" in text
    assert "Doe" not in text


def test_a_name_within_a_word_is_none(run):
    run.inputs[Sequence.T2W].SetName("A")
    assert "Anatomy, volume <t2w>" in detailsOf({}, run, ["Anatomy, volume A"], "")


def test_folders_of_the_user_and_of_the_job_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jdoe"))
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")
    said = "/home/jdoe/study/t2w.nii.gz /var/tmp/VFMTransfer-ab12cd_9/t2w.npy"
    assert withoutNames(said) == "~/study/t2w.nii.gz <temporary>/<job>/t2w.npy"


@pytest.fixture
def on_windows(monkeypatch):
    """The folders of a user there."""
    monkeypatch.setattr(Path, "home", lambda: Path(r"C:\Users\Meier"))
    monkeypatch.setattr("tempfile.tempdir", r"C:\Users\Meier\AppData\Local\Temp")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (r"C:\Users\Meier\study\t2w.nii.gz", r"~\study\t2w.nii.gz"),
        ("C:/Users/Meier/study/t2w.nii.gz", "~/study/t2w.nii.gz"),
        (r"c:\users\MEIER\study\t2w.nii.gz", r"~\study\t2w.nii.gz"),
        (repr(r"C:\Users\Meier\study\t2w.nii.gz"), r"'~\\study\\t2w.nii.gz'"),
        (
            str(OSError(2, "No such file", r"C:\Users\Meier\AppData\Local\Temp\VFMTransfer-ab12cd_9\t2w.npy")),
            r"[Errno 2] No such file: '<temporary>\\<job>\\t2w.npy'",
        ),
        ("C:/Users/Meier/AppData/Local/Temp/VFMTransfer-ab12cd_9", "<temporary>/<job>"),
    ],
)
def test_folders_are_left_out_in_each_spelling_that_windows_takes(on_windows, said, shown):
    assert withoutNames(said) == shown


def test_case_tells_folders_apart_where_it_is_no_windows(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jdoe"))
    assert withoutNames("/home/jdoe/a /home/JDoe/a") == "~/a /home/JDoe/a"
