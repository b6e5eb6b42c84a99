"""Tasks that give images: their truth, and that the case stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import SOURCE, decode
from specs import prepare
from task_cases import prepared_for

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.base import NetworkOutput
from VFMTransferLib.tasks.distortion_correction.task import (
    ADC_CORRECTED,
    HBV_CORRECTED,
)
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED


def test_phantoms_hold_the_truth_of_images(phantom):
    assert set(TASKS["super-resolution"].from_phantom(phantom).images) == {SUPER_RESOLVED}
    assert TASKS["adc-translation"].from_phantom(phantom).images == {ADC_SYNTHETIC: phantom.diffusion.adc_true}
    study = TASKS["distortion-correction"].from_phantom(phantom)
    assert set(study.images) == {HBV_CORRECTED, ADC_CORRECTED}
    assert study.along_phase_mm is phantom.diffusion.displacement_mm
    axis = {"left-right": 0, "anterior-posterior": 1}[study.phase_axis]
    assert axis == phantom.acquisition["diffusion"]["phase_axis"]


def test_what_is_added_has_the_scale_of_the_reference_wherever_it_stands(a_case):
    class Sharpened(type(TASKS["super-resolution"])):
        sequences = (Sequence.ADC, Sequence.T2W)

        def start_image(self, case):
            return case[Sequence.T2W]

    task = Sharpened()
    _, plain = prepared_for(a_case, "super-resolution")
    channels = replace(plain.preprocess, sequences=(Sequence.ADC, Sequence.T2W))
    prepared = prepare(a_case, spec := replace(plain, preprocess=channels))
    logits = np.ones((1, *prepared.region.shape), np.float32)
    start, output = task.start_image(a_case), NetworkOutput(logits, prepared, a_case, spec, SOURCE)
    added = task.decode(output).images[SUPER_RESOLVED].array - start.array
    assert prepared.scales[0].std != pytest.approx(prepared.scales[1].std, rel=0.5)
    assert np.median(added) == pytest.approx(prepared.scales[1].std, rel=1e-3)


def test_images_leave_the_case_unchanged(a_case):
    before = {s: v.array.copy() for s, v in a_case.volumes.items()}
    for task in ("super-resolution", "adc-translation", "distortion-correction"):
        prepared, spec = prepared_for(a_case, task)
        decode(np.ones((1, *prepared.region.shape), np.float32), prepared, a_case, spec, SOURCE)
    for sequence, array in before.items():
        np.testing.assert_array_equal(a_case[sequence].array, array)
