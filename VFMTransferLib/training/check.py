"""Is a data set fit for training and testing? Sequences, spacing, units, labels, duplicates, leakage between splits.

Images of the task are read as prediction and training read them, so what is refused here would be refused there; what
is wrong with other images of a case is a warning.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.case import Case
from ..core.errors import DatasetError, VFMTransferError
from ..core.terms import SIGNIFICANT_GRADE, Sequence
from ..core.volume import Volume, marked_voxels, share_within
from ..encoders import find_family, pretrained_families
from ..encoders.inputs import needs_gland
from ..io import read_case, read_mask
from ..io.cases import GLAND, candidates_for, words_of
from ..io.images import image_stem, is_image_name
from ..tasks import find_task
from ..tasks.base import DEFAULT_NAMES, ISUP_VALUES, ZONE_VALUES, Task
from .cases import LABELS, case_folders, cases_of_patients, patient_of, read_classes

Severity = Literal["error", "warning", "note"]
# Usual ranges of prostate MRI; outside of them a number is more often wrong than rare. The limits are ours.
_SLICES = 8
_IN_PLANE_MM = (0.2, 3.0)
_THICKNESS_MM = (0.5, 6.0)
_GLAND_ML = (8.0, 400.0)
_MASK_WORD = re.compile(r"[a-z0-9]*(lesion|zone|mask|label|seg|segmentation)s?[0-9]*")
_VALUES = {"lesion": ISUP_VALUES, "zone": ZONE_VALUES}  # by a word in a mask's name
_BESIDE_MM = 1.0  # by which a mask with the T2w's matrix may lie beside it
BINARY_LESIONS = (
    "No lesion mask has a value above 1. Values are ISUP grade groups, so that no cancer is clinically significant: "
    f"write {SIGNIFICANT_GRADE} or more where it is."
)
_SMALL = 16  # voxels along each axis of the pictures by which images are compared
_SAME = 0.995  # correlation of these above which two images count as nearly the same


@dataclass(frozen=True)
class Finding:
    """One thing to know of a case, of several (with commas), or of the whole data set (empty name).

    An `error` keeps a case from being used, a `warning` should be looked at, a `note` is for information.
    """

    severity: Severity
    case: str
    sentence: str


@dataclass(frozen=True)
class CheckedCase:
    """What is remembered of a case; its voxels are not."""

    name: str
    split: str  # folder of the split it lies in; empty without splits
    sequences: tuple[Sequence, ...]
    spacing_mm: dict[Sequence, tuple[float, float, float]]
    labels: dict[str, tuple[int, ...]]  # file stem of each mask → its values
    prints: dict[Sequence, str] = field(repr=False)  # checksums of the voxels
    pictures: dict[Sequence, np.ndarray] = field(repr=False)  # `_SMALL`³ voxels with mean 0 and length 1


@dataclass(frozen=True)
class DataReport:
    cases: tuple[CheckedCase, ...]
    findings: tuple[Finding, ...]

    @property
    def is_fit(self) -> bool:
        return not any(finding.severity == "error" for finding in self.findings)


def check_data(
    folder: Path, task: str, on_progress: Callable[[str, float], None] = lambda stage, fraction: None
) -> DataReport:
    """Read every case of a folder, laid out as for `training.cases`, that is meant for a task; nothing is changed."""
    found = case_folders(folder)
    if not found:
        raise DatasetError(f"Folder '{folder.name}' must hold a folder for each case, but holds none.")
    cases, findings = [], []
    for i, (split, path) in enumerate(found):
        on_progress(path.name, i / len(found))
        try:
            case, problem = _read(path, find_task(task))
            # Files that are no mask by name are left to `read_case`.
            files = [file for file in sorted(path.iterdir()) if is_image_name(file.name)]
            masks = {image_stem(f.name): read_mask(f) for f in files if _is_mask(image_stem(f.name))}
        except VFMTransferError as error:
            findings.append(Finding("error", path.name, str(error)))
            continue
        if problem:
            findings.append(Finding("warning", path.name, f"{problem} {find_task(task).title} does not need it."))
        cases.append(_remembered(case, masks, path.name, split))
        findings += _findings_of_case(case, masks, path.name, task)
    findings += [*_voxel_sizes(cases), *_duplicates(cases), *_shared_patients(cases)]
    findings += _missing_truth(folder, find_task(task), cases)
    splits = Counter(case.split for case in cases if case.split)
    if splits:
        shown = ", ".join(f"{name} {count}" for name, count in splits.items())
        findings.append(Finding("note", "", f"Splits: {shown}."))
    on_progress("done", 1.0)
    return DataReport(tuple(cases), tuple(findings))


def _is_mask(stem: str) -> bool:
    """Whether a file is a mask, by whole words of its name: the scan `ProstateX-0000_adc` is none."""
    return _is_of_gland(stem) or any(map(_MASK_WORD.fullmatch, words_of(stem)))


def _is_of_gland(stem: str) -> bool:
    is_whole = any(word.endswith("gland") for word in words_of(stem))  # as `wholegland`
    return bool(candidates_for(GLAND, [Path(f"{stem}.nii")])) or (is_whole and not _MASK_WORD.search(stem.lower()))


def _read(path: Path, task: Task) -> tuple[Case, str]:
    """A case with all sequences; where these cannot be read, with those of the task alone, and why."""
    try:
        return read_case(path), ""
    except VFMTransferError as error:
        return read_case(path, sequences=task.truth_sequences or task.sequences), str(error)


def _remembered(case: Case, masks: dict[str, Volume], name: str, split: str) -> CheckedCase:
    # In one orientation, and without spacing and position: a new header hides nothing.
    turned = {sequence: volume.to_nearest_lps().array for sequence, volume in case.volumes.items()}
    return CheckedCase(
        name=name,
        split=split,
        sequences=case.sequences,
        spacing_mm={sequence: volume.geometry.spacing_mm for sequence, volume in case.volumes.items()},
        labels={stem: tuple(int(value) for value in np.unique(mask.array)) for stem, mask in masks.items()},
        prints={
            sequence: hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()
            for sequence, array in turned.items()
        },
        pictures={sequence: _picture(array) for sequence, array in turned.items()},
    )


def _picture(array: np.ndarray) -> np.ndarray:
    picks = [np.linspace(0, size - 1, _SMALL).round().astype(int) for size in array.shape]
    small = np.asarray(array[np.ix_(*picks)], np.float64).ravel()
    small -= small.mean()
    return small / (np.linalg.norm(small) or 1.0)


def _findings_of_case(case: Case, masks: dict[str, Volume], name: str, task_id: str) -> Iterator[Finding]:
    task = find_task(task_id)
    sequences = task.truth_sequences or task.sequences
    missing = [sequence for sequence in sequences if sequence not in case]
    if missing:
        needs = ", ".join(sequences)
        yield Finding("error", name, f"{task.title} needs {needs}, but {', '.join(missing)} is missing.")
    for sequence, volume in case.volumes.items():
        grid = volume.to_nearest_lps().geometry
        slices, (x, y, z) = grid.size[2], grid.spacing_mm
        if slices < _SLICES:
            yield Finding("warning", name, f"{sequence} has {slices} slices; the prostate needs at least {_SLICES}.")
        limits = (_IN_PLANE_MM, _IN_PLANE_MM, _THICKNESS_MM)
        if not all(low <= step <= high for step, (low, high) in zip((x, y, z), limits, strict=True)):
            yield Finding("warning", name, f"{sequence} has voxels of {x:.2f} x {y:.2f} x {z:.2f} mm. Is it axial?")
    for stem, mask in masks.items():
        if not mask.array.any():
            if "lesion" not in stem.lower():  # no lesion is an answer, no gland is none
                yield Finding("warning", name, f"Mask {stem} marks nothing.")
            continue
        for word, values in _VALUES.items():
            if word in stem.lower() and (problem := values.problem(mask)):
                yield Finding("error", name, f"Values of mask {stem} {problem}.")
        if "zone" in stem.lower() and _are_exchanged(mask):
            sentence = f"Mask {stem} has its value for the peripheral zone in front of that for the transition zone. "
            yield Finding("warning", name, f"{sentence}Are they exchanged? It must be {ZONE_VALUES.meaning}.")
        ml = float(np.count_nonzero(mask.array)) * mask.geometry.voxel_volume_ml
        if _is_of_gland(stem) and not _GLAND_ML[0] <= ml <= _GLAND_ML[1]:
            yield Finding("warning", name, f"Mask {stem} marks {ml:.1f} ml, which is no usual prostate.")
        if Sequence.T2W not in case or mask.geometry.equals(case[Sequence.T2W].geometry):
            continue
        t2w = case[Sequence.T2W].geometry
        beside = float(np.linalg.norm(np.subtract(mask.geometry.center_mm, t2w.center_mm)))
        if share_within(mask, t2w) == 0:
            yield Finding("error", name, f"Mask {stem} must mark voxels of the T2w, but lies outside of it.")
        elif mask.geometry.size == t2w.size and beside > _BESIDE_MM:
            sentence = f"Mask {stem} has the T2w's matrix, but lies {beside:.0f} mm beside it. Was its position lost?"
            yield Finding("warning", name, sentence)
        else:
            yield Finding("note", name, f"Mask {stem} is not on the T2w's grid and is resampled by position.")
    if not masks and task.marks_voxels:
        yield Finding("warning", name, "There is no mask, so this case can be neither trained nor measured on.")
    for note in case.notes:
        yield Finding("note", name, note.text)


def _are_exchanged(zones: Volume) -> bool:
    """Whether the peripheral zone lies in front of the transition zone, which it mostly lies behind."""
    voxels = [marked_voxels(zones.array == value)[:, ::-1] for value in (1, 2)]
    if not all(map(len, voxels)):
        return False
    peripheral, transition = (float(zones.geometry.to_world(found)[:, 1].mean()) for found in voxels)
    return peripheral < transition  # LPS: posterior is positive


def _missing_truth(folder: Path, task: Task, cases: list[CheckedCase]) -> Iterator[Finding]:
    """What training refuses for want of a truth, but for cases without any mask, which are known already."""
    lacking: dict[str, list[str]] = {}
    without = [case for case in cases if not any(map(_is_of_gland, case.labels))]
    if task.finds_gland:
        sentence = f"{task.title} is learned from a mask of the prostate, which is missing."
        lacking[sentence] = [case.name for case in without if case.labels]
    for family in map(find_family, pretrained_families()):
        with suppress(ValueError):  # of an encoder that has no network for the task
            if needs_gland(family.network_for(task), "auto"):
                sentence = f"{family.title} cannot be trained without a mask of the prostate, which is missing."
                lacking[sentence] = [case.name for case in without]
    if task.finds_lesions:
        lesion = DEFAULT_NAMES.lesion
        sentence = f"{task.title} is learned from a mask {lesion}, empty without a lesion, which is missing."
        lacking[sentence] = [case.name for case in cases if lesion not in case.labels]
        values = {value for case in cases for value in case.labels.get(lesion, ())}
        if 1 in values and max(values) < SIGNIFICANT_GRADE:
            yield Finding("warning", "", BINARY_LESIONS)
    if task.label_column:
        try:
            classes = read_classes(folder, task)
        except DatasetError as error:
            lacking[str(error)] = [""]  # of the whole data set
        else:
            sentence = f"{task.title} is learned from {LABELS}, which has no row for this case."
            lacking[sentence] = [case.name for case in cases if case.name not in classes]
    for sentence, names in lacking.items():
        if names:
            yield Finding("warning", ", ".join(names), sentence)


def _voxel_sizes(cases: list[CheckedCase]) -> Iterator[Finding]:
    for sequence in Sequence:
        sizes = Counter(
            tuple(round(step, 2) for step in case.spacing_mm[sequence]) for case in cases if sequence in case.spacing_mm
        )
        if len(sizes) > 1:
            shown = ", ".join(f"{x:g}x{y:g}x{z:g} ({n})" for (x, y, z), n in sizes.most_common(6))
            more = "" if len(sizes) <= 6 else f" and {len(sizes) - 6} more"
            yield Finding("note", "", f"{sequence} comes in {len(sizes)} voxel sizes, in mm: {shown}{more}.")


def _duplicates(cases: list[CheckedCase]) -> Iterator[Finding]:
    """One finding for all cases whose images have the same voxels, and one for each two that are nearly the same."""
    for sequence in Sequence:
        of_print: dict[str, list[CheckedCase]] = defaultdict(list)
        for case in cases:
            if sequence in case.prints:
                of_print[case.prints[sequence]].append(case)
        for same in of_print.values():
            if len(same) > 1:
                yield _duplicate(same, f"The {sequence} images have the same voxels", "error")
        for a, b in combinations(chain.from_iterable(of_print.values()), 2):
            is_same = a.prints[sequence] == b.prints[sequence]
            if not is_same and float(a.pictures[sequence] @ b.pictures[sequence]) >= _SAME:
                yield _duplicate([a, b], f"The {sequence} images are nearly the same image", "warning")


def _duplicate(cases: list[CheckedCase], what: str, severity: Severity) -> Finding:
    splits = list(dict.fromkeys(case.split for case in cases))
    where = f" and lie in {' and '.join(splits)}: leakage" if len(splits) > 1 else ""
    sentence = f"{what}{where}. Keep one, or keep {'both' if len(cases) == 2 else 'all'} in one split."
    return Finding("error" if where else severity, ", ".join(case.name for case in cases), sentence)


def _shared_patients(cases: list[CheckedCase]) -> Iterator[Finding]:
    """One patient, by names as of `patient_of`, must not be in two splits; a draw keeps them together."""
    plain = [case for case in cases if patient_of(case.name) == case.name]
    if len(plain) < len(cases) and plain and len({case.split for case in cases}) > 1:
        yield Finding(
            "note", "", f"Names that are not PATIENT_STUDY: {len(plain)}. Whose cases they are was not checked."
        )
    split_of = {case.name: case.split for case in cases}
    for _, group in sorted(cases_of_patients(split_of).items()):
        where = sorted({split_of[name] for name in group})
        names = ", ".join(group)
        if len(where) > 1:
            sentence = f"These look like one patient's, by their names, but lie in {' and '.join(where)}."
            yield Finding("error", names, sentence)
        elif len(group) > 1 and where == [""]:
            yield Finding(
                "note", names, "These look like one patient's, by their names: they train, or validate, together."
            )
