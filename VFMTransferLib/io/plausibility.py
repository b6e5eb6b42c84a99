"""Whether images can be what they are given as: a sequence's values, refused or converted; and odd things, as notes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from ..core.errors import ImageError
from ..core.notes import Note
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
MAX_BESIDE_MM = 40.0  # in plane, ours; in fifteen exams of PROSTATEx and Prostate-3T it is 10 mm at most
GLAND_MM = (12.0, 120.0)  # along each axis of the mask's grid
MIN_FILLED = 0.25  # of the mask's box; an ellipsoid fills half of it
LARGE_PART = 0.1  # of the gland's mask
CUT_SHARE = 0.2  # of the largest slice's area; above, the last slice is no tip of the gland
MIN_MISSING_MM = 7.5  # at an end of the ADC map or the high-b image, which come of one scan
MIN_SHARED_VIEW = 0.5
# How far the mutual information of T2w and ADC where they lie must stand out, in standard deviations, from that of
# displaced ones. In three real exams by 3.9 to 5.3, in phantoms by 7.7 and more; of 40 pairs of different patients at
# most by 2.9, though their centers were laid upon each other.
# High-b image and ADC map, which come of one scan: in those exams by 11 to 20, of different patients by at most 2.5.
MIN_PEAK = 3.0
MAX_OUTLIER = 20.0  # times the 99.9th percentile; 2.9 at most in 21 real images
MAX_AT_TOP = 0.01  # of the voxels, that have the largest value; next to none have in any of those
MAX_OUT_OF_ORDER = 0.5  # of the slices, that resemble another one more than a neighbor; .05 at most in those
# Of T2w. Five real exams of 180 to 192 mm, widened by noise: the prostate's Dice falls by .01 on average at 240 mm, by
# .05 (most .11) at 384; at 96 mm by .01. Cut again with slices tilted by 20° it falls by .02, by 30° .04 (most .07), by
# 44° (three exams) .13 (most .21); turned in plane by 30° .02, by 44° .05. A tilt that only the header states costs
# nothing, and slices across the prostate's long axis are tilted by up to 33° in these exams.
VIEW_MM = (60.0, 250.0)
PIXEL_MM, STEP_MM, MIN_SLICES = 1.25, 6.0, 6
MAX_TILT_DEG, MAX_TURN_DEG = 35.0, 30.0
_PLANES = {"axial": "IS", "sagittal": "LR", "coronal": "AP"}  # and between which sides slices follow each other
MAX_COARSER = 1.5  # pixels of T2w divided by those of diffusion
_STEP_MM = 3.0
_DISPLACED_MM = (9.0, 15.0, 21.0)
_BINS = 24
_MIN_SIDE, _MIN_SLICES = 24, 5  # of the coarse grid; in fewer voxels chance rules


def checked_sequence(volume: Volume, sequence: Sequence, file: str) -> tuple[Volume, list[Note]]:
    """The volume in its sequence's unit, and what had to be decided.

    Returns:
        The volume (ADC in 1e-6 mm²/s, 0 where it was negative) and notes in sentences, which name no file: they go into
        results.

    Raises:
        ImageError: A label map, an image without signal, a CT, or an ADC map in no known unit.
    """
    some = np.unique(volume.array[:: max(len(volume.array) // 8, 1), ::8, ::8])  # most pictures have enough in these
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
        doubt = Note(
            "adc-like", f"What was given as {sequence} has values that could be those of an ADC map; check it."
        )
        return volume, [doubt] if unit == NATIVE_ADC_UNIT else []
    if unit is None:
        median, top = _center_levels(volume.array)
        raise ImageError(
            f"'{file}' must be an ADC map in mm²/s, 1e-3 mm²/s or 1e-6 mm²/s (tissue around 0.0013, 1.3 or 1300), "
            f"but its middle has median {median:.3g} and 95th percentile {top:.3g}. Select the ADC map."
        )
    notes = []
    if unit != NATIVE_ADC_UNIT:
        volume = volume.with_array((volume.array * np.float64(ADC_UNITS[unit])).astype(np.float32))
        notes.append(Note("unit", f"{sequence} was in {unit} by its range; converted to 1e-6 mm²/s."))
    if below := int((volume.array < 0).sum()):
        volume = volume.with_array(np.maximum(volume.array, 0))
        notes.append(
            Note(
                "negative",
                f"{sequence} was below 0, which no tissue is, in {below} of {volume.array.size} voxels; they were "
                "set to 0.",
            )
        )
    return volume, notes


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
) -> list[Note]:
    """Sentences on what is odd; none for a good case.

    Args:
        shared_view: The smallest share that the fields of view of two images have in common.
        is_one_exam: Identifiers prove that the images belong together.
    """
    volumes = {sequence: volume.to_nearest_lps() for sequence, volume in volumes.items()}  # however they are stored
    notes = [note for sequence, volume in volumes.items() for note in _slices(sequence, volume)]
    if shared_view < MIN_SHARED_VIEW:
        notes.append(
            Note(
                "shared-view",
                f"The images share only {shared_view:.0%} of their fields of view; check that they are of one exam.",
            )
        )
    for pair in ((Sequence.T2W, Sequence.ADC), (Sequence.HBV, Sequence.ADC)):
        if is_one_exam or not volumes.keys() >= set(pair):
            continue
        peak = likeness_peak(*(volumes[sequence] for sequence in pair))
        if peak is not None and peak < MIN_PEAK:
            notes.append(
                Note(
                    "two-exams",
                    f"{' and '.join(pair)} do not show the same where they overlap, as images of two patients would; "
                    "check that they are of one exam.",
                )
            )
    notes += _swapped(volumes)
    notes += _missing_ends(volumes)
    if Sequence.T2W in volumes:
        notes += _beyond(volumes[Sequence.T2W].geometry)
    return notes + ([] if gland is None else _gland(gland, volumes.get(Sequence.T2W)))


def _slices(sequence: Sequence, volume: Volume) -> list[Note]:
    notes = []
    flat = volume.array.reshape(len(volume.array), -1)
    lows, highs = flat.min(axis=1), flat.max(axis=1)
    blank = int((lows == highs).sum())
    if blank:
        notes.append(Note("blank-slices", f"{sequence} has blank slices: {blank} of {len(flat)}."))
    repeated = len(flat) - len({slice_.tobytes() for slice_ in flat}) - max(blank - 1, 0)
    if repeated > 0:
        notes.append(
            Note("repeated-slices", f"{sequence} has slices that repeat another one: {repeated} of {len(flat)}.")
        )
    elif (share := out_of_order(volume)) > MAX_OUT_OF_ORDER:
        notes.append(
            Note(
                "slice-order",
                f"{sequence} has slices that do not follow each other: {share:.0%} resemble another one more than "
                "their neighbors; check their order.",
            )
        )
    low, top = float(lows.min()), float(highs.max())
    usual = float(np.percentile(np.abs(volume.array[:, ::3, ::3]), 99.9))
    if 0 < usual * MAX_OUTLIER < max(top, -low):
        notes.append(
            Note(
                "outliers",
                f"{sequence} has voxels far beyond all others: {low:.4g}..{top:.4g}, where 99.9 % lie within "
                f"{usual:.4g}; check them.",
            )
        )
    at_top = np.count_nonzero(flat == flat.dtype.type(top)) / flat.size
    if at_top > MAX_AT_TOP:
        notes.append(
            Note(
                "clipped",
                f"{sequence} has its largest value, {top:.4g}, in {at_top:.0%} of its voxels, as a clipped or inverted "
                "image has; check it.",
            )
        )
    return notes


def out_of_order(volume: Volume) -> float:
    """The share of slices that resemble another slice more than a neighbor; 0 of few slices."""
    depth = len(volume.array)
    if depth < MIN_SLICES:
        return 0.0
    steps = [max(int(_STEP_MM / mm), 1) for mm in volume.geometry.spacing_mm[:2]]
    coarse = volume.array[:, :: steps[1], :: steps[0]].reshape(depth, -1).astype(np.float32)
    coarse = np.minimum(coarse, np.percentile(coarse, 99))  # vessels would rule
    coarse -= coarse.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(coarse, axis=1)
    alike = coarse @ coarse.T / np.maximum(np.outer(lengths, lengths), 1e-9)
    np.fill_diagonal(alike, -2)
    is_near = np.abs(alike.argmax(axis=1) - np.arange(depth)) <= 1
    return float((~is_near[lengths > 0]).mean()) if lengths.any() else 0.0


def _plane(grid: Geometry) -> str:
    """The plane of a grid's slices."""
    letter = grid.orientation[grid.slice_axis]
    return next(plane for plane, letters in _PLANES.items() if letter in letters)


def _beyond(grid: Geometry) -> list[Note]:
    """What of a T2w's grid lies beyond what the networks were tried on."""
    if (plane := _plane(grid)) != "axial":
        return [
            Note(
                "not-axial",
                f"t2w has {plane} slices, and must be axial, as those that networks were tried on; select the axial "
                "T2w.",
            )
        ]
    x, y, z = (next(i for i, letter in enumerate(grid.orientation) if letter in pair) for pair in ("LR", "AP", "IS"))
    axes = np.abs(np.reshape(grid.direction, (3, 3)).T)
    tilt = float(np.degrees(np.arccos(min(axes[z][2], 1.0))))
    turn = float(np.degrees(np.arctan2(axes[x][1], axes[x][0])))
    step, pixel = grid.spacing_mm[z], max(grid.spacing_mm[x], grid.spacing_mm[y])
    width, (low, high) = max(grid.extent_mm[x], grid.extent_mm[y]), VIEW_MM
    found = {
        f"is {width:.0f} mm wide, and {low:.0f} to {high:.0f} mm": not low <= width <= high,
        f"has pixels of {pixel:.2f} mm, and up to {PIXEL_MM} mm": pixel > PIXEL_MM,
        f"has a slice each {step:.1f} mm, and up to {STEP_MM:.0f} mm": step > STEP_MM,
        f"has {grid.size[z]} slices, and {MIN_SLICES} or more": grid.size[z] < MIN_SLICES,
        f"is tilted from axial by {tilt:.0f}°, and up to {MAX_TILT_DEG:.0f}°": tilt > MAX_TILT_DEG,
        f"is turned in plane by {turn:.0f}°, and up to {MAX_TURN_DEG:.0f}°": turn > MAX_TURN_DEG,
    }
    advice = " Crop it to 200 mm around the prostate." if width > high else ""
    return [
        Note(
            "out-of-range", f"t2w {what} are what the networks were tried on; they may mark the prostate worse.{advice}"
        )
        for what, is_beyond in found.items()
        if is_beyond
    ]


def _missing_ends(volumes: Mapping[Sequence, Volume]) -> list[Note]:
    """Whether ADC map and high-b image, which come of one scan, end at different heights."""
    if Sequence.HBV not in volumes or Sequence.ADC not in volumes:
        return []
    hbv, adc = (volumes[sequence].to_nearest_lps().geometry for sequence in (Sequence.HBV, Sequence.ADC))
    normal = np.reshape(hbv.direction, (3, 3))[:, 2]

    def ends_mm(grid: Geometry) -> np.ndarray:
        middle = ((grid.size[0] - 1) / 2, (grid.size[1] - 1) / 2)
        return np.array([grid.to_world((*middle, z)) @ normal for z in (0, grid.size[2] - 1)])

    notes = []
    for end, above_mm in zip(("lower", "upper"), (ends_mm(hbv) - ends_mm(adc)) * (-1, 1), strict=True):
        if abs(above_mm) > MIN_MISSING_MM:
            names = ("adc", "hbv") if above_mm > 0 else ("hbv", "adc")
            notes.append(
                Note(
                    "missing-slices",
                    f"{names[0]} ends {abs(above_mm):.0f} mm before {names[1]} at its {end} end, where slices may be "
                    "missing; check that all are there.",
                )
            )
    return notes


def _gland(gland: Volume, t2w: Volume | None) -> list[Note]:
    low, high = GLAND_ML
    notes = []
    if not low <= gland.volume_ml <= high:
        notes.append(
            Note(
                "gland-volume",
                f"The mask of the prostate has {gland.volume_ml:.1f} ml, and prostates have {low:.0f} to {high:.0f} "
                "ml; check that it is one.",
            )
        )
    parts, _ = ndimage.label(gland.array)
    sizes = np.bincount(parts.ravel())[1:]
    large = int((sizes > LARGE_PART * sizes.sum()).sum())
    if large > 1:
        notes.append(
            Note(
                "gland-parts",
                f"The mask of the prostate has {large} large parts, and a prostate has one; check the mask.",
            )
        )
    box = ndimage.find_objects((gland.array > 0).astype(np.uint8))[0]
    extents_mm = [(edge.stop - edge.start) * mm for edge, mm in zip(box[::-1], gland.geometry.spacing_mm, strict=True)]
    (low, high), is_one_part = GLAND_MM, not notes
    if is_one_part and not all(low <= mm <= high for mm in extents_mm):
        size = " x ".join(f"{mm:.0f}" for mm in extents_mm)
        notes.append(
            Note(
                "gland-size",
                f"The mask of the prostate is {size} mm large, and prostates are {low:.0f} to {high:.0f} mm along each "
                "axis; check that it is one.",
            )
        )
    elif is_one_part and gland.volume_ml * 1000 < MIN_FILLED * np.prod(extents_mm):
        notes.append(
            Note(
                "gland-filled",
                f"The mask of the prostate fills {gland.volume_ml * 1000 / np.prod(extents_mm):.0%} of the box around "
                f"it, as an outline does, and prostates fill {MIN_FILLED:.0%} and more; check that it is one.",
            )
        )
    if t2w is not None and (beside_mm := _beside(gland, t2w)) > MAX_BESIDE_MM:
        notes.append(
            Note(
                "gland-offset",
                f"the middle of the prostate's mask lies {beside_mm:.0f} mm beside the middle of t2w, and "
                f"prostates lie within {MAX_BESIDE_MM:.0f} mm of it; check that the mask is this exam's.",
                "warning",
            )
        )
    if t2w is not None and (cut := _cut_ends(gland, t2w)):
        notes.append(
            Note(
                "gland-cut",
                f"The prostate's mask reaches the {cut} of t2w, where slices may be missing; check that all are there.",
            )
        )
    return notes


def _beside(gland: Volume, t2w: Volume) -> float:
    """How far the middle of the gland's mask lies beside that of the T2w, in the plane of its slices, in mm."""
    grid, z_y_x = t2w.to_nearest_lps().geometry, np.argwhere(gland.array)
    middle = grid.to_index(gland.geometry.to_world(z_y_x[:, ::-1].mean(axis=0, keepdims=True)))[0]
    offset_mm = (middle - (np.asarray(grid.size) - 1) / 2) * grid.spacing_mm
    return float(np.hypot(*offset_mm[:2]))


def _cut_ends(gland: Volume, t2w: Volume) -> str:
    """At which end of the T2w's slices the gland's mask is cut: its last slice there is no small tip."""
    areas = gland.resample_to(t2w.geometry, "nearest").to_nearest_lps().array.sum(axis=(1, 2), dtype=float)
    ends = {"lowest slice": areas[0], "highest slice": areas[-1]}
    return " and the ".join(end for end, area in ends.items() if area > CUT_SHARE * areas.max())


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


def _swapped(volumes: Mapping[Sequence, Volume]) -> list[Note]:
    """Notes on a diffusion image that is finer than T2w by far, which is the finer one in any protocol."""
    if Sequence.T2W not in volumes:
        return []
    t2w_mm = max(volumes[Sequence.T2W].geometry.spacing_mm[:2])
    return [
        Note(
            "swapped",
            f"{sequence} is finer than t2w by far; check that t2w and {sequence} were not swapped.",
            "warning",
        )
        for sequence, volume in volumes.items()
        if t2w_mm > MAX_COARSER * max(volume.geometry.spacing_mm[:2])
    ]
