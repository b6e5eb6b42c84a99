"""Class probabilities and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import SOURCE, decode
from specs import MODELS


def test_classes_add_up_and_what_follows_from_them_stands_apart(a_case):
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    result = decode(logits, None, a_case, MODELS["profound-classifier"], SOURCE)
    assert result.class_probabilities == pytest.approx({f"PI-RADS {i}": (i - 1) / 10 for i in (2, 3, 4, 5)})
    assert result.derived_probabilities == pytest.approx({"PI-RADS >= 3": 0.9, "PI-RADS >= 4": 0.7, "csPCa": 0.7})
    assert any("own reading" in note for note in result.provenance.notes)
