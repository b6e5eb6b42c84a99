"""A folder of cases through networks on the workers of a cluster: as `batch`, one task a case, in whatever order.

What a worker that dies has done stays; its case is given to another one, which makes what is missing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundles.bundle import Bundle
from ..bundles.catalog import as_bundle
from ..core import __version__
from ..core.cluster import MAX_DEATHS, require_library, workers
from ..core.errors import ClusterError
from ..core.machine import available_bytes, memory_bytes
from ..core.options import Options
from ..encoders.base import family_of
from ..inference.predict import DEFAULT, GIB, memory_checked
from ..inference.runtimes import LoadedNetworks
from .batch import CaseOutcome, CaseReport, plan_cases
from .cases import BatchCase, Row, write_summary

if TYPE_CHECKING:
    from distributed import Client

_SHARE_OF_MEMORY = 4  # a worker keeps networks up to this part of it, since there may be several on a machine
_PROCESS_BYTES = 350 * 2**20  # of Python, its packages, and a case with what is found about it
_WEIGHTS_TWICE = 2  # a runtime holds weights as they were read and as its kernels want them


def run_batch_on_workers(
    cases_folder: Path,
    output: Path,
    bundles: Sequence[Bundle | str | Path],
    *,
    scheduler: str | None = None,
    count: int = 1,
    options: Options = DEFAULT,
    task: str | None = None,
    on_case: Callable[[CaseReport], None] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> list[Row]:
    """Run networks on each case of a folder, each on whichever worker is free; otherwise as `batch.run_batch`.

    Every worker must see the folders, and those of the bundles, under the same paths.

    Args:
        scheduler: Address of a cluster; None for `count` processes of this machine, or for as many as its free memory
            holds (`worker_bytes`), if these are fewer.
        on_case: Receives each case as it is finished with; `case` counts these.
        on_start: Receives before workers start a sentence on how many there will be, and their memory.

    Raises:
        ClusterError: The cluster does not answer, or does not see the folders.
    """
    found = [as_bundle(bundle) for bundle in bundles]
    found = [replace(bundle, folder=bundle.folder.absolute()) for bundle in found]
    cases = plan_cases(cases_folder.absolute(), output.absolute(), found, task, options)
    rows = {case.name: case.rows() for case in cases}
    left = [case for case in cases if not case.is_done]
    number = itertools.count()

    def report(case: BatchCase, outcome: CaseOutcome, message: str = "") -> None:
        if on_case is not None:
            on_case(CaseReport(case.name, next(number), len(cases), outcome, message))

    for case in cases:
        if case not in left:
            report(case, "skipped")
    write_summary(rows, output)
    if left:
        fitting, sentence = _fitting_workers(min(count, len(left)), worker_bytes(found))
        if on_start is not None:
            on_start(sentence if scheduler is None else f"A worker takes about {worker_bytes(found) / GIB:.1f} GiB.")
        with workers(scheduler, fitting) as client:
            _require_ready(client, left[0])
            for case, messages in _finished(client, left):
                rows[case.name] = case.rows(messages)
                write_summary(rows, output)
                report(case, "failed" if messages else "done", next(iter(messages.values()), ""))
    return [row for of_case in rows.values() for row in of_case]


def worker_bytes(bundles: Sequence[Bundle]) -> int:
    """About the memory that a worker takes at most: its process, all networks, and one input through the largest."""
    windows = [family_of(bundle.spec).window_bytes(bundle.spec) for bundle in bundles]
    weights = sum(bundle.weights_path.stat().st_size * _WEIGHTS_TWICE for bundle in bundles)
    return _PROCESS_BYTES + weights + max(windows)


def _fitting_workers(count: int, each: int) -> tuple[int, str]:
    """As many workers as asked for, or as fit into free memory, at least one; and a sentence on it."""
    free = available_bytes()
    fitting = max(min(count, free // each), 1)
    fewer = f" instead of {count}" if fitting < count else ""
    return fitting, (
        f"{fitting} worker{'s' if fitting > 1 else ''}{fewer}, about {each / GIB:.1f} GiB each; "
        f"{free / GIB:.1f} GiB of memory are free."
    )


def _finished(client: Client, cases: Sequence[BatchCase]) -> Iterable[tuple[BatchCase, dict[str, str]]]:
    """Each case as it comes, and of its bundles that failed why."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = {client.submit(_work, case, pure=False): case for case in cases}
    try:
        for future in as_completed(futures):
            if future.status == "cancelled":
                raise ClusterError("The connection to the cluster's scheduler was lost. Run it again to go on.")
            case = futures[future]
            try:
                messages = future.result()
            except KilledWorker:
                text = f"Its worker died {MAX_DEATHS + 1} times, perhaps for want of memory."
                messages = {bundle.name: text for bundle in case.bundles}
            yield case, messages
    finally:
        client.cancel(list(futures))


@functools.cache
def _networks() -> LoadedNetworks:
    """The networks that this worker keeps loaded."""
    return LoadedNetworks(memory_bytes() // _SHARE_OF_MEMORY)


def _work(case: BatchCase) -> dict[str, str]:
    messages = case.run(_networks(), lambda _arm, _stage, _fraction: None)
    _networks().make_room()
    return messages


def _open(case: BatchCase) -> None:
    """Load the networks, so that one that cannot run on a worker is known before hours of work."""
    for bundle in case.bundles:
        with memory_checked():
            case.open(bundle, _networks())


def _sees(case: BatchCase) -> bool:
    folders = (case.source.parent, case.folder.parent, *(bundle.folder for bundle in case.bundles))
    return all(folder.is_dir() for folder in folders)


def _require_ready(client: Client, case: BatchCase) -> None:
    require_library(client, __version__)
    for address, sees in client.run(_sees, case).items():
        if not sees:
            raise ClusterError(
                f"The worker at {address} must see cases, output and bundles under the same paths, but does not. "
                "Choose folders on a disk that all machines share."
            )
    client.run(_open, case)
