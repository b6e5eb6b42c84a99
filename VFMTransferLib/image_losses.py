"""What training minimizes where the answer is an image or a displacement; slices (B, C, H, W) and volumes alike."""

from __future__ import annotations

import torch
from torch import Tensor

from .metrics import SSIM_K1, SSIM_K2, SSIM_RADIUS_PX, SSIM_SIGMA_PX

SSIM_WEIGHT = 0.2
IMAGE_WEIGHT = 1.0
_TYPICAL_DETAIL = 0.1  # standard deviations of the image
_WINDOW_PX = 2 * SSIM_RADIUS_PX + 1


def image_loss(found: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error, and how far structural similarity is from 1, slice by slice in plane.

    Args:
        found, truth: Images (B, 1, [D,] H, W).
        weight: How much each place counts, same shape; 0 is not looked at. Alike by default.
    """
    found = found.float()
    absolute = (found - truth).abs()
    error = absolute.mean() if weight is None else (absolute * weight).sum() / weight.sum().clamp(min=1)
    if weight is not None:
        found, truth = (torch.where(weight > 0, image, 0.0) for image in (found, truth))
    span = float(truth.max() - truth.min())
    if span <= 0 or min(truth.shape[-2:]) < _WINDOW_PX:
        return error
    return error + SSIM_WEIGHT * _dissimilarity(found, truth, span)


def detail_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of the detail that is added to an image, in units of what is typical.

    Most places have none to add: an absolute error is content with nothing for longer than a short training lasts.
    """
    return ((found.float() - truth) / _TYPICAL_DETAIL).square().mean()


def displacement_loss(
    along_mm: Tensor, truth_mm: Tensor, seen: Tensor, truth: Tensor, tissue: Tensor, axis: int, step_mm: float
) -> Tensor:
    """Mean absolute error of one sample's displacement in tissue, and of the image that follows from it.

    Args:
        along_mm, truth_mm: Displacement along the phase axis, ([D,] H, W).
        seen: The distorted image.
        truth: The undistorted image.
        tissue: Where there is signal, 0 or 1.
        axis: Array axis of the phase encoding, from the end: -1 or -2.
        step_mm: Voxel along it.
    """
    along_mm = along_mm.float()
    count = tissue.sum().clamp(min=1)
    field = ((along_mm - truth_mm).abs() * tissue).sum() / count
    image = ((undistorted(seen, along_mm, axis, step_mm) - truth).abs() * tissue).sum() / count
    return field + IMAGE_WEIGHT * image


def undistorted(seen: Tensor, along_mm: Tensor, axis: int, step_mm: float) -> Tensor:
    """An image pulled along its displacement and scaled by the Jacobian, as `restored` does, but with a gradient.

    Args:
        seen: The distorted image ([D,] H, W).
        along_mm: Where the signal of each place went, along the axis.
        axis: Array axis, from the end.
        step_mm: Voxel along it.
    """
    image, shift = seen.movedim(axis, -1), along_mm.movedim(axis, -1) / step_mm
    length = image.shape[-1]
    place = (torch.arange(length, dtype=shift.dtype, device=shift.device) + shift).clamp(0, length - 1)
    below = place.detach().floor().clamp(max=length - 2).long()
    share = place - below
    pulled = image.gather(-1, below) * (1 - share) + image.gather(-1, below + 1) * share
    (stretch,) = torch.gradient(shift, dim=-1)
    return (pulled * (1 + stretch).clamp(min=0)).movedim(-1, axis)


def _dissimilarity(found: Tensor, truth: Tensor, span: float) -> Tensor:
    """1 - SSIM (Wang et al. 2004) of slices, as `metrics.ssim`; a volume's slices count as a batch."""
    with torch.autocast(found.device.type, enabled=False):  # a variance is a small difference of large numbers
        a, b = found.float(), truth.float()
        mean_a, mean_b, square_a, square_b, product = (_window_mean(x) for x in (a, b, a * a, b * b, a * b))
        c1, c2 = (SSIM_K1 * span) ** 2, (SSIM_K2 * span) ** 2
        covariance, variances = product - mean_a * mean_b, square_a - mean_a**2 + square_b - mean_b**2
        similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        return 1 - (similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean()


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted means (..., H - 10, W - 10) of the windows that lie within an image (..., H, W).

    As two matrix products: the gradient of a convolution with one channel takes longer than all of a small network.
    """
    rows, columns = (_window_matrix(size).to(x.device) for size in x.shape[-2:])
    return rows @ x @ columns.T


def _window_matrix(size: int) -> Tensor:
    """Weights (size - 10, size) of each window's pixels along one axis."""
    offset = torch.arange(size) - torch.arange(size - 2 * SSIM_RADIUS_PX)[:, None] - SSIM_RADIUS_PX
    weights = torch.exp(-0.5 * (offset / SSIM_SIGMA_PX) ** 2) * (offset.abs() <= SSIM_RADIUS_PX)
    return weights / weights.sum(dim=1, keepdim=True)
