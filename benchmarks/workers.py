"""What a second worker gives a study: the same trainings on one process and on two, without the time to start them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from VFMTransferLib.study.config import RunKey
from VFMTransferLib.study.sweep import SweepObserver, open_sweep, run_sweep
from VFMTransferLib.study.workspace import task_cases

from .measure import Measurement

WORKERS = (1, 2)
TRAININGS = 4
# Networks of demonstration size; phantoms are made before the time is taken.
CONFIG = f"""
format: 1
seeds: {list(range(TRAININGS))}
measurements: 2
around_gland_mm: 100.0
phantoms:
  spacing_mm: [1.0, 1.0, 3.0]
  train: {{first_seed: 0, count: 3}}
  validation: {{first_seed: 1000, count: 1}}
  test: {{first_seed: 2000, count: 3}}
encoders:
  profound:
    pretraining: {{objective: mae, steps: 1, phantoms: {{first_seed: 100000, count: 1}}}}
tasks:
  anatomy-segmentation:
    profound: {{steps: 30}}
"""


class _Clock(SweepObserver):
    """From the first run that was given out to the last one that ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def started(self, run: RunKey) -> None:
        self.times.append(time.perf_counter())

    finished = started

    @property
    def seconds(self) -> float:
        return max(self.times) - min(self.times)


def measure() -> Iterator[Measurement]:
    """Four trainings of ProFound on anatomy."""
    seconds = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "config.yaml"
        path.write_text(CONFIG, encoding="utf-8")
        for count in WORKERS:
            with open_sweep(folder / f"study-{count}", path, only={"arm": ["scratch"]}) as sweep:
                kept = folder / f"study-{WORKERS[0]}" / "work" / "phantoms"
                if count == WORKERS[0]:
                    task_cases(sweep.config, "anatomy-segmentation", sweep.workspace)
                else:
                    shutil.copytree(kept, sweep.workspace.phantoms)
                clock = _Clock()
                run_sweep(sweep, count=count, observer=clock)
                seconds[count] = clock.seconds
    yield Measurement(f"{TRAININGS} trainings, two workers", seconds[2], "one worker", seconds[1])
