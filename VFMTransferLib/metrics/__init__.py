"""Measures of agreement, error and calibration: pure functions of arrays.

Imports `core`.
"""

from .agreement import (
    HD_PERCENTILE,
    SSIM_RADIUS_PX,
    SSIM_SIGMA_PX,
    data_range,
    dice,
    hausdorff95_mm,
    mae,
    mean_difference,
    psnr_db,
    signed_difference,
    ssim,
    volume_difference_ml,
)

__all__ = [
    "HD_PERCENTILE",
    "SSIM_RADIUS_PX",
    "SSIM_SIGMA_PX",
    "data_range",
    "dice",
    "hausdorff95_mm",
    "mae",
    "mean_difference",
    "psnr_db",
    "signed_difference",
    "ssim",
    "volume_difference_ml",
]
