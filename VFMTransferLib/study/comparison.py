"""What two networks say of one case, side by side: agreement, and error where a reference is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..case import Case
from ..result import Result
from ..tasks import TASKS, Task
from ..terms import Label, Sequence, TaskId
from ..volume import Geometry, Volume
from .classification import classification_measures, probability_measures
from .images import GLAND, WHOLE, displacement_measure, image_measures, sequence_of, slice_of_greatest_difference
from .measures import Between, Disagreement, Measure
from .reference import place, reference_segments
from .segmentation import disagreements, segmentation_measures, slice_of_most_disagreement
from .segments import Segments, shared_segments

Reference = Volume | Mapping[str, Volume] | str


@dataclass(frozen=True)
class Comparison:
    """A and B on one case. All voxels lie on grids whose axes run nearest to L, P, S.

    Attributes:
        case: The images that both networks saw.
        a: What A says.
        b: What B says.
        geometry: Grid of the results, or of the task's reference sequence for a classification.
        focus_slice: Slice on that grid to look at first: where A and B differ most.
        measures: All numbers.
        disagreements: Regions where A and B differ, largest first.
        reference: Structure → mask, or output image → image, on the grid of the results; empty
            where no reference is known.
        segments: Both label maps in one vocabulary, for a segmentation.
        true_class: Class that the case has, for a classification with a reference.
        notes: What was decided on the way, in sentences.
    """

    case: Case
    a: Result
    b: Result
    geometry: Geometry
    focus_slice: int
    measures: tuple[Measure, ...]
    disagreements: tuple[Disagreement, ...] = ()
    reference: dict[str, Volume] = field(default_factory=dict)
    segments: Segments | None = None
    true_class: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        return TASKS[self.a.task]

    @property
    def has_reference(self) -> bool:
        return bool(self.reference) or self.true_class is not None

    def value(self, kind: str, subject: str, between: Between | str) -> float:
        """One number of `measures`; `nan` where it is undefined.

        Raises:
            KeyError: Nothing of that name was measured.
        """
        for found in self.measures:
            if (found.kind, found.subject, found.between) == (kind, subject, between):
                return found.value
        raise KeyError(f"{kind} of {subject} between {between}")


def compare(
    case: Case,
    a: Result,
    b: Result,
    reference: Reference | None = None,
    *,
    reference_labels: dict[str, int] | None = None,
) -> Comparison:
    """Compare two results of one task on one case, and each with a reference where there is one.

    A reference on another grid is resampled by position (labels nearest, images linear), which the
    comparison's notes say. For `adc-translation` without a reference the case's measured ADC serves.

    Args:
        case: The images that both networks saw; its `gland` is the region of masked measures.
        a: First result.
        b: Second result.
        reference: Label map (segmentation), image or images by output name (image tasks; a single
            one belongs to the first output), or the true class (classification).
        reference_labels: Structure → value in a reference label map. Without it a reference with
            one value is a mask of the whole, and one with several has the results' own values.

    Raises:
        ValueError: The results are of two cases or tasks, or the reference is of the wrong kind.
        BundleError: The results share no structure or have different classes.
        GeometryError: The results lie on different grids, or the reference lies elsewhere.
        ImageError: The reference's values mean nothing known.
    """
    if (a.case_id, a.task) != (b.case_id, b.task):
        raise ValueError(
            f"Both results must be of one case and task, got '{a.case_id}', {a.task} and '{b.case_id}', {b.task}."
        )
    a, b = _to_nearest_lps(a), _to_nearest_lps(b)
    output = TASKS[a.task].output
    return _COMPARERS[output](case, a, b, reference, reference_labels)


def _compare_segmentations(
    case: Case, a: Result, b: Result, reference: Reference | None, table: dict[str, int] | None
) -> Comparison:
    segments = shared_segments(a, b)
    geometry = _grid_of_labels(a)
    masks: dict[str, np.ndarray] = {}
    covered = np.ones(geometry.shape, bool)
    notes = segments.notes
    if reference is not None:
        if not isinstance(reference, Volume):
            raise _wrong_reference("a label map", reference)
        placed = place(reference.to_nearest_lps(), geometry, "nearest")
        masks, decided = reference_segments(placed, a.task, segments, table)
        covered, notes = placed.covered, notes + placed.notes + decided
    return Comparison(
        case,
        a,
        b,
        geometry,
        slice_of_most_disagreement(segments),
        segmentation_measures(segments, geometry, masks, covered, _lesions(a)),
        disagreements(segments, geometry),
        {name: Volume(mask, geometry, name) for name, mask in masks.items()},
        segments,
        notes=notes,
    )


def _compare_images(
    case: Case, a: Result, b: Result, reference: Reference | None, table: dict[str, int] | None
) -> Comparison:
    first = next(iter(a.images))
    references, notes = _reference_images(case, a, reference)
    measures: list[Measure] = []
    placed_references: dict[str, Volume] = {}
    for output, image in a.images.items():
        image.require_same_grid(b.images[output])
        regions, decided = _regions(case, image.geometry)
        measures += image_measures(output, Between.A_B, image, b.images[output], regions, None)
        notes += tuple(note for note in decided if note not in notes)
        if output in references:
            placed = place(references[output].to_nearest_lps(), image.geometry, "linear")
            inside = {name: mask & placed.covered for name, mask in regions.items()}
            candidates = _candidates(case, a, b, output)
            for between, candidate in candidates.items():
                measures += image_measures(output, between, candidate, placed.volume, inside, placed.volume)
            placed_references[output] = placed.volume
            notes += placed.notes
    if a.displacement_mm is not None and b.displacement_mm is not None:
        measures.append(displacement_measure("displacement", a.displacement_mm, b.displacement_mm))
    regions, _ = _regions(case, a.images[first].geometry)
    focus = slice_of_greatest_difference(
        a.images[first].array, b.images[first].array, regions.get(GLAND, regions[WHOLE])
    )
    return Comparison(
        case, a, b, a.images[first].geometry, focus, tuple(measures), reference=placed_references, notes=notes
    )


def _compare_classifications(
    case: Case, a: Result, b: Result, reference: Reference | None, table: dict[str, int] | None
) -> Comparison:
    if reference is not None and not isinstance(reference, str):
        raise _wrong_reference("the name of a class", reference)
    geometry = case[TASKS[a.task].reference].to_nearest_lps().geometry
    gland = None if case.gland is None else place(case.gland.to_nearest_lps(), geometry, "nearest").volume.array
    focus = geometry.shape[0] // 2 if gland is None else int(gland.sum(axis=(1, 2)).argmax())
    measures = classification_measures(a.class_probabilities, b.class_probabilities, reference)
    measures += probability_measures(a.derived_probabilities, b.derived_probabilities)
    return Comparison(case, a, b, geometry, focus, measures, true_class=reference)


_COMPARERS: dict[str, Callable[..., Comparison]] = {
    "segmentation": _compare_segmentations,
    "image": _compare_images,
    "classification": _compare_classifications,
}


def _reference_images(
    case: Case, result: Result, reference: Reference | None
) -> tuple[dict[str, Volume], tuple[str, ...]]:
    first = next(iter(result.images))
    if isinstance(reference, Volume):
        return {first: reference}, ()
    if isinstance(reference, str):
        raise _wrong_reference("an image, or images by output name", reference)
    if reference is not None:
        unknown = set(reference) - set(result.images)
        if unknown:
            raise ValueError(f"References must be named as the outputs ({', '.join(result.images)}), got {unknown}.")
        return dict(reference), ()
    if result.task is TaskId.ADC_TRANSLATION and Sequence.ADC in case:
        return {first: case[Sequence.ADC]}, ("The case's own measured ADC is the reference.",)
    return {}, ()


def _candidates(case: Case, a: Result, b: Result, output: str) -> dict[Between, Volume]:
    """What is measured against the reference: A, B, and the plain input where it is of the same sequence."""
    found = {Between.A_REFERENCE: a.images[output], Between.B_REFERENCE: b.images[output]}
    sequence = sequence_of(output)
    if sequence in TASKS[a.task].sequences and sequence in case:
        plain = case[sequence].to_nearest_lps().resample_to(a.images[output].geometry, "bspline")
        found[Between.INPUT_REFERENCE] = plain
    return found


def _regions(case: Case, geometry: Geometry) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    regions = {WHOLE: np.ones(geometry.shape, bool)}
    if case.gland is None:
        return regions, ()
    placed = place(case.gland.to_nearest_lps(), geometry, "nearest")
    regions[GLAND] = placed.volume.array != 0
    notes = tuple(note.replace("The reference", "The gland mask") for note in placed.notes[:1])
    return regions, notes


def _to_nearest_lps(result: Result) -> Result:
    displacement = result.displacement_mm
    if displacement is not None:
        grid = next(iter(result.images.values())).geometry
        parts = [Volume(np.asarray(displacement)[..., i], grid).to_nearest_lps().array for i in range(3)]
        displacement = np.stack(parts, axis=-1)  # (D, H, W, 3)
    return replace(
        result,
        labels=None if result.labels is None else result.labels.to_nearest_lps(),
        probabilities={name: volume.to_nearest_lps() for name, volume in result.probabilities.items()},
        images={name: volume.to_nearest_lps() for name, volume in result.images.items()},
        displacement_mm=displacement,
    )


def _lesions(result: Result) -> tuple[str, ...]:
    """Labels that stand for findings, not for anatomy."""
    if result.task is not TaskId.LESION_SEGMENTATION:
        return ()
    return tuple(str(name) for name in result.label_values if name not in (Label.BACKGROUND, Label.PROSTATE))


def _grid_of_labels(result: Result) -> Geometry:
    if result.labels is None:
        raise ValueError("A segmentation must have a label map.")
    return result.labels.geometry


def _wrong_reference(wanted: str, got: Reference) -> ValueError:
    return ValueError(f"The reference must be {wanted}, got {type(got).__name__}.")
