"""Two output images against each other, and each against a reference, which is brought to their grid by position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.case import Case
from ..core.errors import GeometryError
from ..core.result import Result
from ..core.volume import Geometry, Volume
from ..metrics.agreement import data_range, mean_difference
from ..tasks import TASKS
from ..tasks.image_to_image import image_errors, unit_of
from .measures import Between, Measure, measure

Reference = Volume | Mapping[str, Volume] | str
WHOLE, GLAND = "", "gland"
CONSTANT = "the image is constant"
_KINDS = ("mean_difference", "mae", "psnr_db", "ssim")


@dataclass(frozen=True)
class Placed:
    """A reference on the grid of the results.

    Attributes:
        volume: Its voxels there.
        covered: Where the reference has values (D, H, W), bool; measures are taken inside only.
        notes: What was done, in sentences.
    """

    volume: Volume
    covered: np.ndarray
    notes: tuple[str, ...] = ()


def place(reference: Volume, geometry: Geometry, interpolation: str) -> Placed:
    """Resample a reference by position where its grid is another, with a note.

    Args:
        reference: Label map or image.
        interpolation: `nearest` for labels, `linear` for images.

    Raises:
        GeometryError: The reference does not meet the grid at all.
    """
    if reference.geometry.equals(geometry):
        return Placed(reference, np.ones(geometry.shape, bool))
    ones = reference.with_array(np.ones(reference.array.shape, np.uint8))
    covered = ones.resample_to(geometry, "nearest").array != 0
    if not covered.any():
        raise GeometryError(
            f"The reference must overlap the results ({geometry}), but lies elsewhere ({reference.geometry}). "
            "Check that it belongs to this case."
        )
    notes = [f"The reference was resampled by position ({interpolation}) from {reference.geometry} to {geometry}."]
    if not covered.all():
        notes.append(f"{1 - covered.mean():.0%} of the grid lies outside the reference and is left out against it.")
    return Placed(reference.resample_to(geometry, interpolation), covered, tuple(notes))


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
        between: Whom the two images belong to.
        first: Image that the difference is taken from.
        second: Image that is taken away.
        regions: Region name → mask (D, H, W); `WHOLE` must be among them.
        span: Data range of PSNR and SSIM in every region, of a reference; that of both images together by default.
    """
    found: list[Measure] = []
    unit, note = unit_of(output), "data range: of the reference"
    if span is None:
        both = np.concatenate([image.array[regions[WHOLE]] for image in (first, second)])
        span, note = data_range(both), "data range: of A and B together"
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
