"""The phantoms of a study: made once, and the same again from disk."""

from __future__ import annotations

import numpy as np
import pytest

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.phantom.store import PhantomStore, read_phantom, store_phantom
from VFMTransferLib.tasks import TASKS

SPACING_MM = (3.0, 3.0, 4.0)


def voxels(phantom):
    return {**{str(s): v for s, v in phantom.case.volumes.items()}, **phantom.truths}


@pytest.mark.parametrize("options", [{"full_resolution": True, "phase_axis": 0}, {"sequences": ["t2w"]}])
def test_a_phantom_comes_back_as_it_was_made(tmp_path, options):
    made = make_phantom(3, t2w_spacing_mm=SPACING_MM, lesions=2, **options)
    store_phantom(made, tmp_path / "one.npz")
    read = read_phantom(tmp_path / "one.npz")
    assert (read.case.id, read.seed, read.lesions, read.pirads) == (made.case.id, 3, made.lesions, made.pirads)
    assert voxels(read).keys() == voxels(made).keys()
    for name, volume in voxels(made).items():
        again = voxels(read)[name]
        assert again.geometry == volume.geometry
        assert again.name == volume.name
        assert again.array.dtype == volume.array.dtype
        assert np.array_equal(again.array, volume.array)


def test_one_phantom_serves_every_task_and_is_made_once(tmp_path, monkeypatch):
    from VFMTransferLib.phantom import store as phantom_store

    made = []
    plain = phantom_store.make_phantom
    monkeypatch.setattr(phantom_store, "make_phantom", lambda seed, **how: made.append(seed) or plain(seed, **how))
    store = PhantomStore(tmp_path / "phantoms", SPACING_MM)
    for task in TASKS:
        (phantom,) = store.phantoms([5])
        assert TASKS[task].from_phantom(phantom).case.id == "phantom-0005"
    assert made == [5]
    PhantomStore(tmp_path / "phantoms", SPACING_MM, for_tasks=False, full_resolution=False).phantoms([5])
    assert made == [5, 5]
    assert len(list((tmp_path / "phantoms").iterdir())) == 2


def test_a_damaged_phantom_is_named(tmp_path):
    (tmp_path / "one.npz").write_bytes(b"PK broken")
    with pytest.raises(DatasetError, match=r"Phantom one\.npz must be whole"):
        read_phantom(tmp_path / "one.npz")
