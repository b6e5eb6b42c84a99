"""Input and truth of each task: what was made worse, by how much, and that the truth undoes it."""

from dataclasses import replace

import numpy as np
import pytest
from images import an_adc, an_hbv
from scipy import ndimage

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import DatasetError, MissingSequenceError
from VFMTransferLib.core.terms import Label, Sequence, TaskId
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.metrics.arrays import mae
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.distortion_correction.epi_simulation import smooth_field_hz
from VFMTransferLib.tasks.distortion_correction.task import ADC_CORRECTED, HBV_CORRECTED
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED, doubled_in_plane, halved_in_plane

COS, SIN = np.cos(0.3), np.sin(0.3)
# Runs to the left, to anterior and up, tilted about x; odd in one axis.
GRID = Geometry((31, 40, 6), (0.8, 0.9, 3.0), (5.0, 30.0, -9.0), (1, 0, 0, 0, -COS, -SIN, 0, -SIN, COS))


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(5, t2w_spacing_mm=(3.0, 3.0, 4.0), full_resolution=True, lesions=2)


def a_scan(seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    t2w = Volume(np.float32(100 + ndimage.gaussian_filter(rng.normal(0, 200, GRID.shape), 1.0)), GRID, "t2w")
    return Case("scan", {Sequence.T2W: t2w, Sequence.HBV: a_smooth(an_hbv()), Sequence.ADC: a_smooth(an_adc())})


def a_smooth(volume: Volume) -> Volume:
    """On a wider grid, so that what moves stays inside."""
    grid = Geometry((48, 40, 5), (2.0, 2.0, 4.0), (-40.0, -36.0, -8.0))
    y, x = np.indices(grid.shape[1:])
    bump = np.exp(-(((x - 24) / 10) ** 2 + ((y - 20) / 8) ** 2))
    return Volume(np.float32(bump * volume.array.mean() + 1) * np.ones(grid.shape, np.float32), grid, volume.name)


@pytest.mark.parametrize("task", list(TaskId))
def test_a_network_sees_the_tasks_sequences_and_no_mask(phantom, task):
    study = TASKS[task].from_phantom(phantom)
    assert study.case.sequences == TASKS[task].sequences
    assert study.case.gland is None
    assert study.is_phantom


def test_phantoms_hold_the_truth_of_segmentation_and_classification(phantom):
    anatomy = TASKS[TaskId.ANATOMY_SEGMENTATION].from_phantom(phantom).masks
    zones = anatomy[Label.PERIPHERAL_ZONE].array + anatomy[Label.TRANSITION_ZONE].array
    np.testing.assert_array_equal(zones, anatomy[Label.PROSTATE].array)
    lesion = TASKS[TaskId.LESION_SEGMENTATION].from_phantom(phantom)
    np.testing.assert_array_equal(lesion.masks[Label.CSPCA].array, phantom.lesion.array >= 2)
    assert lesion.is_significant == phantom.clinically_significant
    assert TASKS[TaskId.CLASSIFICATION].from_phantom(phantom).category == f"PI-RADS {phantom.pirads}"


def test_phantoms_hold_the_truth_of_images(phantom):
    assert set(TASKS[TaskId.SUPER_RESOLUTION].from_phantom(phantom).images) == {SUPER_RESOLVED}
    assert TASKS[TaskId.ADC_TRANSLATION].from_phantom(phantom).images == {ADC_SYNTHETIC: phantom.diffusion.adc_true}
    study = TASKS[TaskId.DISTORTION_CORRECTION].from_phantom(phantom)
    assert set(study.images) == {HBV_CORRECTED, ADC_CORRECTED}
    assert study.along_phase_mm is phantom.diffusion.displacement_mm
    axis = {"left-right": 0, "anterior-posterior": 1}[study.phase_axis]
    assert axis == phantom.acquisition["diffusion"]["phase_axis"]


def test_a_phantoms_super_resolution_is_the_task_of_a_scan(phantom):
    twin = phantom.t2w_full_resolution
    scan = TASKS[TaskId.SUPER_RESOLUTION].from_scan(Case("scan", {Sequence.T2W: twin}))
    study = TASKS[TaskId.SUPER_RESOLUTION].from_phantom(phantom)
    np.testing.assert_array_equal(study.case[Sequence.T2W].array, scan.case[Sequence.T2W].array)
    np.testing.assert_array_equal(study.images[SUPER_RESOLVED].array, twin.array)
    assert study.case[Sequence.T2W].geometry.size == phantom.case[Sequence.T2W].geometry.size


def test_a_phantom_without_its_twin_is_refused(phantom):
    with pytest.raises(DatasetError, match="full_resolution=True"):
        TASKS[TaskId.SUPER_RESOLUTION].from_phantom(replace(phantom, t2w_full_resolution=None))
    with pytest.raises(DatasetError, match="with hbv and adc"):
        TASKS[TaskId.ADC_TRANSLATION].from_phantom(replace(phantom, diffusion=None))


def test_halving_covers_the_same_field_and_keeps_what_is_coarse():
    coarse, fine = halved_in_plane(a_scan()[Sequence.T2W])
    assert (coarse.geometry.size, fine.geometry.size) == ((15, 20, 6), (30, 40, 6))
    assert doubled_in_plane(coarse.geometry).equals(fine.geometry)
    np.testing.assert_allclose(coarse.array.mean(), fine.array.mean(), rtol=1e-3)
    waves = np.cos(2 * np.pi * 2 * (np.arange(40) + 0.5) / 40)[None, :, None] * np.ones((6, 1, 30))
    wave = fine.with_array(np.float32(5 + waves))
    halved, _ = halved_in_plane(wave)
    there = np.cos(2 * np.pi * 2 * (np.arange(20) + 0.5) / 20)
    np.testing.assert_allclose(halved.array[2, :, 7], 5 + there, atol=1e-4)


def test_super_resolution_of_a_scan_asks_for_the_scan_itself():
    scan = a_scan()
    study = TASKS[TaskId.SUPER_RESOLUTION].from_scan(scan)
    turned = scan[Sequence.T2W].to_nearest_lps()
    np.testing.assert_allclose(study.images[SUPER_RESOLVED].array, turned.array[:, :40, :30])
    assert study.case[Sequence.T2W].geometry.spacing_mm == pytest.approx((1.6, 1.8, 3.0))
    assert not study.is_phantom


def test_a_distorted_scan_keeps_its_signal_and_its_truth():
    scan = a_scan()
    study = TASKS[TaskId.DISTORTION_CORRECTION].from_scan(scan, seed=3)
    true, seen = study.images[HBV_CORRECTED], study.case[Sequence.HBV]
    np.testing.assert_allclose(seen.array.sum(axis=2), true.array.sum(axis=2), rtol=1e-4)  # along each phase line
    assert mae(seen.array, true.array) > 0.02 * true.array.mean()
    np.testing.assert_array_equal(true.array, scan[Sequence.HBV].array)
    assert np.abs(study.along_phase_mm.array).max() > 0.5


def test_without_a_field_nothing_moves(monkeypatch):
    monkeypatch.setattr(
        "VFMTransferLib.tasks.distortion_correction.task.smooth_field_hz", lambda grid, rng: np.zeros(grid.shape)
    )
    study = TASKS[TaskId.DISTORTION_CORRECTION].from_scan(a_scan())
    for sequence, name in ((Sequence.HBV, HBV_CORRECTED), (Sequence.ADC, ADC_CORRECTED)):
        np.testing.assert_allclose(study.case[sequence].array, study.images[name].array, rtol=1e-3, atol=0.5)


def test_both_diffusion_images_move_alike():
    """Where signal was pushed by a whole voxel, the ADC is the neighbor's."""
    scan = a_scan()
    edge = scan[Sequence.ADC].with_array(np.where(np.indices(scan[Sequence.ADC].array.shape)[2] < 24, 800, 1600))
    scan = replace(scan, volumes={**scan.volumes, Sequence.ADC: edge})
    study = TASKS[TaskId.DISTORTION_CORRECTION].from_scan(scan, seed=1)
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


def test_translation_takes_the_measured_adc_for_the_truth():
    scan = a_scan()
    study = TASKS[TaskId.ADC_TRANSLATION].from_scan(scan)
    assert study.case.sequences == (Sequence.T2W,)
    assert study.images == {ADC_SYNTHETIC: scan[Sequence.ADC]}


def test_a_scan_holds_no_labels_and_no_image_that_it_lacks():
    with pytest.raises(DatasetError, match="needs labels"):
        TASKS[TaskId.LESION_SEGMENTATION].from_scan(a_scan())
    t2w_alone = Case("scan", {Sequence.T2W: a_scan()[Sequence.T2W]})
    with pytest.raises(MissingSequenceError):
        TASKS[TaskId.DISTORTION_CORRECTION].from_scan(t2w_alone)


@pytest.mark.parametrize("task", list(TaskId))
def test_cut_around_the_gland_every_voxel_stays_where_it_was(phantom, task):
    whole = TASKS[task].from_phantom(phantom)
    part = TASKS[task].around_gland(whole, 60.0)
    assert part.gland.array.sum() == whole.gland.array.sum()
    pairs = [(part.case[s], whole.case[s]) for s in part.case.sequences]
    pairs += [(part.images[name], whole.images[name]) for name in part.images]
    pairs += [(part.masks[label], whole.masks[label]) for label in part.masks]
    for cut, full in pairs:
        assert cut.array.shape[1] * cut.geometry.spacing_mm[1] <= 66
        np.testing.assert_allclose(full.resample_to(cut.geometry).array, cut.array, atol=1e-3 * np.abs(cut.array).max())


def test_cut_around_the_gland_super_resolution_still_doubles_the_matrix(phantom):
    task = TASKS[TaskId.SUPER_RESOLUTION]
    part = task.around_gland(task.from_phantom(phantom), 61.0)
    assert doubled_in_plane(part.case[Sequence.T2W].geometry).equals(part.images[SUPER_RESOLVED].geometry)


def test_a_case_without_gland_cannot_be_cut_around_it():
    with pytest.raises(DatasetError, match="mask of the prostate"):
        TASKS[TaskId.ADC_TRANSLATION].around_gland(TASKS[TaskId.ADC_TRANSLATION].from_scan(a_scan()), 60.0)
