"""`python -m VFMTransferLib` is the command line."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_SIGNALLED = 128  # a shell's exit code for a signal is this and its number
_MESSAGE = b"Stopped; nothing half-done was left behind.\n"


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: while modules load, and after the command, nothing needs cleaning up."""
    if number == signal.SIGINT:
        os.write(2, _MESSAGE)
    os._exit(_SIGNALLED + number)


def main() -> int:
    """Run the command line, and let signals end it with their own exit codes from the first line on."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    from .cli import main as run

    code = run()
    if code > _SIGNALLED:  # it is ending; an impatient second Ctrl-C must not keep libraries from cleaning up
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
