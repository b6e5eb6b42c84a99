"""What a report of a fault says, and what it must not."""

from pathlib import Path

import numpy as np
import pytest
from slicer_runs import add_segmentation
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w

from VFMTransferSlicer.setup.machine_report import detailsOf, namesIn, withoutNames


@pytest.fixture
def t2w():
    return add_volume(a_scene(), an_oblique_t2w(), "Doe, John (1950)")


def test_facts_come_first_then_the_log_then_the_error():
    text = detailsOf({"Slicer": "5.12", "Device": "cpu"}, ["one", "two"], "Traceback")
    assert text.splitlines() == ["Slicer: 5.12", "Device: cpu", "", "Log:", "one", "two", "", "Details:", "Traceback"]


def test_a_volumes_name_is_told_by_its_role(t2w):
    line = "Volume 'Doe, John (1950)' must hold voxels, but is empty."
    assert withoutNames(line, namesIn({"t2w": t2w})) == "Volume '<t2w>' must hold voxels, but is empty."


def test_a_name_within_a_word_is_none(t2w):
    t2w.SetName("A")
    assert withoutNames("Anatomy, volume A", namesIn({"t2w": t2w})) == "Anatomy, volume <t2w>"


def test_segments_and_all_transforms_above_a_node_have_names_too(t2w):
    scene = t2w.GetScene()
    nothing = np.zeros(an_oblique_t2w().geometry.shape, np.uint8)
    gland = add_segmentation(scene, t2w, nothing, ("Doe's prostate",), "Doe's gland")
    lower, upper = add_transform(scene), add_transform(scene)
    lower.SetName("Doe, moved")
    upper.SetName("Doe, turned")
    gland.SetAndObserveTransformNodeID(lower.GetID())
    lower.SetAndObserveTransformNodeID(upper.GetID())
    assert namesIn({"t2w": t2w, "gland": gland}) == {
        "Doe's prostate": "<segment>",
        "Doe, moved": "<transform>",
        "Doe, turned": "<transform>",
        "Doe, John (1950)": "<t2w>",
        "Doe's gland": "<gland>",
    }


def test_a_node_without_a_name_takes_none_away(t2w):
    t2w.SetName("")
    assert withoutNames("one two", namesIn({"t2w": t2w})) == "one two"
    t2w.SetName(" ")
    assert withoutNames("one - two", namesIn({"t2w": t2w})) == "one - two"


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
