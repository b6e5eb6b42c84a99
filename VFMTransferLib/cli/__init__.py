"""The command line: `vfm-transfer COMMAND`.

A command is a function that adds its parser, and one that does it; a new one needs its place in `COMMANDS`.

Exit codes: 0 done, 1 failed with one sentence on stderr, 2 wrong usage, 130 stopped by Ctrl-C.
Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..core import __version__
from ..core.terms import RESEARCH_USE
from . import compare, data, models, predict, radiology, study, training
from .shared import require_address_space, sentence

COMMANDS = (
    compare.add_demo,
    predict.add_predict,
    compare.add_compare,
    radiology.add_quality,
    models.add_models,
    data.add_data,
    training.add_finetune,
    training.add_pretrain,
    study.add_advise,
    study.add_study,
    study.add_forecast,
    study.add_savings,
    data.add_phantom,
    models.add_doctor,
)
DONE, FAILED, STOPPED, TERMINATED = 0, 1, 130, 143


class _TerminatedError(BaseException):
    """The process received SIGTERM; raised so that open folders and files are cleaned up."""


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
    try:
        with _ending_cleanly():
            require_address_space()
            args.run(args)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _failed("Stopped; nothing half-done was left behind.", STOPPED)
    except _TerminatedError:
        return TERMINATED
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed; that is no failure, and no message could be read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:  # the outermost edge: whatever happened, the user gets one sentence
        if args.debug:
            raise
        return _failed(sentence(error), FAILED)
    return DONE


def _failed(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let the wish to end the process unwind it as Ctrl-C does, so that temporary folders go."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread do this
        yield
        return

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
