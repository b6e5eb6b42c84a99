"""`vfm-transfer phantom`: synthetic cases with their truth."""

from __future__ import annotations

import argparse

from .shared import Commands, add_command, add_json, add_output, print_json, progress_bar


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "phantom", "Write synthetic multiparametric cases with their exact truth")
    parser.add_argument("-n", "--number", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first; the next has S+1 (default: 0)"
    )
    parser.add_argument(
        "--full-resolution",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write the T2w with twice the matrix; most of the time goes there",
    )
    add_output(parser, "folder for the cases, one folder each")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.number < 1:
        args.parser.error(f"-n must be 1 or more, got {args.number}")
    if args.seed < 0:
        args.parser.error(f"--seed must be 0 or more, got {args.seed}")
    from ..phantom import make_phantoms

    with progress_bar() as on_progress:
        folders = make_phantoms(args.number, args.seed, args.output, on_progress, full_resolution=args.full_resolution)
    if args.json:
        print_json({"phantoms": [str(folder) for folder in folders]})
    else:
        print("\n".join(map(str, folders)))
