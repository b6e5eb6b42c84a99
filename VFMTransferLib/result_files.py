"""A result as a folder of files, whole or not at all: each image on the grid of the input it belongs to, and numbers.

`schemas/result.schema.json` describes `result.json`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .io import SegmentLayer, output_folder, write_displacement, write_segmentation, write_volume
from .io.images import write_image
from .result import Result
from .terms import LABEL_TERMS, RESEARCH_USE, Label
from .volume import Geometry, Volume

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
