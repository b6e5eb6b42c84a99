"""What a measurement is, and how a time is taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """Two times of one run and their ratio, or two other quantities.

    Attributes:
        name: What was measured.
        seconds: Its time.
        against: What it is compared with.
        against_s: The other's time.
        unit: Of both.
        spread: Lowest and highest ratio of the repeats, where there are some.
    """

    name: str
    seconds: float
    against: str
    against_s: float
    unit: str = "s"
    spread: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """How many times as long as the other."""
        return self.seconds / self.against_s

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ({self.spread[0]:.2f}-{self.spread[1]:.2f})"
        other = f"{self.against} ({self.against_s:.3f} {self.unit})"
        return f"{self.name:<60} {self.seconds:9.3f} {self.unit} {self.ratio:8.3f} x{spread}  {other}"


def forget_peak() -> None:
    """Let `peak_mib` begin at what this process holds now; on Linux only."""
    peak = Path("/proc/self/clear_refs")
    if peak.is_file():
        peak.write_text("5", encoding="ascii")


def peak_mib() -> float:
    """The most memory that this process has held since `forget_peak`, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent held when it started this process
        return int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_s(work: Callable[[], object], repeats: int = 3, warm_up: int = 1) -> float:
    """Median seconds of `work`, after runs that fill the caches."""
    for _ in range(warm_up):
        work()
    return statistics.median(_seconds(work) for _ in range(repeats))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
