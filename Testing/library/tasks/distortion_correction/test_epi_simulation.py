"""Scans as an echo-planar readout distorts them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from study_examples import a_study
from task_cases import a_scan

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.metrics.agreement import mae
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.distortion_correction import training as module
from VFMTransferLib.tasks.distortion_correction.epi_simulation import draw_displacement_mm, signals_of, smooth_field_hz
from VFMTransferLib.tasks.distortion_correction.task import ADC_CORRECTED, HBV_CORRECTED

TASK = "distortion-correction"


def test_a_distorted_scan_keeps_its_signal_and_its_truth():
    scan = a_scan()
    study = TASKS["distortion-correction"].from_scan(scan, seed=3)
    true, seen = study.images[HBV_CORRECTED], study.case[Sequence.HBV]
    np.testing.assert_allclose(seen.array.sum(axis=2), true.array.sum(axis=2), rtol=1e-4)  # along each phase line
    assert mae(seen.array, true.array) > 0.02 * true.array.mean()
    np.testing.assert_array_equal(true.array, scan[Sequence.HBV].array)
    assert np.abs(study.along_phase_mm.array).max() > 0.5


def test_without_a_field_nothing_moves(monkeypatch):
    monkeypatch.setattr(
        "VFMTransferLib.tasks.distortion_correction.task.smooth_field_hz", lambda grid, rng: np.zeros(grid.shape)
    )
    study = TASKS["distortion-correction"].from_scan(a_scan())
    for sequence, name in ((Sequence.HBV, HBV_CORRECTED), (Sequence.ADC, ADC_CORRECTED)):
        np.testing.assert_allclose(study.case[sequence].array, study.images[name].array, rtol=1e-3, atol=0.5)


def test_both_diffusion_images_move_alike():
    """Where signal was pushed by a whole voxel, the ADC is the neighbor's."""
    scan = a_scan()
    edge = scan[Sequence.ADC].with_array(np.where(np.indices(scan[Sequence.ADC].array.shape)[2] < 24, 800, 1600))
    scan = replace(scan, volumes={**scan.volumes, Sequence.ADC: edge})
    study = TASKS["distortion-correction"].from_scan(scan, seed=1)
    moved = study.case[Sequence.ADC].array[2, 20]
    shift = study.along_phase_mm.array[2, 20, 24] / 2.0
    crossing = 10 + int(np.argmax(moved[10:40] > 1200)) - 0.5
    assert crossing == pytest.approx(23.5 + shift, abs=1)


def test_a_field_is_smooth_repeats_with_its_seed_and_differs_with_another():
    grid = a_scan()[Sequence.HBV].geometry
    first, again, other = (smooth_field_hz(grid, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(np.diff(first, axis=2)).max() < 0.25 * np.ptp(first)


def test_signals_and_images_go_into_each_other():
    study = a_study(TASK)
    hbv, adc = study.images[HBV_CORRECTED], study.images[ADC_CORRECTED]
    high, base = signals_of(hbv, adc)
    still = np.zeros_like(high)
    again_hbv, again_adc = module.distorted_images(high, base, still, 2)
    np.testing.assert_allclose(again_hbv, hbv.array, atol=1e-3)
    seen = hbv.array > 0
    np.testing.assert_allclose(again_adc[seen], adc.array[seen], rtol=1e-3, atol=1)


def test_drawn_displacements_are_those_of_pelvic_scans():
    rng = np.random.default_rng(0)
    drawn = [draw_displacement_mm((6, 40, 40), (3.0, 2.0, 2.0), rng) for _ in range(30)]
    assert 0.7 < np.std(drawn) < 2.2
    assert max(np.abs(np.gradient(field, 2.0, axis=2)).max() for field in drawn) < 0.6  # nothing folds
