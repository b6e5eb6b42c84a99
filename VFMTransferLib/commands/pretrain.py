"""`vfm-transfer pretrain`: encoders that fine-tuning starts from."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Commands, add_command, add_output
from .progress import progress_lines

OBJECTIVES = ("mae", "contrast")


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "pretrain", "Pretrain encoders: masked autoencoder, or contrast of tissues")
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="with --recipe: folder of cases")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="mae: ProFound, images alone; contrast: ProViCNet, by the phantoms' tissues. Writes a bundle for --init",
    )
    parser.add_argument("--phantoms", type=int, default=24, metavar="N", help="how many phantoms (default: 24)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights, order and views (default: 0)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="optimizer steps (default: 400)")
    parser.add_argument("--recipe", type=Path, metavar="JSON", help="network, split, schedules, seed, in one file")
    add_output(parser, "folder of the bundle (by a recipe: of encoder and checkpoints); a stopped run goes on there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if (args.recipe is None) == (args.objective is None) or (args.recipe is None) != (args.data is None):
        args.parser.error("name an --objective, or DATA with its --recipe")
    if args.recipe is None:
        _on_phantoms(args)
        return
    from ..recipe import read_recipe
    from ..training import pretrain_encoder

    recipe = read_recipe(args.recipe)
    with progress_lines() as on_progress:
        encoder = pretrain_encoder(recipe, args.data, args.output, on_progress)
    print(encoder)


def _on_phantoms(args: argparse.Namespace) -> None:
    if args.phantoms < 1:
        args.parser.error(f"--phantoms must be 1 or more, got {args.phantoms}")
    from ..study_source import pretraining_phantoms
    from ..study_training import pretrain_by_contrast, pretrain_masked

    pretrain = pretrain_masked if args.objective == "mae" else pretrain_by_contrast
    with progress_lines() as on_progress:
        phantoms = pretraining_phantoms(args.phantoms, on_progress)
        bundle = pretrain(phantoms, args.output, steps=args.steps, seed=args.seed, on_progress=on_progress)
    print(f"{bundle.name}\n{bundle.folder}")
