"""`vfm-transfer savings`: what starting from pretrained weights saves, with the formula."""

from __future__ import annotations

import argparse

from .shared import Commands, add_command, add_json, print_json


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "savings", "Compute what starting from pretrained weights saves in hours and money")
    parser.add_argument(
        "--scratch-hours", type=float, required=True, metavar="H", help="device-hours of one training from scratch"
    )
    parser.add_argument(
        "--convergence",
        type=float,
        required=True,
        metavar="C",
        help="share of these that the pretrained arm needs to the same quality, as 0.4",
    )
    parser.add_argument(
        "--planned", type=int, default=1, metavar="N", help="fine-tunings that are planned (default: 1)"
    )
    parser.add_argument("--price", type=float, default=0.0, metavar="P", help="of a device-hour, in any currency")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ..study.summary import DEFINITIONS, savings

    found = savings(args.scratch_hours, args.convergence, args.planned, args.price)
    if args.json:
        print_json({**asdict(found), "definition": DEFINITIONS["savings"]})
        return
    hours = f"{args.scratch_hours:g} h x (1 - {args.convergence:g}) = {found.device_hours_each:g} device-hours"
    print(f"{hours} saved by each fine-tuning")
    print(f"x {args.planned} planned = {found.device_hours:g} device-hours")
    print(f"x {args.price:g} a device-hour = {found.money:g}")
    print(DEFINITIONS["savings"])
