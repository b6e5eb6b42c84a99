"""A synthetic ADC has the unit and the grid of its truth."""

from __future__ import annotations

import numpy as np
import pytest
from images import an_adc, an_hbv
from prediction_cases import SOURCE, a_small_case, decode, with_preprocess
from scipy import ndimage
from specs import prepare

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Sequence, TaskId
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC

COS, SIN = np.cos(0.3), np.sin(0.3)
# Runs to the left, to anterior and up, tilted about x; odd in one axis.
GRID = Geometry((31, 40, 6), (0.8, 0.9, 3.0), (5.0, 30.0, -9.0), (1, 0, 0, 0, -COS, -SIN, 0, -SIN, COS))


@pytest.fixture
def a_case():
    return a_small_case()


def prepared_for(case, task: str, **changes):
    spec = with_preprocess(f"profound-restoration-{task}", whole_volume=True, **changes)
    return prepare(case, spec), spec


def a_smooth(volume: Volume) -> Volume:
    """On a wider grid, so that what moves stays inside."""
    grid = Geometry((48, 40, 5), (2.0, 2.0, 4.0), (-40.0, -36.0, -8.0))
    y, x = np.indices(grid.shape[1:])
    bump = np.exp(-(((x - 24) / 10) ** 2 + ((y - 20) / 8) ** 2))
    return Volume(np.float32(bump * volume.array.mean() + 1) * np.ones(grid.shape, np.float32), grid, volume.name)


def a_scan(seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    t2w = Volume(np.float32(100 + ndimage.gaussian_filter(rng.normal(0, 200, GRID.shape), 1.0)), GRID, "t2w")
    return Case("scan", {Sequence.T2W: t2w, Sequence.HBV: a_smooth(an_hbv()), Sequence.ADC: a_smooth(an_adc())})


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
    study = TASKS[TaskId.ADC_TRANSLATION].from_scan(scan)
    assert study.case.sequences == (Sequence.T2W,)
    assert study.images == {ADC_SYNTHETIC: scan[Sequence.ADC]}
