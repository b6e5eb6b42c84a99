"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..core.errors import OutputError
from ..core.files import atomic_folder
from ..core.result import Result
from ..core.terms import LABEL_TERMS, RESEARCH_USE, Label
from ..core.volume import Geometry, Volume
from .images import write_displacement, write_image, write_volume
from .segmentations import SegmentLayer, write_segmentation

OWN_MARKS = ("result.json", "comparison.json")
CLOCK_TOLERANCE_S = 2.0  # some file systems and archives count in steps of 2 s
_OF_FILE_BROWSERS = ("thumbs.db", "desktop.ini")  # and what begins with a dot


@contextmanager
def output_folder(path: str | Path, marks: tuple[str, ...] = OWN_MARKS) -> Iterator[Path]:
    """Give a hidden sibling to write into, and move it to `path` when the block ends well.

    On any failure, Ctrl-C included, the sibling is removed and what was at `path` stays.

    Args:
        path: Where the results shall lie; missing parents are made. A link to a folder stays, and
            the results lie where it leads.
        marks: Files by which an earlier output is known; only such a folder, in which nothing was
            changed since, or an empty one, is replaced.

    Raises:
        OutputError: `path` is something else than an earlier output, or cannot be written; disk full.
    """
    target = Path(path).absolute()
    target = target.resolve() if target.is_symlink() and target.is_dir() else target
    require_replaceable(target, marks)
    with atomic_folder(target, overwrite=True) as work:
        yield work
        for mark in _marks_in(work, marks):
            os.utime(mark)  # the last of all, so that it tells when the output was whole


def require_replaceable(target: Path, marks: tuple[str, ...] = OWN_MARKS) -> None:
    """Raise if something is at `target` that is not an earlier output.

    Raises:
        OutputError: It is.
    """
    if not target.exists() and not target.is_symlink():
        return
    found = _marks_in(target, marks)
    if not found and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(
            f"Output '{target.name}' must be a new folder or an earlier output, but is neither. Choose another name."
        )
    if changed := _changed_since(target, found):
        raise OutputError(
            f"Output '{target.name}' must be as it was written to be replaced, but '{changed.name}' in it was changed "
            "or added since, and would be lost. Move that file, or choose another name."
        )


def _marks_in(folder: Path, marks: tuple[str, ...]) -> list[Path]:
    return [folder / mark for mark in marks if (folder / mark).is_file()]


def _changed_since(folder: Path, marks: list[Path]) -> Path | None:
    """A file that is newer than the output it lies in: a corrected segmentation, a note, another output."""
    whole_at = max((mark.stat().st_mtime for mark in marks), default=0.0) + CLOCK_TOLERANCE_S
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and not _is_of_file_browser(f.name))
    return next((f for f in files if f.stat().st_mtime > whole_at), None)


def _is_of_file_browser(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_FILE_BROWSERS


# A result as a folder of files, whole or not at all: each image on the grid of the input it belongs to, and numbers.
#
# `schemas/result.schema.json` describes `result.json`.

FORMAT = 1
RESULT = "result.json"
LABELS = "labels.nii.gz"
SEGMENTATION = "segmentation.seg.nrrd"
PROBABILITIES = "probabilities.nii.gz"
DISPLACEMENT = "displacement.nii.gz"
IMAGE_SUFFIX = ".nii.gz"
WRITE_STAGE = "write"


def save_result(result: Result, folder: Path | str) -> Path:
    """Write all that a result holds; see `files_of` for the names.

    Args:
        result: What one network says of one case.
        folder: New, empty, or an earlier output, which is replaced.

    Returns:
        The folder.

    Raises:
        OutputError: The folder is something else, or cannot be written; the disk is full. Nothing is left then.
    """
    with output_folder(folder) as work:
        begin = time.perf_counter()
        _write_images(result, work)
        document = result_to_json(result)
        document["seconds"][WRITE_STAGE] = time.perf_counter() - begin
        (work / RESULT).write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    return Path(folder)


def files_of(result: Result) -> list[str]:
    """Names of the image files that the result is written as."""
    names = [LABELS, SEGMENTATION] if result.labels is not None else []
    names += [PROBABILITIES] if result.probabilities else []
    names += [name + IMAGE_SUFFIX for name in result.images]
    return names + ([DISPLACEMENT] if result.displacement_mm is not None else [])


def result_to_json(result: Result) -> dict[str, Any]:
    """The content of `result.json`."""
    source = asdict(result.provenance)
    return {
        "format": FORMAT,
        "research_use": RESEARCH_USE,
        "case": result.case_id,
        "task": str(result.task),
        "model": {key: source[key] for key in ("bundle", "title", "arm", "sha256", "runtime", "device", "precision")},
        "options": source["options"],
        "versions": source["versions"],
        "seconds": dict(source["seconds"]),
        "notes": list(source["notes"]),
        "labels": [_label_row(name, value) for name, value in result.label_values.items()],
        "probabilities": [str(name) for name in result.probabilities],
        "volumes_ml": dict(result.volumes_ml),
        "lesions": [asdict(lesion) for lesion in result.lesions],
        "class_probabilities": dict(result.class_probabilities),
        "derived_probabilities": dict(result.derived_probabilities),
        "files": files_of(result),
    }


def _label_row(name: str, value: int) -> dict[str, Any]:
    term = LABEL_TERMS.get(Label(name)) if name in tuple(Label) else None
    code = asdict(term.type) if term else None
    return {"value": value, "name": str(name), "title": term.title if term else str(name), "code": code}


def _write_images(result: Result, folder: Path) -> None:
    if result.labels is not None:
        write_volume(result.labels, folder / LABELS)
        write_segmentation(folder / SEGMENTATION, _layers(result, result.labels))
    if result.probabilities:
        _write_probabilities(list(result.probabilities.values()), folder / PROBABILITIES)
    for name, volume in result.images.items():
        write_volume(volume, folder / (name + IMAGE_SUFFIX))
    if result.displacement_mm is not None:
        write_displacement(result.displacement_mm, _first_grid(result), folder / DISPLACEMENT)


def _layers(result: Result, labels: Volume) -> list[SegmentLayer]:
    """The label map's segments, and under them the whole prostate where its zones make it up."""
    layers = [SegmentLayer(labels, result.label_values)]
    if Label.PROSTATE in result.volumes_ml and Label.PROSTATE not in result.label_values:
        gland = labels.with_array((labels.array > 0).astype("uint8"))
        layers.append(SegmentLayer(gland, {str(Label.PROSTATE): 1}))
    return layers


def _write_probabilities(volumes: list[Volume], path: Path) -> None:
    """One label as a 3D image; several as a 4D image whose last axis follows `probabilities` in `result.json`."""
    if len(volumes) == 1:
        write_volume(volumes[0], path)
    else:
        write_image(sitk.JoinSeries([volume.to_sitk() for volume in volumes]), path)


def _first_grid(result: Result) -> Geometry:
    return next(iter(result.images.values())).geometry
