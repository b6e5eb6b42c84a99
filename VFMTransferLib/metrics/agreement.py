"""Measures of agreement and error on arrays (D, H, W); each function bears the name of its value.

A measure that has no value for its input is `nan`; each docstring states when. The caller gives the reason.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..core.volume import Triple

HD_PERCENTILE = 95.0

# Wang et al., "Image quality assessment: from error visibility to structural similarity",
# IEEE TIP 13(4), 2004: Gaussian window of standard deviation 1.5 px, K1, K2.
SSIM_SIGMA_PX = 1.5
SSIM_RADIUS_PX = 5
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient 2|A∩B| / (|A| + |B|) of two masks, 0..1; 0 where one alone is empty, `nan` where both are."""
    a, b = _masks(a, b)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else float("nan")


def hausdorff95_mm(a: np.ndarray, b: np.ndarray, spacing_mm: Triple) -> float:
    """95 % Hausdorff distance of two masks: the larger of the two directed 95th percentiles, as in MONAI.

    A surface is the voxels of a mask with one of their six neighbors outside it; beyond the array's edge is outside. A
    distance goes from the center of a surface voxel to the nearest center of the other surface. The percentile
    interpolates linearly. `spacing_mm` is (x, y, z); `nan` where either mask is empty.
    """
    a, b = _masks(a, b)
    if not a.any() or not b.any():
        return float("nan")
    box = ndimage.find_objects((a | b).astype(np.uint8))[0]
    surface_a, surface_b = (mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (a, b))
    sampling = spacing_mm[::-1]
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=sampling)[surface_a]
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=sampling)[surface_b]
    return float(max(np.percentile(to_b, HD_PERCENTILE), np.percentile(to_a, HD_PERCENTILE)))


def volume_difference_ml(a: np.ndarray, b: np.ndarray, voxel_volume_ml: float) -> float:
    """Volume of `a` minus volume of `b`; defined for empty masks too, whose volume is 0."""
    a, b = _masks(a, b)
    return (int(a.sum()) - int(b.sum())) * voxel_volume_ml


def signed_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a` minus `b`, float32, in the unit of both."""
    _require_same_shape(a, b)
    return np.asarray(a, np.float32) - np.asarray(b, np.float32)


def mean_difference(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean of `a` minus `b` (bias) over the mask; `nan` where the mask is empty."""
    return _mean(_difference(a, b), mask)


def mae(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute error over the mask, in the unit of both; `nan` where the mask is empty."""
    return _mean(np.abs(_difference(a, b)), mask)


def psnr_db(a: np.ndarray, b: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio 10·log10(data_range² / mean squared error) over the mask, in decibels.

    `data_range` is the span of values that counts as the peak; `data_range(reference)` is the usual choice, and the
    caller states it. `inf` for equal images, `nan` where the mask is empty.
    """
    _require_positive(data_range)
    mse = _mean(_difference(a, b) ** 2, mask)
    if mse == 0.0:
        return float("inf")
    return float(10.0 * np.log10(data_range**2 / mse))


def ssim(a: np.ndarray, b: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Structural similarity, slice by slice in plane, averaged over all voxels of the mask: -1..1.

    In plane, since slices of prostate MRI are several times thicker than their pixels. Gaussian window of standard
    deviation 1.5 px and radius 5 px, population covariance, K1 = 0.01, K2 = 0.03: scikit-image's
    `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`. As there, 5 px at the in-plane border
    are left out of the mean; the window may look outside the mask. `nan` where the mask, less the border, is empty;
    ValueError where a slice is smaller than the window (11x11 px).
    """
    _require_positive(data_range)
    _require_same_shape(a, b)
    window = 2 * SSIM_RADIUS_PX + 1
    if min(a.shape[-2:]) < window:
        raise ValueError(f"SSIM needs slices of at least {window}x{window} px, got {a.shape[-1]}x{a.shape[-2]}.")
    measured = np.ones(a.shape, bool) if mask is None else np.asarray(mask) != 0
    measured[:, :SSIM_RADIUS_PX] = measured[:, -SSIM_RADIUS_PX:] = False
    measured[:, :, :SSIM_RADIUS_PX] = measured[:, :, -SSIM_RADIUS_PX:] = False
    total = 0.0
    for slice_a, slice_b, inside in zip(a, b, measured, strict=True):
        if inside.any():
            shown = ndimage.find_objects(inside.astype(np.uint8))[0]
            box = tuple(slice(s.start - SSIM_RADIUS_PX, s.stop + SSIM_RADIUS_PX) for s in shown)  # with the window
            total += float(_ssim_map(slice_a[box], slice_b[box], data_range)[inside[box]].sum())
    count = int(measured.sum())
    return total / count if count else float("nan")


def data_range(image: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Largest minus smallest value over the mask: the data range of `psnr_db` and `ssim`."""
    values = image if mask is None else image[mask != 0]
    return float(np.max(values)) - float(np.min(values)) if values.size else float("nan")


def _ssim_map(a: np.ndarray, b: np.ndarray, data_range: float) -> np.ndarray:
    """SSIM of each pixel of two slices (H, W)."""

    def window_mean(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, SSIM_SIGMA_PX, radius=SSIM_RADIUS_PX)

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mean_a, mean_b = window_mean(a), window_mean(b)
    var_a = window_mean(a * a) - mean_a**2
    var_b = window_mean(b * b) - mean_b**2
    covariance = window_mean(a * b) - mean_a * mean_b
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _masks(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _require_same_shape(a, b)
    return np.asarray(a) != 0, np.asarray(b) != 0


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    _require_same_shape(a, b)
    return np.asarray(a, np.float64) - np.asarray(b, np.float64)


def _mean(values: np.ndarray, mask: np.ndarray | None) -> float:
    if mask is not None:
        _require_same_shape(values, mask)
        values = values[mask != 0]
    return float(values.mean()) if values.size else float("nan")


def _require_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise ValueError(f"Both arrays must have one shape, got {np.shape(a)} and {np.shape(b)}.")


def _require_positive(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"The data range must be a positive number, got {data_range}.")
