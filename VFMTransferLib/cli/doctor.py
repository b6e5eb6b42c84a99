"""`vfm-transfer doctor`: what this machine has, and what would run where."""

from __future__ import annotations

import argparse

from .shared import Commands, add_command, add_json, print_json


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "doctor", "Show what this machine has, what would run where, and why not")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..inference import doctor

    report = doctor.inspect()
    if args.json:
        print_json(report)
    else:
        print(doctor.describe(report))
