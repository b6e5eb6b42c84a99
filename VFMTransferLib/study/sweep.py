"""A sweep over all runs of a study: which are left, on which workers they run, and the tables after each.

A run is one task of `dask.distributed`. One whose worker dies resumes from its checkpoint on another; one that fails
stops no other but those that start from it.
"""

from __future__ import annotations

import json
import math
import queue
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..core import __version__
from ..core.cluster import MAX_DEATHS, require_library, workers
from ..core.errors import BatchError, ClusterError, ConfigError, DatasetError, OutputError
from ..core.files import write_file
from ..core.terms import phantom_name
from .config import CONFIG, REAL, RunKey, StudyConfig, import_plugins, planned_runs, read_config, selected_runs
from .run import run_one
from .tables import collect_tables, read_result, write_tables
from .workspace import Workspace, split_of

if TYPE_CHECKING:
    from distributed import Client, Future

_PACKAGE = Path(__file__).parents[1]
_SHIPPED = (_PACKAGE.parent / "Resources" / "Study", _PACKAGE / "resources" / "Study")
SPLIT = "split.json"
_POLL_S = 1.0
_TOPIC = "vfm-transfer-study"


class StoppedError(Exception):
    """The sweep that a run belongs to has ended; what is done stays."""


class SweepObserver(Protocol):
    """Receives the progress of a sweep; what is not overridden ignores it."""

    def started(self, run: RunKey) -> None:
        """A run was given to a worker."""
        return

    def progressed(self, run: RunKey, line: str, share: float) -> None:
        """A run reached a share of its whole."""
        return

    def finished(self, run: RunKey) -> None:
        """A run is done."""
        return

    def failed(self, run: RunKey, error: BaseException) -> None:
        """A run was given up."""
        return

    def polled(self, workers: int) -> None:
        """Comes every second or so, with the number of workers."""
        return


class Unobserved(SweepObserver):
    """Ignores the progress."""


@dataclass(frozen=True)
class Sweep:
    """A study that this process has open, with a token of `Workspace.locked`, and the wanted runs in their order."""

    config: StudyConfig
    workspace: Workspace
    runs: tuple[RunKey, ...]
    token: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not measured, in sentences."""
        if self.config.real is None or self.workspace.real is not None:
            return ()
        trained = " and train nothing" if any(self.config.real.leave_out.values()) else ""
        return (f"Real cases are not measured{trained}: --real does not name their folder.",)

    def pending(self) -> list[RunKey]:
        """The wanted runs without a result, or one without a real case that is at hand now, in their order.

        Of the pretrainings that runs start from, those that one of these needs.
        """
        at_hand = self.workspace.real is not None
        left = [run for run in self.runs if (at_hand or run.trained_on != REAL) and not self._is_done(run)]
        unneeded = {run.needs for run in self.runs} - {run.needs for run in left}
        return [run for run in left if run not in unneeded]

    def collect(self) -> None:
        """Write the tables of all runs that are done, wanted now or before."""
        results = (read_result(self.workspace, run) for run in planned_runs(self.config) if not run.is_pretraining)
        write_tables(collect_tables(filter(None, results)), self.workspace.folder)

    def _is_done(self, run: RunKey) -> bool:
        if run.is_pretraining:
            return self.workspace.pretrained(run.label).is_dir()
        result = read_result(self.workspace, run)
        is_tested = self.workspace.real is not None and not run.labelled_cases
        wanted = self.config.real_of(run.task) if is_tested else ()
        return result is not None and set(wanted) <= set(result.real_cases)


@contextmanager
def open_sweep(
    folder: Path,
    config_path: Path | None = None,
    *,
    real: Path | None = None,
    resume: bool = False,
    only: Mapping[str, Iterable[str]] | None = None,
) -> Iterator[Sweep]:
    """Begin a study in a new or empty folder, or open one; no other process can while the context lasts.

    Args:
        config_path: Its configuration; by default that in the folder, or else the shipped one. The plug-ins that it
            names are imported, here and by each worker.
        real: Folder of the real cases that the configuration names.
        resume: Continue in a folder that has results. A run that has one is not trained again.
        only: Column → values: the runs that are wanted; all by default.

    Raises:
        ConfigError: The configuration is missing or wrong, or no run is wanted.
        DatasetError: A real case is missing.
        OutputError: Another process has it open; or the folder holds a study already, or something else.
    """
    shipped = (place / CONFIG for place in (folder, *_SHIPPED) if (place / CONFIG).is_file())
    path = next(shipped, None) if config_path is None else config_path
    if path is None:
        raise ConfigError(f"A study needs a configuration, but there is no {CONFIG}. Name one with --config.")
    config = read_config(path)
    runs = planned_runs(config) if only is None else selected_runs(planned_runs(config), only)
    if real is not None and config.real is None:
        raise ConfigError("The configuration names no real cases for --real. Add a part 'real'.")
    if real is not None and config.real is not None:
        named = {*config.real.cases, *(name for names in config.real.leave_out.values() for name in names)}
        lacking = sorted(name for name in named if not (real / name).is_dir())
        if lacking:
            raise DatasetError(
                f"The folder of real cases lacks {', '.join(lacking)}. Add them, or take them out of the configuration."
            )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / "work").is_dir():
            raise OutputError(f"'{folder.name}' is neither a new folder nor that of a study. Choose another.")
        if not resume:
            raise OutputError(
                f"'{folder.name}' holds a study already. Continue with --resume, or choose another folder."
            )
    workspace = Workspace(folder.absolute(), None if real is None else real.absolute())
    with workspace.locked() as token:
        sweep = Sweep(config, workspace, runs, token)
        write_file(folder / CONFIG, path.read_text(encoding="utf-8"))
        write_file(folder / SPLIT, json.dumps(_split_document(sweep), indent=2) + "\n")
        yield sweep


def run_sweep(
    sweep: Sweep, *, scheduler: str | None = None, count: int = 1, observer: SweepObserver | None = None
) -> dict[RunKey, BaseException]:
    """Run all that are left on a cluster or so many processes of this machine; the runs that failed, and why.

    ClusterError if the cluster does not answer, or does not see the study's folder.
    """
    pending = sweep.pending()
    sweep.collect()
    if not pending:
        return {}
    with workers(scheduler, min(count, len(pending))) as client:
        require_library(client, __version__)
        for address, sees in client.run(sweep.workspace.is_running, sweep.token).items():
            if not sees:
                raise ClusterError(
                    f"The worker at {address} does not see the study's folder. Choose a folder on a disk that all "
                    "machines share."
                )
        return run_on(client, sweep, pending, observer or Unobserved())


def run_on(client: Client, sweep: Sweep, pending: list[RunKey], observer: SweepObserver) -> dict[RunKey, BaseException]:
    """Run some runs on a cluster's workers, the first ones first."""
    topic = f"{_TOPIC}-{sweep.token}"
    active: dict[str, tuple[RunKey, Future]] = {}
    failures: dict[RunKey, BaseException] = {}
    # From dask's threads: ("progress", name of the run, line, share) or ("ended", name of the run).
    events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    client.subscribe_topic(topic, lambda event: events.put(("progress", *event[1])))
    slots, polled_s = 1, -math.inf
    try:
        while pending or active:
            if time.monotonic() - polled_s >= _POLL_S:
                polled_s, count = time.monotonic(), len(client.nthreads())
                slots = max(count, 1)
                observer.polled(count)
            for run in list(pending):
                waiting = {*pending, *(other for other, _ in active.values())}
                if run.needs in failures:
                    pending.remove(run)
                    failures[run] = BatchError(f"The pretraining of {run.label} failed, which it starts from.")
                    observer.failed(run, failures[run])
                elif len(active) < slots and run.needs not in waiting:
                    pending.remove(run)
                    arguments = (run, sweep.config, sweep.workspace, sweep.token)
                    future = client.submit(_run_on_worker, *arguments, key=f"{run.name}-{sweep.token}", pure=False)
                    active[run.name] = (run, future)
                    observer.started(run)
                    future.add_done_callback(lambda _, name=run.name: events.put(("ended", name)))
            try:
                kind, name, *details = events.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if name not in active:
                continue
            if kind == "progress":
                observer.progressed(active[name][0], *details)
                continue
            run, future = active.pop(name)
            if future.status == "cancelled":
                raise ClusterError("The connection to the cluster's scheduler was lost. Continue with --resume.")
            if future.status == "error":
                failures[run] = _reason(future.exception())
                observer.failed(run, failures[run])
            else:
                sweep.collect()
                observer.finished(run)
    finally:
        client.cancel([future for _, future in active.values()])
        client.unsubscribe_topic(topic)
    return failures


def _run_on_worker(run: RunKey, config: StudyConfig, workspace: Workspace, token: str) -> None:
    from distributed import get_worker

    import_plugins(config.plugins)
    worker = get_worker()

    def report(line: str, share: float) -> None:
        if not workspace.is_running(token):
            raise StoppedError("The study was stopped.")
        worker.log_event(f"{_TOPIC}-{token}", (run.name, line, share))

    report("starts", 0.0)
    run_one(run, config, workspace, report)


def _reason(error: BaseException | None) -> BaseException:
    from distributed.scheduler import KilledWorker

    if error is None or isinstance(error, KilledWorker):
        return ClusterError(
            f"Its worker died {MAX_DEATHS + 1} times, perhaps because memory ran out, or its processor has no "
            "bfloat16. Continue with --resume."
        )
    return error


def _split_document(sweep: Sweep) -> dict[str, object]:
    config = sweep.config
    split = split_of(config.phantoms.groups)
    own = {task: split_of(settings.phantoms) for task, settings in config.tasks.items() if settings.phantoms}
    return {
        "a patient is": "a phantom, or a real case; nobody stands in two lists, and real cases train nothing but "
        "what leaves them out",
        "pretraining": {
            "-".join(filter(None, (name, own))): [phantom_name(seed) for seed in start.phantoms.seeds]
            for name, encoder in config.encoders.items()
            for own, start in encoder.named.items()
        },
        "train": split.train,
        "validation": split.validation,
        "test": split.test,
        "tasks with phantoms of their own": {task: asdict(groups) for task, groups in own.items()},
        "real": {} if config.real is None else config.real.cases,
        **({} if config.real is None or not config.real.leave_out else {"real, left out": config.real.leave_out}),
        "notes": sweep.notes,
    }
