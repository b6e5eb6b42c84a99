"""Image quality before anything runs: technical criteria.

The technical criteria are the minimum requirements of PI-RADS v2.1, which PI-QUAL checks (Giganti et al., Insights
Imaging 12:59 (2021), table 1). What PI-QUAL asks a reader to judge by eye is not judged here, and there is no score:
each criterion stands with its value, its threshold and who set that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..core.case import Case
from ..core.measurements import Acquisition, QualityCriterion
from ..core.terms import Sequence
from ..core.volume import Geometry, Triple, Volume
from .gland import GlandFrame

PIRADS = "PI-RADS v2.1"
OWN = "this project"
T2W_VIEW_MM, DWI_VIEW_MM = (120.0, 200.0), (160.0, 220.0)
T2W_PHASE_MM, T2W_FREQUENCY_MM, DWI_IN_PLANE_MM = 0.7, 0.4, 2.5
T2W_SLICE_MM, DWI_SLICE_MM = 3.0, 4.0
LOW_B, MIDDLE_B, HIGH_B = (0.0, 100.0), (800.0, 1000.0), 1400.0
MAX_TILT_DEG = 35.0
MAX_ANGLE_DEG = 5.0
VESICLES_MM = 10.0
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
        OWN, "PI-RADS asks for slices that are axial to the patient or to the prostate's long axis.", decimals=0,
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
            angle <= MAX_ANGLE_DEG, OWN, "PI-RADS requires the same slice locations as T2w.", limits=(MAX_ANGLE_DEG,),
        )  # fmt: skip


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
        above >= VESICLES_MM, OWN, "Room for the seminal vesicles, which are not marked by any network here.",
        limits=(VESICLES_MM,),
    )  # fmt: skip
