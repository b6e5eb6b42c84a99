"""Labeled cases of a task and their split: phantoms made on the spot, or a folder of cases with their labels.

A folder holds a folder for each case, or folders of `SPLIT_FOLDERS` (`train`, `val`, ...) with such. Each task's own
`read_labeled` states which masks it needs; a task with a `label_column` reads the class of each case from `labels.csv`,
whose other column is `case`.
"""

from __future__ import annotations

import csv
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.files import file_sha256
from ..core.terms import OnProgress, phantom_name
from ..core.volume import Triple
from ..io import read_case
from ..phantom import VERSION, Phantom, make_phantom
from ..tasks import find_task, lesion_task
from ..tasks.base import DEFAULT_NAMES, CaseFiles, LabeledCase, MaskNames, Task, read_label_map, require_within

PHANTOM_SPACING_MM: Triple = (1.0, 1.0, 3.0)
PRETRAINING_SEED = 100_000
LABELS = "labels.csv"
# The split that a folder of a name holds, in small letters.
SPLIT_FOLDERS = {
    **{"train": "train", "training": "train", "validation": "validation", "val": "validation"},
    **{"test": "test", "testing": "test"},
}
_LEFT_RIGHT = 0
_PATIENT_STUDY = re.compile(r"([^_]*[0-9][^_]*)_[^_]+")


Read = TypeVar("Read")


@dataclass(frozen=True)
class Split:
    """Names of the cases that train, validate on the way, and are only measured in the end; each in one list only."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        everyone = [*self.train, *self.validation, *self.test]
        twice = sorted({name for name in everyone if everyone.count(name) > 1})
        if twice:
            raise DatasetError(f"Cases stand more than once in the split: {', '.join(twice)}. Remove them.")


@dataclass(frozen=True)
class LazyCase(Generic[Read]):
    """A case that is read when it is first shown.

    Attributes:
        id: Its name.
        identity: A text that changes with anything that decides it.
        read: Reads or makes it.
    """

    id: str
    identity: str
    read: Callable[[], Read]


class LazyCases(Mapping[str, LabeledCase]):
    """Cases by name that are read each time they are asked for, and not kept.

    Args:
        sources: Name → a text that changes with anything that decides the case, and what reads it.
    """

    def __init__(self, sources: Mapping[str, tuple[str, Callable[[], LabeledCase]]]) -> None:
        self.sources = {name: LazyCase(name, identity, read) for name, (identity, read) in sources.items()}

    def __getitem__(self, name: str) -> LabeledCase:
        return self.sources[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class LabeledDataset:
    """Cases by name, and which of them train."""

    split: Split
    cases: Mapping[str, LabeledCase]

    def select(self, names: Iterable[str]) -> Sequence[LabeledCase]:
        """The cases of these names, in their order; of `LazyCases` each is read again whenever it is asked for."""
        return _Selected(self.cases, tuple(names))

    def lazy(self, name: str) -> LabeledCase | LazyCase[LabeledCase]:
        """A case, not read yet where the cases are lazy."""
        return self.cases.sources[name] if isinstance(self.cases, LazyCases) else self.cases[name]


@dataclass(frozen=True)
class _Selected(Sequence[LabeledCase]):
    """Some of the cases, of which none is held."""

    cases: Mapping[str, LabeledCase]
    names: tuple[str, ...]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Selected(self.cases, self.names[index])
        return self.cases[self.names[index]]

    def __len__(self) -> int:
        return len(self.names)


def phantom_dataset(
    task: str,
    count: int,
    validation: int,
    *,
    seed: int = 0,
    spacing_mm: Triple = PHANTOM_SPACING_MM,
    on_progress: OnProgress | None = None,
) -> LabeledDataset:
    """`count` phantoms of consecutive seeds, of which the last `validation` ones validate.

    Their diffusion is phase-encoded from left to right, as `predict` takes it by default: a network cannot detect the
    axis. `spacing_mm` is of their T2w.
    """
    if not 0 < validation < count:
        raise DatasetError(f"Some of the phantoms must train and some validate, got {validation} of {count}.")
    maker = find_task(task)
    options = {"t2w_spacing_mm": spacing_mm, "phase_axis": _LEFT_RIGHT, **maker.phantom_options()}
    cases: dict[str, LabeledCase] = {}
    for number in range(1, count + 1):
        labeled = maker.from_phantom(make_phantom(seed + number - 1, **options))
        cases[labeled.case.id] = labeled
        if on_progress is not None:
            on_progress(f"phantom {number} of {count}", number / count)
    names = tuple(cases)
    return LabeledDataset(Split(names[: count - validation], names[count - validation :]), cases)


def pretraining_phantoms(count: int, *, tissue_maps: bool = False) -> list[LazyCase[Phantom]]:
    """Phantoms to pretrain on, of other seeds than those that tasks are trained and measured on."""
    options: dict[str, Any] = {"t2w_spacing_mm": PHANTOM_SPACING_MM, "tissue_maps": tissue_maps}
    return [
        LazyCase(phantom_name(seed), f"phantom {VERSION} {seed} {options}", partial(make_phantom, seed, **options))
        for seed in range(PRETRAINING_SEED, PRETRAINING_SEED + count)
    ]


def folder_cases(folder: Path, *, lesions: bool = False) -> list[LazyCase[Any]]:
    """The cases on disk that train, for pretraining: their images, or also gland and lesions."""

    def images(path: Path) -> Case:
        return replace(read_case(path), id=path.name, gland=None)

    read, kind = (partial(read_labeled, task=lesion_task().id), "lesions") if lesions else (images, "images")
    return [
        LazyCase(path.name, f"{kind} {file_facts(path)}", partial(read, path))
        for split, path in _distinct_folders(folder)
        if _trains(split)
    ]


def folder_dataset(
    folder: Path, task: str, *, gland: str = "gland", validation_share: float = 0.2, seed: int = 0, lazy: bool = False
) -> LabeledDataset:
    """Cases on disk with what is true of them; see the module. DatasetError where the folder lacks cases or a label, or
    where a patient's cases lie in two parts of the split, by names as of `patient_of`.

    Args:
        gland: File stem of the masks of the prostate.
        validation_share: Part of the cases that validate where the folder has no splits; drawn by `seed`, all
            cases of a patient together.
        seed: Of the draw, and of the fields that distort scans.
        lazy: Read a case where it is asked for, known by its place and its files' names, sizes and times; what is
            wrong with it shows then.
    """
    folders, reader = _distinct_folders(folder, 2), find_task(task)
    classes = read_classes(folder, reader) if reader.label_column else {}
    sources: dict[str, tuple[str, Callable[[], LabeledCase]]] = {}
    for place, (_, path) in enumerate(folders):
        if reader.label_column and path.name not in classes:
            raise DatasetError(f"{LABELS} has no row for case '{path.name}'. Add it.")
        category, names = classes.get(path.name), MaskNames((gland,))
        reading = partial(read_labeled, path, task, names, category=category, seed=seed + place)
        sources[path.name] = (f"{task} {gland} {category} {seed + place} {file_facts(path)}" if lazy else "", reading)
    cases = LazyCases(sources) if lazy else {name: read() for name, (_, read) in sources.items()}
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    if any(split for split, _ in folders):
        for split, path in folders:
            parts[SPLIT_FOLDERS[split.lower()]].append(path.name)
        _require_apart(parts)
    else:
        parts["train"], parts["validation"] = _drawn(list(cases), validation_share, seed)
    return LabeledDataset(Split(**{part: tuple(names) for part, names in parts.items()}), cases)


def patient_of(name: str) -> str:
    """Whose case it is: of names as `<patient>_<study>`, the patient with a number, the patient; else a case is one."""
    found = _PATIENT_STUDY.fullmatch(name)
    return found[1] if found else name


def cases_of_patients(names: Iterable[str]) -> dict[str, list[str]]:
    """Patient → names of the cases, by `patient_of`, both in the order in which they come."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(patient_of(name), []).append(name)
    return found


def _require_apart(parts: Mapping[str, Iterable[str]]) -> None:
    """DatasetError where a patient's cases lie in two parts of a split."""
    part_of = {name: part for part, names in parts.items() for name in names}
    for names in cases_of_patients(part_of).values():
        where = dict.fromkeys(part_of[name] for name in names)
        if len(where) > 1:
            raise DatasetError(
                f"Cases of one patient, by their names, lie in {' and '.join(where)}: {', '.join(names)}. Move them, "
                "or rename those of different patients."
            )


def _drawn(names: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """A share of the cases drawn to validate, whole patients until it is reached: those that train, and these."""
    of_patient = cases_of_patients(names)
    if len(of_patient) < 2:
        raise DatasetError(
            "All cases are of one patient by their names, so that none can validate. Add cases of others, or rename "
            "those of different patients."
        )
    patients = list(of_patient)
    random.Random(seed).shuffle(patients)
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    validation: list[str] = []
    for patient in patients[:-1]:
        if len(validation) < count:
            validation += of_patient[patient]
    return sorted(set(names) - set(validation)), sorted(validation)


def file_facts(folder: Path) -> str:
    """A checksum of where a folder lies and of the names, sizes and times of all its files.

    Two patients' files may be of one size and, after an archive was unpacked, of one time.
    """
    found = ((str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    text = "\n".join(f"{name} {facts.st_size} {facts.st_mtime_ns}" for name, facts in found)
    return hashlib.sha256(f"{folder.resolve()}\n{text}".encode(errors="surrogateescape")).hexdigest()


def folder_checksum(folder: Path, names: Iterable[str] | None = None) -> str:
    """A checksum of cases on disk: of names and bytes, but not of hidden files.

    Of those of some names, or of all that decide a training, which those that test do not, and of their table of
    classes.
    """
    digest = hashlib.sha256()
    if names is None:
        tables = [folder / LABELS]
        cases = [case for split, case in case_folders(folder) if SPLIT_FOLDERS.get(split.lower()) != "test"]
    else:
        tables, cases = [], [folder / name for name in names]
    for path in tables + [file for case in cases for file in sorted(case.rglob("*"))]:
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()} {file_sha256(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def case_folders(folder: Path) -> list[tuple[str, Path]]:
    """The folder of each case on disk, and the name of the split's folder that it lies in; empty without splits."""
    if not folder.is_dir():
        raise DatasetError(f"'{folder.name}' is not a folder. Name one with a folder for each case.")

    def below(path: Path) -> list[Path]:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))

    splits = [path for path in below(folder) if path.name.lower() in SPLIT_FOLDERS]
    if outside := [path.name for path in below(folder) if splits and path not in splits]:
        raise DatasetError(
            f"Cases lie next to the folders of the splits, not within them: {', '.join(outside[:5])}. Move them."
        )
    return [(split.name, path) for split in splits for path in below(split)] or [("", path) for path in below(folder)]


def _distinct_folders(folder: Path, min_count: int = 1) -> list[tuple[str, Path]]:
    """As `case_folders`, each case once, and some of them to train."""
    found = case_folders(folder)
    if len(found) < min_count or len({path.name for _, path in found}) < len(found):
        raise DatasetError(
            f"Folder '{folder.name}' holds {len(found)} cases; it needs {min_count} or more, each name once."
        )
    if not any(_trains(split) for split, _ in found):
        raise DatasetError("The folder has splits, but no cases in 'train'. Add some.")
    return found


def _trains(split: str) -> bool:
    """Whether cases in a split's folder train, as all do where there are no splits."""
    return not split or SPLIT_FOLDERS[split.lower()] == "train"


def read_labeled(
    path: Path, task: str, names: MaskNames = DEFAULT_NAMES, *, category: str | None = None, seed: int = 0
) -> LabeledCase:
    """One case on disk with what is true of it; `names` are the file stems of its masks.

    Args:
        category: Its class, of a classification; where nobody gave one, the mask of its lesions shows whether there is
            clinically significant cancer, which is enough to measure by, though not to train.
        seed: Of the field that distorts a scan.

    Raises:
        DatasetError, ImageError, MissingSequenceError: A label is missing, has unknown values or lies outside of the
            images; a file cannot be read; a sequence is missing.
    """
    reader = find_task(task)
    case = read_case(path, sequences=reader.truth_sequences or reader.sequences)
    case = replace(case, id=path.name, gland=None)
    masks = ((stem, read_label_map(path, stem)) for stem in names.gland)
    stem, gland = next(((stem, mask) for stem, mask in masks if mask is not None), ("", None))
    if gland is not None:
        require_within(gland, stem, case)
        gland = gland.with_array((gland.array > 0).astype(np.uint8))
    return reader.read_labeled(CaseFiles(path, case, gland, names, category, seed))


def read_classes(folder: Path, task: Task) -> dict[str, str]:
    """Case → class, from the folder's table; DatasetError where it is missing or states none."""
    path, column = folder / LABELS, task.label_column
    if not path.is_file():
        raise DatasetError(f"Folder '{folder.name}' has no {LABELS}. Add one with the columns case,{column}.")
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()  # as Excel writes it
    rows = csv.DictReader(lines)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    if lacking := [name for name in ("case", column) if name not in rows.fieldnames]:
        raise DatasetError(f"{LABELS} lacks the columns {', '.join(lacking)}. Separate columns by commas.")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, value = ((row[key] or "").strip() for key in ("case", column))
        if not name and not value:
            continue
        try:
            category = task.class_from_table(value)
        except ValueError as error:
            raise DatasetError(f"{LABELS}, line {number}: {error}, got '{value}'.") from None
        if found.setdefault(name, category) != category:
            raise DatasetError(f"{LABELS}, line {number}: case '{name}' has another {column} above. Remove one row.")
    return found
