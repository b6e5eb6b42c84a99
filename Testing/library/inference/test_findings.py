"""What was found about a case is kept by the content of its images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from images import a_t2w

from VFMTransferLib.core.volume import Volume
from VFMTransferLib.inference.findings import Findings, content_sha256


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


def test_the_checksum_follows_voxels_type_and_grid():
    t2w = a_t2w()
    assert content_sha256(t2w) == content_sha256(t2w.with_array(t2w.array.copy()))
    changed = t2w.array.copy()
    changed[0, 0, 0] += 1
    moved = Volume(t2w.array, replace(t2w.geometry, origin_mm=(0.0, 0.0, 1.0)), "t2w")
    others = (t2w, t2w.with_array(changed), t2w.with_array(t2w.array.astype(np.float64)), moved, None)
    assert len({*map(content_sha256, others)}) == 5
