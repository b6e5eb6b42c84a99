"""Whether images can be what they are given as: a sequence's values, refused or converted; and odd things, as notes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from ..core.errors import ImageError
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume

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
GLAND_ML = (8.0, 300.0)
LARGE_PART = 0.1  # of the gland's mask
MIN_SHARED_VIEW = 0.5
# How far the mutual information of T2w and ADC where they lie must stand out, in standard deviations, from that of
# displaced ones. In three real exams by 3.9 to 5.3, in phantoms by 7.7 and more; of 40 pairs of different patients at
# most by 2.9, though their centers were laid upon each other.
MIN_PEAK = 3.0
_STEP_MM = 3.0
_DISPLACED_MM = (9.0, 15.0, 21.0)
_BINS = 24
_MIN_SIDE, _MIN_SLICES = 24, 5  # of the coarse grid; in fewer voxels chance rules


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


def notes_on(
    volumes: Mapping[Sequence, Volume], gland: Volume | None, shared_view: float, is_one_exam: bool
) -> list[str]:
    """Sentences on what is odd; none for a good case.

    Args:
        shared_view: The smallest share that the fields of view of two images have in common.
        is_one_exam: Identifiers prove that the images belong together.
    """
    notes = [note for sequence, volume in volumes.items() for note in _slices(sequence, volume)]
    if shared_view < MIN_SHARED_VIEW:
        notes.append(
            f"The images share only {shared_view:.0%} of their fields of view; check that they are of one exam."
        )
    if not is_one_exam and Sequence.T2W in volumes and Sequence.ADC in volumes:
        peak = likeness_peak(volumes[Sequence.T2W], volumes[Sequence.ADC])
        if peak is not None and peak < MIN_PEAK:
            notes.append(
                "t2w and adc do not show the same where they overlap, as images of two patients would; check that they "
                "are of one exam."
            )
    return notes + ([] if gland is None else _gland(gland))


def _slices(sequence: Sequence, volume: Volume) -> list[str]:
    notes = []
    flat = volume.array.reshape(len(volume.array), -1)
    blank = int((flat.min(axis=1) == flat.max(axis=1)).sum())
    if blank:
        notes.append(f"{sequence} has blank slices: {blank} of {len(flat)}.")
    repeated = len(flat) - len({slice_.tobytes() for slice_ in flat}) - max(blank - 1, 0)
    if repeated > 0:
        notes.append(f"{sequence} has slices that repeat another one: {repeated} of {len(flat)}.")
    return notes


def _gland(gland: Volume) -> list[str]:
    low, high = GLAND_ML
    notes = []
    if not low <= gland.volume_ml <= high:
        notes.append(
            f"The mask of the prostate has {gland.volume_ml:.1f} ml, and prostates have {low:.0f} to {high:.0f} ml; "
            "check that it is one."
        )
    parts, _ = ndimage.label(gland.array)
    sizes = np.bincount(parts.ravel())[1:]
    large = int((sizes > LARGE_PART * sizes.sum()).sum())
    if large > 1:
        notes.append(f"The mask of the prostate has {large} large parts, and a prostate has one; check the mask.")
    return notes


def likeness_peak(t2w: Volume, adc: Volume) -> float | None:
    """How much more alike two images are where they lie than where they are displaced in plane.

    By normalized mutual information (Studholme et al., Pattern Recognit 32:71 (1999)) on a coarse grid.

    Returns:
        Standard deviations above the mean of 24 displaced positions; None where too little overlaps.
    """
    grid = t2w.geometry
    (x, y, z), (x_mm, y_mm, z_mm) = grid.size, grid.spacing_mm
    size = (int(x * x_mm / _STEP_MM), int(y * y_mm / _STEP_MM), z)
    if min(size[:2]) < _MIN_SIDE:
        return None
    coarse = Geometry(size, (_STEP_MM, _STEP_MM, z_mm), grid.origin_mm, grid.direction)
    inside = adc.with_array(np.ones(adc.array.shape, np.uint8)).resample_to(coarse, "nearest").array > 0
    both = inside.mean(axis=(1, 2)) > MIN_SHARED_VIEW
    if both.sum() < _MIN_SLICES:
        return None
    inside = inside[both]
    still = _binned(t2w.resample_to(coarse).array[both])
    moving = _binned(adc.resample_to(coarse).array[both], inside)
    angles = np.arange(8) * np.pi / 4
    shifts = [(0, 0)] + [
        (round(r * np.sin(a) / _STEP_MM), round(r * np.cos(a) / _STEP_MM)) for r in _DISPLACED_MM for a in angles
    ]
    most = round(max(_DISPLACED_MM) / _STEP_MM)
    middle = (slice(None), slice(most, size[1] - most), slice(most, size[0] - most))
    if min(size[1], size[0]) - 2 * most < _MIN_SIDE // 2:
        return None
    found = []
    for dy, dx in shifts:
        moved = (slice(None), slice(most + dy, size[1] - most + dy), slice(most + dx, size[0] - most + dx))
        seen = inside[moved]
        if seen.mean() < MIN_SHARED_VIEW:
            return None
        found.append(_normalized_mutual_information(still[middle][seen], moving[moved][seen]))
    displaced = np.array(found[1:])
    return float((found[0] - displaced.mean()) / max(displaced.std(), 1e-9))


def _binned(array: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    low, high = np.percentile(array if where is None else array[where], [1, 99])
    scaled = (array - low) / max(high - low, 1e-9) * _BINS
    return np.clip(scaled, 0, _BINS - 1).astype(np.intp)


def _normalized_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    joint = np.bincount(a * _BINS + b, minlength=_BINS * _BINS).reshape(_BINS, _BINS) / a.size
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / max(_entropy(joint), 1e-9)


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
