"""`vfm-transfer pretrain`: encoders that fine-tuning starts from."""

from __future__ import annotations

import argparse
from pathlib import Path

from .shared import Commands, add_command, add_division, add_output, divided, progress_lines, require_undivided

OBJECTIVES = ("mae", "contrast")
PHANTOMS = "phantoms"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "pretrain", "Pretrain encoders: masked autoencoder, or contrast of tissues")
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help=f"folder with a folder for each case, or {PHANTOMS} (default)"
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="mae: ProFound, from images alone; contrast: ProViCNet, from masks gland and lesion. A bundle for --init",
    )
    parser.add_argument("--phantoms", type=int, default=24, metavar="N", help="how many phantoms (default: 24)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights, order and views (default: 0)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="optimizer steps (default: 400)")
    parser.add_argument("--recipe", type=Path, metavar="JSON", help="network, split, schedules, seed, in one file")
    add_division(parser)
    add_output(parser, "folder of the bundle (by a recipe: of encoder and checkpoints); a stopped run goes on there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if (args.recipe is None) == (args.objective is None) or (args.recipe is not None and args.data is None):
        args.parser.error("name an --objective, or DATA with its --recipe")
    if args.recipe is None:
        _by_objective(args)
        return
    require_undivided(args)
    from ..training.anatomy import pretrain_encoder
    from ..training.recipes import read_recipe

    recipe = read_recipe(args.recipe)
    with progress_lines() as on_progress:
        encoder = pretrain_encoder(recipe, Path(args.data), args.output, on_progress)
    print(encoder)


def _by_objective(args: argparse.Namespace) -> None:
    if args.phantoms < 1:
        args.parser.error(f"--phantoms must be 1 or more, got {args.phantoms}")
    from ..core.terms import TaskId
    from ..tasks.truth import from_phantom
    from ..training.cases import folder_cases, folder_lesions, pretraining_phantoms
    from ..training.encoders import Pretraining, pretrain_by_contrast, pretrain_masked

    is_made_up = args.data in (None, PHANTOMS)
    data = f"{args.phantoms} {PHANTOMS}" if is_made_up else Path(args.data).name
    with progress_lines() as on_progress:
        how = divided(args, on_progress)
        division = how.pop("division")
        settings = Pretraining(args.steps, data, args.seed, **how)
        phantoms = pretraining_phantoms(args.phantoms, on_progress) if is_made_up else []
        if args.objective == "mae":
            images = [phantom.case for phantom in phantoms] if is_made_up else folder_cases(Path(args.data))
            bundle = pretrain_masked(images, args.output, settings, division=division, on_progress=on_progress)
        else:
            made = [from_phantom(phantom, TaskId.LESION_SEGMENTATION) for phantom in phantoms]
            studies = made if is_made_up else folder_lesions(Path(args.data))
            bundle = pretrain_by_contrast(studies, args.output, settings, division=division, on_progress=on_progress)
    if division.is_first:
        print(f"{bundle.name}\n{bundle.folder}")
