"""`vfm-transfer compare`: two networks on the same case, or on several."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import BundleError, VFMTransferError
from ..core.terms import OnProgress
from ..tasks import DEFAULT_TASK
from .shared import (
    Commands,
    add_command,
    add_json,
    add_output,
    add_prediction,
    add_task,
    given_case,
    predict_options,
    print_json,
    progress_bar,
    require_images,
)

if TYPE_CHECKING:
    from ..bundles.bundle import Bundle
    from ..core.case import Case
    from ..evaluation.cohort import CohortRow
    from ..evaluation.comparison import Comparison
    from ..evaluation.outputs import Reference

    Pair = tuple[Bundle, Bundle]

# The answer for programs, and in lines for people.
Answer = tuple[dict[str, Any], list[str]]
COHORT = "cohort.json"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "compare", "Run two networks on one case or several, and report them side by side")
    parser.add_argument("cases", nargs="*", type=Path, metavar="CASE", help="folder of a case: files by role, or DICOM")
    parser.add_argument(
        "--bundle",
        action="append",
        default=[],
        dest="bundles",
        metavar="B",
        help="name or folder of a bundle; give two, A first (default: the shipped pair of --task)",
    )
    add_task(parser, help=f"whose pair to take where no --bundle is given (default: {DEFAULT_TASK})")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        dest="references",
        metavar="F",
        help="the truth: a label map, an image, or the name of a class; one for each CASE, in the same order",
    )
    add_output(parser, "folder for the report: new, empty, or an earlier output, which is replaced")
    add_prediction(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    _check_usage(args)
    from ..io import output_folder
    from ..io.results import OWN_MARKS

    pair = chosen_pair(args.bundles, args.task)
    with output_folder(args.output, (*OWN_MARKS, COHORT)) as folder, progress_bar() as on_progress:
        run_cases = _run_several if len(args.cases) > 1 else _run_one
        document, lines = run_cases(args, pair, folder, on_progress)
    if args.json:
        print_json({"output": str(args.output), **document})
    else:
        print("\n".join(lines))


def chosen_pair(names: list[str], task: str | None) -> tuple[Bundle, Bundle]:
    """The two bundles that were named, else the shipped pair of the task.

    Raises:
        BundleError: A bundle is missing or broken, or the two are for different tasks.
    """
    from ..bundles.catalog import default_pair, find_bundle

    if not names:
        return default_pair(task or DEFAULT_TASK)
    a, b = (find_bundle(name) for name in names)
    if a.spec.task != b.spec.task or task not in (None, a.spec.task):
        raise BundleError(
            f"Both bundles must be for {task or 'one task'}, but '{a.name}' is for {a.spec.task} "
            f"and '{b.name}' for {b.spec.task}. Choose others; vfm-transfer models list shows them."
        )
    return a, b


def _check_usage(args: argparse.Namespace) -> None:
    """Leave with wrong usage where the options do not fit each other."""
    require_images(args, args.cases)
    count = max(len(args.cases), 1)
    if count > 1 and (args.t2w or args.hbv or args.adc or args.gland or args.roi or args.psa):
        args.parser.error("--t2w, --hbv, --adc, --gland, --psa and --roi belong to one case; give one CASE with them")
    if len({path.resolve().name for path in args.cases}) < len(args.cases):
        args.parser.error("the CASE folders must have different names, since the report calls them by these")
    if len(args.bundles) not in (0, 2):
        args.parser.error(f"give --bundle twice, or not at all; got {len(args.bundles)}")
    if len(args.references) not in (0, count):
        args.parser.error(f"give one --reference for each of {count} cases; got {len(args.references)}")


def _run_one(args: argparse.Namespace, pair: Pair, folder: Path, on_progress: OnProgress) -> Answer:
    from ..evaluation.comparison import comparison_document
    from ..evaluation.measures import quantity_title

    comparison, page = next(_compared(args, pair, lambda case_id: folder, on_progress))
    lines = [f"{m.title}, {m.subject}, {m.between}: {quantity_title(m.text, m.unit)}" for m in comparison.measures]
    return comparison_document(comparison), [*lines, str(args.output / page.name)]


def _run_several(args: argparse.Namespace, pair: Pair, folder: Path, on_progress: OnProgress) -> Answer:
    from ..evaluation.cohort import compare_cohort
    from ..evaluation.comparison import cohort_document, save_cohort

    compared = _compared(args, pair, lambda case_id: folder / case_id, on_progress)
    cohort = compare_cohort(comparison for comparison, _ in compared)
    save_cohort(cohort, folder)
    notes = dict.fromkeys(f"Note: {row.note}." for row in cohort.rows if row.note)
    return cohort_document(cohort), [*map(_row_text, cohort.rows), *notes, str(args.output)]


def _compared(
    args: argparse.Namespace, pair: Pair, folder_of: Callable[[str], Path], on_progress: OnProgress
) -> Iterator[tuple[Comparison, Path]]:
    """Each case's comparison and page, one at a time, so that one case is in memory."""
    from .side_by_side import run_side_by_side

    options = predict_options(args)
    paths = args.cases or [None]
    references = args.references or [None] * len(paths)
    if len(paths) > 1:
        for path, reference in zip(paths, references, strict=True):
            with _named(path, len(paths)):
                _read(args, pair, path, reference)  # so that a broken case is known before hours of work
    for index, (path, reference) in enumerate(zip(paths, references, strict=True)):
        with _named(path, len(paths)):
            case, truth = _read(args, pair, path, reference)
            folder = folder_of(case.id)
            folder.mkdir(exist_ok=True)
            on_part = _part(on_progress, index, len(paths), case.id)
            compared = run_side_by_side(case, pair, folder, truth, options=options, on_progress=on_part)
        yield compared


def _read(
    args: argparse.Namespace, pair: Pair, path: Path | None, reference: str | None
) -> tuple[Case, Reference | None]:
    """A case that both networks can take, and its truth."""
    from ..inference.predict import require_fit

    case = given_case(args, path)
    for bundle in pair:
        require_fit(case, bundle)
    return case, _read_reference(reference, pair)


@contextmanager
def _named(path: Path | None, count: int) -> Iterator[None]:
    """Name the case that an error is of, where there are several: their files often bear the same names.

    Raises:
        VFMTransferError: The error, with the case before it.
    """
    try:
        yield
    except VFMTransferError as error:
        if path is None or count == 1 or f"'{path.name}'" in str(error):
            raise
        raise type(error)(f"Of case '{path.name}': {error}") from error


def _read_reference(text: str | None, pair: Pair) -> Reference | None:
    """The truth: a label map, an image or a class, as the pair's task has it."""
    from ..io import read_mask, read_volume
    from ..tasks import TASKS

    task = pair[0].spec.task
    if text is None or task is None:
        return None
    readers: dict[str, Callable[[str], Reference]] = {
        "segmentation": lambda path: read_mask(path, "reference"),
        "image": lambda path: read_volume(path, "reference"),
        "classification": str,
    }
    return readers[TASKS[task].output](text)


def _part(on_progress: OnProgress, index: int, count: int, case_id: str) -> OnProgress:
    """Progress of one case of several."""
    if count == 1:
        return on_progress
    return lambda stage, fraction: on_progress(f"{case_id}: {stage}", (index + fraction) / count)


def _row_text(row: CohortRow) -> str:
    """A measure over all cases; for a pair the mean of each arm before the mean of their difference."""
    from ..evaluation.measures import KINDS, quantity_title

    interval = f" [{row.low:.3f}, {row.high:.3f}]" if row.low == row.low else ""
    arms = f"A {row.mean_a:.3f}, B {row.mean_b:.3f}, A minus B " if row.mean_b == row.mean_b else ""
    against = ", A with B" if row.between == "a-b" else " against the reference" if "reference" in row.between else ""
    title, mean = KINDS[row.measure].title, quantity_title(f"{arms}{row.mean:.3f}{interval}", row.unit)
    return f"{title}, {row.subject}{against}: {mean} (cases: {row.cases})"
