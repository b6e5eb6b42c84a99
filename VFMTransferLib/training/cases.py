"""Study cases of a task and their split: phantoms made on the spot, or a folder of cases with their labels.

A folder holds a folder for each case, or `train`, `validation` and `test` with such folders. What a case is named by:

anatomy segmentation   a mask of the prostate; `zones` (1 peripheral, 2 transition zone) where there is one
lesion segmentation    `lesion`, whose values are ISUP grade groups
classification         its row in `labels.csv` of the folder: `case,pirads`
image tasks            nothing: the scan itself is the truth
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
from ..core.terms import Label, TaskId
from ..core.volume import Triple, Volume
from ..evaluation.gland import read_gland_mask
from ..io import read_case, read_mask
from ..phantom import Phantom, make_phantom
from ..phantom.gland import SIGNIFICANT_GRADE
from ..tasks.base import TASKS
from ..tasks.truth import PI_RADS, StudyCase, from_labels, from_phantom, from_scan

PHANTOM_SPACING_MM: Triple = (1.0, 1.0, 3.0)
PRETRAINING_SEED = 100_000
LABELS = "labels.csv"
_SPLITS = ("train", "validation", "test")
_MASK_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
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
    cases: Mapping[str, StudyCase]

    def of(self, names: Iterable[str]) -> list[StudyCase]:
        """The cases of some names."""
        return [self.cases[name] for name in names]


def phantom_studies(
    task: TaskId,
    count: int,
    validation: int,
    *,
    seed: int = 0,
    spacing_mm: Triple = PHANTOM_SPACING_MM,
    on_progress: OnProgress | None = None,
) -> StudySet:
    """Phantoms of consecutive seeds; the last ones validate.

    Their diffusion is phase-encoded from left to right, as `predict` takes it unless told otherwise: a network cannot
    know the axis.

    Args:
        task: The task.
        count: How many in all.
        validation: How many of them validate.
        seed: The first one's.
        spacing_mm: Voxel of their T2w (x, y, z).
        on_progress: Told what was made and which share of all.
    """
    if not 0 < validation < count:
        raise DatasetError(f"Some of the phantoms must train and some validate, got {validation} of {count}.")
    made = _phantom_cases(task, range(seed, seed + count), spacing_mm=spacing_mm, on_progress=on_progress)
    cases = {study.case.id: study for study in made}
    names = tuple(cases)
    return StudySet(Split(names[: count - validation], names[count - validation :]), cases)


def _phantom_cases(
    task: TaskId,
    seeds: Sequence[int],
    *,
    spacing_mm: Triple = PHANTOM_SPACING_MM,
    on_progress: OnProgress | None = None,
) -> list[StudyCase]:
    """A phantom of each seed as a case of a task; see `phantom_studies`."""
    made = []
    for number, seed in enumerate(seeds, start=1):
        phantom = make_phantom(
            seed,
            sequences=TASKS[task].sequences if task is not TaskId.ADC_TRANSLATION else ("t2w", "adc"),
            t2w_spacing_mm=spacing_mm,
            full_resolution=task is TaskId.SUPER_RESOLUTION,
            phase_axis=_LEFT_RIGHT,
        )
        made.append(from_phantom(phantom, task))
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
    folder: Path, task: TaskId, *, gland: str = "gland", validation_share: float = 0.2, seed: int = 0
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
    classes = _classes(folder) if task is TaskId.CLASSIFICATION else {}
    cases = {path.name: _study(path, task, gland, classes, seed + place) for place, (_, path) in enumerate(folders)}
    return StudySet(_split(folders, validation_share, seed), cases)


def folder_lesions(folder: Path) -> list[StudyCase]:
    """All cases on disk with gland and lesions, whatever their split, for pretraining by contrast.

    Raises:
        DatasetError: The folder lacks cases or a label.
        ImageError: A file cannot be read.
    """
    folders = _case_folders(folder, least=1)
    return [_study(path, TaskId.LESION_SEGMENTATION, "gland", {}, 0) for _, path in folders]


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


@dataclass(frozen=True)
class MaskNames:
    """File stems of a case's masks; of the gland's several, the first that a case has is taken."""

    gland: tuple[str, ...] = ("gland",)
    zones: str = "zones"
    lesion: str = "lesion"


def read_study(
    path: Path, task: TaskId, names: MaskNames = MaskNames(), *, category: str | None = None, seed: int = 0
) -> StudyCase:
    """One case on disk with what is true of it.

    Args:
        path: Folder of the case.
        task: The task.
        names: How its masks are called.
        category: Its PI-RADS class, of a classification; where nobody gave one, the mask of its lesions says whether
            there is clinically significant cancer, which is enough to measure by, though not to train.
        seed: Of the field that distorts a scan.

    Raises:
        DatasetError: A label is missing.
        ImageError: A file cannot be read.
        MissingSequenceError: The case lacks a sequence.
    """
    case = replace(read_case(path, sequences=_sequences(task)), id=path.name, gland=None)
    found = (read_gland_mask(path, stem) for stem in names.gland)
    gland = next((mask for mask in found if mask is not None), None)
    if TASKS[task].output == "image":
        return from_scan(case, task, seed=seed, gland=gland)
    if category is not None:
        return from_labels(case, task, gland=gland, category=category)
    if task is TaskId.ANATOMY_SEGMENTATION:
        return from_labels(case, task, gland=gland, masks=_anatomy(path, case, gland, names))
    return from_labels(case, task, gland=gland, masks=_cancers(path, case, names))


def _study(path: Path, task: TaskId, gland: str, classes: Mapping[str, str], seed: int) -> StudyCase:
    if task is TaskId.CLASSIFICATION and path.name not in classes:
        raise DatasetError(f"{LABELS} must have a row for case '{path.name}', but has none. Add it.")
    return read_study(path, task, MaskNames((gland,)), category=classes.get(path.name), seed=seed)


def _sequences(task: TaskId) -> tuple:
    """What is read: for T2w→ADC the answer too."""
    return (*TASKS[task].sequences, "adc") if task is TaskId.ADC_TRANSLATION else TASKS[task].sequences


def _anatomy(path: Path, case: Case, gland: Volume | None, names: MaskNames) -> dict[Label, Volume]:
    if gland is None:
        raise DatasetError(
            f"Case '{case.id}' must have a mask {' or '.join(names.gland)}, but has none. Draw one, or leave it out."
        )
    zones = _labels(path, names.zones)
    values = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}
    parts = {} if zones is None else {label: _where(zones, zones.array == v) for label, v in values.items()}
    return {Label.PROSTATE: gland, **parts}


def _cancers(path: Path, case: Case, names: MaskNames) -> dict[Label, Volume]:
    grades = _labels(path, names.lesion)
    if grades is None:
        raise DatasetError(
            f"Case '{case.id}' must have a mask {names.lesion}, empty without a lesion, but has none. Add it."
        )
    grade = grades.array
    return {
        Label.INDOLENT_CANCER: _where(grades, (grade > 0) & (grade < SIGNIFICANT_GRADE)),
        Label.CSPCA: _where(grades, grade >= SIGNIFICANT_GRADE),
    }


def _labels(folder: Path, stem: str) -> Volume | None:
    found = [folder / f"{stem}{suffix}" for suffix in _MASK_SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
    return read_mask(found[0], stem) if found else None


def _where(labels: Volume, mask: np.ndarray) -> Volume:
    return labels.with_array(mask.astype(np.uint8))


def _classes(folder: Path) -> dict[str, str]:
    """Case → PI-RADS class, from the folder's table."""
    path = folder / LABELS
    if not path.is_file():
        raise DatasetError(f"Folder '{folder.name}' must hold {LABELS} with the columns case,pirads. Add it.")
    found = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            name = f"PI-RADS {(row.get('pirads') or '').strip()}"
            if name not in PI_RADS:
                raise DatasetError(f"{LABELS}, line {number}: pirads must be 2, 3, 4 or 5, got '{row.get('pirads')}'.")
            found[row.get("case") or ""] = name
    return found
