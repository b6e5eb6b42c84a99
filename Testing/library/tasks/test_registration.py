"""Correction by registration moves along the phase axis alone, and finds a known displacement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Sequence, TaskId
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom import distort
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.distortion_correction.task import ADC_CORRECTED, HBV_CORRECTED, displacement_along
from VFMTransferLib.tasks.scores import score_case

COS, SIN = np.cos(0.1), np.sin(0.1)
GRID = Geometry((48, 40, 8), (2.0, 2.0, 4.0), (-40.0, -36.0, -8.0), (COS, -SIN, 0, SIN, COS, 0, 0, 0, 1))
MOVED_MM = 4.0


@pytest.fixture(scope="module", params=["left-right", "anterior-posterior"])
def a_study(request) -> LabeledCase:
    """Blobs on both images, dark in the one and bright in the other, and one of them moved by two voxels."""
    z, y, x = np.indices(GRID.shape)
    blobs = sum(
        np.exp(-(((x - cx) / 5) ** 2) - ((y - cy) / 4) ** 2 - ((z - 4) / 4) ** 2)
        for cx, cy in ((16, 14), (32, 12), (24, 26), (14, 30), (36, 30))
    )
    axis = {"left-right": 0, "anterior-posterior": 1}[request.param]
    shift = np.full(GRID.shape, MOVED_MM / 2.0)
    true = np.float32(20 + 100 * blobs)
    seen = distort(true, shift, 2 - axis)
    adc = Volume(np.full(GRID.shape, 1000, np.float32), GRID, "adc")
    volumes = {
        Sequence.T2W: Volume(np.float32(300 - 200 * blobs), GRID, "t2w"),
        Sequence.HBV: Volume(seen, GRID, "hbv"),
        Sequence.ADC: adc,
    }
    along = Volume(np.full(GRID.shape, MOVED_MM, np.float32), GRID)
    images = {HBV_CORRECTED: Volume(true, GRID), ADC_CORRECTED: adc}
    study = LabeledCase(TaskId.DISTORTION_CORRECTION, Case("c", volumes), images=images, along_phase_mm=along)
    return replace(study, phase_axis=request.param)


def test_a_known_displacement_is_found_and_the_image_comes_back(a_study):
    result = TASKS[a_study.task].registered(a_study)
    found, before = (score_case(r, a_study).values for r in (result, TASKS[a_study.task].naive_baseline([])(a_study)))
    middle = result.displacement_mm[4, 10:30, 12:36]
    assert np.linalg.norm(middle, axis=-1).mean() == pytest.approx(MOVED_MM, abs=1.0)
    assert found["psnr_db"] > before["psnr_db"] + 3


def test_it_moves_along_the_phase_axis_alone(a_study):
    field = TASKS[a_study.task].registered(a_study).displacement_mm
    axis = {"left-right": 0, "anterior-posterior": 1}[a_study.phase_axis]
    direction = np.reshape(GRID.direction, (3, 3))[:, axis]
    np.testing.assert_allclose(field, (field @ direction)[..., None] * direction, atol=1e-4)


def test_it_gives_the_same_displacement_again(a_study):
    axis = {"left-right": 0, "anterior-posterior": 1}[a_study.phase_axis]
    first, again = (displacement_along(a_study.case, GRID, axis) for _ in range(2))
    np.testing.assert_array_equal(first, again)
