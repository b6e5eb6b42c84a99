"""`vfm-transfer predict`: one network on one case, or networks on each case of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .radiology import require_dicom_out, save_dicom
from .shared import (
    Commands,
    add_command,
    add_json,
    add_output,
    add_prediction,
    add_task,
    given_case,
    predict_options,
    print_answer,
    progress_bar,
    require_images,
)

if TYPE_CHECKING:
    from ..core.result import Result

SHOWN_LESIONS = 10


def add_predict(commands: Commands) -> None:
    summary = "Run one network on one case, or networks on each case of a folder"
    parser = add_command(commands, "predict", summary, run_predict)
    parser.add_argument("case", nargs="?", type=Path, metavar="CASE", help="folder of a case: files by role, or DICOM")
    parser.add_argument(
        "--cohort", type=Path, metavar="FOLDER", help="instead of CASE: a folder of cases; a stopped batch resumes"
    )
    parser.add_argument(
        "--bundle",
        action="append",
        dest="bundles",
        metavar="B",
        help="name (see `models list`) or folder of a bundle; several with --cohort, of which two are also compared",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="with --cohort: number of worker processes, one case each"
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="with --cohort: address of a dask.distributed cluster, whose workers take one case each",
    )
    add_task(parser, help="refuse a bundle that is for another task")
    add_output(parser, "folder for the results: new, empty, or an earlier output, which is replaced")
    add_prediction(parser)
    add_json(parser)


def run_predict(args: argparse.Namespace) -> None:
    if not args.bundles:  # not by argparse, whose message names no command that lists them
        from ..bundles.catalog import list_bundles

        names = ", ".join(bundle.name for bundle in list_bundles(args.task)) if args.task else ""
        those = f" (for {args.task}: {names})" if names else ""
        args.parser.error(
            f"state a network by --bundle: a name of `vfm-transfer models list`{those}, or a bundle's folder"
        )
    if args.cohort is None:
        require_images(args, args.case)
        if args.scheduler is not None or args.workers is not None:
            args.parser.error("--workers and --scheduler need --cohort")
        if len(args.bundles) > 1:
            args.parser.error("several --bundle need --cohort; for one case use `vfm-transfer compare`")
    elif args.workers is not None and args.workers < 1:
        args.parser.error(f"--workers must be 1 or more, got {args.workers}")
    elif args.workers is not None and args.scheduler is not None:
        args.parser.error("--workers has no effect beside --scheduler, whose workers it has; leave one out")
    elif args.case or any((args.t2w, args.hbv, args.adc, args.gland, args.roi, args.allow_mixed_exams)):
        args.parser.error("--cohort takes no files of one case; put each case's files into its folder")
    elif args.psa_ng_ml is not None:
        args.parser.error("--psa belongs to one case; give a CASE with it")
    elif args.dicom:
        args.parser.error("--dicom writes one case; give a CASE with it")
    if args.cohort is None:
        _run_one(args)
    else:
        _run_cohort(args)


def _run_one(args: argparse.Namespace) -> None:
    from ..bundles.catalog import find_bundle
    from ..inference.predict import predict, require_fit
    from ..io import output_folder
    from ..io.results import result_to_json, save_result

    bundle = find_bundle(args.bundles[0])
    case = given_case(args, args.case, [bundle])
    options = predict_options(args)
    require_fit(case, bundle, args.task)
    if args.dicom:
        require_dicom_out(case, str(bundle.spec.task))
    # Opened before the work, so that a folder that cannot be written is known at once.
    with output_folder(args.output) as folder, progress_bar() as on_progress:
        result = predict(case, bundle, options, on_progress)
        save_result(result, folder)
        if args.dicom:
            save_dicom(result, case, folder)
    document = {"output": str(args.output), **result_to_json(result)}
    print_answer(args, document, [*summary(result), str(args.output)])


def _run_cohort(args: argparse.Namespace) -> None:
    from ..batch.batch import require_all_done, run_batch
    from ..batch.cases import SUMMARY, WARNING

    options = predict_options(args)
    with progress_bar() as on_progress:
        if args.scheduler or args.workers:
            from ..batch.cluster import run_batch_on_workers

            rows = run_batch_on_workers(
                args.cohort,
                args.output,
                args.bundles,
                scheduler=args.scheduler,
                count=args.workers or 1,
                options=options,
                task=args.task,
                on_case=lambda at: on_progress(f"{at.case + 1} of {at.cases} cases", (at.case + 1) / at.cases),
                on_start=lambda sentence: on_progress(sentence, 0.0),
            )
        else:
            rows = run_batch(
                args.cohort,
                args.output,
                args.bundles,
                lambda at: on_progress(f"case {at.case + 1} of {at.cases}, {at.bundle}: {at.stage}", at.of_all),
                options=options,
                task=args.task,
            )
    document = {"output": str(args.output), "rows": [row.cells() for row in rows]}
    lines = [" ".join(filter(None, (f"{row.case} {row.bundle}: {row.status}.", row.message))) for row in rows]
    warned = [(row, sentence) for row in rows if (sentence := row.values.get(WARNING))]
    lines += [f"WARNING, {row.case} {row.bundle}: {sentence}" for row, sentence in warned]
    print_answer(args, document, [*lines, str(args.output / SUMMARY)])
    require_all_done(rows)


def summary(result: Result) -> list[str]:
    """A result in lines for people."""
    from ..core.notes import texts, warning_text
    from ..tasks import TASKS

    warning = warning_text(result.provenance.notes)
    lines = [f"WARNING: {warning}"] if warning else []
    lines += [f"{name}: {volume_ml:.1f} ml" for name, volume_ml in result.volumes_ml.items()]
    lines += [] if result.gland is None else [f"{text}: {value}" for value, text in result.gland.lines]
    if result.estimate is not None:
        about = f"{result.estimate.interval_text}, estimated without a reference"
        lines.append(f"expected Dice of the prostate: {result.estimate.text}, {about}")
    task = TASKS.get(result.task)
    caution = "" if task is None else task.caution(result.estimate, result.is_withheld)
    lines += [f"WARNING: {caution}"] if caution else []
    for lesion in result.lesions[:SHOWN_LESIONS]:
        place = f"{lesion.position} ({', '.join(lesion.sectors)}), " if lesion.position else ""
        size = f"{lesion.volume_ml:.2f} ml, confidence {lesion.confidence:.2f}"
        lines.append(f"lesion {lesion.index}: {place}{lesion.label}, {size}")
    if len(result.lesions) > SHOWN_LESIONS:
        lines.append(f"and {len(result.lesions) - SHOWN_LESIONS} smaller lesions, listed in result.json")
    lines += [f"image quality, {q.title}: {q.text} ({q.threshold})" for q in result.quality if q.is_met is False]
    probabilities: dict[str, Any] = {**result.class_probabilities, **result.derived_probabilities}
    lines += [f"{name}: {probability:.3f}" for name, probability in probabilities.items()]
    return [*lines, *texts((*result.provenance.caveats, *result.provenance.notes))]
