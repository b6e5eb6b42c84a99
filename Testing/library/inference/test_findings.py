"""What was found about a case is kept by the content of its images."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from images import a_t2w
from prediction_cases import a_small_case, ball
from specs import MODELS, prepare

from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.placement import Prepared
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.inference import findings
from VFMTransferLib.inference.findings import Findings, content_sha256
from VFMTransferLib.inference.predict import FoundAnatomy


def test_a_value_is_made_once():
    findings, made = Findings(), []
    for _ in range(2):
        assert findings.recall("key", lambda: made.append(1) or "value") == "value"
    assert made == [1]


def test_what_cannot_be_made_is_not_kept():
    findings = Findings()
    with pytest.raises(ZeroDivisionError):
        findings.recall("key", lambda: 1 / 0)
    assert findings.recall("key", lambda: 2) == 2


def test_what_was_used_longest_ago_goes_first():
    findings = Findings(limit_bytes=2000)
    for name in ("a", "b"):
        findings.recall(name, lambda: (np.zeros(1000, np.uint8), {"part": np.zeros(0)}))
    findings.recall("a", lambda: pytest.fail("a was kept"))
    findings.recall("c", lambda: np.zeros(1000, np.uint8))
    findings.recall("a", lambda: pytest.fail("a was kept"))
    assert findings.recall("b", lambda: "made again") == "made again"


def test_what_was_found_is_there_for_the_next_process(tmp_path):
    """Another `Findings` of the same folder stands for the process: it shares no memory with the first."""
    made = a_finding()
    first = Findings(folder=tmp_path / "findings").recall(("gland", "0ab1"), lambda: made, FoundAnatomy)
    assert first is made
    kept = Findings(folder=tmp_path / "findings")
    found = kept.recall(("gland", "0ab1"), lambda: pytest.fail("it was kept"), FoundAnatomy)
    assert (found.note, found.bundle, found.key) == (made.note, made.bundle, made.key)
    assert found.labels.geometry == made.labels.geometry
    np.testing.assert_array_equal(found.zones["peripheral-zone"].array, made.zones["peripheral-zone"].array)
    assert found.zones["peripheral-zone"].array.dtype == made.zones["peripheral-zone"].array.dtype
    with pytest.raises(ZeroDivisionError):
        kept.recall(("gland", "another"), lambda: 1 / 0, FoundAnatomy)
    if os.name == "posix":
        assert (tmp_path / "findings").stat().st_mode & 0o077 == 0


def test_an_input_comes_back_from_disk_as_it_was(tmp_path):
    kind = tuple[Prepared, tuple[str, ...]]
    case = a_small_case()
    gland = ball(case["t2w"].geometry, (0, 0, 0), 9)
    prepared = prepare(case, MODELS["profound-upernet-lesion"], gland=gland, region="gland")
    Findings(folder=tmp_path).recall("input", lambda: (prepared, (Note("note", "a note"),)), kind)
    found, notes = Findings(folder=tmp_path).recall("input", lambda: pytest.fail("it was kept"), kind)
    assert notes == (Note("note", "a note"),)
    np.testing.assert_array_equal(found.array, prepared.array)
    assert replace(found, array=prepared.array, limit=prepared.limit) == prepared
    np.testing.assert_array_equal(found.limit.first, prepared.limit.first)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data])
def test_a_damaged_finding_is_made_again_and_replaced(tmp_path, damage):
    Findings(folder=tmp_path).recall("gland", a_finding, FoundAnatomy)
    [file] = tmp_path.glob("*.npz")
    file.write_bytes(damage(file.read_bytes()))
    again = FoundAnatomy("made again")
    assert Findings(folder=tmp_path).recall("gland", lambda: again, FoundAnatomy) is again
    assert Findings(folder=tmp_path).recall("gland", lambda: pytest.fail("kept"), FoundAnatomy) == again


@pytest.mark.parametrize("voxels", [np.uint8, np.float32], ids=["packed", "plain"])
def test_wherever_a_bit_of_a_kept_finding_is_wrong_it_comes_back_as_it_was(tmp_path, voxels):
    mask = a_finding().labels
    made = replace(a_finding(), labels=mask.with_array(mask.array.astype(voxels)))
    Findings(folder=tmp_path).recall("gland", lambda: made, FoundAnatomy)
    [file] = tmp_path.glob("*.npz")
    intact = file.read_bytes()
    for seed in range(120):
        random = np.random.default_rng(seed)
        damaged = bytearray(intact)
        # Half of them where the file is described, which is small beside the voxels.
        at = random.integers(len(damaged)) if seed % 2 else -random.integers(1, 400)
        damaged[at] ^= 1 << random.integers(8)
        file.write_bytes(damaged)
        found = Findings(folder=tmp_path).recall("gland", lambda: made, FoundAnatomy)
        assert replace(found, labels=None, zones={}) == replace(made, labels=None, zones={}), seed
        np.testing.assert_array_equal(found.labels.array, made.labels.array)


def test_a_finding_that_cannot_be_marked_as_used_is_not_made_again(tmp_path, monkeypatch):
    Findings(folder=tmp_path).recall("gland", a_finding, FoundAnatomy)

    def refused(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refused)
    Findings(folder=tmp_path).recall("gland", lambda: pytest.fail("it was kept"), FoundAnatomy)


def test_the_folder_stays_within_its_limit_and_what_was_used_last_stays(tmp_path):
    def recall(name, make):
        return Findings(folder=tmp_path, disk_limit_bytes=40_000).recall(name, make, np.ndarray)

    for i, name in enumerate("abc"):
        recall(name, lambda: np.random.default_rng(0).random(250))  # 2 kB, a sixteenth of the limit at most
        for file in tmp_path.glob("*.npz"):
            os.utime(file, (i, i))
    recall("a", lambda: pytest.fail("a was kept"))
    for i in range(20):
        recall(f"more {i}", lambda: np.random.default_rng(0).random(250))
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) <= 40_000
    recall("large", lambda: np.zeros(5000))
    assert isinstance(recall("large", lambda: "made again"), str)  # above a sixteenth of the limit nothing is kept
    remade = []
    recall("b", lambda: remade.append("b") or np.zeros(1))
    assert remade == ["b"]


def test_other_code_or_other_numbers_beside_it_find_anew(tmp_path, monkeypatch):
    (tmp_path / "inference").mkdir()
    monkeypatch.setattr(findings, "__file__", str(tmp_path / "inference" / "findings.py"))
    seen = set()
    for name, text in (("findings.py", ""), ("findings.py", "1"), ("estimate.json", "{}"), ("estimate.json", "[]")):
        (tmp_path / "inference" / name).write_text(text)
        seen.add(findings._library_sha256.__wrapped__())
    assert len(seen) == 4


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    findings = Findings(folder=tmp_path / "file" / "findings")
    assert findings.recall("gland", lambda: FoundAnatomy(Note("note", "found")), FoundAnatomy).note.text == "found"


def a_finding() -> FoundAnatomy:
    t2w = a_t2w()
    mask = t2w.with_array((t2w.array > t2w.array.mean()).astype(np.uint8))
    return FoundAnatomy("The gland was marked.", mask, {"peripheral-zone": mask}, "a-bundle", ("anatomy", "0ab1"))


def test_the_checksum_follows_voxels_type_and_grid():
    t2w = a_t2w()
    assert content_sha256(t2w) == content_sha256(t2w.with_array(t2w.array.copy()))
    changed = t2w.array.copy()
    changed[0, 0, 0] += 1
    moved = Volume(t2w.array, replace(t2w.geometry, origin_mm=(0.0, 0.0, 1.0)), "t2w")
    others = (t2w, t2w.with_array(changed), t2w.with_array(t2w.array.astype(np.float64)), moved, None)
    assert len({*map(content_sha256, others)}) == 5
