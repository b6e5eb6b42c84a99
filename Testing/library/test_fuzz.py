"""A short run of the fuzzers with a fixed seed; `make fuzz` runs them for an hour."""

import os

import pytest
from fuzz import fuzz
from fuzz_targets import TARGETS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no timer that interrupts a reader.")
INPUTS = {"dicom": 60, "nifti": 250, "nifti-gz": 250, "study-config": 60, "onnx-graph": 120, "bundle": 150}


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_gets_through(name):
    if name == "study-config":
        pytest.importorskip("yaml")
    outcome = fuzz(name, seed=0, inputs=INPUTS.get(name, 400))
    assert outcome.findings == []
    assert outcome.inputs == INPUTS.get(name, 400)
