"""The command line: `vfm-transfer COMMAND`.

One file a command: `add_parser` has its options, `run` does it; a new one needs its file and its place in `COMMANDS`.

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
from . import (
    advise,
    compare,
    data,
    demo,
    doctor,
    finetune,
    forecast,
    models,
    phantom,
    predict,
    pretrain,
    savings,
    study,
)
from .shared import require_address_space, sentence

COMMANDS = (demo, predict, compare, models, data, finetune, pretrain, advise, study, forecast, savings, phantom, doctor)
DONE, FAILED, STOPPED, TERMINATED = 0, 1, 130, 143


class _TerminatedError(BaseException):
    """The process received SIGTERM; raised so that open folders and files are cleaned up."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's file adds its own."""
    parser = argparse.ArgumentParser(
        prog="vfm-transfer",
        description="Run prostate MRI foundation-model networks, and compare the pretrained with the from-scratch one.",
        epilog=RESEARCH_USE,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code. Wrong usage leaves by `SystemExit(2)`, as argparse does.
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
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _TerminatedError
