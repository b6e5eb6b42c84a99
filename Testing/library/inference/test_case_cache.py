"""What was made of a case is kept by the content of its images."""

import numpy as np
import pytest

from VFMTransferLib.inference.case_cache import CaseCache


def test_a_value_is_made_once():
    cache, made = CaseCache(), []
    for _ in range(2):
        assert cache.recall("key", lambda: made.append(1) or "value") == "value"
    assert made == [1]


def test_what_cannot_be_made_is_not_kept():
    cache = CaseCache()
    with pytest.raises(ZeroDivisionError):
        cache.recall("key", lambda: 1 / 0)
    assert cache.recall("key", lambda: 2) == 2


def test_what_was_used_longest_ago_goes_first():
    cache = CaseCache(limit_bytes=2000)
    for name in ("a", "b"):
        cache.recall(name, lambda: (np.zeros(1000, np.uint8), {"part": np.zeros(0)}))
    cache.recall("a", lambda: pytest.fail("a was kept"))
    cache.recall("c", lambda: np.zeros(1000, np.uint8))
    cache.recall("a", lambda: pytest.fail("a was kept"))
    assert cache.recall("b", lambda: "made again") == "made again"
