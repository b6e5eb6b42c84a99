"""What a report of a fault says, and what it must not."""

from pathlib import Path

import numpy as np
import pytest
from slicer_runs import add_segmentation
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w

from VFMTransferSlicer.setup.machine_report import namesIn, withoutNames


@pytest.fixture
def t2w():
    return add_volume(a_scene(), an_oblique_t2w(), "Doe, John (1950)")


def test_a_volumes_name_is_told_by_its_role(t2w):
    line = "Volume 'Doe, John (1950)' must hold voxels, but is empty."
    assert withoutNames(line, namesIn({"t2w": t2w})) == "Volume '<t2w>' must hold voxels, but is empty."


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


def test_folders_of_the_user_and_of_the_job_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jdoe"))
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")
    said = "/home/jdoe/study/t2w.nii.gz /var/tmp/VFMTransfer-ab12cd_9/t2w.npy"
    assert withoutNames(said) == "~/study/t2w.nii.gz <temporary>/<job>/t2w.npy"
