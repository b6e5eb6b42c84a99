"""Image quality before anything runs: technical criteria, noise, ghosts, and how far diffusion lies from T2w.

The technical criteria are the minimum requirements of PI-RADS v2.1, which PI-QUAL checks (Giganti et al., Insights
Imaging 12:59 (2021), table 1). What PI-QUAL asks a reader to judge by eye is not judged here, and there is no score:
each criterion stands with its value, its threshold and who set that. Thresholds that are ours say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from scipy import ndimage

from ..core.case import Case
from ..core.measurements import PHASE_AXES, Acquisition, QualityCriterion
from ..core.terms import Sequence
from ..core.volume import Geometry, Triple, Volume
from .gland import GlandFrame

PIRADS = "PI-RADS v2.1"
ACR = "ACR phantom test of MRI, percent signal ghosting"
ROSE = "Rose criterion"
OURS = "this project"
T2W_VIEW_MM, DWI_VIEW_MM = (120.0, 200.0), (160.0, 220.0)
T2W_PHASE_MM, T2W_FREQUENCY_MM, DWI_IN_PLANE_MM = 0.7, 0.4, 2.5
T2W_SLICE_MM, DWI_SLICE_MM = 3.0, 4.0
LOW_B, MIDDLE_B, HIGH_B = (0.0, 100.0), (800.0, 1000.0), 1400.0
MAX_TILT_DEG = 35.0
MAX_ANGLE_DEG = 5.0
VESICLES_MM = 10.0
MIN_SIGNAL_TO_NOISE = 5.0
MAX_GHOST = 0.025
SHIFT_MM = (2.0, 5.0)
_MIN_AIR = 0.01  # of all voxels
_ROUNDING_MM = 0.051  # DICOM and NIfTI write sizes rounded
_VIEW_ROUNDING_MM = 1.0  # and a field of view is that of rounded voxels, hundreds of them
_MOST_DECIMALS = 3  # what differs by less is equal


def measure_quality(case: Case, gland: Volume | None = None) -> tuple[QualityCriterion, ...]:
    """All criteria that a case's images allow, in the order of the sequences.

    Args:
        case: Its `acquisitions` are what DICOM headers state; without them acquired sizes and b values are not known.
        gland: Mask of the prostate on any grid.
    """
    return (*measure_t2w(case, gland), *measure_diffusion(case, gland))


def measure_t2w(case: Case, gland: Volume | None = None) -> Iterator[QualityCriterion]:
    """The criteria of T2w, which follow from it and the mask alone; none without T2w."""
    if Sequence.T2W not in case:
        return
    volume = case[Sequence.T2W].to_nearest_lps()
    grid, about = volume.geometry, case.acquisitions.get(Sequence.T2W, Acquisition())
    yield _view("t2w", grid, T2W_VIEW_MM)
    yield _in_plane_t2w(grid, about)
    yield _slices("t2w", grid, about, T2W_SLICE_MM)
    tilt = float(np.degrees(np.arccos(min(abs(_normal(grid)[2]), 1.0))))
    yield _criterion(
        "t2w-axial-alignment", "T2w, tilt from axial", tilt, "°", f"at most {MAX_TILT_DEG:.0f}°", tilt <= MAX_TILT_DEG,
        OURS, "PI-RADS asks for slices that are axial to the patient or to the prostate's long axis.", decimals=0,
        limits=(MAX_TILT_DEG,),
    )  # fmt: skip
    planes = about.other_planes
    yield QualityCriterion(
        "t2w-other-planes",
        "T2w, other planes",
        float(len(planes)) if about.is_study else None,
        ", ".join(planes) or ("none" if about.is_study else "not known"),
        "",
        "at least one of sagittal and coronal",
        bool(planes) if about.is_study else None,
        PIRADS,
        "A second plane is read beside the axial one." if about.is_study else "Unknown: the input is a single file.",
    )
    if gland is not None:
        yield from _coverage(volume, gland)
    yield _noise("t2w", volume, gland)
    yield _ghosts("t2w", volume, volume, about)


def measure_diffusion(case: Case, gland: Volume | None = None) -> Iterator[QualityCriterion]:
    """The criteria of diffusion, which compare it with T2w too; none without diffusion."""
    seen = next((s for s in (Sequence.HBV, Sequence.ADC) if s in case), None)
    if seen is None:
        return
    volume = case[seen].to_nearest_lps()
    grid, about = volume.geometry, case.acquisitions.get(Sequence.HBV) or case.acquisitions.get(seen, Acquisition())
    yield _view("dwi", grid, DWI_VIEW_MM)
    sizes = (about.phase_mm, about.frequency_mm)
    acquired = all(size is not None for size in sizes)
    largest = max(size for size in (sizes if acquired else _in_plane(grid, grid.spacing_mm)) if size is not None)
    is_fine = largest <= DWI_IN_PLANE_MM + _ROUNDING_MM
    yield _criterion(
        "dwi-in-plane",
        "Diffusion, voxel in plane",
        largest,
        "mm",
        f"at most {DWI_IN_PLANE_MM} mm along phase and frequency",
        is_fine if acquired or not is_fine else None,
        PIRADS,
        ("As it was acquired." if acquired else "Of the file; the acquired size is not stated and can be larger.")
        + _tolerated(is_fine and _is_beyond(largest, DWI_IN_PLANE_MM)),
        decimals=2,
        limits=(DWI_IN_PLANE_MM,),
    )
    yield _slices("dwi", grid, about, DWI_SLICE_MM)
    yield from _b_values(about)
    if Sequence.T2W in case:
        t2w = case[Sequence.T2W].to_nearest_lps()
        angle = float(np.degrees(np.arccos(min(abs(_normal(t2w.geometry) @ _normal(grid)), 1.0))))
        yield _criterion(
            "dwi-same-slices", "Diffusion, tilt against T2w", angle, "°", f"at most {MAX_ANGLE_DEG:.0f}°",
            angle <= MAX_ANGLE_DEG, OURS, "PI-RADS requires the same slice locations as T2w.", limits=(MAX_ANGLE_DEG,),
        )  # fmt: skip
        if gland is not None:
            yield _shift(case, t2w, gland)
    yield _noise("dwi", volume, gland) if seen is Sequence.HBV else _noise("adc", volume, gland)
    if seen is Sequence.HBV:
        t2w_or_none = case.volumes.get(Sequence.T2W)
        yield _ghosts("dwi", volume, None if t2w_or_none is None else t2w_or_none.to_nearest_lps(), about)


def _criterion(
    name: str,
    title: str,
    value: float | None,
    unit: str,
    threshold: str,
    is_met: bool | None,
    source: str,
    sentence: str,
    decimals: int = 1,
    limits: tuple[float, ...] = (),
) -> QualityCriterion:
    """A criterion whose value is written with more `decimals` where it would else read like one of its limits."""
    text = "not known"
    if value is not None:
        others = [limit for limit in limits if round(value, _MOST_DECIMALS) != limit]
        while any(f"{value:.{decimals}f}" == f"{limit:.{decimals}f}" for limit in others):
            decimals += 1
        text = f"{value:.{decimals}f}{'' if unit in ('°', '') else ' '}{unit}"
    return QualityCriterion(name, title, value, text, unit, threshold, is_met, source, sentence)


def _is_beyond(size: float, limit: float) -> bool:
    return round(size, _MOST_DECIMALS) > limit


def _tolerated(is_beyond: bool) -> str:
    """The end of a sentence where a limit is met only but for the rounding of sizes."""
    return f" It is within the limit, but for the rounding of sizes ({_ROUNDING_MM:.1g} mm)." if is_beyond else ""


def _normal(grid: Geometry) -> np.ndarray:
    """The direction (3,) across a grid's slices."""
    return np.reshape(grid.direction, (3, 3))[:, grid.slice_axis]


def _in_plane(grid: Geometry, along: Triple) -> list[float]:
    """Of numbers along a grid's axes those within its slices."""
    return [value for axis, value in enumerate(along) if axis != grid.slice_axis]


def _title(kind: str) -> str:
    return {"t2w": "T2w", "dwi": "Diffusion", "adc": "ADC"}[kind]


def _view(kind: str, grid: Geometry, limits: tuple[float, float]) -> QualityCriterion:
    low, high = limits
    size = max(_in_plane(grid, grid.extent_mm))
    is_met = low - _VIEW_ROUNDING_MM <= size <= high + _VIEW_ROUNDING_MM
    words = "It is within the range." if is_met else "A larger view is coarser, a smaller one can alias."
    if is_met and (_is_beyond(size, high) or _is_beyond(low, size)):
        words = f"It is within the range, but for the rounding of sizes ({_VIEW_ROUNDING_MM:.0f} mm)."
    return _criterion(
        f"{kind}-field-of-view", f"{_title(kind)}, field of view", size, "mm", f"{low:.0f} to {high:.0f} mm",
        is_met, PIRADS, words, decimals=0, limits=limits,
    )  # fmt: skip


def _in_plane_t2w(grid: Geometry, about: Acquisition) -> QualityCriterion:
    phase, frequency = about.phase_mm, about.frequency_mm
    threshold = f"at most {T2W_PHASE_MM} mm along phase and {T2W_FREQUENCY_MM} mm along frequency"
    name, title = "t2w-in-plane", "T2w, voxel in plane"
    if phase is None or frequency is None:
        pixel = max(_in_plane(grid, grid.spacing_mm))
        is_met = False if pixel > T2W_PHASE_MM + _ROUNDING_MM else None
        text = "Of the file; the acquired size is not stated and can be larger."
        limits = (T2W_PHASE_MM,)
        return _criterion(name, title, pixel, "mm", threshold, is_met, PIRADS, text, decimals=2, limits=limits)
    is_met = phase <= T2W_PHASE_MM + _ROUNDING_MM and frequency <= T2W_FREQUENCY_MM + _ROUNDING_MM
    is_beyond = _is_beyond(phase, T2W_PHASE_MM) or _is_beyond(frequency, T2W_FREQUENCY_MM)
    words = "As it was acquired." + _tolerated(is_met and is_beyond)
    found = _criterion(name, title, max(phase, frequency), "mm", threshold, is_met, PIRADS, words)
    return replace(found, text=f"{phase:.2f} x {frequency:.2f} mm (phase x frequency)")


def _slices(kind: str, grid: Geometry, about: Acquisition, limit_mm: float) -> QualityCriterion:
    step, thickness = grid.spacing_mm[grid.slice_axis], about.thickness_mm
    gap = None if thickness is None else step - thickness
    size = thickness or step
    is_thin = size <= limit_mm + _ROUNDING_MM
    is_met = False if not is_thin else None if gap is None else gap <= _ROUNDING_MM
    text = "The gap is not stated." if gap is None else f"The gap is {max(gap, 0.0):.1f} mm."
    text += _tolerated(is_thin and _is_beyond(size, limit_mm))
    return _criterion(
        f"{kind}-slices", f"{_title(kind)}, slice thickness", size, "mm",
        f"at most {limit_mm:.0f} mm, no gap", is_met, PIRADS, text, limits=(limit_mm,),
    )  # fmt: skip


def _b_values(about: Acquisition) -> Iterator[QualityCriterion]:
    wanted = (
        ("low", "lowest b value", LOW_B, f"at most {LOW_B[1]:.0f} s/mm²"),
        ("middle", "b value for ADC", MIDDLE_B, f"one of {MIDDLE_B[0]:.0f} to {MIDDLE_B[1]:.0f} s/mm²"),
    )
    for name, title, (low, high), threshold in wanted:
        fitting = [b for b in about.b_values if low <= b <= high]
        value = fitting[0] if fitting else None
        is_met = bool(fitting) if about.b_values else None
        text = f"Measured: b {', '.join(f'{b:g}' for b in about.b_values)}." if about.b_values else "Not stated."
        found = _criterion(
            f"dwi-{name}-b", f"Diffusion, {title}", value, "s/mm²", threshold, is_met, PIRADS, text, decimals=0
        )
        yield replace(found, text="none") if is_met is False else found
    b = about.highest_b
    measured = b is not None and b in about.b_values
    text = "Not stated." if b is None else "Measured." if measured else "Calculated from lower ones."
    is_met = None if b is None else b >= HIGH_B
    yield _criterion(
        "dwi-high-b", "Diffusion, highest b value", b, "s/mm²", f"at least {HIGH_B:.0f} s/mm²", is_met, PIRADS, text,
        decimals=0,
    )  # fmt: skip


def _coverage(t2w: Volume, gland: Volume) -> Iterator[QualityCriterion]:
    """Slices above and below the gland, in millimeters."""
    mask = gland.resample_to(t2w.geometry, "nearest")
    if not mask.array.any():
        return
    frame = GlandFrame.from_mask(mask)  # without stray voxels
    held = np.flatnonzero(frame.mask.any(axis=(1, 2)))
    step = frame.geometry.spacing_mm[2]
    below, above = float(held[0] * step), float((len(frame.mask) - 1 - held[-1]) * step)
    yield _criterion(
        "t2w-covers-gland", "T2w, slices beyond the gland", min(below, above), "mm",
        "more than 0 mm above the base and below the apex", min(below, above) > 0, PIRADS,
        "The whole prostate is shown." if min(below, above) > 0 else "The prostate reaches the first or last slice.",
    )  # fmt: skip
    yield _criterion(
        "t2w-covers-vesicles", "T2w, slices above the base", above, "mm", f"at least {VESICLES_MM:.0f} mm",
        above >= VESICLES_MM, OURS, "Room for the seminal vesicles, which are not marked by any network here.",
        limits=(VESICLES_MM,),
    )  # fmt: skip


def noise_level(array: np.ndarray) -> float:
    """Standard deviation of the noise of slices (D, H, W), by the finest diagonal wavelet coefficients.

    The median of their magnitude divided by 0.6745 (Donoho and Johnstone, Biometrika 81:425 (1994)), since edges have
    few large ones. Where all four voxels are 0 the background was removed, which is no measurement. Interpolated images
    show less than the scanner measured; slices of one row or column show none.
    """
    even = array[:, : array.shape[1] // 2 * 2, : array.shape[2] // 2 * 2].astype(np.float64)
    diagonal = (even[:, ::2, ::2] - even[:, ::2, 1::2] - even[:, 1::2, ::2] + even[:, 1::2, 1::2]) / 2
    measured = (even[:, ::2, ::2] != 0) | (even[:, ::2, 1::2] != 0) | (even[:, 1::2, ::2] != 0)
    found = np.abs(diagonal[measured | (even[:, 1::2, 1::2] != 0)])
    return float(np.median(found) / 0.6745) if found.size else 0.0


def _noise(kind: str, volume: Volume, gland: Volume | None) -> QualityCriterion:
    """Mean signal of the gland, or of the middle of the view, divided by the noise there."""
    array, where = _middle(volume.array), "the middle of the image"
    signal = float(array.mean())
    if gland is not None:
        mask = gland.resample_to(volume.geometry, "nearest").array > 0
        if mask.any():
            box = ndimage.find_objects(mask.astype(int))[0]
            array, signal, where = volume.array[box], float(volume.array[mask].mean()), "the prostate"
    noise = noise_level(array)
    ratio = signal / noise if noise > 0 else None
    return _criterion(
        f"{kind}-signal-to-noise", f"{_title(kind)}, signal to noise", ratio, "", f"at least {MIN_SIGNAL_TO_NOISE:.0f}",
        None if ratio is None else ratio >= MIN_SIGNAL_TO_NOISE, ROSE,
        f"Mean signal of {where} divided by the finest noise there; texture counts as noise, interpolation hides it.",
        decimals=0, limits=(MIN_SIGNAL_TO_NOISE,),
    )  # fmt: skip


def _middle(array: np.ndarray) -> np.ndarray:
    _, height, width = array.shape
    return array[:, height // 4 : height - height // 4, width // 4 : width - width // 4]


def body_of(t2w: np.ndarray) -> np.ndarray:
    """The body in a T2w (D, H, W), bool, with all that lies between its parts along rows or columns."""
    bright = t2w > 0.08 * float(np.percentile(t2w, 95))
    bright = _squares(np.logical_or, _squares(np.logical_and, bright, 5), 5)
    parts, count = ndimage.label(bright)
    if not count:
        return np.ones(t2w.shape, bool)
    body = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    spans = [np.logical_or.accumulate(body, axis) & _accumulated_back(body, axis) for axis in (1, 2)]
    return spans[0] | spans[1]


def _squares(combine: np.ufunc, mask: np.ndarray, width: int) -> np.ndarray:
    """Combine the pixels of the square of an odd `width` around each, in slices (D, H, W); beyond the edge none is set.

    `np.logical_and` erodes and `np.logical_or` dilates, as SciPy does in ten times the time.
    """
    for axis in (1, 2):
        padded = np.pad(mask, [(width // 2, width // 2) if each == axis else (0, 0) for each in range(mask.ndim)])
        shifted = np.lib.stride_tricks.sliding_window_view(padded, width, axis)
        mask = shifted[..., 0].copy()
        for at in range(1, width):
            combine(mask, shifted[..., at], out=mask)
    return mask


def _accumulated_back(mask: np.ndarray, axis: int) -> np.ndarray:
    return np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)


def ghost_ratio(array: np.ndarray, body: np.ndarray, axis: int) -> float | None:
    """Signal of the air along phase beside the body, beyond that of other air, divided by the body's mean signal.

    Args:
        array: Slices (D, H, W).
        body: Where the body is, or may be, of the same shape.
        axis: Array axis of the phase encoding, 1 or 2.

    Returns:
        None where the body fills the view along phase, or no air lies beyond its extent along the other axis; and where
        the signal beside it is as strong as the body's, which no ghost is: then it is body too.
    """
    air = ~_squares(np.logical_or, body, 7)
    beside = np.broadcast_to(body.any(axis=axis, keepdims=True), body.shape)
    ghosts, other = air & beside, air & ~beside
    if min(ghosts.sum(), other.sum()) < _MIN_AIR * array.size or not array[body].mean() > 0:
        return None
    ratio = float((array[ghosts].mean() - array[other].mean()) / array[body].mean())
    return ratio if ratio < 1 else None


def _ghosts(kind: str, volume: Volume, t2w: Volume | None, about: Acquisition) -> QualityCriterion:
    """Fat is dark in diffusion, so that only T2w shows where the body ends; beyond its view all may be body."""
    axes = (1, 2) if about.phase_axis is None else (2 - PHASE_AXES[about.phase_axis],)  # of the array
    value = None
    if t2w is not None:
        body = t2w.with_array(body_of(t2w.array).astype(np.uint8)).resample_to(volume.geometry, "nearest", fill=1.0)
        ratios = [ghost_ratio(volume.array, body.array > 0, axis) for axis in axes]
        value = max((ratio for ratio in ratios if ratio is not None), default=None)
    text = "No air is known beside the body along the phase axis, so ghosts cannot be measured."
    if value is not None:
        text = (
            "Signal beside the body along phase."
            if about.phase_axis
            else "Phase axis unknown; the larger of both axes."
        )
    return _criterion(
        f"{kind}-ghosts", f"{_title(kind)}, ghosts", None if value is None else 100 * value, "%",
        f"at most {100 * MAX_GHOST} %", None if value is None else value <= MAX_GHOST, ACR, text,
    )  # fmt: skip


# How far the gland lies in diffusion from where it lies in T2w.

_MARGIN_MM, _STEP_MM, _BINS = 8.0, 1.5, 24
_SEARCH = ((15.0, 3.0), (2.0, 1.0), (0.5, 0.5))  # reach and step around the best so far, mm
# How far the best place of the first search must stand out from those further away than `_PEAK_MM`, in their standard
# deviations: 4.4 to 6.5 on three real exams, 3.4 to 14.7 on phantoms that were displaced by less than 15 mm. Ours.
_MIN_PEAK, _PEAK_MM = 3.5, 4.5


def diffusion_shift_mm(t2w: Volume, diffusion: Volume, gland: Volume) -> tuple[float, float] | None:
    """By how much the gland lies to the left and to the back in diffusion, against T2w, in the plane of T2w.

    The shift in plane that makes both images of the gland and what is around it most alike, by normalized mutual
    information (Studholme et al., Pattern Recognit 32:71 (1999)). It is the mean shift of the outline: stretching
    within the gland is not seen.

    Args:
        t2w: With axes nearest to L, P, S.
        diffusion: ADC, which shows zones as T2w does, or the high-b image.
        gland: Mask of the prostate, not empty, on any grid.

    Returns:
        Millimeters along the first and second axis of T2w; None where no place within 15 mm stands out, since then the
        gland lies further away, or the images do not show it alike.
    """
    spacing = np.array(t2w.geometry.spacing_mm)
    mask = gland.resample_to(t2w.geometry, "nearest").array > 0
    box = ndimage.find_objects(mask.astype(int))[0]
    low = np.array([s.start for s in box][::-1]) * spacing
    high = np.array([s.stop - 1 for s in box][::-1]) * spacing
    margin = np.array([_MARGIN_MM, _MARGIN_MM, 0.0])
    # Every place of the search lies on a grid with the search's finest pace, on which diffusion is sampled once.
    finest, reach = _SEARCH[-1][1], round(sum(reach for reach, _ in _SEARCH) / _SEARCH[-1][1])
    every_x, every_y = (int(np.ceil(round(max(_STEP_MM, mm) / finest, 6))) for mm in spacing[:2])
    step = np.array([every_x * finest, every_y * finest, spacing[2]])
    count = np.ceil((high - low + 2 * margin) / step).astype(int) + 1

    def grid(size: np.ndarray, step: np.ndarray, beside_mm: float) -> Geometry:
        origin = t2w.geometry.to_world((low - margin - [beside_mm, beside_mm, 0.0]) / spacing)
        nx, ny, nz = size.tolist()
        return Geometry((nx, ny, nz), tuple(step.tolist()), tuple(origin.tolist()), t2w.geometry.direction)

    smooth = ndimage.gaussian_filter(t2w.array.astype(np.float32), [0, *(1.0 / mm for mm in spacing[1::-1])])
    fixed = _levels(t2w.with_array(smooth).resample_to(grid(count, step, 0.0)).array)
    nx, ny, nz = count.tolist()
    size = np.array([(nx - 1) * every_x + 1 + 2 * reach, (ny - 1) * every_y + 1 + 2 * reach, nz])
    around = diffusion.resample_to(grid(size, np.array([finest, finest, spacing[2]]), reach * finest)).array

    def likeness(x: float, y: float) -> float:
        i, j = reach + round(x / finest), reach + round(y / finest)
        there = around[:, j : j + (ny - 1) * every_y + 1 : every_y, i : i + (nx - 1) * every_x + 1 : every_x]
        return _mutual_information(fixed, _levels(there))

    best = (0.0, 0.0)
    for reach_mm, pace in _SEARCH:
        offsets = np.arange(-reach_mm, reach_mm + pace / 2, pace)
        places = [(float(best[0] + dx), float(best[1] + dy)) for dx in offsets for dy in offsets]
        tried = {place: likeness(*place) for place in places}
        best = max(tried, key=lambda place: tried[place])
        if reach_mm == _SEARCH[0][0] and (max(map(abs, best)) >= reach_mm or _peak(tried, best) < _MIN_PEAK):
            return None
    return best


def _peak(tried: Mapping[tuple[float, float], float], best: tuple[float, float]) -> float:
    """By how much the likeness at the best place exceeds that of places far from it, in their standard deviations."""
    far = np.array([found for place, found in tried.items() if np.hypot(*np.subtract(place, best)) > _PEAK_MM])
    return float((tried[best] - far.mean()) / max(far.std(), 1e-9))


def _levels(array: np.ndarray) -> np.ndarray:
    """Voxels as one of `_BINS` steps from the lowest to the highest."""
    low, high = float(array.min()), float(array.max())
    return np.minimum((array - low) * (_BINS / max(high - low, 1e-9)), _BINS - 1).astype(np.intp).ravel()


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    share = np.bincount(a * _BINS + b, minlength=_BINS**2).reshape(_BINS, _BINS) / a.size

    def entropy(p: np.ndarray) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    both = entropy(share)
    return (entropy(share.sum(axis=0)) + entropy(share.sum(axis=1))) / both if both > 0 else 1.0


def _shift(case: Case, t2w: Volume, gland: Volume) -> QualityCriterion:
    diffusion = case.volumes.get(Sequence.ADC) or case[Sequence.HBV]
    none, severe = SHIFT_MM
    threshold = f"at most {none:.0f} mm; severe above {severe:.0f} mm"
    name, title = "dwi-shift", "Diffusion, shift of the gland's outline"
    on_t2w, on_diffusion = (gland.resample_to(v.geometry, "nearest").array.any() for v in (t2w, diffusion))
    if not (on_t2w and on_diffusion):
        return _criterion(name, title, None, "mm", threshold, None, OURS, "Diffusion does not show the prostate.")
    found = diffusion_shift_mm(t2w, diffusion, gland)
    if found is None:
        text = (
            f"No shift within {_SEARCH[0][0]:.0f} mm makes both images of the prostate alike. Look whether they are of "
            "one exam, and whether diffusion shows the prostate there."
        )
        return _criterion(name, title, None, "mm", threshold, None, OURS, text)
    left, back = found
    length = float(np.hypot(left, back))
    severity = "none to mild" if length <= none else "severe" if length > severe else "moderate"
    ways = [
        f"{abs(mm):.1f} mm {way[mm < 0]}"
        for mm, way in ((left, ("to the left", "to the right")), (back, ("posteriorly", "anteriorly")))
        if abs(mm) >= 0.25
    ]
    where = f" ({' and '.join(ways)})" if ways else ""
    text = f"Mean shift relative to T2w{where}: {severity}. Stretching within the gland is not measured."
    return _criterion(name, title, length, "mm", threshold, length <= none, OURS, text, limits=SHIFT_MM)
