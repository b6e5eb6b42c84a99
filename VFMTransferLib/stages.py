"""Stages of one network's run: how long each took, and how far the whole is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[str, float], None]

# How much of the time each stage takes, roughly, for the progress that is shown.
STAGE_SHARES = {"read": 0.1, "preprocess": 0.1, "infer": 0.7, "postprocess": 0.1}


class StageClock:
    """Seconds per stage of one network's run, and the fraction of all runs that is done.

    Args:
        on_progress: Whom to tell; may be None.
        start: Fraction that was done before this run.
        share: Fraction that this run is of all.
    """

    def __init__(self, on_progress: OnProgress | None, start: float, share: float) -> None:
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress or (lambda stage, fraction: None)
        self._done = start
        self._share = share
        self._end = start + share

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a stage; what is given takes the fraction of the stage that is done."""
        # A network that looks a second time stays at the end of its share meanwhile.
        share = min(STAGE_SHARES[name] * self._share, self._end - self._done)
        self._on_progress(name, self._done)
        begin = time.perf_counter()
        reached = 0.0

        def on_part(fraction: float) -> None:
            nonlocal reached
            reached = max(reached, fraction)  # a gland network may look a second time
            self._on_progress(name, self._done + share * reached)

        yield on_part
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        self._done += share
        self._on_progress(name, self._done)
