"""`vfm-transfer finetune`: one arm of the study, to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..terms import Arm
from .options import Commands, add_command, add_training
from .progress import progress_lines


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "finetune", "Fine-tune one arm, pretrained or from scratch, and write its bundle")
    parser.add_argument(
        "--arm", required=True, choices=[str(arm) for arm in Arm], help="the one switch between the arms"
    )
    parser.add_argument("--encoder", type=Path, metavar="F", help="what pretrain wrote, for the pretrained arm")
    add_training(parser, "folder for checkpoints and the bundle; a run that was stopped goes on in it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    arm = Arm(args.arm)
    if (arm is Arm.PRETRAINED) != (args.encoder is not None):
        args.parser.error("--encoder belongs to --arm pretrained, and must be given with it")
    from ..recipe import read_recipe
    from ..training import finetune_arm, write_arm

    recipe = read_recipe(args.recipe)
    with progress_lines() as on_progress:
        trained = finetune_arm(recipe, arm, args.data, args.output, encoder=args.encoder, on_progress=on_progress)
        bundle = write_arm(recipe, arm, trained, args.data, args.output)
    print(f"{bundle.name}\n{bundle.folder}")
