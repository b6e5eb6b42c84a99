"""How long the command line takes to answer, against Python's own start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from .measure import Measurement, median_s


def measure() -> Iterator[Measurement]:
    """Time of `--help` and `--version`, each against an empty interpreter."""
    bare_s = median_s(lambda: _python("-c", "pass"), repeats=7)
    for option in ("--help", "--version"):
        seconds = median_s(lambda: _python("-m", "VFMTransferLib", option), repeats=7)  # noqa: B023
        yield Measurement(f"vfm-transfer {option}", seconds, "python -c pass", bare_s)


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
