"""The lowest confidence that leaves few enough false marks."""

import numpy as np
import pytest

from VFMTransferLib.metrics.operating_point import MAX_FALSE_MARKS, operating_point


@pytest.mark.parametrize("surest", [*(np.arange(1, 100) / 100), 0.123, 0.999])
def test_what_is_too_many_stays_below_it(surest):
    found = operating_point([surest, surest, surest], 2)
    assert sum(surest >= found.min_confidence for _ in range(3)) <= MAX_FALSE_MARKS * 2
    assert 0 < found.min_confidence - surest < 0.0101
