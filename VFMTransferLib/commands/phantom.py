"""`vfm-transfer phantom`: synthetic studies with their truth."""

from __future__ import annotations

import argparse

from .options import Commands, add_command, add_json, add_output
from .progress import progress_bar


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "phantom", "Write synthetic multiparametric studies with their exact truth")
    parser.add_argument("-n", "--number", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first; the next has S+1 (default: 0)"
    )
    add_output(parser, "folder for the studies, one folder each")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.number < 1:
        args.parser.error(f"-n must be 1 or more, got {args.number}")
    from ..phantom import make_phantom, write_phantom

    with progress_bar() as on_progress:
        for index, seed in enumerate(range(args.seed, args.seed + args.number)):
            phantom = make_phantom(seed)
            write_phantom(phantom, args.output / phantom.case.id)
            on_progress(f"phantom {index + 1} of {args.number}", (index + 1) / args.number)
