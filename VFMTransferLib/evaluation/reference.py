"""Bring a reference to the grid of the results, in words as well as in space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import GeometryError, ImageError
from ..core.terms import Label
from ..core.volume import Geometry, Volume
from ..tasks import find_task
from .segmentation import BACKGROUND, Segments


@dataclass(frozen=True)
class Placed:
    """A reference on the grid of the results.

    Attributes:
        volume: Its voxels there.
        covered: Where the reference has a say (D, H, W), bool; measures are taken inside only.
        notes: What was done, in sentences.
    """

    volume: Volume
    covered: np.ndarray
    notes: tuple[str, ...] = ()


def place(reference: Volume, geometry: Geometry, interpolation: str) -> Placed:
    """Resample a reference by position where its grid is another, and say so.

    Args:
        reference: Label map or image.
        geometry: Grid of the results.
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


def reference_segments(
    placed: Placed, task: str, segments: Segments, label_values: dict[str, int] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Masks of the reference by structure name.

    Args:
        placed: The reference's label map on the grid of the results.
        task: Tells what a plain mask means.
        segments: The structures that A and B share.
        label_values: The caller's table name → value; None to go by the values found.

    Returns:
        Structure → mask (D, H, W), and what had to be decided, in sentences.

    Raises:
        ImageError: The values are no plain mask and none of the results' label table either.
    """
    array = placed.volume.array
    if label_values is not None:
        return _by_table(array, label_values, segments), ()
    found = sorted({int(v) for v in np.unique(array)} - {BACKGROUND})
    plain = find_task(task).plain_mask_label
    if plain is not None and plain in segments.names:
        note = f"Every non-zero voxel of the reference (values {found or 'none'}) counts as {plain}."
        return {str(plain): array != 0}, (note,)
    if len(found) <= 1 and (segments.whole or len(segments.names) == 1):
        name = str(Label.PROSTATE) if segments.whole else segments.names[0]
        return {name: array != 0}, (f"The reference has one value and counts as a mask of the {name}.",)
    if not set(found) <= set(segments.values.values()):
        raise ImageError(
            f"The reference must be a mask with one value, or have the values of the results' labels "
            f"({_table_text(segments.values)}), but has {found}. "
            "Give a mask of one structure, or name its values (`reference_labels` of `compare` in Python)."
        )
    return _by_table(array, segments.values, segments), ()


def _by_table(array: np.ndarray, values: dict[str, int], segments: Segments) -> dict[str, np.ndarray]:
    masks = {name: array == value for name, value in values.items() if name in segments.names}
    if segments.whole:
        masks[str(Label.PROSTATE)] = np.isin(array, list(values.values()))
    return masks


def _table_text(values: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in values.items())
