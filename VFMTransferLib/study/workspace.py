"""The folder of a study: what lies where, which process and version of the library run it, and the cases of its runs.

    <workspace>/config.yaml, split.json             what is run, on which cases
    <workspace>/runs.csv, metrics.csv, ...          the results: tables, and `examples/` with pictures
    <workspace>/work/phantoms, pretrained           inputs of the runs: cases, and bundles of the pretrained encoders
    <workspace>/work/prepared                       cases as the networks take them, each once (`training.sample_cache`)
    <workspace>/work/runs                           each run's checkpoint, and its rows of the tables once it is done

A study is run by one process at a time, which holds the system's lock on `work/lock`. Workers on other machines read
from `work/running.json` whether the sweep that started them still runs; at their next report of progress they stop
otherwise. Phantoms train, validate and test; real cases only
test, but in runs of label efficiency that leave some of them out.
"""

from __future__ import annotations

import json
import os
import platform
import random
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..core.decoding import parse_json
from ..core.errors import DatasetError, OutputError
from ..core.files import locked, read_small, write_file, writing
from ..core.terms import OnProgress, phantom_name
from ..phantom import Phantom, PhantomGroups, PhantomStore
from ..tasks import TASKS
from ..tasks.base import LabeledCase, MaskNames
from ..training.cases import LabeledDataset, LazyCase, LazyCases, Split, folder_checksum, read_labeled
from .config import REAL, RunKey, StudyConfig

# Of `LazyCases`: a text that changes with what decides a case, and what reads it.
_Source = tuple[str, Callable[[], LabeledCase]]


@dataclass(frozen=True)
class Workspace:
    """The folder of a study, which every worker must see under this path, and that of real cases, where at hand."""

    folder: Path
    real: Path | None = None

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def phantoms(self) -> Path:
        return self.work / "phantoms"

    @property
    def prepared(self) -> Path:
        return self.work / "prepared"

    def training(self, name: str) -> Path:
        return self.work / "runs" / name

    def result(self, run: RunKey) -> Path:
        """The result of a run, in the folder of its training."""
        return self.training(run.name) / "result.json"

    def pretrained(self, label: str) -> Path:
        """The bundle of a pretraining, by `RunKey.label`."""
        return self.work / "pretrained" / label

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Keep every other process from running the study; yields a token that only this sweep has (`is_running`).

        The lock is the system's, so that a killed process leaves none. OutputError if another process has it.
        """
        with writing(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        running = self.work / "running.json"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.work / "lock"))
            except BlockingIOError as error:
                found = self._running()
                raise OutputError(
                    f"The study is already run by process {found.get('process', '?')} on {found.get('machine', '?')}. "
                    "Wait until it ends, or stop it."
                ) from error
            token = uuid.uuid4().hex
            write_file(running, json.dumps({"token": token, "process": os.getpid(), "machine": platform.node()}))
            try:
                yield token
            finally:
                running.unlink(missing_ok=True)

    def is_running(self, token: str) -> bool:
        """Whether the sweep of a token still runs, as any process that sees the folder can find out."""
        return self._running().get("token") == token

    def _running(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            document = parse_json(read_small(self.work / "running.json"))
            return document if isinstance(document, dict) else {}
        return {}


def split_of(phantoms: PhantomGroups) -> Split:
    """The names of phantoms."""
    groups = (phantoms.train, phantoms.validation, phantoms.test)
    return Split(*(tuple(phantom_name(seed) for seed in group.seeds) for group in groups))


def split_of_run(run: RunKey, config: StudyConfig) -> Split:
    """The cases of a run by name: all phantoms of its task or, of label efficiency, so many of its labeled cases.

    Which ones is drawn by the seed, the same for both arms, and a larger number holds those of a smaller one. Real
    cases are left out by seed: each is tested by one seed, and may train with the others. Phantoms validate.
    """
    whole = split_of(config.groups_of(run.task))
    if not run.labelled_cases:
        return whole
    train, test = whole.train, whole.test
    if run.trained_on == REAL and config.real is not None:
        names = config.real.leave_out[run.task]
        test = names[config.seeds.index(run.seed) :: len(config.seeds)]
        train = tuple(name for name in names if name not in test)
    drawn = list(train)
    random.Random(run.seed).shuffle(drawn)
    return Split(tuple(drawn[: run.labelled_cases]), whole.validation, test)


def task_cases(
    config: StudyConfig, task: str, workspace: Workspace, on_progress: OnProgress | None = None
) -> LabeledDataset:
    """The phantoms of a task, read where they are asked for; DatasetError, OutputError of `PhantomStore`."""
    return _phantom_cases(config, task, workspace, split_of(config.groups_of(task)), {}, on_progress)


def run_cases(
    run: RunKey, config: StudyConfig, workspace: Workspace, on_progress: OnProgress | None = None
) -> LabeledDataset:
    """The cases of a run, read where they are asked for.

    Raises:
        DatasetError: A phantom's file is damaged, or a real case is missing.
        OutputError: As of `PhantomStore`.
    """
    split, real = split_of_run(run, config), {}
    if run.trained_on == REAL:
        if workspace.real is None:
            raise DatasetError(f"The run '{run.title}' needs the folder of real cases. Name it with --real.")
        for folder in (workspace.real / name for name in (*split.train, *split.test)):
            identity = (
                f"{run.task} {config.real} {config.around_gland_mm} {folder_checksum(workspace.real, [folder.name])}"
            )
            real[folder.name] = (identity, partial(_real_case, config, run.task, folder))
    return _phantom_cases(config, run.task, workspace, split, real, on_progress)


def _phantom_cases(
    config: StudyConfig,
    task: str,
    workspace: Workspace,
    split: Split,
    more: Mapping[str, _Source],
    on_progress: OnProgress | None,
) -> LabeledDataset:
    """The phantoms of a split and `more` cases by name."""
    groups = config.groups_of(task)
    store, named = _store(config, groups, workspace), {*split.train, *split.validation, *split.test}
    seeds = [seed for part in (groups.train, groups.validation, groups.test) for seed in part.seeds]
    seeds = [seed for seed in seeds if phantom_name(seed) in named]
    store.make_missing(seeds, on_progress)
    return LabeledDataset(split, LazyCases({**_lazy_sources(store, seeds, task, config.around_gland_mm), **more}))


def training_cases(config: StudyConfig, task: str, workspace: Workspace) -> list[LabeledCase]:
    """The phantoms that train a task, and no others."""
    groups = config.groups_of(task)
    return _cases(_store(config, groups, workspace), groups.train.seeds, task, config.around_gland_mm)


def shared_test_cases(config: StudyConfig, task: str, workspace: Workspace) -> list[LabeledCase]:
    """The study's own test phantoms as a task's cases: the same for every task, so that distances can be compared."""
    groups = config.phantoms.groups
    if config.groups_of(task).full_resolution:  # which the task's own phantoms alone may have
        groups = replace(groups, full_resolution=True)
    return _cases(_store(config, groups, workspace), groups.test.seeds, task, config.around_gland_mm)


def phantoms_of_pretraining(
    config: StudyConfig,
    run: RunKey,
    workspace: Workspace,
    on_progress: OnProgress | None = None,
    max_count: int | None = None,
    tissue_maps: bool = False,
) -> list[LazyCase[Phantom]]:
    """The phantoms that a pretraining learns from, or the first of them, read where they are asked for."""
    how, seeds = config.phantoms, config.encoders[run.encoder].named[run.pretraining].phantoms.seeds[:max_count]
    store = PhantomStore(workspace.phantoms, how.spacing_mm, False, False, tissue_maps, how.conditions)
    store.make_missing(seeds, on_progress)
    return [LazyCase(phantom_name(s), store.name_of(s), partial(_stored_phantom, store, s)) for s in seeds]


def _stored_phantom(store: PhantomStore, seed: int) -> Phantom:
    return store.phantoms([seed])[0]


def real_cases(config: StudyConfig, task: str, workspace: Workspace) -> list[LabeledCase]:
    """The real cases that test a task, none without their folder; DatasetError, ImageError if one is not whole."""
    if workspace.real is None or config.real is None:
        return []
    return [_real_case(config, task, workspace.real / name) for name in config.real_of(task)]


def _real_case(config: StudyConfig, task: str, folder: Path) -> LabeledCase:
    assert config.real is not None
    masks = MaskNames(config.real.gland, config.real.zones, config.real.lesion)
    # The field that distorts a case's diffusion depends on its name alone.
    return _cut(read_labeled(folder, task, masks, seed=zlib.crc32(folder.name.encode())), config.around_gland_mm)


def _store(config: StudyConfig, groups: PhantomGroups, workspace: Workspace) -> PhantomStore:
    how = config.phantoms
    return PhantomStore(
        workspace.phantoms, how.spacing_mm, full_resolution=groups.full_resolution, conditions=how.conditions
    )


def _cases(store: PhantomStore, seeds: Iterable[int], task: str, width_mm: float | None) -> list[LabeledCase]:
    return [_cut(TASKS[task].from_phantom(phantom), width_mm) for phantom in store.phantoms(seeds)]


def _lazy_sources(store: PhantomStore, seeds: Iterable[int], task: str, width_mm: float | None) -> dict[str, _Source]:
    def source(seed: int) -> _Source:
        return f"{store.name_of(seed)} {task} {width_mm}", lambda: _cases(store, [seed], task, width_mm)[0]

    return {phantom_name(seed): source(seed) for seed in seeds}


def _cut(case: LabeledCase, width_mm: float | None) -> LabeledCase:
    """Cases of image tasks cut around the gland; where it lies is part of the other tasks."""
    task = TASKS[case.task]
    return task.around_gland(case, width_mm) if task.output.gives_images and width_mm is not None else case
