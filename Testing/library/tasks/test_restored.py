"""Image results: units, residuals, displacement along the phase axis, against plain second implementations."""

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import a_small_case, points_mm, tilted, with_preprocess
from specs import prepare

from VFMTransferLib.core.result import Provenance
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.tasks import task_of
from VFMTransferLib.tasks.base import DecodeOptions, NetworkOutput, slice_axis
from VFMTransferLib.tasks.distortion_correction.task import displacement_field, jacobian_along, warp
from VFMTransferLib.tasks.super_resolution.task import doubled_in_plane, zero_filled

SOURCE = Provenance("fake", "A fake network", "", "0" * 64, "onnx", "cpu")


@pytest.fixture
def a_case():
    return a_small_case()


def decode(logits, prepared, case, spec, source, **options):
    return task_of(spec).decode(NetworkOutput(logits, prepared, case, spec, source, DecodeOptions(**options)))


def prepared_for(case, task: str, **changes):
    spec = with_preprocess(f"profound-restoration-{task}", whole_volume=True, **changes)
    return prepare(case, spec), spec


def test_doubled_grid_cuts_each_voxel_in_four():
    geometry = tilted((10, 12, 5), (0.8, 0.6, 3.0))
    doubled = doubled_in_plane(geometry)
    assert doubled.size == (20, 24, 5)
    np.testing.assert_allclose(doubled.to_world((6.5, 8.5, 2)), geometry.to_world((3, 4, 2)))
    np.testing.assert_allclose(doubled.extent_mm, geometry.extent_mm)


def test_slice_axis_is_the_one_towards_superior():
    sagittal = Geometry((9, 12, 10), (3.0, 0.6, 0.6), direction=(0, 1, 0, 0, 0, 1, 1, 0, 0))
    assert slice_axis(sagittal) == 0
    assert doubled_in_plane(sagittal).size == (9, 24, 20)


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


@pytest.mark.parametrize(("phase_axis", "axis"), [("left-right", 0), ("anterior-posterior", 1)])
def test_constant_displacement_moves_the_image_along_the_phase_axis(a_case, phase_axis, axis):
    prepared, spec = prepared_for(a_case, "distortion-correction", spacing_mm=(2.0, 2.0, 3.0))
    output = np.full((1, *prepared.region.shape), 2.6, np.float32)
    result = decode(output, prepared, a_case, spec, SOURCE, phase_axis=phase_axis)
    hbv = a_case[Sequence.HBV]
    vector = 2.6 * np.reshape(prepared.geometry.direction, (3, 3))[:, axis]
    np.testing.assert_allclose(result.displacement_mm, np.broadcast_to(vector, (*hbv.geometry.shape, 3)), atol=1e-5)
    shifted = sitk.Resample(
        hbv.to_sitk(), hbv.to_sitk(), sitk.TranslationTransform(3, vector.tolist()), sitk.sitkLinear
    )
    np.testing.assert_allclose(result.images["hbv-corrected"].array, sitk.GetArrayFromImage(shifted), atol=1e-3)
    assert result.images["adc-corrected"].geometry == a_case[Sequence.ADC].geometry


def test_signal_that_was_squeezed_is_spread_again():
    """A line of constant signal whose points p appear at p + d(p): undoing it gives the constant back."""
    grid = Geometry((200, 3, 2), (0.5, 0.5, 3.0))
    x = points_mm(grid)[..., 0]
    displacement = (2 * np.sin(x / 8)).astype(np.float32)
    # Conservation: distorted(p + d) * (1 + d') = 1, sampled densely along x.
    dense = np.linspace(0, 100, 20001)
    distorted = np.interp(x, dense + 2 * np.sin(dense / 8), 1 / (1 + np.cos(dense / 8) / 4)).astype(np.float32)
    field = displacement[..., None] * np.array([1, 0, 0], np.float32)
    pulled = warp(Volume(distorted, grid), field, grid).array * jacobian_along(displacement, grid, 0)
    np.testing.assert_allclose(pulled[:, :, 10:-10], 1, atol=0.01)


def test_jacobian_by_hand():
    grid = Geometry((4, 1, 1), (2.0, 1.0, 1.0))
    displacement = np.array([[[0.0, 1.0, 2.0, 3.0]]])
    assert jacobian_along(displacement, grid, 0).tolist() == [[[1.5, 1.5, 1.5, 1.5]]]
    assert (jacobian_along(displacement * -9, grid, 0) == 0).all()


def test_displacement_follows_the_tilted_axis(a_case):
    prepared, _ = prepared_for(a_case, "distortion-correction")
    field = displacement_field(np.ones(prepared.region.shape, np.float32), prepared, 1)
    np.testing.assert_allclose(np.linalg.norm(field, axis=-1), 1, atol=1e-5)


def test_unknown_phase_axis_is_refused(a_case):
    prepared, spec = prepared_for(a_case, "distortion-correction")
    with pytest.raises(ValueError, match="left-right"):
        decode(np.zeros((1, *prepared.region.shape), np.float32), prepared, a_case, spec, SOURCE, phase_axis="j")


def test_images_leave_the_case_unchanged(a_case):
    before = {s: v.array.copy() for s, v in a_case.volumes.items()}
    for task in ("super-resolution", "adc-translation", "distortion-correction"):
        prepared, spec = prepared_for(a_case, task)
        decode(np.ones((1, *prepared.region.shape), np.float32), prepared, a_case, spec, SOURCE)
    for sequence, array in before.items():
        np.testing.assert_array_equal(a_case[sequence].array, array)
