"""The cases of a study: phantoms that train, choose and are measured, and real cases that are only measured."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.errors import OutputError
from ..core.files import atomic_file
from ..core.version import __version__
from ..core.volume import Triple
from ..phantom import Phantom
from ..phantom.store import PhantomGroups, PhantomStore
from ..tasks import TASKS
from ..tasks.base import LabeledCase, MaskNames
from ..training.cases import Split, StudySet, read_labeled
from .config import Pretraining, RealCases, StudyConfig

OnProgress = Callable[[str, float], None]
LIBRARY = "library-version.txt"
_KEPT_SETS = 2  # tasks whose cases a worker keeps in memory


@dataclass(frozen=True)
class Place:
    """Where a study lies.

    Attributes:
        folder: Its results and its work; every worker must see it.
        real: The folder of real cases, where they are at hand.
    """

    folder: Path
    real: Path | None = None

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def phantoms(self) -> Path:
        return self.work / "phantoms"


def require_library(place: Place) -> None:
    """Write the library's version into a new study's folder, or require it to be that which is written there.

    Checksums and checkpoints hold the version, so that those of another one look like other settings; here they are
    refused before anything of them is replaced.

    Raises:
        OutputError: The folder's runs are of another version, or it cannot be written.
    """
    path = place.work / LIBRARY
    if path.is_file():
        found = f"version {path.read_text(encoding='utf-8').strip()}"
    elif any((place.work / name).is_dir() for name in ("cells", "results", "pretrained")):
        found = "a version that left no mark"
    else:
        with atomic_file(path) as part:
            part.write_text(__version__ + "\n", encoding="utf-8")
        return
    if found != f"version {__version__}":
        raise OutputError(
            f"The runs in '{place.folder.name}' were trained by {found} of vfm-transfer, and this is version "
            f"{__version__}, whose results may differ. Go on with that version, or train again in a new folder with "
            f"--config {place.folder.name}/config.yaml; tables and report stay readable."
        )


def split_of(phantoms: PhantomGroups) -> Split:
    """The names of phantoms."""
    groups = (phantoms.train, phantoms.validation, phantoms.test)
    return Split(*(tuple(f"phantom-{seed:04d}" for seed in group.seeds) for group in groups))


def study_set(config: StudyConfig, task: str, place: Place, on_progress: OnProgress | None = None) -> StudySet:
    """The phantoms of a task; those of the last tasks stay in memory.

    Raises:
        DatasetError: A phantom's file is damaged.
        OutputError: A phantom cannot be kept.
    """
    groups = config.groups_of(task)
    seeds = (*groups.train.seeds, *groups.validation.seeds, *groups.test.seeds)
    cases = _cases(_store(config, task, place), seeds, task, config.around_gland_mm, _Listener(on_progress))
    return StudySet(split_of(groups), cases)


def training_studies(
    config: StudyConfig, task: str, place: Place, on_progress: OnProgress | None = None
) -> list[LabeledCase]:
    """The phantoms that train a task, and no others."""
    store = _store(config, task, place)
    phantoms = store.phantoms(config.groups_of(task).train.seeds, on_progress)
    return [_cut(TASKS[task].from_phantom(phantom), config.around_gland_mm) for phantom in phantoms]


def common_studies(config: StudyConfig, task: str, place: Place) -> list[LabeledCase]:
    """The study's own test phantoms as a task's cases: the same for every task, so that distances can be compared."""
    shared = config.phantoms
    store = PhantomStore(place.phantoms, shared.spacing_mm, full_resolution=shared.full_resolution)
    phantoms = store.phantoms(shared.test.seeds)
    return [_cut(TASKS[task].from_phantom(phantom), config.around_gland_mm) for phantom in phantoms]


def pretraining_set(
    pretraining: Pretraining, spacing_mm: Triple, place: Place, on_progress: OnProgress | None = None
) -> list[Phantom]:
    """The phantoms that an encoder is pretrained on."""
    store = PhantomStore(place.phantoms, spacing_mm, for_tasks=False, full_resolution=False)
    return store.phantoms(pretraining.phantoms.seeds, on_progress)


def real_studies(config: StudyConfig, task: str, place: Place) -> list[LabeledCase]:
    """The real cases that test a task; none where nobody says where they lie.

    Raises:
        DatasetError: A case or a mask is missing.
        ImageError: A file cannot be read.
    """
    if place.real is None or config.real is None:
        return []
    return [
        _cut(_real_study(place.real / name, task, config.real), config.around_gland_mm) for name in config.real_of(task)
    ]


def _store(config: StudyConfig, task: str, place: Place) -> PhantomStore:
    """Where a task's phantoms lie."""
    twins = config.groups_of(task).full_resolution
    return PhantomStore(place.phantoms, config.phantoms.spacing_mm, full_resolution=twins)


class _Listener:
    """Hears of progress, and is equal to all others, so that a cache takes no note of it."""

    def __init__(self, tell: OnProgress | None) -> None:
        self.tell = tell

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Listener)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=_KEPT_SETS)
def _cases(
    store: PhantomStore, seeds: tuple[int, ...], task: str, width_mm: float | None, listener: _Listener
) -> dict[str, LabeledCase]:
    made = (TASKS[task].from_phantom(phantom) for phantom in store.phantoms(seeds, listener.tell))
    return {study.case.id: _cut(study, width_mm) for study in made}


def _cut(study: LabeledCase, width_mm: float | None) -> LabeledCase:
    """Cases of image tasks cut around the gland; where it lies is part of the other tasks."""
    task = TASKS[study.task]
    return task.around_gland(study, width_mm) if task.output == "image" and width_mm is not None else study


def _real_study(path: Path, task: str, real: RealCases) -> LabeledCase:
    """A real case; the field that distorts its diffusion hangs on its name alone."""
    names = MaskNames(real.gland, real.zones, real.lesion)
    return read_labeled(path, task, names, seed=zlib.crc32(path.name.encode()))
