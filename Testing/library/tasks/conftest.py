"""Cases of the tests of tasks: one that a network saw, and a phantom with the truth of every task."""

from __future__ import annotations

import pytest
from prediction_cases import a_small_case

from VFMTransferLib.core.case import Case
from VFMTransferLib.phantom import Phantom, make_phantom


@pytest.fixture
def a_case() -> Case:
    return a_small_case()


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return make_phantom(5, t2w_spacing_mm=(3.0, 3.0, 4.0), full_resolution=True, lesions=2)
