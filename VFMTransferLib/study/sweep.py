"""A sweep over all runs of a study: which are left, on which workers they run, and the tables after each.

A run is one task of `dask.distributed`. One whose worker dies resumes from its checkpoint on another; one that fails
stops no other but those that start from it.
"""

from __future__ import annotations

import json
import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..core import __version__
from ..core.cluster import MAX_DEATHS, require_library, workers
from ..core.errors import (
    BatchError,
    ClusterError,
    ConfigError,
    DatasetError,
    OutputError,
    RuntimeUnavailableError,
)
from ..core.files import remove_leftovers, write_file, writing
from ..core.terms import phantom_name
from ..encoders import FAMILIES
from ..inference.doctor import why_no_bfloat16
from ..tasks import TASKS
from .config import CONFIG, REAL, RunKey, StudyConfig, import_plugins, planned_runs, read_config, selected_runs
from .examples import remove_unshown
from .run import TrainedStudy, precision_of, run_one, run_sha256
from .tables import (
    RUNS,
    SPLIT,
    RunResult,
    collect_tables,
    networks_of,
    read_result,
    read_tables,
    results_in,
    write_result,
    write_tables,
)
from .workspace import Workspace, split_of

if TYPE_CHECKING:
    from distributed import Client, Future

_PACKAGE = Path(__file__).parents[1]
_SHIPPED = (_PACKAGE.parent / "Resources" / "Study", _PACKAGE / "resources" / "Study")
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
    """A study that this process has open, with a token of `Workspace.locked`, and the wanted runs in their order; with
    `networks` it trains nothing, but measures theirs.
    """

    config: StudyConfig
    workspace: Workspace
    runs: tuple[RunKey, ...]
    token: str
    networks: TrainedStudy | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Where its networks come from, and what is not measured, in sentences."""
        notes = []
        if self.networks is not None:
            notes.append(f"The networks are those that '{self.networks.workspace.folder.name}' trained.")
        if self.config.real is not None and self.workspace.real is None:
            trained = " and train nothing" if any(self.config.real.leave_out.values()) else ""
            notes.append(f"Real cases are not measured{trained}: --real does not name their folder.")
        return tuple(notes)

    def pending(self) -> list[RunKey]:
        """The wanted runs without a result of their present settings and of all real cases at hand, as their files are
        now, in their order.

        Of the pretrainings that runs start from, those that one of these needs.
        """
        at_hand = self.workspace.real is not None
        left = [run for run in self.runs if (at_hand or run.trained_on != REAL) and not self._is_done(run)]
        unneeded = {run.needs for run in self.runs} - {run.needs for run in left}
        return [run for run in left if run not in unneeded]

    def changed_cases(self) -> tuple[str, ...]:
        """The real cases whose files have changed since wanted runs were measured or trained on them."""
        results = filter(None, (read_result(self.workspace, run) for run in self.runs))
        current = (result for result in results if result.config_sha256 == self._sha256s[result.key])
        return tuple(sorted({name for result in current for name in self._changed_since(result)}))

    def collect(self) -> None:
        """Write the tables of all runs that are done with their present settings, wanted now or before."""
        results = filter(None, (self._result(run) for run in planned_runs(self.config)))
        write_tables(collect_tables(map(self._without_dropped, results)), self.workspace.folder)

    def _without_dropped(self, result: RunResult) -> RunResult:
        """Without what was measured on real cases, or by masks, that the configuration no longer names, or on files
        that have changed since, and statistics over them.
        """
        wanted = self._still_measured(result) & set(self.config.real_of(result.key.task))
        if set(result.real_cases) <= wanted:
            return result
        return replace(
            result,
            real_cases=tuple(name for name in result.real_cases if name in wanted),
            metrics=tuple(row for row in result.metrics if row.data != "real" or row.case in wanted),
            candidates=tuple(row for row in result.candidates if row.data != "real" or row.case in wanted),
        )

    def _still_measured(self, result: RunResult) -> set[str]:
        """The real cases whose measures are by the masks that the configuration names, and of the files at hand."""
        real = self.config.real
        if real is None or result.real_masks != real.masks:
            return set()
        return set(result.real_cases) - self._changed_since(result)

    def _changed_since(self, result: RunResult) -> set[str]:
        """The real cases of a result whose files have changed since, where both are known; of those that it was only
        measured on, those that the configuration still names.
        """
        if self.workspace.real is None:
            return set()
        is_named = set(result.real_sha256 if result.key.trained_on == REAL else self.config.real_of(result.key.task))
        known = {name: sha256 for name, sha256 in result.real_sha256.items() if name in is_named}
        return {name for name, sha256 in known.items() if self._real_sha256(name) != sha256}

    @cached_property
    def _real_sha256(self) -> Callable[[str], str]:
        return cache(self.workspace.real_sha256)  # tables are written after each run, and cases may be large

    def _is_done(self, run: RunKey) -> bool:
        result = self._result(run)
        if result is None:
            return False
        if run.is_pretraining:
            return self.workspace.pretrained(run.label).is_dir()
        is_tested = self.workspace.real is not None and not run.labelled_cases
        wanted = self.config.real_of(run.task) if is_tested else ()
        return set(wanted) <= self._still_measured(result)

    def _result(self, run: RunKey) -> RunResult | None:
        """The result of a run's present settings; of one that real cases train, and of their present files."""
        result = read_result(self.workspace, run)
        if result is None or result.config_sha256 != self._sha256s[run]:
            return None
        return None if run.trained_on == REAL and self._changed_since(result) else result

    @cached_property
    def _sha256s(self) -> dict[RunKey, str]:
        return {run: run_sha256(run, self.config) for run in planned_runs(self.config)}


@contextmanager
def open_sweep(
    folder: Path,
    config_path: Path | None = None,
    *,
    real: Path | None = None,
    resume: bool = False,
    only: Mapping[str, Iterable[str]] | None = None,
    networks: Path | None = None,
) -> Iterator[Sweep]:
    """Begin a study in a new or empty folder, or open one; no other process can while the context lasts.

    Args:
        config_path: Its configuration; by default that in the folder, or else the shipped one. The plug-ins that it
            names are imported, here and by each worker.
        real: Folder of the real cases that the configuration names.
        resume: Continue in a folder that has results. A run whose settings have changed is trained again.
        only: Column → values: the runs that are wanted; all by default.
        networks: Folder of another study, whose trainings are measured instead of new ones.

    Raises:
        ConfigError: The configuration is missing or wrong, no run is wanted, or one is trained otherwise in `networks`;
            or a study that is continued took its networks from elsewhere.
        DatasetError: A real case or a training of `networks` is missing, or an example cannot be understood.
        OutputError: Another process has it open; another version of the library trained in it; or the folder holds a
            study already, or something else, or cannot be written.
    """
    shipped = (place / CONFIG for place in (folder, *_SHIPPED) if (place / CONFIG).is_file())
    path = next(shipped, None) if config_path is None else config_path
    if path is None:
        raise ConfigError(f"A study needs a configuration, but there is no {CONFIG}. Name one with --config.")
    config = read_config(path)
    runs = planned_runs(config) if only is None else selected_runs(planned_runs(config), only)
    trained = None if networks is None else _trained_study(networks, folder)
    if trained is not None:
        runs = tuple(run for run in runs if not run.is_pretraining)
        for run in runs:
            if run.is_trained:
                trained.require(run, config)
    if real is not None and config.real is None:
        raise ConfigError("The configuration must name the real cases for --real, but names none. Add a part 'real'.")
    if real is not None and config.real is not None:
        named = {*config.real.cases, *(name for names in config.real.leave_out.values() for name in names)}
        lacking = sorted(name for name in named if not (real / name).is_dir())
        if lacking:
            raise DatasetError(
                f"The folder of real cases must hold {', '.join(lacking)}, but does not. "
                "Add what is missing, or take it out of the configuration."
            )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / "work").is_dir() and not (folder / RUNS).is_file():
            raise OutputError(
                f"'{folder.name}' must be a new folder or that of a study, but is neither. Choose another."
            )
        if not resume:
            raise OutputError(
                f"'{folder.name}' holds a study already. Continue with --resume, or choose another folder."
            )
    _require_same_networks(folder, trained)
    workspace = Workspace(folder.absolute(), None if real is None else real.absolute())
    with workspace.locked() as token:
        if (folder / RUNS).is_file() and workspace.is_untouched:
            _restore_results(workspace, config)
        workspace.require_library()
        with writing(folder):
            for within in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                remove_leftovers(within)
        sweep = Sweep(config, workspace, runs, token, trained)
        write_file(folder / CONFIG, path.read_text(encoding="utf-8"))
        write_file(folder / SPLIT, json.dumps(_split_document(sweep), indent=2) + "\n")
        remove_unshown(folder, config)
        yield sweep


def _trained_study(folder: Path, other: Path) -> TrainedStudy:
    """The study whose networks another one measures.

    Raises:
        ConfigError: Its configuration is missing or wrong.
        DatasetError: It is no study with its work folder, or the other one.
        OutputError: Another version of the library trained in it.
    """
    workspace = Workspace(folder.absolute())
    if workspace.is_untouched or folder.resolve() == other.resolve():
        raise DatasetError(
            f"The networks must come from another study's folder with its work folder, but '{folder.name}' is none. "
            "Name the folder in which they were trained."
        )
    workspace.require_library()
    return TrainedStudy(read_config(folder / CONFIG), workspace)


def _require_same_networks(folder: Path, trained: TrainedStudy | None) -> None:
    """ConfigError where a study that goes on took its networks from elsewhere than it is to take them from now."""
    before, now = networks_of(folder), "" if trained is None else trained.workspace.folder.name
    if not (folder / SPLIT).is_file() or before == now:
        return
    if before:
        named = f"--networks names '{now}'" if now else "there is no --networks"
        raise ConfigError(
            f"'{folder.name}' must be continued with the networks that it measures, those of the study '{before}', "
            f"but {named}. Name that study's folder with --networks, or choose another output."
        )
    raise ConfigError(
        f"'{folder.name}' must be continued without --networks, since it trains its networks itself, but --networks "
        f"names '{now}'. Leave it out, or choose another output."
    )


def _restore_results(workspace: Workspace, config: StudyConfig) -> None:
    """Write the results of a study whose tables alone are at hand, so that it continues; OutputError where a run's
    settings are not the configuration's, or are of another version: its rows would be lost.
    """
    before = read_config(workspace.folder / CONFIG).real if (workspace.folder / CONFIG).is_file() else config.real
    results = list(results_in(read_tables(workspace.folder), "" if before is None else before.masks))
    planned = set(planned_runs(config))
    others = [
        found for found in results if found.key not in planned or found.config_sha256 != run_sha256(found.key, config)
    ]
    if others:
        raise OutputError(
            f"The tables in '{workspace.folder.name}' must be of the configuration and of version {__version__} of "
            f"vfm-transfer to be continued, but {len(others)} of their {len(results)} runs are of other settings or of "
            f"another version, as '{others[0].key.title}'. Restore the settings, use the version that made them, or "
            f"train again in a new folder with --config {workspace.folder.name}/{CONFIG}."
        )
    for found in results:
        write_result(found, workspace)


def run_sweep(
    sweep: Sweep, *, scheduler: str | None = None, count: int = 1, observer: SweepObserver | None = None
) -> dict[RunKey, BaseException]:
    """Run all that are left on a cluster or so many processes of this machine; the runs that failed, and why.

    ClusterError if the cluster does not answer, does not see the study's folder, or does not know a task or an encoder;
    RuntimeUnavailableError if a run is to be trained in bfloat16 and a machine cannot.
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
                    f"The worker at {address} must see the study's folder under the same path, but does not. "
                    "Choose a folder on a disk that all machines share."
                )
        _require_plugins(client, sweep)
        if sweep.networks is None:
            _require_bfloat16(client, pending, sweep.config)
        return run_on(client, sweep, pending, observer or Unobserved())


def _require_plugins(client: Client, sweep: Sweep) -> None:
    """Let each worker import the plug-ins, and require it to know all tasks and encoders: one that a script registers
    is known in the script's own process alone.
    """
    names = (*sweep.config.tasks, *sweep.config.encoders)
    for address, problem in client.run(_plugin_problem, _plugins_of(sweep.config, sweep.networks), names).items():
        if problem:
            raise ClusterError(f"On the worker at {address}, {problem}")


def _plugins_of(config: StudyConfig, networks: TrainedStudy | None) -> tuple[str, ...]:
    """The plug-ins of a study, and of the one whose networks it measures."""
    others = () if networks is None else networks.config.plugins
    return tuple(dict.fromkeys((*config.plugins, *others)))


def _plugin_problem(plugins: Iterable[str], names: Iterable[str]) -> str:
    """Why this process does not know some tasks and encoders, as the rest of a sentence; empty where it does."""
    try:
        import_plugins(plugins)
    except ConfigError as error:
        return str(error)
    unknown = [name for name in names if name not in TASKS and name not in FAMILIES]
    if not unknown:
        return ""
    return (
        f"{', '.join(unknown)} must be registered, but {'are' if len(unknown) > 1 else 'is'} not. Name the module that "
        "registers what is not of the library under 'plugins' in the configuration."
    )


def _require_bfloat16(client: Client, runs: Iterable[RunKey], config: StudyConfig) -> None:
    """Where a run trains in bfloat16, let a child process on each machine try it: on some processors it ends a program,
    and workers would die one by one.
    """
    needing = next((run for run in runs if precision_of(run, config) == "bfloat16"), None)
    if needing is None:
        return
    one_a_machine = {
        facts["host"]: address for address, facts in client.scheduler_info(n_workers=-1)["workers"].items()
    }
    for address, reason in client.run(why_no_bfloat16, "cpu", workers=list(one_a_machine.values())).items():
        if reason:
            raise RuntimeUnavailableError(
                f"'{needing.title}' is to be trained in bfloat16, which must work on the machine of {address}, but a "
                f"training step in a child process failed: {reason}. State precision: float32 in the configuration, "
                "for all that state bfloat16."
            )


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
                    arguments = (run, sweep.config, sweep.workspace, sweep.token, sweep.networks)
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


def _run_on_worker(
    run: RunKey, config: StudyConfig, workspace: Workspace, token: str, networks: TrainedStudy | None
) -> None:
    from distributed import get_worker

    import_plugins(_plugins_of(config, networks))  # also on a worker that came later
    worker = get_worker()

    def report(line: str, share: float) -> None:
        if not workspace.is_running(token):
            raise StoppedError("The study was stopped.")
        worker.log_event(f"{_TOPIC}-{token}", (run.name, line, share))

    report("starts", 0.0)
    run_one(run, config, workspace, report, networks)


def _reason(error: BaseException | None) -> BaseException:
    from distributed.scheduler import KilledWorker

    if error is None or isinstance(error, KilledWorker):
        return ClusterError(
            f"Its worker died {MAX_DEATHS + 1} times, perhaps because memory ran out. Continue with --resume."
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
        **({} if sweep.networks is None else {"networks": sweep.networks.workspace.folder.name}),
        "notes": sweep.notes,
    }
