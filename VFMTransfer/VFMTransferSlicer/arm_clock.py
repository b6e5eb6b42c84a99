"""How far a network is, and how long it still takes. Needs neither Qt nor MRML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

# With less of the way behind it, or less time, what is left cannot be told.
_LEAST_FRACTION = 0.05
_LEAST_S = 1.0


@dataclass
class ArmClock:
    """One network at work.

    Attributes:
        now: Tells the time, in seconds.
        fraction: How much is done, 0..1.
        stage: What it does, in the worker's word; empty before it begins.
    """

    now: Callable[[], float] = monotonic
    fraction: float = 0.0
    stage: str = ""
    _begin: tuple[float, float] | None = field(default=None, init=False)  # time and fraction of the first word

    def hear(self, stage: str, fraction: float) -> None:
        """Take what the worker says."""
        if self._begin is None:
            self._begin = self.now(), fraction
        self.stage, self.fraction = stage, fraction

    @property
    def remaining_s(self) -> float | None:
        """Time that is left, if it goes on as it did so far; None where that cannot be told."""
        if self._begin is None:
            return None
        elapsed, done = self.now() - self._begin[0], self.fraction - self._begin[1]
        if elapsed < _LEAST_S or done < _LEAST_FRACTION:
            return None
        return elapsed * (1.0 - self.fraction) / done
