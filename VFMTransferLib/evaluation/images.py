"""What the outputs of an image task are held against, and where."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..core.case import Case
from ..core.result import Result
from ..core.volume import Geometry, Volume
from ..metrics.arrays import mean_difference
from ..tasks import TASKS
from ..tasks.image_to_image import ImageTask, image_errors, sequence_of, unit_of
from .measures import Between, Measure, measure
from .reference import place

Reference = Volume | Mapping[str, Volume] | str


def reference_images(
    case: Case, result: Result, reference: Reference | None
) -> tuple[dict[str, Volume], tuple[str, ...]]:
    """Output → its reference as the caller or the case gives it, and what had to be decided.

    Raises:
        ValueError: The reference is no image, or its name is none of the outputs.
    """
    first = next(iter(result.images))
    if isinstance(reference, Volume):
        return {first: reference}, ()
    if isinstance(reference, str):
        raise wrong_reference("an image, or images by output name", reference)
    if reference is not None:
        unknown = set(reference) - set(result.images)
        if unknown:
            raise ValueError(f"References must be named as the outputs ({', '.join(result.images)}), got {unknown}.")
        return dict(reference), ()
    measured_by = TASKS[result.task].measured_by
    if measured_by is not None and measured_by in case:
        return {first: case[measured_by]}, (f"The case's own measured {measured_by.upper()} is the reference.",)
    return {}, ()


def candidates(case: Case, a: Result, b: Result, output: str) -> dict[Between, Volume]:
    """What is measured against the reference: A, B, and the plain input where it is of the same sequence."""
    found = {Between.A_REFERENCE: a.images[output], Between.B_REFERENCE: b.images[output]}
    task, sequence = TASKS[a.task], sequence_of(output)
    if isinstance(task, ImageTask) and sequence in task.sequences and sequence in case:
        plain = task.plain_image(case[sequence].to_nearest_lps(), a.images[output].geometry)
        found[Between.INPUT_REFERENCE] = plain
    return found


def regions_of(case: Case, geometry: Geometry) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Where image measures are taken: everywhere, and in the gland where the case has a mask of it."""
    regions = {WHOLE: np.ones(geometry.shape, bool)}
    if case.gland is None:
        return regions, ()
    placed = place(case.gland.to_nearest_lps(), geometry, "nearest")
    regions[GLAND] = placed.volume.array != 0
    notes = tuple(note.replace("The reference", "The gland mask") for note in placed.notes[:1])
    return regions, notes


def wrong_reference(wanted: str, got: Reference) -> ValueError:
    """The error for a reference that is of another kind than the task's output."""
    return ValueError(f"The reference must be {wanted}, got {type(got).__name__}.")


# Two output images against each other, and each against a reference.

WHOLE = ""
GLAND = "gland"
CONSTANT = "the image is constant"


def image_measures(
    output: str,
    between: Between,
    first: Volume,
    second: Volume,
    regions: dict[str, np.ndarray],
    span: float | None = None,
) -> tuple[Measure, ...]:
    """Bias, MAE, PSNR and SSIM of two images on one grid.

    Args:
        output: Name of the output image.
        between: Whom the two images belong to.
        first: Image that the difference is taken from.
        second: Image that is taken away.
        regions: Region name → mask (D, H, W); `WHOLE` must be among them.
        span: Data range of PSNR and SSIM in every region, of a reference; that of both images together by default.
    """
    found: list[Measure] = []
    unit, note = unit_of(output), "data range: of the reference"
    if span is None:
        span, note = _common_range(first, second, regions[WHOLE]), "data range: of A and B together"
    for region, mask in regions.items():
        subject = f"{output}, {region}" if region else output
        if not mask.any():
            found += [measure(k, subject, between, np.nan, f"the {region} is empty", unit) for k in _KINDS]
            continue
        errors = image_errors(first, second, mask, span)
        psnr, similarity = errors.get("psnr_db", np.nan), errors.get("ssim", np.nan)
        ssim_note = note
        if span <= 0:
            ssim_note = CONSTANT
        elif "ssim" not in errors:
            ssim_note = "the slices are smaller than the window of SSIM"
        elif np.isnan(similarity):
            ssim_note = "the region lies within the border that SSIM leaves out"
        found += [
            measure("mean_difference", subject, between, mean_difference(first.array, second.array, mask), "", unit),
            measure("mae", subject, between, errors["mae"], "", unit),
            measure("psnr_db", subject, between, psnr, note if span > 0 else CONSTANT),
            measure("ssim", subject, between, similarity, ssim_note),
        ]
    return tuple(found)


def slice_of_greatest_difference(a: np.ndarray, b: np.ndarray, gland: np.ndarray | None) -> int:
    """Slice with the largest summed absolute difference; the middle one where A equals B.

    Args:
        a: Image (D, H, W).
        b: Image of the same shape.
        gland: Where to look. Without it in the middle half of the field of view, where a prostate
            scan has the prostate; at its rim the difference is noise and aliasing.
    """
    _, height, width = a.shape
    middle = np.s_[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    difference = np.abs(a.astype(np.float64) - b)
    per_slice = (difference[middle] if gland is None else difference * gland).sum(axis=(1, 2))
    return int(per_slice.argmax()) if per_slice.any() else len(a) // 2


def displacement_measure(output: str, a: np.ndarray, b: np.ndarray) -> Measure:
    """Mean length of the difference of two displacement fields (D, H, W, 3) in millimeters."""
    length_mm = np.linalg.norm(np.asarray(a, np.float64) - b, axis=-1)
    return measure("displacement_difference_mm", output, Between.A_B, float(length_mm.mean()))


_KINDS = ("mean_difference", "mae", "psnr_db", "ssim")


def _common_range(first: Volume, second: Volume, mask: np.ndarray) -> float:
    ends = [f(image.array[mask]) for image in (first, second) for f in (np.min, np.max)] if mask.any() else [0.0]
    return float(max(ends)) - float(min(ends))
