"""Phantoms come into Slicer's real scenes, made by a real child process of the library."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from qt_stand_ins import AnEventLoop
from slicer_scenes import a_scene, slicer, voxels_of

from VFMTransferLib.core.errors import JobError
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.io import read_mask, read_volume
from VFMTransferLib.phantom import make_phantoms
from VFMTransferSlicer.inputs.exporting import gridInWorld
from VFMTransferSlicer.inputs.samples import (
    SAMPLE_SEED,
    THUMBNAIL,
    PhantomMaker,
    findPhantom,
    isPhantomTruth,
    loadPhantom,
    registerSampleData,
    seedsIn,
)


@pytest.fixture(scope="module")
def a_written_phantom(tmp_path_factory) -> Path:
    options = {"t2w_spacing_mm": (1.5, 1.5, 4.0), "full_resolution": False}
    return make_phantoms(1, SAMPLE_SEED, tmp_path_factory.mktemp("phantoms"), **options)[0]


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def maker(loop):
    maker = PhantomMaker(loop.post, loop.make_process)
    maker.heard = []
    maker.loaded.connect(lambda phantom: maker.heard.append(phantom))
    maker.failed.connect(lambda sentence, details: maker.heard.append((sentence, details)))
    return maker


def load(folder, scene, seed=SAMPLE_SEED):
    for _ in loadPhantom(folder, seed, scene):
        pass
    return findPhantom(scene, seed)


def test_volumes_lie_where_the_files_say_and_are_called_synthetic(scene, a_written_phantom):
    phantom = load(a_written_phantom, scene)
    names = [node.GetName() for node in phantom.volumes.values()]
    assert names == [f"Phantom 7 {word} (synthetic)" for word in ("T2w", "high-b DWI", "ADC")]
    for sequence, node in phantom.volumes.items():
        volume = read_volume(a_written_phantom / f"{sequence}.nii.gz", str(sequence))
        grid = gridInWorld(node)
        assert grid.origin_mm == pytest.approx(volume.geometry.origin_mm, abs=1e-3)
        assert grid.direction == pytest.approx(volume.geometry.direction, abs=1e-4)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), volume.array)
        assert node.GetDisplayNode().GetWindow() > 0


def test_the_truth_is_coded_segments_on_the_grid_of_the_t2w(scene, a_written_phantom):
    phantom = load(a_written_phantom, scene)
    t2w = phantom.volumes[Sequence.T2W]
    zones = read_mask(a_written_phantom / "zones.nii.gz", "zones").array
    expected = {
        Label.PROSTATE: read_mask(a_written_phantom / "gland.nii.gz", "gland").array > 0,
        Label.PERIPHERAL_ZONE: zones == 1,
        Label.TRANSITION_ZONE: zones == 2,
        Label.CSPCA: read_mask(a_written_phantom / "lesion.nii.gz", "lesion").array >= 2,
    }
    assert list(phantom.truth.GetSegmentation().GetSegmentIDs()) == [str(label) for label in expected]
    for label, mask in expected.items():
        assert mask.any()
        np.testing.assert_array_equal(voxels_of(phantom.truth, str(label), t2w), mask)
    assert phantom.truth.GetName() == "Phantom 7 truth (synthetic)"
    assert isPhantomTruth(phantom.truth)


def test_the_sample_is_made_by_a_child_loaded_and_not_made_twice(scene, loop, maker, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    maker.make(SAMPLE_SEED, scene)
    assert maker.isBusy
    with pytest.raises(JobError, match="being made"):
        maker.make(SAMPLE_SEED + 1, scene)
    loop.turn_until(lambda: maker.heard, within_s=300)
    phantom = maker.heard.pop()
    assert slicer.util.arrayFromVolume(phantom.volumes[Sequence.T2W]).shape[1:] == (320, 320)
    assert seedsIn(scene) == {SAMPLE_SEED}
    assert not maker.isBusy
    assert list(tmp_path.iterdir()) == []
    nodes = scene.GetNumberOfNodes()
    maker.make(SAMPLE_SEED, scene)
    assert maker.heard == [phantom]
    assert scene.GetNumberOfNodes() == nodes


def test_what_the_child_says_of_a_failure_is_shown(scene, loop, maker):
    maker.make(-1, scene)  # the library wants 0 or more
    loop.turn_until(lambda: maker.heard, within_s=300)
    sentence, details = maker.heard.pop()
    assert "--seed" in sentence
    assert "usage" in details


def test_cancel_leaves_nothing_and_tells_nobody(scene, loop, maker, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    maker.make(SAMPLE_SEED, scene)
    maker.cancel()
    assert not maker.isBusy
    for _ in range(20):
        loop.processEvents(0.02)
    assert maker.heard == []
    assert list(tmp_path.iterdir()) == []
    assert seedsIn(scene) == set()


def test_the_sample_is_registered_with_a_thumbnail_that_is_shipped(monkeypatch):
    registered = {}
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = types.SimpleNamespace(registerCustomSampleDataSource=registered.update)
    module.SampleDataSource = object
    words = types.ModuleType("slicer.i18n")
    words.tr = str
    for name, stand_in in {"SampleData": module, "slicer.i18n": words, "qt": types.ModuleType("qt")}.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    registerSampleData()
    assert registered["sampleName"] == "Phantom 7 (synthetic)"
    assert registered["thumbnailFileName"] == str(THUMBNAIL)
    assert THUMBNAIL.read_bytes().startswith(b"\x89PNG")
    assert callable(registered["customDownloader"])
