"""The work of `compare` and `demo`: two networks on each case, to the report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bundles.bundle import Bundle
from ..bundles.catalog import default_pair, find_bundle
from ..core.case import Case
from ..core.errors import BundleError, DatasetError, ImageError, VFMTransferError
from ..core.files import name_on_disk
from ..core.notes import texts
from ..core.options import Options
from ..core.placement import within_roi
from ..core.terms import Label, OnProgress
from ..core.volume import Volume
from ..encoders.base import ModelSpec
from ..evaluation.comparison import (
    CohortRow,
    Comparison,
    cohort_document,
    compare,
    compare_cohort,
    comparison_document,
    save_cohort,
)
from ..evaluation.measures import KINDS, quantity_title
from ..evaluation.outputs import Reference, checked_references, place
from ..inference.case_cache import CaseCache
from ..inference.predict import DEFAULT, CasePredictor, needed_sequences, require_fit
from ..io import output_folder
from ..io.cases import read_case_for
from ..io.results import OWN_MARKS, save_result
from ..phantom import Phantom, make_phantom
from ..report import write_report
from ..tasks import DEFAULT_TASK, task_of
from ..tasks.image_to_image import ImageTask
from .radiology import require_dicom_out, save_dicom
from .shared import given_case, predict_options

Pair = tuple[Bundle, Bundle]

COHORT = "cohort.json"
SIDES = ("a", "b")
PHANTOM_SEED = 7
ZONE_VALUES = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}


def compare_cases(args: argparse.Namespace, on_progress: OnProgress) -> tuple[dict[str, Any], list[str]]:
    """Do what `compare` is asked for; its answer for programs, and in lines for people."""
    pair = _chosen_pair(args.bundles, args.task)
    with output_folder(args.output, (*OWN_MARKS, COHORT)) as folder:
        if len(args.cases) > 1:
            compared = _compared(args, pair, lambda case_id: folder / case_id, on_progress)
            cohort = compare_cohort(comparison for comparison, _ in compared)
            save_cohort(cohort, folder)
            warnings = [line for case, cautions in cohort.cautions.items() for line in warning_lines(cautions, case)]
            notes = [*dict.fromkeys(f"Note: {row.note}." for row in cohort.rows if row.note), *texts(cohort.notes)]
            lines = [*warnings, *map(row_text, cohort.rows), *notes, *texts(cohort.caveats), str(args.output)]
            return cohort_document(cohort), lines
        comparison, page = next(_compared(args, pair, lambda case_id: folder, on_progress))
        lines = warning_lines(comparison.cautions)
        lines += measure_lines(comparison)
        document = comparison_document(comparison)
        return document, [*lines, *texts((*comparison.case.notes, *comparison.notes)), str(args.output / page.name)]


def measure_lines(comparison: Comparison) -> list[str]:
    """A line a number."""
    return [f"{m.title}, {m.subject}, {m.between}: {quantity_title(m.text, m.unit)}" for m in comparison.shown_measures]


def warning_lines(cautions: Mapping[str, str], case_id: str = "") -> list[str]:
    """What must be read before a comparison, of `Comparison.cautions`; of several cases each with its name."""
    return [f"{', '.join(filter(None, ('WARNING', case_id, who)))}: {sentence}" for who, sentence in cautions.items()]


def _chosen_pair(names: list[str], task: str | None) -> Pair:
    """The two bundles that were named, else the shipped pair of the task."""
    if not names:
        return default_pair(task or DEFAULT_TASK)
    a, b = (find_bundle(name) for name in names)
    if a.spec.task != b.spec.task or task not in (None, a.spec.task):
        raise BundleError(
            f"Both bundles must be for {task or 'one task'}, but '{a.name}' is for {a.spec.task} "
            f"and '{b.name}' for {b.spec.task}. Choose others; vfm-transfer models list shows them."
        )
    return a, b


def _compared(
    args: argparse.Namespace, pair: Pair, folder_of: Callable[[str], Path], on_progress: OnProgress
) -> Iterator[tuple[Comparison, Path]]:
    """Each case's comparison and page, one at a time, so that one case is in memory."""
    options = predict_options(args)
    paths = args.cases or [None]
    case_cache = CaseCache() if len(paths) > 1 else None  # as batches keep them
    references = args.references or [None] * len(paths)
    if len(paths) > 1:
        path_of: dict[str, Path | None] = {}
        for path, reference in zip(paths, references, strict=True):  # what is wrong is known before hours of work
            with _named(path, len(paths)):
                case, _ = _read(args, pair, path, reference)
            first = path_of.setdefault(name_on_disk(case.id), path)
            if first is not path:
                raise DatasetError(
                    f"Each case must be of a name of its own, but '{first}' and '{path}' are both '{case.id}', at "
                    "least where a disk ignores upper and lower case. Give one exam once, and files of one name in "
                    "folders of two names."
                )
    for index, (path, reference) in enumerate(zip(paths, references, strict=True)):
        with _named(path, len(paths)):
            case, truth = _read(args, pair, path, reference)
            folder = folder_of(case.id)
            folder.mkdir(exist_ok=True)
            on_part = _part(on_progress, index, len(paths), case.id)
            compared = run_side_by_side(
                case,
                pair,
                folder,
                truth,
                options=options,
                on_progress=on_part,
                with_dicom=args.dicom,
                case_cache=case_cache,
            )
        yield compared


def _read(
    args: argparse.Namespace, pair: Pair, path: Path | None, reference: str | None
) -> tuple[Case, Reference | None]:
    """A case that both networks can take, and its truth: a label map, an image or a class, as the task has it.

    A truth that no result could be compared with is refused here, before networks run.
    """
    case = given_case(args, path, pair)
    for bundle in pair:
        require_fit(case, bundle)
    if reference is None or pair[0].spec.task is None:
        return case, None
    task = task_of(pair[0].spec)
    truth = task.output.read_truth(reference)
    if isinstance(truth, str):
        if truth not in pair[0].spec.labels:
            raise ImageError(f"The reference must be one of {', '.join(pair[0].spec.labels)}, got '{truth}'.")
    else:
        place(truth, case[task.reference].geometry, "nearest")
        if isinstance(task, ImageTask):
            checked_references({task.outputs[0]: truth})
    return case, truth


@contextmanager
def _named(path: Path | None, count: int) -> Iterator[None]:
    """Name the case that an error is of, where there are several: their files often bear the same names."""
    try:
        yield
    except VFMTransferError as error:
        if path is None or count == 1 or f"'{path.name}'" in str(error):
            raise
        raise type(error)(f"Of case '{path.name}': {error}") from error


def _part(on_progress: OnProgress, index: int, count: int, case_id: str) -> OnProgress:
    """Progress of one case of several."""
    if count == 1:
        return on_progress
    return lambda stage, fraction: on_progress(f"{case_id}: {stage}", (index + fraction) / count)


def row_text(row: CohortRow) -> str:
    """A measure over all cases; for a pair the mean of each arm before the mean of their difference."""
    interval = f" [{row.low:.3f}, {row.high:.3f}]" if row.low == row.low else ""
    arms = f"A {row.mean_a:.3f}, B {row.mean_b:.3f}, A minus B " if row.mean_b == row.mean_b else ""
    against = ", A with B" if row.between == "a-b" else " against the reference" if "reference" in row.between else ""
    value = quantity_title(f"{arms}{row.mean:.3f}{interval}", row.unit) if row.mean == row.mean else "n/a"
    left_out = f", left out: {row.left_out}" if row.left_out else ""
    return f"{KINDS[row.measure].title}, {row.subject}{against}: {value} (cases: {row.cases}{left_out})"


def run_side_by_side(
    case: Case,
    pair: Pair,
    folder: Path,
    reference: Reference | None = None,
    *,
    reference_labels: dict[str, int] | None = None,
    options: Options = DEFAULT,
    on_progress: OnProgress | None = None,
    with_dicom: bool = False,
    case_cache: CaseCache | None = None,
) -> tuple[Comparison, Path]:
    """Run both networks, compare them, and write the report with each network's own files in `a/` and `b/`.

    Args:
        folder: Where everything goes; exists.
        reference: The truth, where it is known; with `reference_labels` as `compare` takes it.
        options: How networks are run. Inside a region of interest only, a reference that is a label map counts too.
        with_dicom: Also write each network's results as DICOM.
        case_cache: Keeps what was made of cases, such as the gland; by default for this case alone.

    Returns:
        The comparison and the report's page.
    """
    for bundle in pair:
        require_fit(case, bundle)
    if with_dicom:
        require_dicom_out(case, str(pair[0].spec.task))
    if isinstance(reference, Volume) and task_of(pair[0].spec).marks_voxels:
        case, reference = within_roi(case, reference)
    predictor = CasePredictor(case, options, cache=case_cache)
    report = on_progress or (lambda stage, fraction: None)
    a = predictor.predict(pair[0], lambda stage, fraction: report(stage, fraction / 2))
    b = predictor.predict(pair[1], lambda stage, fraction: report(stage, (1 + fraction) / 2))
    shown = predictor.case_with_gland(str(pair[0].spec.task))
    comparison = compare(shown, a, b, reference, reference_labels=reference_labels)
    for side, result, compared in zip(SIDES, (a, b), (comparison.a, comparison.b), strict=True):
        result = replace(result, estimate=compared.estimate)  # so that one run states one expected Dice
        save_result(result, folder / side)
        if with_dicom:
            save_dicom(result, case, folder / side)
    return comparison, write_report(comparison, folder, pair)


def demonstrate(folder: Path, case_folder: Path | None = None, on_progress: OnProgress | None = None) -> Path:
    """Compare the pretrained and the from-scratch network on a case, or on a phantom whose truth is known.

    Args:
        folder: Where the report goes; new, empty, or an earlier output, which is replaced.
        case_folder: A case with a T2w; a phantom without it.

    Returns:
        The report's page.
    """
    pair = default_pair(DEFAULT_TASK)
    with output_folder(folder) as work:
        if case_folder is not None:
            case = read_case_for(needed_sequences(pair), case_folder)
            _, page = run_side_by_side(case, pair, work, on_progress=on_progress)
        else:
            phantom = make_phantom(PHANTOM_SEED)
            truth, labels = truth_for(phantom, pair[0].spec)
            _, page = run_side_by_side(
                phantom.case, pair, work, truth, reference_labels=labels, on_progress=on_progress
            )
    return folder / page.name


def truth_for(phantom: Phantom, spec: ModelSpec) -> tuple[Volume, dict[str, int] | None]:
    """A phantom's truth of what an anatomy network marks: the zones with their values, or the whole gland."""
    if set(ZONE_VALUES) <= set(spec.labels):
        return phantom.zones, ZONE_VALUES
    return phantom.gland, None
