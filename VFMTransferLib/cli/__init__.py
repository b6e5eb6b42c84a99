"""The command line: `vfm-transfer COMMAND`.

A command is a function that adds its parser, and one that does it; a new one needs its place in `COMMANDS`.

Exit codes: 0 done, 1 failed with one sentence on stderr, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from ..core import __version__
from ..core.terms import RESEARCH_USE
from . import compare, data, models, predict, radiology, study, training
from .shared import sentence

COMMANDS = (
    compare.add_demo,
    predict.add_predict,
    compare.add_compare,
    radiology.add_quality,
    radiology.add_diffusion,
    radiology.add_dicom,
    models.add_models,
    data.add_data,
    training.add_finetune,
    training.add_pretrain,
    study.add_study,
    data.add_phantom,
    models.add_doctor,
)
DONE, FAILED, STOPPED, TERMINATED = 0, 1, 130, 143


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vfm-transfer",
        description="Run prostate MRI foundation-model networks, and compare the pretrained with the from-scratch one.",
        epilog=RESEARCH_USE,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_parser in COMMANDS:
        add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by the process's arguments if `argv` is None, and return the exit code.

    Wrong usage leaves by `SystemExit(2)`, as argparse does.
    """
    args = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # unwinds, so that temporary folders go
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # The reader of the output (`| head`) has closed; that is no failure, and no message could be read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # the outermost edge: whatever happened, the user gets one sentence
        if args.debug:
            raise
        print(sentence(error), file=sys.stderr)
        return FAILED
    return DONE


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
