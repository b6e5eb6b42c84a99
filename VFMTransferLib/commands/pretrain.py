"""`vfm-transfer pretrain`: a masked autoencoder whose encoder fine-tuning starts from."""

from __future__ import annotations

import argparse

from .options import Commands, add_command, add_training
from .progress import progress_lines


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "pretrain", "Pretrain an encoder on images without labels")
    add_training(parser, "folder for checkpoints and the encoder; a run that was stopped goes on in it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..recipe import read_recipe
    from ..training import pretrain_encoder

    recipe = read_recipe(args.recipe)
    with progress_lines() as on_progress:
        encoder = pretrain_encoder(recipe, args.data, args.output, on_progress)
    print(encoder)
