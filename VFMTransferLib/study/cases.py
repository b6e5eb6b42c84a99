"""The cases of a study: phantoms that train, validate and test, and real cases that only test."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path

from ..core.terms import OnProgress
from ..phantom import Phantom, PhantomGroups, PhantomStore
from ..tasks import TASKS
from ..tasks.base import LabeledCase, MaskNames
from ..training.cases import Split, StudySet, read_labeled
from .config import StudyConfig
from .workspace import Workspace

_MAX_KEPT = 2  # tasks whose cases a worker keeps in memory


def split_of(phantoms: PhantomGroups) -> Split:
    """The names of phantoms."""
    groups = (phantoms.train, phantoms.validation, phantoms.test)
    return Split(*(tuple(f"phantom-{seed:04d}" for seed in group.seeds) for group in groups))


def task_cases(config: StudyConfig, task: str, workspace: Workspace, on_progress: OnProgress | None = None) -> StudySet:
    """The phantoms of a task; those of the last tasks stay in memory.

    Raises:
        DatasetError: A phantom's file is damaged.
        OutputError: A phantom cannot be kept.
    """
    groups = config.groups_of(task)
    seeds = (*groups.train.seeds, *groups.validation.seeds, *groups.test.seeds)
    store = _store(config, groups, workspace)
    store.make_missing(seeds, on_progress)
    return StudySet(split_of(groups), _kept_cases(store, seeds, task, config.around_gland_mm))


def training_cases(
    config: StudyConfig, task: str, workspace: Workspace, on_progress: OnProgress | None = None
) -> list[LabeledCase]:
    """The phantoms that train a task, and no others."""
    groups = config.groups_of(task)
    phantoms = _store(config, groups, workspace).phantoms(groups.train.seeds, on_progress)
    return [_cut(TASKS[task].from_phantom(phantom), config.around_gland_mm) for phantom in phantoms]


def shared_test_cases(config: StudyConfig, task: str, workspace: Workspace) -> list[LabeledCase]:
    """The study's own test phantoms as a task's cases: the same for every task, so that distances can be compared."""
    phantoms = _store(config, config.phantoms.groups, workspace).phantoms(config.phantoms.test.seeds)
    return [_cut(TASKS[task].from_phantom(phantom), config.around_gland_mm) for phantom in phantoms]


def phantoms_of_pretraining(
    config: StudyConfig,
    encoder: str,
    workspace: Workspace,
    on_progress: OnProgress | None = None,
    max_count: int | None = None,
) -> list[Phantom]:
    """The phantoms that an encoder is pretrained on, or the first of them."""
    store = PhantomStore(workspace.phantoms, config.phantoms.spacing_mm, for_tasks=False, full_resolution=False)
    return store.phantoms(config.encoders[encoder].pretraining.phantoms.seeds[:max_count], on_progress)


def real_cases(config: StudyConfig, task: str, workspace: Workspace) -> list[LabeledCase]:
    """The real cases that test a task; none where their folder is not known.

    Raises:
        DatasetError: A case or a mask is missing.
        ImageError: A file cannot be read.
    """
    if workspace.real is None or config.real is None:
        return []
    names = MaskNames(config.real.gland, config.real.zones, config.real.lesion)
    return [_read_real(workspace.real / name, task, names, config.around_gland_mm) for name in config.real_of(task)]


def _read_real(path: Path, task: str, names: MaskNames, width_mm: float | None) -> LabeledCase:
    """A real case; the field that distorts its diffusion depends on its name alone."""
    return _cut(read_labeled(path, task, names, seed=zlib.crc32(path.name.encode())), width_mm)


def _store(config: StudyConfig, groups: PhantomGroups, workspace: Workspace) -> PhantomStore:
    return PhantomStore(workspace.phantoms, config.phantoms.spacing_mm, full_resolution=groups.full_resolution)


@lru_cache(maxsize=_MAX_KEPT)
def _kept_cases(
    store: PhantomStore, seeds: tuple[int, ...], task: str, width_mm: float | None
) -> dict[str, LabeledCase]:
    made = (_cut(TASKS[task].from_phantom(phantom), width_mm) for phantom in store.phantoms(seeds))
    return {case.case.id: case for case in made}


def _cut(case: LabeledCase, width_mm: float | None) -> LabeledCase:
    """Cases of image tasks cut around the gland; where it lies is part of the other tasks."""
    task = TASKS[case.task]
    return task.around_gland(case, width_mm) if task.output == "image" and width_mm is not None else case
