"""A study's cells on the workers of a cluster: one task a training, and the tables anew after each.

A cell whose worker dies goes on from its checkpoint on another one. A cell that fails stops no other but those that
need it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .cluster import MOST_DEATHS, require_library, workers
from .errors import BatchError, ClusterError
from .grid import Study
from .grid_cases import Place
from .grid_cell import run_cell
from .grid_running import StoppedError, is_running, running
from .study.grid_cells import Cell
from .study.grid_config import StudyConfig
from .version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

_LOOK_S = 1.0  # between looks at the number of workers
_TOPIC = "vfm-transfer-study"


class Watcher:
    """What is told of a running study; this one does not listen."""

    def began(self, cell: Cell) -> None:
        """A cell was given to a worker."""

    def at(self, cell: Cell, line: str, part: float) -> None:
        """A cell got so far."""

    def ended(self, cell: Cell) -> None:
        """A cell is done."""

    def failed(self, cell: Cell, error: BaseException) -> None:
        """A cell was given up."""

    def looked(self, workers: int) -> None:
        """Comes every second or so."""


def run_study(
    study: Study, *, scheduler: str | None = None, count: int = 1, watcher: Watcher | None = None
) -> dict[Cell, BaseException]:
    """Run all cells that are left to do.

    Args:
        study: From `open_study`.
        scheduler: Address of a cluster; None for processes of this machine.
        count: How many processes of this machine.
        watcher: Told how far it is.

    Returns:
        The cells that failed, and why.

    Raises:
        ClusterError: The cluster does not answer, or does not see the study's folder.
        OutputError: Another process runs this study, or its folder cannot be written.
    """
    with running(study.place) as token:
        pending = study.pending()
        study.collect()
        if not pending:
            return {}
        with workers(scheduler, min(count, len(pending))) as client:
            _require_shared(client, study.place, token)
            return _Round(study, client, token, watcher or Watcher(), pending).run()


@dataclass
class _Round:
    """One run over the cells that are left."""

    study: Study
    client: Client
    token: str
    watcher: Watcher
    pending: list[Cell]
    at_work: dict[str, tuple[Cell, Future]] = field(default_factory=dict)
    failures: dict[Cell, BaseException] = field(default_factory=dict)
    news: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)

    def run(self) -> dict[Cell, BaseException]:
        topic = f"{_TOPIC}-{self.token}"
        self.client.subscribe_topic(topic, self._heard)
        slots, looked = 0, -_LOOK_S
        try:
            while self.pending or self.at_work:
                if time.monotonic() - looked >= _LOOK_S:
                    slots, looked = len(self.client.nthreads()), time.monotonic()
                    self.watcher.looked(slots)
                self._give_out(max(slots, 1))
                self._hear()
        finally:
            self.client.cancel([future for _, future in self.at_work.values()])
            self.client.unsubscribe_topic(topic)
        return self.failures

    def _give_out(self, slots: int) -> None:
        """Give cells to workers, the first ones first, as long as there are workers and cells that can begin."""
        while len(self.at_work) < slots and (cell := self._next()) is not None:
            self.pending.remove(cell)
            future = self.client.submit(
                _work,
                cell,
                self.study.config,
                self.study.place,
                self.token,
                key=f"{cell.name}-{self.token}",
                pure=False,
            )
            self.at_work[cell.name] = (cell, future)
            self.watcher.began(cell)
            future.add_done_callback(lambda done, cell=cell: self.news.put(lambda: self._ended(cell, done)))

    def _next(self) -> Cell | None:
        """The first cell whose pretraining is not still to come; those whose pretraining failed fail with it."""
        waiting = {*self.pending, *(cell for cell, _ in self.at_work.values())}
        for cell in list(self.pending):
            if cell.needs in self.failures:
                self.pending.remove(cell)
                self._give_up(cell, BatchError(f"The pretraining of {cell.encoder} failed, which it starts from."))
            elif cell.needs not in waiting:
                return cell
        return None

    def _hear(self) -> None:
        """Wait for news, for a moment."""
        try:
            self.news.get(timeout=_LOOK_S)()
        except queue.Empty:
            return

    def _heard(self, event: tuple[float, dict[str, Any]]) -> None:
        """On the client's thread: a worker told how far it is."""
        told = event[1]

        def tell() -> None:
            if told["cell"] in self.at_work:
                self.watcher.at(self.at_work[told["cell"]][0], told["line"], told["part"])

        self.news.put(tell)

    def _ended(self, cell: Cell, future: Future) -> None:
        del self.at_work[cell.name]
        error = future.exception() if future.status == "error" else None
        if future.status == "cancelled":
            raise ClusterError("The connection to the cluster's scheduler was lost. Go on with --resume.")
        if error is not None:
            self._give_up(cell, _described(error))
            return
        self.study.collect()
        self.watcher.ended(cell)

    def _give_up(self, cell: Cell, error: BaseException) -> None:
        self.failures[cell] = error
        self.watcher.failed(cell, error)


def _described(error: BaseException) -> BaseException:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return ClusterError(
            f"Its worker died {MOST_DEATHS + 1} times, perhaps for want of memory. Go on with --resume."
        )
    return error


def _work(cell: Cell, config: StudyConfig, place: Place, token: str) -> None:
    """On a worker: run a cell for as long as the study is run."""
    from distributed import get_worker

    worker = get_worker()

    def tell(line: str, part: float) -> None:
        if not is_running(place, token):
            raise StoppedError("The study was stopped.")
        worker.log_event(f"{_TOPIC}-{token}", {"cell": cell.name, "line": line, "part": part})

    tell("begins", 0.0)
    run_cell(cell, config, place, tell)


def _require_shared(client: Client, place: Place, token: str) -> None:
    """Raise unless all workers have this library and see the study's folder.

    Raises:
        ClusterError: One does not.
    """
    require_library(client, __version__)
    for address, sees in client.run(is_running, place, token).items():
        if not sees:
            raise ClusterError(
                f"The worker at {address} must see the study's folder under the same path, but does not. "
                "Choose a folder on a disk that all machines share."
            )
