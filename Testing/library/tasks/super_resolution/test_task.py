"""Half and twice the matrix by k-space, and the residual that is added."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_cases import SOURCE, decode, tilted
from task_cases import a_scan, prepared_for

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.super_resolution.task import (
    MARGIN_VOXELS,
    SUPER_RESOLVED,
    Acquisition,
    doubled_in_plane,
    draw_acquisition,
    halved_in_plane,
    zero_filled,
)


def test_doubled_grid_cuts_each_voxel_in_four():
    geometry = tilted((10, 12, 5), (0.8, 0.6, 3.0))
    doubled = doubled_in_plane(geometry)
    assert doubled.size == (20, 24, 5)
    np.testing.assert_allclose(doubled.to_world((6.5, 8.5, 2)), geometry.to_world((3, 4, 2)))
    np.testing.assert_allclose(doubled.extent_mm, geometry.extent_mm)


@pytest.mark.parametrize("size", [(10, 12, 5), (9, 11, 4)])
def test_zero_filling_draws_waves_through_the_samples(size):
    """Waves below the highest frequency, even about the edges, come out whole, sampled where the doubled grid lies."""
    nx, ny, nz = size

    def wave(y, x):
        return 3 + np.cos(np.pi * 3 * (x + 0.5) / nx)[None, :] * np.cos(np.pi * 4 * (y + 0.5) / ny)[:, None]

    image = Volume(
        np.float32(wave(np.arange(ny), np.arange(nx)) * np.ones((nz, 1, 1))), tilted(size, (0.8, 0.6, 3.0)), "t2w"
    )
    finer = wave((np.arange(2 * ny) - 0.5) / 2, (np.arange(2 * nx) - 0.5) / 2)
    np.testing.assert_allclose(zero_filled(image).array, np.broadcast_to(finer, (nz, 2 * ny, 2 * nx)), atol=1e-4)


def test_zero_filling_does_not_ring_from_one_edge_into_the_other():
    ramp = np.float32(np.linspace(0, 100, 40)) * np.ones((3, 30, 1), np.float32)
    found = zero_filled(Volume(ramp, tilted((40, 30, 3), (1.0, 1.0, 3.0)), "t2w")).array
    np.testing.assert_allclose(found[1, 30], np.interp((np.arange(80) - 0.5) / 2, np.arange(40), ramp[1, 15]), atol=1)


def test_zero_filling_leaves_the_slices_of_a_sagittal_scan():
    sagittal = Geometry((5, 12, 10), (3.0, 0.6, 0.6), direction=(0, 1, 0, 0, 0, 1, 1, 0, 0))
    image = Volume(np.random.default_rng(0).normal(size=sagittal.shape).astype(np.float32), sagittal, "t2w")
    found = zero_filled(image)
    assert found.geometry.equals(doubled_in_plane(sagittal))
    np.testing.assert_allclose(found.array.mean(axis=(0, 1)), image.array.mean(axis=(0, 1)), atol=1e-5)


def test_super_resolution_without_residual_is_the_interpolated_t2w(a_case):
    prepared, spec = prepared_for(a_case, "super-resolution")
    zeros = np.zeros((1, *prepared.region.shape), np.float32)
    result = decode(zeros, prepared, a_case, spec, SOURCE)
    image = result.images["t2w-super-resolved"]
    assert image.geometry.size == (80, 72, 9)
    expected = zero_filled(a_case[Sequence.T2W])
    assert image.geometry.equals(expected.geometry)
    np.testing.assert_allclose(image.array, np.maximum(expected.array, 0), atol=1e-3)
    # The mean of a voxel's four parts is the voxel, for an image as smooth as this.
    parts = image.array.reshape(9, 36, 2, 40, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(parts[:, 2:-2, 2:-2], a_case[Sequence.T2W].array[:, 2:-2, 2:-2], atol=1)


def test_super_resolution_adds_the_residual_in_units_of_the_t2w(a_case):
    prepared, spec = prepared_for(a_case, "super-resolution")
    zeros = np.zeros((1, *prepared.region.shape), np.float32)
    before = decode(zeros, prepared, a_case, spec, SOURCE).images["t2w-super-resolved"].array
    after = decode(zeros + 0.5, prepared, a_case, spec, SOURCE).images["t2w-super-resolved"].array
    np.testing.assert_allclose((after - before)[before > 0], 0.5 * prepared.scales[0].std, rtol=1e-3)


def test_a_phantoms_super_resolution_is_the_task_of_a_scan(phantom):
    twin = phantom.t2w_full_resolution
    scan = TASKS["super-resolution"].from_scan(Case("scan", {Sequence.T2W: twin}), seed=phantom.seed)
    study = TASKS["super-resolution"].from_phantom(phantom)
    np.testing.assert_array_equal(study.case[Sequence.T2W].array, scan.case[Sequence.T2W].array)
    np.testing.assert_array_equal(study.images[SUPER_RESOLVED].array, twin.array)
    assert study.case[Sequence.T2W].geometry.size == phantom.case[Sequence.T2W].geometry.size


def test_halving_covers_the_same_field_and_keeps_what_is_coarse():
    coarse, fine = halved_in_plane(a_scan()[Sequence.T2W])
    assert (coarse.geometry.size, fine.geometry.size) == ((15, 20, 6), (30, 40, 6))
    assert doubled_in_plane(coarse.geometry).equals(fine.geometry)
    np.testing.assert_allclose(coarse.array.mean(), fine.array.mean(), rtol=1e-3)
    waves = np.cos(2 * np.pi * 2 * (np.arange(40) + 0.5) / 40)[None, :, None] * np.ones((6, 1, 30))
    wave = fine.with_array(np.float32(5 + waves))
    halved, _ = halved_in_plane(wave)
    there = np.cos(2 * np.pi * 2 * (np.arange(20) + 0.5) / 20)
    np.testing.assert_allclose(halved.array[2, :, 7], 5 + there, atol=2e-3)


def test_halving_does_not_ring_from_one_edge_into_the_other():
    """With padding an edge meets its own mirror image, not the opposite edge."""
    ramp = np.float32(np.linspace(0, 100, 80)) * np.ones((3, 60, 1), np.float32)
    halved, _ = halved_in_plane(Volume(ramp, Geometry((80, 60, 3), (0.5, 0.5, 3.0)), "t2w"))
    np.testing.assert_allclose(halved.array[1, 15], ramp[1, 0].reshape(40, 2).mean(axis=1), atol=1.5)


def test_the_margin_counts_neither_in_score_nor_in_loss(phantom):
    task = TASKS["super-resolution"]
    study = task.from_phantom(phantom)
    truth = study.images[SUPER_RESOLVED]
    region = task.measured_region(truth)
    margins = [min(MARGIN_VOXELS, n // 4) for n in region.shape[1:]]
    inner = np.zeros_like(region)
    inner[:, margins[0] : -margins[0], margins[1] : -margins[1]] = True
    np.testing.assert_array_equal(region, inner)
    right = truth.with_array(truth.array + np.where(region, 0, 500).astype(np.float32))
    wrong = truth.with_array(truth.array + np.where(region, 5, 0).astype(np.float32))
    images = [{SUPER_RESOLVED: image} for image in (right, wrong)]
    scores = [task.score(task.baseline_result(study, images=one), study) for one in images]
    assert [score.values["mae"] for score in scores] == pytest.approx([0, 5])


def test_the_naive_baseline_is_the_zero_filled_image_scored_in_the_same_region(phantom):
    task = TASKS["super-resolution"]
    study = task.from_phantom(phantom)
    image = zero_filled(study.case[Sequence.T2W])
    found = task.score(task.naive_baseline([])(study), study).values["mae"]
    region = task.measured_region(study.images[SUPER_RESOLVED])
    by_hand = np.abs(np.maximum(image.array, 0) - study.images[SUPER_RESOLVED].array)[region].mean()
    assert found == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_partial_fourier_blurs_along_its_axis_alone(axis):
    image = np.random.default_rng(0).normal(100, 20, (2, 24, 32)).astype(np.complex128)
    change = np.abs(np.fft.fft2(Acquisition(0.75, axis).applied(image) - image.real))
    lines = np.moveaxis(change, 1 + axis, 0)
    # Lines of half the highest frequency and more are measured on one side only; the rest of k-space is whole.
    low = np.abs(np.fft.fftfreq(image.shape[1 + axis])) < 0.1
    assert lines[low].mean() < 0.2 * lines[~low].mean()


def test_a_filter_leaves_the_mean_and_dampens_the_edge_of_k_space():
    image = np.random.default_rng(0).normal(100, 5, (2, 24, 32)).astype(np.complex128)
    found = Acquisition(edge=0.4).applied(image)
    assert found.mean() == pytest.approx(image.real.mean())
    before, after = (np.abs(np.fft.fft2(a))[:, 12, 0] for a in (image, found))
    np.testing.assert_allclose(after, 0.4 * before, rtol=1e-6)


def test_a_case_is_always_acquired_alike_and_cases_are_not():
    drawn = [draw_acquisition(np.random.default_rng(seed)) for seed in range(40)]
    assert drawn[3] == draw_acquisition(np.random.default_rng(3))
    assert {a.partial_fourier for a in drawn} == {1.0, 7 / 8, 6 / 8}
    assert 0 < sum(a.edge < 1 for a in drawn) < 40


def test_super_resolution_of_a_scan_asks_for_the_scan_itself():
    scan = a_scan()
    study = TASKS["super-resolution"].from_scan(scan)
    turned = scan[Sequence.T2W].to_nearest_lps()
    np.testing.assert_allclose(study.images[SUPER_RESOLVED].array, turned.array[:, :40, :30])
    assert study.case[Sequence.T2W].geometry.spacing_mm == pytest.approx((1.6, 1.8, 3.0))
    assert not study.is_phantom


def test_cut_around_the_gland_super_resolution_still_doubles_the_matrix(phantom):
    task = TASKS["super-resolution"]
    part = task.around_gland(task.from_phantom(phantom), 61.0)
    assert doubled_in_plane(part.case[Sequence.T2W].geometry).equals(part.images[SUPER_RESOLVED].geometry)
