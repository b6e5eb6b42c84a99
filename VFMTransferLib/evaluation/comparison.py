"""The results of two networks side by side: on one case, and over many; with errors where a reference is known."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.case import Case
from ..core.errors import BundleError, ImageError
from ..core.files import atomic_file, spreadsheet_row, writing
from ..core.notes import Note, warning_text
from ..core.result import TRAINED_NOTE, Result
from ..core.terms import RESEARCH_USE, Label
from ..core.volume import Geometry, Volume
from ..inference.estimate import with_agreement
from ..metrics.agreement import data_range
from ..metrics.classification import log_loss
from ..radiology.gland import GlandFrame
from ..tasks import TASKS
from ..tasks.base import Task
from ..tasks.image_to_image import ImageTask, sequence_of
from ..tasks.outputs import CLASSIFICATION, IMAGE, SEGMENTATION
from ..tasks.segmentation import labels_of
from .measures import ALL_CLASSES, KINDS, Between, Disagreement, Measure, measure
from .outputs import (
    GLAND,
    GLAND_MASK,
    PART_NOTE,
    Reference,
    Segments,
    disagreements,
    expected_dice,
    grid_words,
    image_measures,
    place,
    reference_images,
    reference_segments,
    regions_of,
    segmentation_measures,
    shared_segments,
    slice_of_greatest_difference,
    slice_of_most_disagreement,
    unlikely_reference,
    wrong_reference,
)

FORMAT = "vfm-transfer/comparison/1"
COHORT_FORMAT = "vfm-transfer/cohort/1"
RESAMPLES = 9999
CONFIDENCE = 0.95
MIN_CASES = 2
NO_LESION_NOTE = Note("no-lesion", "Neither network marked a lesion, which does not rule one out.")
COHORT_TRAINED_NOTE = Note(
    "trained-on-case",
    "A case of this name trained or validated a network. Where it is the same exam, leave it out of what you report.",
    "caution",
)
_MAX_NAMED = 10  # cases in a sentence
_MAX_DRAWN = 2**21  # values that are held at once; how many changes no interval
# Resampling few cases seldom shows how much they vary; the bound is this project's own.
FEW_CASES = 10
FEW_NOTE = f"with fewer than {FEW_CASES} cases the bootstrap's intervals are too narrow"
_PAIRS = {Between.A_REFERENCE: Between.B_REFERENCE, Between.A: Between.B}


@dataclass(frozen=True)
class Comparison:
    """A and B on one case. All voxels lie on grids whose axes run nearest to L, P, S."""

    case: Case
    a: Result
    b: Result
    geometry: Geometry  # of the results, or of the task's reference sequence for a classification
    focus_slice: int  # on that grid, to look at first: where A and B differ most, or whose classes A has
    measures: tuple[Measure, ...]
    disagreements: tuple[Disagreement, ...] = ()  # largest first
    reference: dict[str, Volume] = field(default_factory=dict)  # structure → mask, or output → image, on that grid
    segments: Segments | None = None  # both label maps in one vocabulary, for a segmentation
    true_class: str | None = None
    naive: dict[str, Volume] = field(default_factory=dict)  # output → naive image on its grid, where there is one
    notes: tuple[Note, ...] = ()  # caveats of the networks, and what was decided on the way
    disagreement_count: int = 0  # of all regions, of which `disagreements` are the largest

    @property
    def task(self) -> Task:
        return TASKS[self.a.task]

    @property
    def has_reference(self) -> bool:
        return bool(self.reference) or self.true_class is not None

    @property
    def is_withheld(self) -> bool:
        """Whether both corrections were withheld: A and B show the case's own images, and agree for that reason."""
        return self.a.is_withheld and self.b.is_withheld

    @property
    def shown_measures(self) -> tuple[Measure, ...]:
        """Those shown, saved and averaged: not the agreement of A with B where both corrections were withheld."""
        return tuple(m for m in self.measures if not (self.is_withheld and m.between is Between.A_B))

    @property
    def cautions(self) -> dict[str, str]:
        """What it is about (`A`, `B`, `images`, `reference`) → what must be read before the results are looked at."""
        results = {"A": self.a, "B": self.b}
        found = {who: self.task.caution(one.estimate, one.is_withheld) for who, one in results.items()}
        found |= {"images": warning_text(self.case.notes), "reference": warning_text(self.notes)}
        return {who: sentence for who, sentence in found.items() if sentence}

    @property
    def marks_no_lesion(self) -> bool:
        """Whether neither network of a task that finds lesions marks any."""
        segments = self.segments
        return self.task.finds_lesions and segments is not None and not (segments.a.any() or segments.b.any())

    @property
    def was_trained_on_name(self) -> bool:
        """Whether a case of this name trained a network of the pair, as far as the bundles state."""
        return self.a.provenance.was_trained_on_name or self.b.provenance.was_trained_on_name

    @property
    def caveats(self) -> tuple[Note, ...]:
        """What must be known of any result of these networks, each sentence once."""
        return tuple(dict.fromkeys((*self.a.provenance.caveats, *self.b.provenance.caveats)))

    def value(self, kind: str, subject: str, between: Between | str) -> float:
        """One number of `measures`, `nan` where it is undefined; KeyError where nothing of that name was measured."""
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

    A reference on another grid is resampled by position (labels nearest, images linear), which the notes state. For
    `adc-translation` without a reference the case's measured ADC serves.

    Args:
        case: The images that both networks saw; its `gland` is the region of masked measures.
        reference: Label map (segmentation), image or images by output name (image tasks; a single one belongs to the
            first output), or the true class (classification).
        reference_labels: Structure → value in a reference label map. Without it a reference with one value is a mask of
            the whole, and one with several has the results' own values.

    Raises:
        ValueError: The results are of two cases or tasks, or of another case than `case`, the reference is of the wrong
            kind, or `reference_labels` names an unknown structure.
        BundleError: The results share no structure or have different classes.
        GeometryError: The results lie on different grids, or the reference lies elsewhere.
        ImageError: The reference's values mean nothing known.
    """
    if (a.case_id, a.task) != (b.case_id, b.task):
        raise ValueError(
            f"Both results must be of one case and task, got '{a.case_id}', {a.task} and '{b.case_id}', {b.task}."
        )
    a, b = _to_nearest_lps(a), _to_nearest_lps(b)
    _require_case(case, a, b)
    found = _COMPARE[TASKS[a.task].output](case, a, b, reference, reference_labels)
    nothing = (NO_LESION_NOTE,) if found.marks_no_lesion else ()
    trained = (TRAINED_NOTE,) if found.was_trained_on_name else ()
    return replace(found, notes=(*found.caveats, *trained, *nothing, *found.notes))


def _require_case(case: Case, a: Result, b: Result) -> None:
    """Raise unless the results are of this case; their grid tells exams apart whose identifiers are alike."""
    if case.id != a.case_id:
        raise ValueError(f"Both results must be of case '{case.id}', got results of '{a.case_id}'.")
    reference = TASKS[a.task].reference
    if reference not in case:
        return
    seen = case[reference].to_nearest_lps().geometry
    for result in (a, b):
        if result.grid is not None and not result.grid.equals(seen):
            raise ValueError(
                f"Both results must be of the {reference} of case '{case.id}' ({seen}), but that of "
                f"'{result.provenance.bundle}' is of another ({grid_words(result.grid, seen)})."
            )


def _compare_segmentations(
    case: Case, a: Result, b: Result, reference: Reference | None, table: dict[str, int] | None
) -> Comparison:
    segments = shared_segments(a, b)
    a, b = with_agreement(a, b)
    geometry = labels_of(a).geometry
    masks: dict[str, np.ndarray] = {}
    covered = np.ones(geometry.shape, bool)
    notes = segments.notes
    if reference is not None:
        if not isinstance(reference, Volume):
            raise wrong_reference("a label map", reference)
        placed = place(reference.to_nearest_lps(), geometry, "nearest")
        masks, decided = reference_segments(placed.volume.array, a.task, segments, table)
        covered, notes = placed.covered, notes + placed.notes + decided
        notes += () if covered.all() else (PART_NOTE,)
        notes += tuple(unlikely_reference(reference, masks, segments, geometry))
    findings = a.label_values if TASKS[a.task].finds_lesions else ()
    lesions = tuple(str(name) for name in findings if name not in (Label.BACKGROUND, Label.PROSTATE))
    listed, count = disagreements(segments, geometry, _frame(case, segments, geometry))
    return Comparison(
        case,
        a,
        b,
        geometry,
        slice_of_most_disagreement(segments),
        (*expected_dice(a, b), *segmentation_measures(segments, geometry, masks, covered, lesions)),
        listed,
        {name: Volume(mask, geometry, name) for name, mask in masks.items()},
        segments,
        notes=notes,
        disagreement_count=count,
    )


def _frame(case: Case, segments: Segments, geometry: Geometry) -> GlandFrame | None:
    """The prostate on the grid of the results: the case's own mask, else what A and B mark of it together."""
    if case.gland is not None:
        mask = place(case.gland.to_nearest_lps(), geometry, "nearest", GLAND_MASK).volume.array > 0
    elif segments.whole:
        mask = (segments.a != 0) | (segments.b != 0)
    else:
        return None
    return GlandFrame.from_mask(Volume(mask.astype(np.uint8), geometry)) if mask.any() else None


def _compare_images(
    case: Case, a: Result, b: Result, reference: Reference | None, _table: dict[str, int] | None
) -> Comparison:
    references, notes = reference_images(case, a, reference)
    measures: list[Measure] = []
    task = TASKS[a.task]
    assert isinstance(task, ImageTask)
    placed: dict[str, Volume] = {}
    naive: dict[str, Volume] = {}
    for output, image in a.images.items():
        own = None if output not in references else references[output].to_nearest_lps()
        if (plain := task.naive_image(case, output, image.geometry, own)) is not None:
            naive[output] = plain
        found, volume, decided = _compare_output(case, a, b, output, own, plain)
        measures += found
        placed |= {} if volume is None else {output: volume}
        notes += tuple(note for note in decided if note not in notes)
    if a.displacement_mm is not None and b.displacement_mm is not None:
        length_mm = np.linalg.norm(np.asarray(a.displacement_mm, np.float64) - b.displacement_mm, axis=-1)
        measures.append(measure("displacement_difference_mm", "displacement", Between.A_B, float(length_mm.mean())))
    first_a, first_b = (next(iter(result.images.values())) for result in (a, b))
    gland = regions_of(case, first_a.geometry)[0].get(GLAND)
    focus = slice_of_greatest_difference(first_a.array, first_b.array, gland)
    return Comparison(case, a, b, first_a.geometry, focus, tuple(measures), reference=placed, naive=naive, notes=notes)


def _compare_output(
    case: Case, a: Result, b: Result, output: str, reference: Volume | None, naive: Volume | None
) -> tuple[tuple[Measure, ...], Volume | None, tuple[Note, ...]]:
    """Measures of one output, its reference on the output's grid, and what was decided."""
    image = a.images[output]
    image.require_same_grid(b.images[output])
    regions, notes = regions_of(case, image.geometry)
    measures = image_measures(output, Between.A_B, image, b.images[output], regions)
    if reference is None:
        return measures, None, notes
    placed, task = place(reference, image.geometry, "linear"), TASKS[a.task]
    assert isinstance(task, ImageTask)
    measured = placed.covered & task.region_on(reference, image.geometry)
    inside = {name: mask & measured for name, mask in regions.items()}
    span = data_range(placed.volume.array, placed.covered)
    shown = {Between.A_REFERENCE: image, Between.B_REFERENCE: b.images[output]}
    if naive is not None and sequence_of(output) in task.sequences:
        shown[Between.INPUT_REFERENCE] = naive
    elif naive is not None:
        shown[Between.NAIVE_REFERENCE] = naive
        title = task.naive_title[0].lower() + task.naive_title[1:]
        notes += (Note("naive", f"Naive is {title}, made of the reference itself."),)
    for between, candidate in shown.items():
        measures += image_measures(output, between, candidate, placed.volume, inside, span)
    if (left_out := 1 - measured.sum() / placed.covered.sum()) > 0:
        notes += (Note("unmeasured", f"{left_out:.0%} of the reference {task.unmeasured} and is left out against it."),)
    return measures, placed.volume, notes + placed.notes


def _compare_classifications(
    case: Case, a: Result, b: Result, reference: Reference | None, _table: dict[str, int] | None
) -> Comparison:
    if reference is not None and not isinstance(reference, str):
        raise wrong_reference("the name of a class", reference)
    geometry = case[TASKS[a.task].reference].to_nearest_lps().geometry
    gland = None
    if case.gland is not None:
        gland = place(case.gland.to_nearest_lps(), geometry, "nearest", GLAND_MASK).volume.array
    if a.decided_at_mm is not None:
        focus = geometry.nearest_voxel(a.decided_at_mm)[2]
    else:
        focus = geometry.shape[0] // 2 if gland is None else int(gland.sum(axis=(1, 2)).argmax())
    of_a, of_b = a.class_probabilities, b.class_probabilities
    if set(of_a) != set(of_b):
        raise BundleError(f"A and B must have the same classes, got {', '.join(of_a)} and {', '.join(of_b)}.")
    if reference is not None and reference not in of_a:
        raise ImageError(f"The reference must be one of {', '.join(of_a)}, got '{reference}'.")
    measures = _probability_measures(of_a, of_b)
    distance = sum(abs(of_a[name] - of_b[name]) for name in of_a) / 2
    measures.append(measure("total_variation", ALL_CLASSES, Between.A_B, distance))
    if reference is not None:
        for between, of_one in ((Between.A_REFERENCE, of_a), (Between.B_REFERENCE, of_b)):
            loss = log_loss(of_one[reference])
            measures.append(measure("log_loss", ALL_CLASSES, between, loss, f"true class: {reference}"))
    measures += _probability_measures(a.derived_probabilities, b.derived_probabilities)
    return Comparison(case, a, b, geometry, focus, tuple(measures), true_class=reference)


_COMPARE = {SEGMENTATION: _compare_segmentations, IMAGE: _compare_images, CLASSIFICATION: _compare_classifications}


def _probability_measures(a: dict[str, float], b: dict[str, float]) -> list[Measure]:
    """Both probabilities of each name, and A's minus B's."""
    found: list[Measure] = []
    for name in (name for name in a if name in b):
        found.append(measure("probability", name, Between.A, a[name]))
        found.append(measure("probability", name, Between.B, b[name]))
        found.append(measure("probability_difference", name, Between.A_B, a[name] - b[name]))
    return found


def _to_nearest_lps(result: Result) -> Result:
    displacement = result.displacement_mm
    if displacement is not None:
        field_grid = next(iter(result.images.values())).geometry
        parts = [Volume(np.asarray(displacement)[..., i], field_grid).to_nearest_lps().array for i in range(3)]
        displacement = np.stack(parts, axis=-1)  # (D, H, W, 3)
    return replace(
        result,
        grid=None if result.grid is None else result.grid.to_nearest_lps(),
        labels=None if result.labels is None else result.labels.to_nearest_lps(),
        probabilities={name: volume.to_nearest_lps() for name, volume in result.probabilities.items()},
        images={name: volume.to_nearest_lps() for name, volume in result.images.items()},
        displacement_mm=displacement,
    )


@dataclass(frozen=True)
class CohortRow:
    """One measure of a structure, output image or class over all cases."""

    measure: str
    subject: str
    between: str  # `a-b` for agreement; `a-reference minus b-reference` and `a minus b` for pairs
    cases: int
    left_out: int  # number of cases without a value, or whose value is undefined
    mean_a: float  # for `a-b` of the agreement itself
    mean_b: float  # `nan` for `a-b`
    mean: float  # of A minus B paired by case; for `a-b` of the agreement itself
    low: float  # bootstrap interval of `mean`
    high: float
    unit: str = ""
    higher_is_better: bool | None = None  # None where there is no direction, and without a reference
    note: str = ""  # why there is no interval, or what to keep in mind of it


@dataclass(frozen=True)
class Cohort:
    """Rows over a list of cases, and how their intervals were drawn."""

    case_ids: tuple[str, ...]
    rows: tuple[CohortRow, ...]
    seed: int
    confidence: float = CONFIDENCE
    cautions: dict[str, dict[str, str]] = field(default_factory=dict)  # case → `Comparison.cautions`, if any
    caveats: tuple[Note, ...] = ()  # of the networks, each sentence once
    without_lesions: tuple[str, ...] = ()  # cases in which neither network marks one, of a task that finds lesions
    trained_on: tuple[str, ...] = ()  # cases of whose name one trained a network, see `Comparison.was_trained_on_name`

    @property
    def notes(self) -> tuple[Note, ...]:
        """Sentences on cases that must not be read as the others."""
        found = {NO_LESION_NOTE: self.without_lesions, COHORT_TRAINED_NOTE: self.trained_on}
        return tuple(self._note(note, case_ids) for note, case_ids in found.items() if case_ids)

    def _note(self, note: Note, case_ids: tuple[str, ...]) -> Note:
        named = ", ".join(case_ids[:_MAX_NAMED]) + (", …" if len(case_ids) > _MAX_NAMED else "")
        return replace(note, text=f"In {len(case_ids)} of {len(self.case_ids)} cases ({named}): {note}")


def compare_cohort(comparisons: Iterable[Comparison], seed: int = 0) -> Cohort:
    """Average comparisons of one task, one a case, read one by one; A minus B is paired by case.

    The interval is the percentile bootstrap over cases (`scipy.stats.bootstrap`, 9999 resamples). Cases without a
    value, or with an undefined one, are left out and counted. ValueError where a case comes twice, or the tasks differ.
    """
    case_ids: list[str] = []
    cautions: dict[str, dict[str, str]] = {}
    caveats: dict[Note, None] = {}
    without_lesions: list[str] = []
    trained_on: list[str] = []
    tasks = set()
    values: dict[tuple[str, str, Between], dict[str, Measure]] = defaultdict(dict)
    for comparison in comparisons:
        if comparison.case.id in case_ids:
            raise ValueError(f"Each case must come once, but '{comparison.case.id}' comes twice.")
        case_ids.append(comparison.case.id)
        tasks.add(comparison.a.task)
        cautions |= {comparison.case.id: found} if (found := comparison.cautions) else {}
        caveats |= dict.fromkeys(comparison.caveats)
        without_lesions += [comparison.case.id] if comparison.marks_no_lesion else []
        trained_on += [comparison.case.id] if comparison.was_trained_on_name else []
        for one in comparison.shown_measures:
            values[one.kind, one.subject, one.between][comparison.case.id] = one
    if len(tasks) > 1:
        raise ValueError(f"All comparisons must be of one task, got {', '.join(sorted(tasks))}.")
    rows = []
    for (kind, subject, between), of_a in values.items():
        a = np.array([found.value for found in of_a.values()])
        if between is Between.A_B:
            shown, b, difference = str(between), np.full_like(a, np.nan), a
        elif between in _PAIRS and (kind, subject, _PAIRS[between]) in values:
            of_b = values[kind, subject, _PAIRS[between]]
            cases = [case for case in of_a if case in of_b]
            a, b = (np.array([found[case].value for case in cases]) for found in (of_a, of_b))
            with np.errstate(invalid="ignore"):  # infinity minus infinity: two exact arms have no difference to average
                shown, difference = f"{between} minus {_PAIRS[between]}", a - b
        else:
            continue
        kept = np.isfinite(difference)
        low, high, note = _interval(difference[kept], seed)
        row = CohortRow(
            measure=kind,
            subject=subject,
            between=shown,
            cases=int(kept.sum()),
            left_out=len(case_ids) - int(kept.sum()),
            mean_a=_mean(a[kept]),
            mean_b=_mean(b[kept]),
            mean=_mean(difference[kept]),
            low=low,
            high=high,
            unit=next(iter(of_a.values())).unit,
            higher_is_better=KINDS[kind].higher_is_better if between is Between.A_REFERENCE else None,
            note=note,
        )
        rows.append(row)
    return Cohort(
        tuple(case_ids),
        tuple(rows),
        seed,
        cautions=cautions,
        caveats=tuple(caveats),
        without_lesions=tuple(without_lesions),
        trained_on=tuple(trained_on),
    )


def _interval(values: np.ndarray, seed: int) -> tuple[float, float, str]:
    if len(values) < MIN_CASES:
        return float("nan"), float("nan"), f"an interval needs {MIN_CASES} cases with a value"
    from scipy import stats  # takes longer to import than a single case may wait

    drawn = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(_MAX_DRAWN // len(values), 1),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    )
    note = FEW_NOTE if len(values) < FEW_CASES else ""
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high), note


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def save_comparison(comparison: Comparison, folder: Path) -> tuple[Path, Path]:
    """Write `comparison.json` and `comparison.csv`; OutputError where the folder cannot be written."""
    about = {"case": comparison.case.id, "task": str(comparison.a.task)}
    rows = [{**about, **measure_row(m)} for m in comparison.shown_measures]
    return _save(Path(folder), "comparison", comparison_document(comparison), rows)


def save_cohort(cohort: Cohort, folder: Path) -> tuple[Path, Path]:
    """Write `cohort.json` and `cohort.csv`; OutputError where the folder cannot be written."""
    document = cohort_document(cohort)
    return _save(Path(folder), "cohort", document, document["rows"])


def cohort_document(cohort: Cohort) -> dict[str, Any]:
    """A cohort as JSON takes it; numbers that are not finite are None."""
    return {
        "format": COHORT_FORMAT,
        "note": RESEARCH_USE,
        "cases": list(cohort.case_ids),
        "confidence": cohort.confidence,
        "seed": cohort.seed,
        "cautions": cohort.cautions,
        "caveats": [asdict(note) for note in cohort.caveats],
        "without_lesions": list(cohort.without_lesions),
        "trained_on": list(cohort.trained_on),
        "rows": [{key: _finite(value) for key, value in asdict(row).items()} for row in cohort.rows],
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison but its voxels, as JSON takes it: no path, no patient data."""
    return {
        "format": FORMAT,
        "note": RESEARCH_USE,
        "case": comparison.case.id,
        "task": str(comparison.a.task),
        "a": asdict(comparison.a.provenance),
        "b": asdict(comparison.b.provenance),
        "has_reference": comparison.has_reference,
        "true_class": comparison.true_class,
        "focus_slice": comparison.focus_slice,
        "measures": [measure_row(m) for m in comparison.shown_measures],
        "disagreements": [asdict(d) for d in comparison.disagreements],
        "disagreement_count": comparison.disagreement_count,
        "cautions": comparison.cautions,
        "lesions": {
            name: [asdict(lesion) for lesion in result.lesions]
            for name, result in (("a", comparison.a), ("b", comparison.b))
        },
        "notes": [asdict(note) for note in (*comparison.case.notes, *comparison.notes)],
    }


def measure_row(measure: Measure) -> dict[str, Any]:
    """One measure as a row; a value that is no finite number is None, with the reason in `note`."""
    reason = "the images are equal" if math.isinf(measure.value) else ""
    return {
        "subject": measure.subject,
        "measure": measure.kind,
        "between": str(measure.between),
        "value": _finite(measure.value),
        "unit": measure.unit,
        "note": "; ".join(filter(None, (reason, measure.note))),
    }


def _save(folder: Path, stem: str, document: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[Path, Path]:
    json_path, csv_path = folder / f"{stem}.json", folder / f"{stem}.csv"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(json_path) as part:
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    with atomic_file(csv_path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(map(spreadsheet_row, rows))
    return json_path, csv_path


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
