"""Who runs a study: a file in its folder while it runs. Workers stop at their next checkpoint when it is gone."""

from __future__ import annotations

import json
import os
import platform
import queue
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.cluster import MOST_DEATHS, workers
from ..core.cluster import require_library as require_same_library
from ..core.errors import BatchError, ClusterError, ConfigError, DatasetError, OutputError
from ..core.files import atomic_file, locked, writing
from ..core.version import __version__
from .cases import Place, require_library, split_of
from .config import CONFIG, StudyConfig, read_config
from .run import bundle_folder, cell_sha256, run_cell
from .tables import PRETRAINING, RUNS, Cell, CellResult, chosen_cells, read_result, study_cells, write_collected

RUNNING, LOCK = "running.json", "lock"


class StoppedError(Exception):
    """The study that a cell belongs to is no longer run; what is done stays."""


@contextmanager
def running(place: Place) -> Iterator[str]:
    """Keep every other process from running a study while the context lasts.

    The lock is the system's, so that one who is killed leaves none; `running.json` beside it is for workers and people.

    Yields:
        A word that only this run has.

    Raises:
        OutputError: Another process runs it, or the folder cannot be written.
    """
    with writing(place.work):
        place.work.mkdir(parents=True, exist_ok=True)
    path = place.work / RUNNING
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(place.work / LOCK))
        except BlockingIOError as error:
            found = _read(path)
            raise OutputError(
                f"The study is run already, by process {found.get('process')} on {found.get('machine')}. "
                "Wait until it ends, or stop it."
            ) from error
        token = uuid.uuid4().hex
        with atomic_file(path) as part:
            document = {"token": token, "process": os.getpid(), "machine": platform.node()}
            part.write_text(json.dumps(document), encoding="utf-8")
        try:
            yield token
        finally:
            path.unlink(missing_ok=True)


def is_running(place: Place, token: str) -> bool:
    """Whether the run with this word goes on, as a process that sees the folder can tell."""
    return _read(place.work / RUNNING).get("token") == token


def _read(path: Path) -> dict:
    with suppress(OSError, ValueError):
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if isinstance(document, dict) else {}
    return {}


# A study of pretrainings, tasks and arms: which cells are left to do, and the tables of those that are done.
#
# <folder>/config.yaml, split.json, runs.csv, metrics.csv, curves.csv, distances.csv, examples/     what it came to
# <folder>/work/phantoms, pretrained, cells, results                                                what it works with

SPLIT = "split.json"
_PACKAGE = Path(__file__).parents[1]
_SHIPPED = (_PACKAGE.parent / "Resources" / "Study", _PACKAGE / "resources" / "Study")
_LEFTOVERS = (".part-*", ".*.part", ".*.old")


@dataclass(frozen=True)
class Study:
    """A study in its folder.

    Attributes:
        config: What it consists of.
        place: Where it lies.
        cells: Those that are wanted, in their order.
        token: A word that only this opening of it has.
    """

    config: StudyConfig
    place: Place
    cells: tuple[Cell, ...]
    token: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, in sentences."""
        if self.config.real is not None and self.place.real is None:
            return ("Real cases are not measured: --real does not say where they lie.",)
        return ()

    def pending(self) -> list[Cell]:
        """The wanted cells that are not done, in their order."""
        return [cell for cell in self.cells if not self.is_done(cell)]

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell has a result of its present settings and of all real cases at hand."""
        return self._is_valid(read_result(self.place.folder, cell), cell)

    def collect(self) -> None:
        """Write the tables of all cells that are done, wanted now or before.

        Raises:
            OutputError: The folder cannot be written.
        """
        every = study_cells(self.config)
        results = [(cell, read_result(self.place.folder, cell)) for cell in every]
        write_collected((r for cell, r in results if r is not None and self._is_current(r, cell)), self.place.folder)

    def _is_current(self, result: CellResult, cell: Cell) -> bool:
        return result.config_sha256 == self._sha256s[cell]

    @cached_property
    def _sha256s(self) -> dict[Cell, str]:
        return {cell: cell_sha256(cell, self.config) for cell in study_cells(self.config)}

    def _is_valid(self, result: CellResult | None, cell: Cell) -> bool:
        if result is None or not self._is_current(result, cell):
            return False
        if cell.arm == PRETRAINING:
            return bundle_folder(cell.encoder, self.place).is_dir()
        wanted = self.config.real_of(cell.task) if self.place.real is not None else ()
        return set(wanted) <= set(result.real_cases)


@contextmanager
def open_study(
    folder: Path,
    config_path: Path | None = None,
    *,
    real: Path | None = None,
    resume: bool = False,
    only: Mapping[str, Iterable[str]] | None = None,
) -> Iterator[Study]:
    """Begin a study, or open one that was stopped; nobody else can while the context lasts.

    Args:
        folder: New or empty; with `resume` that of the study.
        config_path: Its configuration; by default that in the folder, or else the shipped one.
        real: Folder of the real cases that the configuration names.
        resume: Go on in a folder that has results. A cell whose settings are others than before is run anew.
        only: Column → values: the cells that are wanted; all by default.

    Raises:
        ConfigError: The configuration is missing or wrong, or no cell is wanted.
        DatasetError: A real case is not there.
        OutputError: Another process has it open; another version of the library trained in it; or the folder holds a
            study already, or something else, or cannot be written.
    """
    path = _config_path(folder) if config_path is None else config_path
    config = read_config(path)
    cells = study_cells(config) if only is None else chosen_cells(study_cells(config), only)
    _require_real(config, real)
    _require_folder(folder, resume)
    place = Place(folder.absolute(), None if real is None else real.absolute())
    with running(place) as token:
        require_library(place)
        with writing(folder):
            _clear_away(folder)
        _write_text(folder / CONFIG, path.read_text(encoding="utf-8"))
        study = Study(config, place, cells, token)
        _write_text(folder / SPLIT, json.dumps(_split_document(study), indent=2) + "\n")
        yield study


def _config_path(folder: Path) -> Path:
    for place in (folder, *_SHIPPED):
        if (place / CONFIG).is_file():
            return place / CONFIG
    raise ConfigError(f"A study needs a configuration, but there is no {CONFIG}. Name one with --config.")


def _require_real(config: StudyConfig, real: Path | None) -> None:
    if real is None:
        return
    if config.real is None:
        raise ConfigError("The configuration must name the real cases for --real, but names none. Add a part 'real'.")
    lacking = sorted(name for name in config.real.cases if not (real / name).is_dir())
    if lacking:
        raise DatasetError(
            f"The folder of real cases must hold {', '.join(lacking)}, but does not. "
            "Add what is missing, or take it out of the configuration."
        )


def _require_folder(folder: Path, resume: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "work").is_dir() and not (folder / RUNS).is_file():
        raise OutputError(f"'{folder.name}' must be a new folder or that of a study, but is neither. Choose another.")
    if not resume:
        raise OutputError(f"'{folder.name}' holds a study already. Go on with --resume, or choose another folder.")


def _clear_away(folder: Path) -> None:
    """Remove what a process that was killed left half-written."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            if any(path.match(pattern) for pattern in _LEFTOVERS):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _split_document(study: Study) -> dict[str, object]:
    split = split_of(study.config.phantoms.groups)
    own = {task: split_of(groups.phantoms) for task, groups in study.config.tasks.items() if groups.phantoms}
    pretraining = {
        name: [f"phantom-{seed:04d}" for seed in encoder.pretraining.phantoms.seeds]
        for name, encoder in study.config.encoders.items()
    }
    real = {} if study.config.real is None else study.config.real.cases
    return {
        "a patient is": "a phantom, or a real case; nobody stands in two lists, and real cases train nothing",
        "pretraining": pretraining,
        "train": split.train,
        "validation": split.validation,
        "test": split.test,
        "tasks with phantoms of their own": {task: asdict(groups) for task, groups in own.items()},
        "real": {name: list(tasks) for name, tasks in real.items()},
        "notes": list(study.notes),
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


# A study's cells on the workers of a cluster: one task a training, and the tables anew after each.
#
# A cell whose worker dies goes on from its checkpoint on another one. A cell that fails stops no other but those that
# need it.

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
        OutputError: The folder cannot be written.
    """
    pending = study.pending()
    study.collect()
    if not pending:
        return {}
    with workers(scheduler, min(count, len(pending))) as client:
        _require_shared(client, study.place, study.token)
        return _Round(study, client, watcher or Watcher(), pending).run()


@dataclass
class _Round:
    """One run over the cells that are left."""

    study: Study
    client: Client
    watcher: Watcher
    pending: list[Cell]
    at_work: dict[str, tuple[Cell, Future]] = field(default_factory=dict)
    failures: dict[Cell, BaseException] = field(default_factory=dict)
    news: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)

    def run(self) -> dict[Cell, BaseException]:
        topic = f"{_TOPIC}-{self.study.token}"
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
                self.study.token,
                key=f"{cell.name}-{self.study.token}",
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
    require_same_library(client, __version__)
    for address, sees in client.run(is_running, place, token).items():
        if not sees:
            raise ClusterError(
                f"The worker at {address} must see the study's folder under the same path, but does not. "
                "Choose a folder on a disk that all machines share."
            )
