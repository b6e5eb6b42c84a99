"""What the outputs of an image task are held against, and where."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..case import Case
from ..doubling import doubled_in_plane, zero_filled
from ..result import Result
from ..tasks import TASKS
from ..terms import Sequence, TaskId
from ..volume import Geometry, Volume
from .images import GLAND, WHOLE, sequence_of
from .measures import Between
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
    if result.task is TaskId.ADC_TRANSLATION and Sequence.ADC in case:
        return {first: case[Sequence.ADC]}, ("The case's own measured ADC is the reference.",)
    return {}, ()


def candidates(case: Case, a: Result, b: Result, output: str) -> dict[Between, Volume]:
    """What is measured against the reference: A, B, and the plain input where it is of the same sequence."""
    found = {Between.A_REFERENCE: a.images[output], Between.B_REFERENCE: b.images[output]}
    sequence = sequence_of(output)
    if sequence in TASKS[a.task].sequences and sequence in case:
        plain = _plain(case[sequence].to_nearest_lps(), a.images[output].geometry)
        found[Between.INPUT_REFERENCE] = plain
    return found


def _plain(image: Volume, geometry: Geometry) -> Volume:
    """The input on the output's grid, as one would have it without a network: zero-filled where the matrix doubles."""
    if geometry.equals(doubled_in_plane(image.geometry)):
        return zero_filled(image)
    return image.resample_to(geometry, "bspline")


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
