"""A synthetic ADC has the unit and the grid of its truth."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import SOURCE, decode
from task_cases import a_scan, prepared_for

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC


def test_synthetic_adc_is_in_square_micrometers_per_second_on_the_t2w_grid(a_case):
    prepared, spec = prepared_for(a_case, "adc-translation")
    output = np.full((1, *prepared.region.shape), 1.25, np.float32)
    output[:, :, :, -20:] = -1
    result = decode(output, prepared, a_case, spec, SOURCE)
    adc = result.images["adc-synthetic"]
    assert adc.geometry == a_case[Sequence.T2W].geometry
    assert adc.array.min() == 0
    assert adc.array.max() == pytest.approx(1250)
    assert any("not measured" in note for note in result.provenance.notes)


def test_translation_takes_the_measured_adc_for_the_truth():
    scan = a_scan()
    study = TASKS["adc-translation"].from_scan(scan)
    assert study.case.sequences == (Sequence.T2W,)
    assert study.images == {ADC_SYNTHETIC: scan[Sequence.ADC]}
