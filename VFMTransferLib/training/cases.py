"""Labeled cases of a task and their split: phantoms made on the spot, or a folder of cases with their labels.

A folder holds a folder for each case, or `train`, `validation` and `test` with such folders. Each task's own
`read_labeled` says which masks it needs there; a task with a `label_column` reads the class of each case from
`labels.csv` of the folder, whose other column is `case`.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.volume import Triple
from ..io import read_case
from ..phantom import Phantom, make_phantom
from ..tasks import find_task, lesion_task
from ..tasks.base import DEFAULT_NAMES, CaseFiles, LabeledCase, MaskNames, Task
from ..tasks.lesions import read_label_map

PHANTOM_SPACING_MM: Triple = (1.0, 1.0, 3.0)
PRETRAINING_SEED = 100_000
LABELS = "labels.csv"
_SPLITS = ("train", "validation", "test")
_LEFT_RIGHT = 0
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Split:
    """Which cases train, which validate on the way, which are only measured in the end.

    Attributes:
        train, validation, test: Case names; one patient stands in one list only.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        everyone = [*self.train, *self.validation, *self.test]
        twice = sorted({name for name in everyone if everyone.count(name) > 1})
        if twice:
            raise DatasetError(
                f"Each case must stand once in a split, but {', '.join(twice)} stands more often. Remove it."
            )

    def fold(self, index: int, count: int) -> Split:
        """Leave out every `count`-th training case, from `index` on, for validation.

        Raises:
            ValueError: There is no such fold.
        """
        if not 0 <= index < count <= len(self.train):
            raise ValueError(f"A fold must lie in 0..{count - 1} of at most {len(self.train)}, got {index} of {count}.")
        left_out = self.train[index::count]
        return Split(tuple(name for name in self.train if name not in left_out), left_out, self.test)


@dataclass(frozen=True)
class StudySet:
    """Cases by name, and which of them train."""

    split: Split
    cases: Mapping[str, LabeledCase]

    def of(self, names: Iterable[str]) -> list[LabeledCase]:
        """The cases of some names."""
        return [self.cases[name] for name in names]


def phantom_studies(
    task: str,
    count: int,
    validation: int,
    *,
    seed: int = 0,
    spacing_mm: Triple = PHANTOM_SPACING_MM,
    on_progress: OnProgress | None = None,
) -> StudySet:
    """Phantoms of consecutive seeds; the last ones validate.

    Their diffusion is phase-encoded from left to right, as `predict` takes it by default: a network cannot
    detect the axis.

    Args:
        task: The task.
        count: How many in all.
        validation: How many of them validate.
        seed: The first one's.
        spacing_mm: Voxel of their T2w (x, y, z).
        on_progress: Called with what was made and which share of all.
    """
    if not 0 < validation < count:
        raise DatasetError(f"Some of the phantoms must train and some validate, got {validation} of {count}.")
    made = _phantom_cases(task, range(seed, seed + count), spacing_mm=spacing_mm, on_progress=on_progress)
    cases = {study.case.id: study for study in made}
    names = tuple(cases)
    return StudySet(Split(names[: count - validation], names[count - validation :]), cases)


def _phantom_cases(
    task: str,
    seeds: Sequence[int],
    *,
    spacing_mm: Triple = PHANTOM_SPACING_MM,
    on_progress: OnProgress | None = None,
) -> list[LabeledCase]:
    """A phantom of each seed as a case of a task; see `phantom_studies`."""
    made, maker = [], find_task(task)
    for number, seed in enumerate(seeds, start=1):
        phantom = make_phantom(seed, t2w_spacing_mm=spacing_mm, phase_axis=_LEFT_RIGHT, **maker.phantom_options())
        made.append(maker.from_phantom(phantom))
        if on_progress is not None:
            on_progress(f"phantom {number} of {len(seeds)}", number / len(seeds))
    return made


def pretraining_phantoms(count: int, on_progress: OnProgress | None = None) -> list[Phantom]:
    """Phantoms to pretrain on, of other seeds than those that tasks are trained and measured on."""
    made = []
    for index in range(count):
        made.append(make_phantom(PRETRAINING_SEED + index, t2w_spacing_mm=PHANTOM_SPACING_MM))
        if on_progress is not None:
            on_progress(f"phantom {index + 1} of {count}", (index + 1) / count)
    return made


def folder_cases(folder: Path) -> list[Case]:
    """The images of all cases on disk, DICOM or image files, for pretraining without labels.

    Raises:
        DatasetError: The folder holds no cases.
        ImageError: A file cannot be read.
    """
    return [replace(read_case(path), id=path.name, gland=None) for _, path in _case_folders(folder, least=1)]


def folder_studies(
    folder: Path, task: str, *, gland: str = "gland", validation_share: float = 0.2, seed: int = 0
) -> StudySet:
    """Cases on disk with what is true of them; see the module.

    Args:
        folder: The folder.
        task: The task.
        gland: File stem of the masks of the prostate.
        validation_share: Part of the cases that validate where the folder has no splits; drawn by `seed`.
        seed: Of the draw, and of the fields that distort scans.

    Raises:
        DatasetError: The folder lacks cases or a label.
        ImageError: A file cannot be read.
    """
    folders = _case_folders(folder)
    column = find_task(task).label_column
    classes = _classes(folder, find_task(task)) if column else {}
    cases = {}
    for place, (_, path) in enumerate(folders):
        if column and path.name not in classes:
            raise DatasetError(f"{LABELS} must have a row for case '{path.name}', but has none. Add it.")
        names, category = MaskNames((gland,)), classes.get(path.name)
        cases[path.name] = read_labeled(path, task, names, category=category, seed=seed + place)
    return StudySet(_split(folders, validation_share, seed), cases)


def folder_lesions(folder: Path) -> list[LabeledCase]:
    """All cases on disk with gland and lesions, whatever their split, for pretraining by contrast.

    Raises:
        DatasetError: The folder lacks cases or a label.
        ImageError: A file cannot be read.
    """
    folders = _case_folders(folder, least=1)
    return [read_labeled(path, lesion_task().id) for _, path in folders]


def _case_folders(folder: Path, least: int = 2) -> list[tuple[str, Path]]:
    """Split and folder of each case; the split is empty where the folder has none."""
    if not folder.is_dir():
        raise DatasetError(f"The data must be a folder with a folder for each case, but '{folder.name}' is none.")
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    splits = [path for path in below if path.name in _SPLITS]
    found = [(split.name, path) for split in splits for path in sorted(split.iterdir()) if path.is_dir()]
    found = found or [("", path) for path in below]
    names = [path.name for _, path in found]
    if len(found) < least or len(set(names)) < len(names):
        raise DatasetError(
            f"Folder '{folder.name}' must hold {least} or more cases, each once, but holds {len(found)}."
        )
    return found


def _split(folders: Sequence[tuple[str, Path]], validation_share: float, seed: int) -> Split:
    if any(split for split, _ in folders):
        train, validation, test = (tuple(path.name for split, path in folders if split == name) for name in _SPLITS)
        if not train:
            raise DatasetError("A folder with splits must have cases in 'train', but has none there.")
        return Split(train, validation, test)
    names = [path.name for _, path in folders]
    random.Random(seed).shuffle(names)
    count = min(max(round(validation_share * len(names)), 1), len(names) - 1)
    return Split(tuple(sorted(names[count:])), tuple(sorted(names[:count])))


def read_labeled(
    path: Path, task: str, names: MaskNames = DEFAULT_NAMES, *, category: str | None = None, seed: int = 0
) -> LabeledCase:
    """One case on disk with what is true of it.

    Args:
        path: Folder of the case.
        task: The task.
        names: How its masks are called.
        category: Its class, of a classification; where nobody gave one, the mask of its lesions says whether there is
            clinically significant cancer, which is enough to measure by, though not to train.
        seed: Of the field that distorts a scan.

    Raises:
        DatasetError: A label is missing.
        ImageError: A file cannot be read.
        MissingSequenceError: The case lacks a sequence.
    """
    reader = find_task(task)
    case = read_case(path, sequences=reader.truth_sequences or reader.sequences)
    case = replace(case, id=path.name, gland=None)
    found = (read_label_map(path, stem) for stem in names.gland)
    gland = next((mask.with_array((mask.array > 0).astype(np.uint8)) for mask in found if mask is not None), None)
    return reader.read_labeled(CaseFiles(path, case, gland, names, category, seed))


def _classes(folder: Path, task: Task) -> dict[str, str]:
    """Case → class, from the folder's table."""
    path, column = folder / LABELS, task.label_column
    if not path.is_file():
        raise DatasetError(f"Folder '{folder.name}' must hold {LABELS} with the columns case,{column}. Add it.")
    found = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                found[row.get("case") or ""] = task.class_from_table(row.get(column) or "")
            except ValueError as error:
                raise DatasetError(f"{LABELS}, line {number}: {error}, got '{row.get(column)}'.") from None
    return found
