"""Tasks that give images: their truth, and that the case stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import SOURCE, a_small_case, decode, with_preprocess
from specs import prepare

from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.distortion_correction.task import (
    ADC_CORRECTED,
    HBV_CORRECTED,
)
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(5, t2w_spacing_mm=(3.0, 3.0, 4.0), full_resolution=True, lesions=2)


@pytest.fixture
def a_case():
    return a_small_case()


def prepared_for(case, task: str, **changes):
    spec = with_preprocess(f"profound-restoration-{task}", whole_volume=True, **changes)
    return prepare(case, spec), spec


def test_phantoms_hold_the_truth_of_images(phantom):
    assert set(TASKS[TaskId.SUPER_RESOLUTION].from_phantom(phantom).images) == {SUPER_RESOLVED}
    assert TASKS[TaskId.ADC_TRANSLATION].from_phantom(phantom).images == {ADC_SYNTHETIC: phantom.diffusion.adc_true}
    study = TASKS[TaskId.DISTORTION_CORRECTION].from_phantom(phantom)
    assert set(study.images) == {HBV_CORRECTED, ADC_CORRECTED}
    assert study.along_phase_mm is phantom.diffusion.displacement_mm
    axis = {"left-right": 0, "anterior-posterior": 1}[study.phase_axis]
    assert axis == phantom.acquisition["diffusion"]["phase_axis"]


def test_images_leave_the_case_unchanged(a_case):
    before = {s: v.array.copy() for s, v in a_case.volumes.items()}
    for task in ("super-resolution", "adc-translation", "distortion-correction"):
        prepared, spec = prepared_for(a_case, task)
        decode(np.ones((1, *prepared.region.shape), np.float32), prepared, a_case, spec, SOURCE)
    for sequence, array in before.items():
        np.testing.assert_array_equal(a_case[sequence].array, array)
