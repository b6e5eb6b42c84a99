"""The command line: `vfm-transfer COMMAND`.

A command is a function that adds its parser, and one that does it; a new one needs its place in `COMMANDS`.

Exit codes: 0 done, 1 failed with one sentence on stderr, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM,
129 by SIGHUP (a closed terminal).
Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import _thread
import argparse
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
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
_SIGNALLED = 128  # a shell's exit code for a signal is this and its number: 130, 143, 129
UNWINDING_S = 3.0
_RETRY_S = 0.05


class _TerminatedError(BaseException):
    """The process received SIGTERM or SIGHUP; raised so that open folders and files are cleaned up."""


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
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed (`>&-`), or a program without a console
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    args = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    stop = _Stop()
    try:
        with stop.listening():
            require_address_space()
            args.run(args)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _failed("Stopped; nothing half-done was left behind.", STOPPED)
    except _TerminatedError:
        return _SIGNALLED + stop.received
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed; that is no failure, and no message could be read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:  # the outermost edge: whatever happened, the user gets one sentence
        if stop.received:  # a library that was stopped while it loaded may raise anything
            return _SIGNALLED + stop.received
        if args.debug:
            raise
        return _failed(sentence(error), FAILED)
    return DONE


def _failed(text: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be closed
        print(text, file=sys.stderr)
    return code


class _Stop:
    """The wish to end the process, by Ctrl-C, SIGTERM or a closed terminal; it unwinds, so that temporary folders go.

    The exception that a signal raises may be swallowed: by an interpreter's callback, by a library's bare `except`, by
    compiled code that clears errors. So it is raised again until something handles it. Whether it was swallowed can be
    decided in the main thread alone, and therefore in the signal's handler, which a thread makes run again and again.

    Attributes:
        received: Number of the signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_s = 0.0
        self._handled_before: BaseException | None = None
        self._is_retry = False
        self._ended = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals; those that the process was started to ignore (`nohup`) stay ignored."""
        if threading.current_thread() is not threading.main_thread():  # Python lets no other thread do this
            yield
            return
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        for number in [number for number, handler in before.items() if handler is not signal.SIG_IGN]:
            signal.signal(number, self._receive)
        hook = sys.unraisablehook

        def other_than_own(unraisable: sys.UnraisableHookArgs) -> None:
            if not isinstance(unraisable.exc_value, KeyboardInterrupt | _TerminatedError):
                hook(unraisable)

        sys.unraisablehook = other_than_own
        retries = threading.Thread(target=self._retry_until_ended, name="signals", daemon=True)
        retries.start()
        try:
            yield
        finally:
            self._ended.set()
            retries.join()
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _retry_until_ended(self) -> None:
        while not self._ended.wait(_RETRY_S):
            if self.received:
                self._is_retry = True
                _thread.interrupt_main(signal.Signals(self.received))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_retry, self._is_retry = self._is_retry, False
        handled = sys.exc_info()[1]
        if self.received and (self._ended.is_set() or not self._must_raise_again(is_retry, handled)):
            return
        self.received, self._received_s, self._handled_before = number, time.monotonic(), handled
        raise KeyboardInterrupt if number == signal.SIGINT else _TerminatedError

    def _must_raise_again(self, is_retry: bool, handled: BaseException | None) -> bool:
        if is_retry:  # where the process unwinds, an exception is handled that was not before
            return handled is None or handled is self._handled_before
        # a second signal of the user's must not stop the cleaning up after the first
        return time.monotonic() - self._received_s >= UNWINDING_S
