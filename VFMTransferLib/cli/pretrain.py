"""`vfm-transfer pretrain`: encoders that fine-tuning starts from."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import (
    Commands,
    LazyChoices,
    add_command,
    add_computing,
    add_output,
    distributed_context,
    progress_lines,
    require_default_computing,
)

if TYPE_CHECKING:
    from ..core.case import Case
    from ..tasks.base import LabeledCase

PHANTOMS = "phantoms"
# Until version 2 of the command line.
_OLD_NAMES = {"mae": "mae", "contrast": "contrastive"}


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "pretrain", "Pretrain encoders by a pretext task")
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help=f"folder with a folder for each case, or {PHANTOMS} (default)"
    )
    parser.add_argument(
        "--pretext",
        choices=LazyChoices(_pretext_tasks),
        metavar="P",
        help="the pretext task of an encoder, for example mae or contrastive; the bundle is for --init",
    )
    parser.add_argument("--objective", choices=tuple(_OLD_NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--phantoms", type=int, default=24, metavar="N", help="how many phantoms (default: 24)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights, order and views (default: 0)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="optimizer steps (default: 400)")
    parser.add_argument("--recipe", type=Path, metavar="JSON", help="network, split, schedules, seed, in one file")
    add_computing(parser)
    add_output(parser, "folder of the bundle (by a recipe: of encoder and checkpoints); a stopped run goes on there")
    parser.set_defaults(run=run)


def _pretext_tasks() -> Iterable[str]:
    from ..encoders.pretext import pretext_tasks

    return pretext_tasks()


def run(args: argparse.Namespace) -> None:
    if args.objective is not None and args.pretext is None:
        args.pretext = _OLD_NAMES[args.objective]
    if (args.recipe is None) == (args.pretext is None) or (args.recipe is not None and args.data is None):
        args.parser.error("name a --pretext task, or DATA with its --recipe")
    if args.recipe is None:
        _by_pretext_task(args)
        return
    require_default_computing(args)
    from ..training.recipes import pretrain_by_recipe, read_recipe

    recipe = read_recipe(args.recipe)
    with progress_lines() as on_progress:
        encoder = pretrain_by_recipe(recipe, Path(args.data), args.output, on_progress)
    print(encoder)


def _by_pretext_task(args: argparse.Namespace) -> None:
    if args.phantoms < 1:
        args.parser.error(f"--phantoms must be 1 or more, got {args.phantoms}")
    from ..encoders.pretext import pretext_task
    from ..tasks import lesion_task
    from ..training.cases import folder_cases, folder_lesions, pretraining_phantoms
    from ..training.loop import checkpoint_folder
    from ..training.pretrain import pretrain, pretrain_config, write_pretrained

    with progress_lines() as on_progress:
        context = distributed_context(args, on_progress)
        pretext = pretext_task(args.pretext)
        config = pretrain_config(pretext, steps=args.steps, seed=args.seed, batch=args.batch, precision=args.precision)
        if args.data in (None, PHANTOMS):
            data = f"{args.phantoms} {PHANTOMS}"
            phantoms = pretraining_phantoms(args.phantoms, on_progress)
            cases: Sequence[Case | LabeledCase] = [lesion_task().from_phantom(phantom) for phantom in phantoms]
        else:
            data = Path(args.data).name
            cases = (folder_lesions if pretext.needs_tissues else folder_cases)(Path(args.data))
        work = checkpoint_folder(args.output)
        trained = pretrain(config, cases, work, context=context, on_progress=on_progress)
        bundle = write_pretrained(config, trained, args.output, data=data, cases=cases)
    if context.is_first:
        print(f"{bundle.name}\n{bundle.folder}")
