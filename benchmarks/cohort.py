"""What a cohort costs on workers: the plain loop in one process against one Dask worker, and one worker against two.

Each run is a process of its own with empty caches, one thread a worker. `start` is what passes before the first case is
done less what a case takes; `a case` is the time between the first case's end and the last one's, by their number less
one: what remains for long cohorts. Runs take turns, medians count.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from .measure import Measurement

CASES = int(os.environ.get("VFM_BENCH_CASES", "8"))
REPEATS = 3
BUNDLES = ("provicnet-lesion-segmentation-demo-pretrained", "provicnet-lesion-segmentation-demo-scratch")
_SEED = 5
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@dataclass(frozen=True)
class Timed:
    """One run: wall-clock seconds of all, after the first case for each further one, and of all its processors."""

    whole_s: float
    case_s: float
    processor_s: float


def measure() -> Iterator[Measurement]:
    """A pair of lesion networks, which also need the gland, on cases that differ."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write_cases(folder / "cases")
        found: dict[int, list[Timed]] = {0: [], 1: [], 2: []}
        for repeat in range(REPEATS):
            for count, runs in found.items():
                runs.append(_timed(folder / "cases", folder / f"out-{repeat}-{count}", count))
    loop, one, two = (_medians(runs) for runs in found.values())
    yield Measurement(f"{CASES} cases, one worker", one.whole_s, "the plain loop", loop.whole_s)
    yield Measurement("each further case, one worker", one.case_s, "the plain loop", loop.case_s)
    yield Measurement(f"{CASES} cases, processors, one worker", one.processor_s, "the plain loop", loop.processor_s)
    yield Measurement(f"{CASES} cases, two workers", two.whole_s, "one worker", one.whole_s)
    yield Measurement("each further case, two workers", two.case_s, "one worker", one.case_s)
    yield Measurement(f"{CASES} cases, processors, two workers", two.processor_s, "one worker", one.processor_s)


def _medians(runs: Sequence[Timed]) -> Timed:
    return Timed(*(statistics.median(getattr(run, name) for run in runs) for name in Timed.__dataclass_fields__))


def _write_cases(folder: Path) -> None:
    """Cases of one phantom whose intensities differ a little, so that nothing found of one serves another."""
    from VFMTransferLib.phantom import make_phantom, write_phantom

    phantom = make_phantom(_SEED)
    for i in range(CASES):
        volumes = {
            s: v.with_array((v.array * (1 + i / 1000)).astype(v.array.dtype)) for s, v in phantom.case.volumes.items()
        }
        write_phantom(replace(phantom, case=replace(phantom.case, volumes=volumes)), folder / f"case-{i}")


def _timed(cases: Path, output: Path, count: int) -> Timed:
    environment = {
        **os.environ,
        **dict.fromkeys(_THREADS, "1"),
        "VFM_TRANSFER_CACHE": str(output.parent / f"cache-{output.name}"),
    }
    command = [sys.executable, "-m", "benchmarks.cohort", str(cases), str(output), str(count)]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    whole_s = time.perf_counter() - began
    answer = json.loads(done.stdout.splitlines()[-1])
    return Timed(whole_s, answer["case_s"], answer["processor_s"])


def main() -> None:
    """One run, in this process: folder of cases, output, number of workers, 0 for the plain loop."""
    cases, output, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    ends: list[float] = []

    def on_case(_report: object) -> None:
        ends.append(time.perf_counter())

    if count == 0:
        from VFMTransferLib.batch.batch import run_batch

        run_batch(cases, output, BUNDLES, on_case=on_case)
    else:
        from VFMTransferLib.batch.cluster import run_batch_on_workers

        run_batch_on_workers(cases, output, BUNDLES, count=count, on_case=on_case)
    times = os.times()
    processor_s = times.user + times.system + times.children_user + times.children_system
    print(json.dumps({"case_s": (ends[-1] - ends[0]) / (len(ends) - 1), "processor_s": processor_s}))


if __name__ == "__main__":
    main()
