"""The warm child process that runs networks for Slicer and for scripts.

    python -m VFMTransferLib.worker
    python <folder>/VFMTransferLib/worker/__main__.py

It reads messages (`messages.py`) on stdin and writes messages on stdout, one JSON object a line, and nothing else ever
gets there: what libraries print goes to stderr. It ends when stdin closes, on `Shutdown`, or after a time without job.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread

_ROOM = Path(__file__).resolve().parent
if __name__ == "__main__" and not __package__:
    # Started as a file: files of the room are no top-level modules, but the package above it is one.
    _REST = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOM]
    sys.path[:] = [str(_ROOM.parents[1]), *_REST]

from VFMTransferLib.core.machine import memory_bytes  # noqa: E402
from VFMTransferLib.worker.messages import Log, Reply, to_line  # noqa: E402
from VFMTransferLib.worker.server import ClientGoneError, Server  # noqa: E402

GB = 10**9
# Loading numpy, scipy, SimpleITK and ONNX Runtime takes 0.7 GB of addresses; with less, numpy tries again for ever.
MIN_MEMORY_GB = 1.2
IDLE_S = 15 * 60.0
# How long a window may go on when the worker must end; a process that computes for nobody holds memory.
GRACE_S = 2.0
_CHUNK_BYTES = 1 << 16


class Channel:
    """The stdin and stdout that the process was started with, out of reach of everybody else in it.

    What is written to file descriptor 1 from now on, also by native code, goes to stderr; descriptor 0 is empty.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lock = Lock()

    def send(self, message: Reply) -> None:
        """Write one message; whole, whichever thread writes; ClientGoneError where nobody reads any more."""
        left = to_line(message).encode("ascii")
        with self._lock:
            try:
                while left:
                    left = left[os.write(self._writing, left) :]
            except OSError as error:
                raise ClientGoneError from error

    def lines(self) -> Iterator[bytes]:
        """Lines until stdin closes."""
        rest = b""
        while chunk := os.read(self._reading, _CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the end; the exit code is 0 but for wrong usage."""
    options = _options(arguments)
    channel = Channel()
    if options.background:
        _stand_back()
    faulthandler.enable(sys.stderr)
    if hasattr(os, "setpgrp") and os.getpgrp() != os.getpid():
        os.setpgrp()  # with its children one group, which can be ended as one, and which Ctrl-C does not reach
    ended = Event()
    server = Server(channel.send, int(options.keep_gb * GB))

    def receive() -> None:
        server.receive(channel.lines())
        if not ended.wait(GRACE_S):  # a window, or an import on a slow machine, that nothing interrupts
            with suppress(ClientGoneError):
                server.report_end()
            os._exit(0)

    try:
        if options.memory_gb is not None:
            _bound_memory(options.memory_gb, channel)
        Thread(target=receive, name="requests", daemon=True).start()
        server.run_jobs(options.idle_s)
    except ClientGoneError:
        print("The client no longer reads the worker's messages; it ends.", file=sys.stderr)
    ended.set()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="VFMTransferLib.worker", description="Run networks for another program.")
    parser.add_argument(
        "--idle-s",
        type=_seconds,
        default=IDLE_S,
        metavar="S",
        help="end after S seconds without a job or a request to load; inf for never",
    )
    parser.add_argument(
        "--keep-gb",
        type=_positive,
        default=memory_bytes() / 2 / GB,
        metavar="GB",
        help="release loaded networks, those used longest ago first, when the process holds more "
        "(default: half of memory)",
    )
    parser.add_argument(
        "--memory-gb",
        type=_positive,
        metavar="GB",
        help="limit the address space, where the system can; not with a GPU, whose driver reserves far more than it "
        "uses",
    )
    parser.add_argument(
        "--background",
        action="store_true",
        help="leave one processor core to other programs",
    )
    options = parser.parse_args(arguments)
    if options.memory_gb is not None and options.memory_gb < MIN_MEMORY_GB:
        parser.error(f"--memory-gb must be at least {MIN_MEMORY_GB}, got {options.memory_gb}")
    return options


def _seconds(text: str) -> float:
    """A time to wait, which may be without end, as an option's type."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, or inf for never, got {text:.20}")
    return value


def _positive(text: str) -> float:
    """A finite number above 0, as an option's type."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text:.20}")
    return value


def _stand_back() -> None:
    """Leave a core to whoever waits for this process; before libraries count the cores."""
    if hasattr(os, "sched_setaffinity"):
        own = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, own[:-1] or own)
    else:
        cores = max((os.cpu_count() or 1) - 1, 1)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _bound_memory(gb: float, channel: Channel) -> None:
    if importlib.util.find_spec("resource") is None:  # Windows has no such limit
        channel.send(Log("warning", "Memory cannot be bounded on this system; the worker runs without a limit."))
        return
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_AS, (int(gb * GB), resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ValueError, OSError) as error:  # macOS has the limit, and refuses it
        channel.send(Log("warning", f"Memory cannot be bounded on this system ({error}); there is no limit."))


if __name__ == "__main__":
    sys.exit(main())
