"""`vfm-transfer advise`: before any fine-tuning, which pretraining suits a task on these data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.terms import RESEARCH_USE, OnProgress
from ..tasks import TASKS
from .shared import Commands, add_command, add_json, print_json, progress_bar

if TYPE_CHECKING:
    from ..training.cases import StudySet

PHANTOMS = "phantoms"


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "advise", "Estimate which pretraining suits a task on your data, before any fine-tuning"
    )
    parser.epilog = (
        "The expected gain is a forecast by whichever estimator was best on the study's own tasks, leave-one-task-"
        f"out; its error there is printed beside it. {RESEARCH_USE}"
    )
    parser.add_argument("task", choices=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument(
        "--data", default=PHANTOMS, metavar="D", help=f"folder with a folder for each case, or {PHANTOMS} (default)"
    )
    parser.add_argument("--phantoms", type=int, default=16, metavar="N", help="how many phantoms (default: 16)")
    parser.add_argument("--gland", default="gland", metavar="STEM", help="file name of the masks of the prostate")
    parser.add_argument(
        "--pretrained",
        action="append",
        default=[],
        metavar="B",
        help="a bundle that pretrain wrote; may be given several times (default: those installed, and the study's own)",
    )
    parser.add_argument(
        "--study", type=Path, metavar="FOLDER", help="a finished transfer study (default: the one that ships)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything that is drawn (default: 0)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.data == PHANTOMS and args.phantoms < 4:
        args.parser.error(f"--phantoms must be 4 or more, got {args.phantoms}")
    from ..study.advice import advice_document, advice_lines, advise, find_checkpoints, shipped_study
    from ..study.forecast import read_finished_study

    folder = args.study or shipped_study()
    with progress_bar() as on_progress:
        checkpoints = find_checkpoints(args.pretrained, folder, on_progress)
        advice = advise(
            args.task,
            _studies(args, on_progress),
            checkpoints,
            read_finished_study(folder),
            data=f"{args.phantoms} {PHANTOMS}" if args.data == PHANTOMS else Path(args.data).name,
            seed=args.seed,
            on_progress=on_progress,
        )
    if args.json:
        print_json(advice_document(advice))
    else:
        print("\n".join([*advice_lines(advice), RESEARCH_USE]))


def _studies(args: argparse.Namespace, on_progress: OnProgress) -> StudySet:
    from ..training.cases import folder_studies, phantom_studies

    task = args.task
    if args.data == PHANTOMS:
        return phantom_studies(task, args.phantoms, 1, seed=args.seed, on_progress=on_progress)
    return folder_studies(Path(args.data), task, gland=args.gland, seed=args.seed)
