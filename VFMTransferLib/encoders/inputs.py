"""How a case becomes a network's input: onto the network's grid, normalized, with its windows or slices chosen.

The steps and their order are those that the networks were trained with: axes nearest to Left, Posterior, Superior; the
reference sequence's field of view at the network's spacing; every sequence there by position; intensities; windows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..core.case import Case
from ..core.errors import GeometryError, ImageError, MissingSequenceError
from ..core.notes import Note
from ..core.options import CROPS, REGIONS
from ..core.placement import Bounds, NetworkInput, ZScore, centered_start, covered_box, shifted_starts, window_starts
from ..core.terms import Sequence
from ..core.volume import Geometry, IntTriple, Volume
from .base import NEIGHBORS, NORMALIZATIONS, ModelSpec, PreprocessSpec, TaskInput, family_of

REGION_MARGIN_MM = 5.0
"""Around the gland's box, since a lesion may bulge, and a mask be drawn narrowly. This project's own."""
REGION_NOTE = Note(
    "gland-region", "Only the prostate and what lies around it was looked at; nothing is known of what lies elsewhere."
)
CUT_GLAND_NOTE = Note(
    "gland-cut", "A part of the prostate lies outside of what the network sees; nothing is known of that part."
)
ZSCORE_NONZERO, _, ZSCORE_GLAND = NORMALIZATIONS
_ROUNDING = 1e-6  # of the mean magnitude: interpolation at a voxel of 0 gives up to 1e-9 of its neighbors


def prepare(
    case: Case,
    spec: ModelSpec,
    task: TaskInput | None,
    *,
    crop: str = "auto",
    gland: Volume | None = None,
    roi: Volume | None = None,
    region: str = "whole",
    one_pass: bool = False,
) -> NetworkInput:
    """Make a network's input from a case; the case stays as it is.

    Args:
        case: Each sequence on its own grid.
        spec, task: The network and its task, None of an encoder alone.
        crop: Where a single window lies: `gland`, `center` of the image, or `auto`: around the gland where it is known.
        gland: Mask of the prostate, any grid; before the case's own.
        roi: Mask of a region of interest, any grid: the window lies around it, and of windows that segment the whole
            volume only those that reach it are kept.
        region: `gland` to look at the box around the gland's mask or `roi` alone, where the task marks what lies
            inside.
        one_pass: Whether a network whose authors run it so sees the whole volume at once, and not by windows.

    Raises:
        MissingSequenceError: A sequence is lacking, or a mask that normalization or `crop` needs.
        ImageError: A mask is empty or lies outside the image, an image holds no finite numbers, or no window meets the
            gland where `region` asks for it.
    """
    if crop not in CROPS:
        raise ValueError(f"Crop must be one of {', '.join(CROPS)}, got '{crop}'.")
    if region not in REGIONS:
        raise ValueError(f"Region must be one of {', '.join(REGIONS)}, got '{region}'.")
    mask = gland if gland is not None else case.gland
    is_limited = region == "gland" and marks_inside_gland(task)
    if mask is None and (needs_gland(spec, crop, roi) or (is_limited and roi is None)):
        raise MissingSequenceError(
            f"Case '{case.id}' has no gland mask for {spec.title}. Select one, or install a gland segmentation bundle."
        )
    grid = network_grid(case, spec, task)
    bounds = None if roi is None else Bounds.from_mask(roi, grid)
    array = stack_sequences(place_on_grid(case, spec, task), spec.preprocess)
    for channel, sequence in zip(array, spec.preprocess.sequences, strict=True):
        if not np.isfinite(channel).all():
            raise ImageError(
                f"{sequence} of case '{case.id}' holds NaN or infinity within the field of view. Replace these voxels, "
                "or give another image."
            )
    how = spec.preprocess.normalization
    if how not in NORMALIZATIONS:
        raise ValueError(f"Normalization must be one of {', '.join(NORMALIZATIONS)}, got '{how}'.")
    takes_gland_slices = spec.is_slice_based and task is not None and task.uses_gland_slices and mask is not None
    inside = None
    if mask is not None and (takes_gland_slices or how == ZSCORE_GLAND):
        inside = mask.resample_to(grid, "nearest").array > 0  # (D, H, W)
        if not inside.any():
            raise ImageError(f"The gland mask of case '{case.id}' marks nothing inside the images. Give another mask.")
    scales = normalize(array, how, inside)
    starts, patch, centered_on = _windows(spec, grid, None if crop == "center" else mask, bounds, one_pass)
    is_partial = spec.is_slice_based or spec.preprocess.whole_volume
    if bounds is not None and is_partial and task is not None and task.marks_voxels:
        starts = bounds.touching(starts, patch)
    if takes_gland_slices and inside is not None:
        # The others show nothing of the prostate, and would count as much.
        starts = tuple(start for start in starts if inside[start[0]].any())
    limit = None
    notes: tuple[Note, ...] = ()
    if is_limited:
        around = bounds or Bounds.from_mask(mask, grid)  # type: ignore[arg-type]  # one of the two is there, see above
        covered = covered_box(grid.shape, starts, patch)
        if not around.meets(*covered):
            raise ImageError(
                f"The window in the middle of case '{case.id}' holds nothing of the prostate. Center it there "
                "(--crop gland), or look at the whole image (--region whole)."
            )
        limit = around.widened([REGION_MARGIN_MM / step for step in reversed(grid.spacing_mm)], grid.shape)
        starts = tuple(start for start in starts if limit.meets(start, patch))
        is_cut = bounds is None and around.exceeds(covered)
        notes = (REGION_NOTE, CUT_GLAND_NOTE) if is_cut else (REGION_NOTE,)
    return NetworkInput(
        array=array,
        geometry=grid,
        reference=case[reference_sequence(case, spec, task)].geometry,
        starts=starts,
        patch=patch,
        scales=scales,
        centered_on=centered_on,
        limit=limit,
        notes=notes,
    )


def marks_inside_gland(task: TaskInput | None) -> bool:
    """Whether a task marks what lies inside the prostate, so that nothing else need be looked at."""
    return task is not None and task.marks_voxels and not task.finds_gland


def needs_gland(spec: ModelSpec, crop: str, roi: Volume | None = None) -> bool:
    """Whether a network's input cannot be made without a gland mask."""
    is_cropped_there = crop == "gland" and roi is None and not spec.preprocess.whole_volume
    return spec.preprocess.normalization == ZSCORE_GLAND or is_cropped_there


def reference_sequence(case: Case, spec: ModelSpec, task: TaskInput | None) -> Sequence:
    """The sequence whose field of view the network sees and on whose grid the result comes back.

    It is the task's, where the case has it, else the first that the network takes, as of an encoder alone.
    """
    return task.reference if task is not None and task.reference in case else spec.preprocess.images[0]


def network_grid(case: Case, spec: ModelSpec, task: TaskInput | None) -> Geometry:
    """The reference sequence's field of view, axes nearest to L, P, S, at the network's or the task's spacing."""
    seen = case[reference_sequence(case, spec, task)].to_nearest_lps().geometry
    spacing_mm = spec.preprocess.spacing_mm
    return seen.with_spacing(spacing_mm) if task is None else task.network_grid(seen, spacing_mm)


def place_on_grid(case: Case, spec: ModelSpec, task: TaskInput | None) -> Case:
    """The case with the network's sequences on the network grid, as the task places them, 0 outside.

    A gland mask comes along, nearest neighbor.

    Raises:
        MissingSequenceError: A sequence that the network takes is not in the case.
        GeometryError: A sequence shows nothing within the network's field of view.
    """
    wanted = spec.preprocess.images
    case.require(wanted)
    grid = network_grid(case, spec, task)
    place = Volume.resample_to if task is None else task.place
    volumes = {sequence: place(case[sequence], grid) for sequence in wanted}
    for sequence, volume in volumes.items():
        if not volume.array.any():
            raise GeometryError(
                f"{sequence} of case '{case.id}' shows nothing where {reference_sequence(case, spec, task)} lies. "
                "Select images of one case."
            )
    gland = case.gland.resample_to(grid, "nearest") if case.gland is not None else None
    return Case(case.id, volumes, gland, case.notes)


def stack_sequences(case: Case, spec: PreprocessSpec) -> np.ndarray:
    """Stack a case's sequences, on one grid, into channels (C, D, H, W), float32, in the order that the weights expect.

    A `None` among the sequences is a channel of zeros; errors as of `Case` and `require_same_grid`.
    """
    volumes = [case[sequence] for sequence in spec.images]
    for volume in volumes[1:]:
        volumes[0].require_same_grid(volume)
    array = np.zeros((len(spec.sequences), *volumes[0].geometry.shape), np.float32)
    for channel, sequence in enumerate(spec.sequences):
        if sequence is not None:
            array[channel] = case[sequence].array
    return array


def normalize(array: np.ndarray, how: str, gland: np.ndarray | None = None) -> tuple[ZScore, ...]:
    """Normalize each channel of (C, D, H, W), in place and over the whole field of view, before any crop.

    Args:
        how: `PreprocessSpec.normalization`.
        gland: The gland's voxels (D, H, W), bool, where `how` needs them.

    Returns:
        What each channel was normalized by.
    """
    scales = []
    for channel in array:
        magnitude = np.abs(channel)
        within = magnitude > _ROUNDING * magnitude.mean(dtype=np.float64)
        if how == ZSCORE_GLAND:
            assert gland is not None, "needs_gland was checked before"
            within = gland
        scales.append(ZScore.fit(channel[within]) if within.any() else ZScore())
        normalized = scales[-1].apply(channel)
        channel[...] = np.where(within, normalized, np.float32(0)) if how == ZSCORE_NONZERO else normalized
    return tuple(scales)


def _windows(
    spec: ModelSpec, grid: Geometry, gland: Volume | None, bounds: Bounds | None, one_pass: bool
) -> tuple[tuple[IntTriple, ...], IntTriple, str]:
    """First voxels of the windows on the network's grid, their size, and what they are centered on."""
    shape, patch = grid.shape, spec.preprocess.patch
    if spec.preprocess.whole_volume:
        how = family_of(spec).one_pass(spec) if one_pass else None
        patch = patch if how is None else how.padded(shape)
        return window_starts(shape, patch, spec.preprocess.overlap), patch, "whole volume"
    center: tuple[float, float, float] | None = None
    centered_on = "image"
    if bounds is not None:
        center, centered_on = bounds.center, "region of interest"
    elif gland is not None:
        center, centered_on = gland_center(gland, grid), "gland"
    if spec.is_slice_based:
        _, y, x = centered_start(shape, (shape[0], *patch[1:]), center)
        return tuple((z, y, x) for z in range(shape[0])), patch, centered_on
    return shifted_starts(centered_start(shape, patch, center), spec.preprocess.shift_voxels), patch, centered_on


def gland_center(gland: Volume, grid: Geometry) -> tuple[float, float, float]:
    """Centroid of a gland mask as a continuous index (z, y, x) of `grid`; ImageError where it is not inside."""
    voxels = np.argwhere(gland.array > 0)
    if len(voxels) == 0:
        raise ImageError("The gland mask is empty. Give another, or none.")
    centroid_mm = gland.geometry.to_world(voxels.mean(axis=0)[::-1])
    x, y, z = (float(v) for v in grid.to_index(centroid_mm))
    if not all(-0.5 <= c <= n - 0.5 for c, n in zip((x, y, z), grid.size, strict=True)):
        raise ImageError("The middle of the gland mask is outside of the images. Give a mask of this study.")
    return (z, y, x)


# A slice-based network's input: one slice at a time, its neighbors as channels, scaled to the encoder's size. As in
# pimed/ProViCNet @ 1b016ac (MIT), which pads a volume of fewer than six slices and returns two slices too many; here
# every volume gives one output a slice.


def neighbor_slices(z: int, depth: int) -> tuple[int, int, int]:
    """The three slices that a network sees for slice `z` of `depth`: that one in the middle.

    At the ends the window moves inwards. With one or two slices the missing neighbor is the nearest slice again.
    """
    if depth < NEIGHBORS:
        return (max(z - 1, 0), z, min(z + 1, depth - 1))
    middle = min(max(z, 1), depth - 2)
    return (middle - 1, middle, middle + 1)


def slice_positions(z: int, depth: int) -> np.ndarray:
    """A slice's place as the network takes it: (1, 2), its index and the number of slices, as they are."""
    return np.array([[z, depth]], np.float32)


def scale_slices(array: np.ndarray, size_px: int) -> np.ndarray:
    """Slices (..., H, W) scaled to (..., size_px, size_px) as `F.interpolate(mode="bilinear")` does."""
    rows = _bilinear_matrix(array.shape[-2], size_px)
    columns = _bilinear_matrix(array.shape[-1], size_px)
    return np.ascontiguousarray(rows @ array.astype(np.float32) @ columns.T)


@lru_cache(maxsize=8)
def _bilinear_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Matrix (size_out, size_in) whose rows weigh the two nearest of `size_in` samples.

    Places are rounded to float32 once, as torch's fused multiply-add does.
    """
    step = np.float64(np.float32(size_in) / np.float32(size_out))
    place = np.maximum(((np.arange(size_out) + 0.5) * step - 0.5).astype(np.float32), 0)
    lower = np.minimum(place.astype(int), size_in - 1)
    upper = np.minimum(lower + 1, size_in - 1)
    matrix = np.zeros((size_out, size_in), np.float32)
    out = np.arange(size_out)
    np.add.at(matrix, (out, lower), 1 - (place - lower))
    np.add.at(matrix, (out, upper), place - lower)
    matrix.setflags(write=False)
    return matrix
