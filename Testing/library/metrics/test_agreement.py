"""Measures against values by hand and against second implementations."""

import math

import numpy as np
import pytest

from VFMTransferLib.metrics import agreement as metrics

SPACING_MM = (0.5, 0.7, 3.0)
SHAPE = (5, 14, 18)


def ellipsoid(center: tuple[float, float, float], radii: tuple[float, float, float], shape=(9, 22, 31)) -> np.ndarray:
    grid = np.indices(shape).astype(float)
    scaled = [((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radii, strict=True)]
    return sum(scaled) <= 1.0


@pytest.fixture
def two_ellipsoids() -> tuple[np.ndarray, np.ndarray]:
    return ellipsoid((4, 10, 15), (3, 6, 8)), ellipsoid((5, 11, 17), (2.5, 7, 9))


@pytest.fixture
def two_images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    image = rng.normal(200, 40, SHAPE).astype(np.float32)
    return image, image + rng.normal(5, 10, SHAPE).astype(np.float32)


def box(z: slice, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[z, y, x] = True
    return mask


def test_dice_of_half_overlapping_boxes_is_one_half():
    a = box(slice(1, 3), slice(2, 6), slice(0, 4))
    b = box(slice(1, 3), slice(2, 6), slice(2, 6))
    assert metrics.dice(a, b) == pytest.approx(0.5)


def test_dice_is_undefined_for_two_empty_masks_and_zero_for_one():
    empty = np.zeros(SHAPE, bool)
    assert math.isnan(metrics.dice(empty, empty))
    assert metrics.dice(empty, ~empty) == 0.0


@pytest.mark.parametrize(("axis", "expected_mm"), [(2, 3 * 0.5), (1, 3 * 0.7), (0, 3 * 3.0)])
def test_hausdorff95_of_two_voxels_is_their_physical_distance(axis: int, expected_mm: float):
    a, b = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    there = [1, 1, 1]
    a[tuple(there)] = True
    there[axis] += 3
    b[tuple(there)] = True
    assert metrics.hausdorff95_mm(a, b, SPACING_MM) == pytest.approx(expected_mm)


def test_hausdorff95_equals_monai(two_ellipsoids):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    a, b = (torch.from_numpy(m)[None, None].float() for m in two_ellipsoids)
    theirs = monai.compute_hausdorff_distance(a, b, percentile=95, spacing=SPACING_MM[::-1], include_background=True)
    assert metrics.hausdorff95_mm(*two_ellipsoids, SPACING_MM) == pytest.approx(float(theirs), rel=1e-5)


def test_hausdorff95_equals_brute_force_at_the_edge_of_the_array():
    a = box(slice(0, 4), slice(0, 6), slice(0, 9))
    b = box(slice(0, 5), slice(1, 9), slice(0, 7))

    def surface_points(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inside = [i for i in np.argwhere(mask) if not _all_neighbors_inside(padded, i + 1)]
        return np.array(inside) * np.array(SPACING_MM[::-1])

    pa, pb = surface_points(a), surface_points(b)
    distances = np.linalg.norm(pa[:, None] - pb[None], axis=-1)
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    assert metrics.hausdorff95_mm(a, b, SPACING_MM) == pytest.approx(expected)


def _all_neighbors_inside(padded: np.ndarray, index: np.ndarray) -> bool:
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    return all(padded[tuple(index + step)] for step in steps)


def test_hausdorff95_is_symmetric_and_zero_for_equal_masks(two_ellipsoids):
    a, b = two_ellipsoids
    assert metrics.hausdorff95_mm(a, b, SPACING_MM) == metrics.hausdorff95_mm(b, a, SPACING_MM) > 0
    assert metrics.hausdorff95_mm(a, a, SPACING_MM) == 0.0


def test_hausdorff95_is_undefined_where_a_mask_is_empty():
    empty = np.zeros(SHAPE, bool)
    assert math.isnan(metrics.hausdorff95_mm(empty, ~empty, SPACING_MM))
    assert math.isnan(metrics.hausdorff95_mm(empty, empty, SPACING_MM))


def test_volume_difference_is_a_minus_b():
    a = box(slice(1, 3), slice(2, 6), slice(0, 4))
    b = box(slice(1, 2), slice(2, 6), slice(0, 4))
    assert metrics.volume_difference_ml(a, b, 0.01) == pytest.approx(0.16)
    assert metrics.volume_difference_ml(b, a, 0.01) == pytest.approx(-0.16)


def test_mae_and_bias_by_hand():
    a, b = np.full(SHAPE, 7.0), np.full(SHAPE, 5.0)
    b[0] = 9.0
    mask = box(slice(0, 2), slice(0, 14), slice(0, 18))
    assert metrics.mae(a, b, mask) == pytest.approx(2.0)
    assert metrics.mean_difference(a, b, mask) == pytest.approx(0.0)
    assert metrics.mean_difference(a, b) == pytest.approx((4 * 2 - 2) / 5)


def test_signed_difference_keeps_its_sign_for_unsigned_voxels():
    a, b = np.full(SHAPE, 3, np.uint16), np.full(SHAPE, 10, np.uint16)
    difference = metrics.signed_difference(a, b)
    assert difference.dtype == np.float32
    assert np.all(difference == -7)


def test_psnr_equals_scikit_image(two_images):
    skimage = pytest.importorskip("skimage.metrics")
    a, b = two_images
    expected = skimage.peak_signal_noise_ratio(a.astype(float), b.astype(float), data_range=300.0)
    assert metrics.psnr_db(a, b, 300.0) == pytest.approx(expected, rel=1e-9)


def test_psnr_of_a_known_error_by_hand():
    a = np.zeros(SHAPE)
    assert metrics.psnr_db(a, a + 10.0, 1000.0) == pytest.approx(40.0)
    assert metrics.psnr_db(a, a, 1000.0) == math.inf


def test_ssim_equals_scikit_image_slice_by_slice(two_images):
    skimage = pytest.importorskip("skimage.metrics")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 300.0}
    a, b = two_images
    expected = np.mean([skimage.structural_similarity(x, y, **options) for x, y in zip(a, b, strict=True)])
    assert metrics.ssim(a, b, 300.0) == pytest.approx(expected, rel=1e-5)


def test_masked_ssim_is_the_mean_of_scikit_images_map(two_images):
    skimage = pytest.importorskip("skimage.metrics")
    a, b = two_images
    mask = box(slice(2, 3), slice(6, 8), slice(7, 12))
    _, full = skimage.structural_similarity(
        a[2], b[2], gaussian_weights=True, use_sample_covariance=False, data_range=300.0, full=True
    )
    assert metrics.ssim(a, b, 300.0, mask) == pytest.approx(full[6:8, 7:12].mean(), rel=1e-5)


def test_ssim_of_an_image_with_itself_is_one(two_images):
    assert metrics.ssim(two_images[0], two_images[0], 300.0) == pytest.approx(1.0)


def test_image_measures_are_undefined_in_an_empty_mask(two_images):
    nowhere = np.zeros(SHAPE, bool)
    a, b = two_images
    values = [metrics.mae(a, b, nowhere), metrics.psnr_db(a, b, 1.0, nowhere), metrics.ssim(a, b, 1.0, nowhere)]
    assert all(map(math.isnan, values))


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        metrics.dice(np.zeros((2, 3, 4)), np.zeros((4, 3, 2)))


def test_a_data_range_of_zero_is_refused(two_images):
    with pytest.raises(ValueError, match="data range must be a positive number"):
        metrics.psnr_db(*two_images, 0.0)


def test_slices_smaller_than_the_window_are_refused():
    small = np.zeros((3, 8, 20))
    with pytest.raises(ValueError, match="at least 11x11"):
        metrics.ssim(small, small, 1.0)
