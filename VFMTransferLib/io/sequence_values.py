"""What a sequence's values must be: the unit of an ADC map, no label map, no CT, not the wrong sequence."""

from __future__ import annotations

import numpy as np

from ..core.errors import ImageError
from ..core.terms import Sequence
from ..core.volume import Volume

MIN_GRAY_LEVELS = 12
# Air in Hounsfield units is -1000. MR signal is a magnitude; interpolation or an offset brings it a little below 0.
AIR_BELOW = -500.0
MAX_AIR_SHARE = 0.05
# Apparent diffusion coefficients of a pelvis in 1e-6 mm²/s: muscle and gland set the median (around
# 1300), urine and cystic tissue the top (around 3000). Wide enough for any scanner, far narrower
# than the factor of 1000 between the units in use.
ADC_MEDIAN_RANGE = (400.0, 2500.0)
ADC_TOP_RANGE = (1000.0, 6000.0)
NATIVE_ADC_UNIT = "1e-6 mm²/s"
ADC_UNITS = {NATIVE_ADC_UNIT: 1.0, "1e-3 mm²/s": 1e3, "mm²/s": 1e6}


def checked_sequence(volume: Volume, sequence: Sequence, file: str) -> tuple[Volume, list[str]]:
    """The volume in its sequence's unit, and what had to be decided.

    Returns:
        The volume (ADC in 1e-6 mm²/s) and notes in sentences.

    Raises:
        ImageError: A label map, an image without signal, a CT, or an ADC map in no known unit.
    """
    some = np.unique(volume.array[:: max(len(volume.array) // 8, 1)])  # most pictures have enough values in these
    if len(some) < MIN_GRAY_LEVELS and len(np.unique(volume.array)) < MIN_GRAY_LEVELS:
        raise ImageError(
            f"'{file}' must be a {sequence} image, but has only {len(np.unique(volume.array))} different values, "
            "as a mask or label map has. Select the image."
        )
    if volume.array.max() <= 0:
        raise ImageError(f"'{file}' must hold signal above 0, but its largest value is {volume.array.max():.3g}.")
    unit = adc_unit(volume.array)
    if sequence is not Sequence.ADC:
        air = float((volume.array < AIR_BELOW).mean())
        if air > MAX_AIR_SHARE:
            raise ImageError(
                f"'{file}' must be a {sequence} image of MR, but {air:.0%} of its voxels lie below {AIR_BELOW:.0f}, as "
                "air does in CT. Select the MR image."
            )
        doubt = f"'{file}' was given as {sequence}, but its values could be those of an ADC map; check it."
        return volume, [doubt] if unit == NATIVE_ADC_UNIT else []
    if unit is None:
        median, top = _center_levels(volume.array)
        raise ImageError(
            f"'{file}' must be an ADC map in mm²/s, 1e-3 mm²/s or 1e-6 mm²/s (tissue around 0.0013, 1.3 or 1300), "
            f"but its middle has median {median:.3g} and 95th percentile {top:.3g}. Select the ADC map."
        )
    if unit == NATIVE_ADC_UNIT:
        return volume, []
    scaled = (volume.array * np.float64(ADC_UNITS[unit])).astype(np.float32)
    return volume.with_array(scaled), [f"'{file}' was in {unit} by its range; converted to 1e-6 mm²/s."]


def adc_unit(array: np.ndarray) -> str | None:
    """The unit in which an image's values are those of an ADC map, or None if in no unit."""
    median, top = _center_levels(array)
    (low, high), (top_low, top_high) = ADC_MEDIAN_RANGE, ADC_TOP_RANGE
    for unit, factor in ADC_UNITS.items():
        if low <= median * factor <= high and top_low <= top * factor <= top_high:
            return unit
    return None


def _center_levels(array: np.ndarray) -> tuple[float, float]:
    """Median and 95th percentile of the positive values in the middle half of each slice.

    Air around the body and the scaled noise in it, which differs between vendors, stay out.
    """
    _, height, width = array.shape
    center = array[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    positive = center[center > 0]
    if positive.size == 0:
        return 0.0, 0.0
    median, top = np.percentile(positive, [50, 95])
    return float(median), float(top)
