from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.volume import Geometry, Volume, bounding_box, marked_voxels

# Columns are the directions of x, y, z: rotated by 30° about the patient's left-right axis.
COS, SIN = 0.8660254037844387, 0.5
OBLIQUE = (1.0, 0.0, 0.0, 0.0, COS, -SIN, 0.0, SIN, COS)


@pytest.fixture
def an_oblique_grid() -> Geometry:
    return Geometry((7, 6, 5), (0.5, 0.8, 3.0), (10.0, -20.0, 30.0), OBLIQUE)


@pytest.fixture
def an_oblique_volume(an_oblique_grid) -> Volume:
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.normal(size=an_oblique_grid.shape), 1.0)
    return Volume(smooth.astype(np.float32), an_oblique_grid, "t2w")


def trilinear_by_position(volume: Volume, target: Geometry) -> np.ndarray:
    """A plain second implementation: where does each target voxel lie in the source's index space?"""
    z, y, x = np.indices(target.shape)
    index = volume.geometry.to_index(target.to_world(np.stack([x, y, z], axis=-1)))
    return ndimage.map_coordinates(volume.array, np.moveaxis(index[..., ::-1], -1, 0), order=1, mode="nearest")


def test_affine_takes_indices_to_millimeters(an_oblique_grid):
    expected = [
        [0.5, 0.0, 0.0, 10.0],
        [0.0, 0.8 * COS, -3.0 * SIN, -20.0],
        [0.0, 0.8 * SIN, 3.0 * COS, 30.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
    np.testing.assert_allclose(an_oblique_grid.affine, expected)


def test_positions_are_those_of_simpleitk(an_oblique_grid):
    image = an_oblique_grid.image()
    np.testing.assert_allclose(
        an_oblique_grid.to_world((1, 2, 3)), image.TransformIndexToPhysicalPoint((1, 2, 3)), atol=1e-9
    )


def test_indices_and_positions_undo_each_other(an_oblique_grid):
    points = np.random.default_rng(2).normal(size=(4, 3))
    np.testing.assert_allclose(an_oblique_grid.to_index(an_oblique_grid.to_world(points)), points, atol=1e-9)


def test_center_lies_between_the_outermost_voxels(an_oblique_grid):
    corners = an_oblique_grid.to_world((0, 0, 0)) + an_oblique_grid.to_world((6, 5, 4))
    np.testing.assert_allclose(an_oblique_grid.center_mm, corners / 2)


def test_obliqueness_is_the_angle_to_the_nearest_axis(an_oblique_grid):
    assert an_oblique_grid.obliqueness_deg == pytest.approx(30.0)


def test_an_axial_grid_is_not_oblique():
    assert Geometry((4, 3, 2), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)).obliqueness_deg == pytest.approx(0.0)


def test_voxel_volume_and_extent(an_oblique_grid):
    assert an_oblique_grid.voxel_volume_ml == pytest.approx(0.5 * 0.8 * 3.0 / 1000)
    assert an_oblique_grid.extent_mm == pytest.approx((3.5, 4.8, 15.0))


def test_crop_starts_at_the_position_of_its_first_voxel(an_oblique_grid):
    crop = an_oblique_grid.crop((2, 1, 3), (4, 3, 2))
    np.testing.assert_allclose(crop.origin_mm, an_oblique_grid.to_world((2, 1, 3)))
    assert crop.shape == (2, 3, 4)


def test_another_spacing_keeps_origin_and_field_of_view(an_oblique_grid):
    finer = an_oblique_grid.with_spacing((0.5, 0.5, 1.0))
    assert finer.size == (7, 10, 15)  # 6 * 0.8 / 0.5 = 9.6
    assert finer.origin_mm == an_oblique_grid.origin_mm


def test_a_grid_equals_itself_up_to_what_files_round_away(an_oblique_grid):
    rounded = Geometry(an_oblique_grid.size, (0.50004, 0.8, 3.0), (10.0005, -20.0, 30.0), OBLIQUE)
    assert an_oblique_grid.equals(rounded)
    assert not an_oblique_grid.equals(Geometry(an_oblique_grid.size, (0.51, 0.8, 3.0), (10.0, -20.0, 30.0), OBLIQUE))


def test_volume_must_fit_its_grid(an_oblique_grid):
    with pytest.raises(ValueError, match=r"must be \(5, 6, 7\) \(D, H, W\)"):
        Volume(np.zeros((7, 6, 5)), an_oblique_grid)


def test_simpleitk_round_trip_keeps_voxels_and_grid(an_oblique_volume):
    back = Volume.from_sitk(an_oblique_volume.to_sitk(), "t2w")
    np.testing.assert_array_equal(back.array, an_oblique_volume.array)
    assert back.geometry == an_oblique_volume.geometry


@pytest.mark.parametrize("orientation", ["LAS", "RPS", "PSR", "SRA"])
def test_axes_turn_to_nearest_lps_without_interpolation(an_oblique_volume, orientation):
    turned = Volume.from_sitk(sitk.DICOMOrient(an_oblique_volume.to_sitk(), orientation))
    assert turned.geometry.orientation == orientation
    back = turned.to_nearest_lps()
    np.testing.assert_array_equal(back.array, an_oblique_volume.array)
    assert back.geometry.equals(an_oblique_volume.geometry)


def test_turning_axes_moves_no_voxel_in_space(an_oblique_volume):
    turned = Volume.from_sitk(sitk.DICOMOrient(an_oblique_volume.to_sitk(), "PSR"))
    where = turned.geometry.to_world((1, 2, 3))
    x, y, z = np.round(an_oblique_volume.geometry.to_index(where)).astype(int)
    assert turned.array[3, 2, 1] == an_oblique_volume.array[z, y, x]


def test_resampling_is_by_position_as_in_a_plain_second_implementation(an_oblique_volume):
    inside = Geometry((5, 4, 6), (0.4, 0.6, 1.5), (10.7, -22.0, 33.0))
    resampled = an_oblique_volume.resample_to(inside, fill=-7.0)
    expected = trilinear_by_position(an_oblique_volume, inside)
    is_inside = resampled.array != -7.0
    assert is_inside.mean() > 0.3
    np.testing.assert_allclose(resampled.array[is_inside], expected[is_inside], atol=1e-5)


def test_resampling_equals_simpleitk_with_the_same_reference(an_oblique_volume):
    target = Geometry((8, 9, 4), (0.6, 0.5, 2.5), (9.0, -21.0, 29.0))
    direct = sitk.Resample(an_oblique_volume.to_sitk(), target.image(), sitk.Transform(), sitk.sitkLinear, 0.0)
    np.testing.assert_array_equal(an_oblique_volume.resample_to(target).array, sitk.GetArrayFromImage(direct))


def test_labels_resampled_to_a_finer_grid_and_back_are_the_same(an_oblique_grid):
    labels = np.random.default_rng(3).integers(0, 4, an_oblique_grid.shape).astype(np.uint8)
    volume = Volume(labels, an_oblique_grid)
    finer = volume.resample_to(an_oblique_grid.with_spacing((0.25, 0.4, 1.0)), "nearest")
    back = finer.resample_to(an_oblique_grid, "nearest")
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array[:-1, :-1, :-1], labels[:-1, :-1, :-1])


def test_resampling_to_the_own_grid_changes_nothing(an_oblique_volume):
    assert an_oblique_volume.resample_to(an_oblique_volume.geometry) is an_oblique_volume


def test_a_single_slice_is_resampled_as_thick_as_it_is():
    slice_ = Volume(np.full((1, 4, 5), 3.0, np.float32), Geometry((5, 4, 1), (1.0, 1.0, 4.0)))
    finer = slice_.resample_to(Geometry((5, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, -2.0)))
    np.testing.assert_allclose(finer.array[1:4], 3.0)


def test_volume_in_ml_counts_non_zero_voxels(an_oblique_grid):
    mask = np.zeros(an_oblique_grid.shape, np.uint8)
    mask[1:3, 2:4, 3:6] = 1
    assert Volume(mask, an_oblique_grid).volume_ml == pytest.approx(12 * 1.2e-3)


def test_another_grid_is_refused_with_both_in_words(an_oblique_volume):
    other = Volume(np.zeros((2, 3, 4)), Geometry((4, 3, 2)), "mask")
    with pytest.raises(
        GeometryError, match=r"mask must lie on the grid of t2w \(7x6x5 at 0.5x0.8x3 mm, LPS, oblique 30°"
    ):
        an_oblique_volume.require_same_grid(other)


def test_inputs_stay_as_they_were(an_oblique_volume):
    before = an_oblique_volume.array.copy()
    an_oblique_volume.to_nearest_lps()
    an_oblique_volume.resample_to(Geometry((4, 3, 2)))
    np.testing.assert_array_equal(an_oblique_volume.array, before)


def test_a_refined_grid_fills_the_same_box():
    grid = Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    fine = grid.refined((1, 2, 3))
    assert fine.size == (4, 10, 18)
    np.testing.assert_allclose(fine.to_world((-0.5, -0.5, -0.5)), grid.to_world((-0.5, -0.5, -0.5)))
    np.testing.assert_allclose(fine.to_world((3.5, 9.5, 17.5)), grid.to_world((3.5, 4.5, 5.5)))


def test_a_centered_grid_has_its_middle_there():
    grid = Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    again = Geometry.centered(grid.center_mm, grid.size, grid.spacing_mm, np.reshape(grid.direction, (3, 3)))
    assert again.equals(grid)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_a_part_of_a_grid_takes_its_voxels_as_they_are(interpolation):
    geometry = Geometry((7, 6, 5), (0.7, 0.9, 3.0), (1.0, -2.0, 3.0), OBLIQUE)
    volume = Volume(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32), geometry)
    part = volume.cropped_to((slice(1, 4), slice(2, 6), slice(0, 5)))
    found = volume.resample_to(part.geometry, interpolation)
    np.testing.assert_array_equal(found.array, volume.array[1:4, 2:6, 0:5])
    image = sitk.Resample(volume.to_sitk(), part.geometry.image(), sitk.Transform(), sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(found.array, sitk.GetArrayFromImage(image), atol=1e-5)
    beyond = geometry.crop((-1, 0, 0), (4, 4, 4))
    assert (volume.resample_to(beyond, interpolation, fill=9.0).array[..., 0] == 9.0).all()


@pytest.mark.parametrize(("interpolation", "kind"), [("nearest", np.int16), ("linear", np.float32)])
def test_a_part_of_a_grid_has_the_type_that_resampling_gives(interpolation, kind):
    volume = Volume(np.arange(210, dtype=np.int16).reshape(5, 6, 7), Geometry((7, 6, 5), (0.7, 0.9, 3.0)))
    part = volume.geometry.crop((1, 2, 0), (4, 4, 5))
    beside = replace(part, origin_mm=(0.9, 1.9, 0.2))
    assert volume.resample_to(part, interpolation).array.dtype == kind
    assert volume.resample_to(beside, interpolation).array.dtype == kind


def test_a_bounding_box_holds_all_marked_voxels_and_a_margin_inside_the_array():
    mask = np.zeros((6, 7, 8), bool)
    mask[2, 3, 1] = mask[4, 5, 6] = True
    assert bounding_box(mask) == (slice(2, 5), slice(3, 6), slice(1, 7))
    assert bounding_box(mask, 2) == (slice(0, 6), slice(1, 7), slice(0, 8))
    with pytest.raises(ValueError, match="must mark at least one voxel"):
        bounding_box(np.zeros((2, 2, 2), bool))


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_marked_voxels_are_those_of_numpy_in_its_order(share):
    mask = np.random.default_rng(1).random((5, 6, 7)) < share
    np.testing.assert_array_equal(marked_voxels(mask), np.argwhere(mask))
