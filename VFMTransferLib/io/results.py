"""A result as a folder of files that appears whole or not at all: images, each on its input's grid, and numbers.

`result.json` holds a `ResultDocument`; `result.schema.json` beside this file is generated from that class.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import SimpleITK as sitk

from ..core.decoding import OMITTED, Limits, NotNegative, from_json, parse_json, to_json
from ..core.errors import OutputError
from ..core.files import OF_FILE_BROWSERS, atomic_folder, file_sha256, plain_text, read_small
from ..core.measurements import DiceEstimate, GlandMeasurements, QualityCriterion
from ..core.notes import Note
from ..core.result import Lesion, Provenance, Result
from ..core.terms import LABEL_TERMS, RESEARCH_USE, Code, Label
from ..core.volume import Geometry
from .images import read_mask, read_volume, write_displacement, write_image, write_volume
from .segmentations import SegmentLayer, write_segmentation

OWN_MARKS = ("result.json", "comparison.json")
# The keys by which a document is known as one of this project's, and those for several cases and of other commands.
_KEYS = {
    "comparison.json": {"format", "note", "case", "task", "a", "b", "measures"},
    "cohort.json": {"format", "note", "cases", "rows"},
    "diffusion.json": {"note", "b_values", "files"},
    "phantom.json": {"case", "seed", "labels", "units"},
}
_BESIDE_COMPARISON = ("comparison.csv", "comparison.png", "report.html")


@contextmanager
def output_folder(path: str | Path, marks: tuple[str, ...] = OWN_MARKS) -> Iterator[Path]:
    """Give a hidden sibling to write into, and move it to `path` when the block ends well.

    On any failure, Ctrl-C included, the sibling is removed and what was at `path` stays. Where something came to `path`
    meanwhile that would be lost, the sibling is kept beside it; see `atomic_folder`.

    Args:
        path: Missing parents are made. A link to a folder stays, and the results lie where it leads.
        marks: Files by which an earlier output is known; only such a folder, in which nothing was
            changed or added since, or an empty one, is replaced.

    Raises:
        OutputError: `path` is something else than an earlier output, or cannot be written; disk full.
    """
    target = Path(path).absolute()
    target = target.resolve() if target.is_symlink() and target.is_dir() else target
    with atomic_folder(target, overwrite=True, check=partial(require_replaceable, marks=marks)) as work:
        yield work
        _record_files(work, marks)


def _record_files(folder: Path, marks: tuple[str, ...]) -> None:
    """State the checksums of all files in the documents by which an output is known, which are written last."""
    found = _marks_in(folder, marks)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in found]
    sha256 = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    for mark in found:
        document = {**json.loads(mark.read_text("utf-8")), "sha256": sha256}
        mark.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def require_replaceable(target: Path, marks: tuple[str, ...] = OWN_MARKS) -> None:
    """Raise OutputError if something is at `target` that is not an earlier output, or more than that."""
    if not target.exists() and not target.is_symlink():
        return
    found = {mark: document for mark in _marks_in(target, marks) if (document := _own_document(mark)) is not None}
    if not found and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(
            f"Output '{target.name}' must be a new folder or an earlier output, but is neither. Choose another name."
        )
    records = [document["sha256"] for document in found.values() if isinstance(document.get("sha256"), dict)]
    sha256 = {target / name: digest for record in records for name, digest in record.items()}
    own = set(sha256 if records else _own_files(target, marks))
    whole_at = max((mark.stat().st_mtime for mark in found), default=0.0)
    for file in sorted(target.rglob("*")):
        if file in found or file.name.lower() in OF_FILE_BROWSERS or (file.is_dir() and not file.is_symlink()):
            continue
        if records:
            is_changed = file in own and not (file.is_file() and file_sha256(file) == sha256[file])
        else:  # earlier versions stated no checksums; a corrected segmentation is newer than the output, if not copied
            is_changed = file.lstat().st_mtime > whole_at
        if file not in own or is_changed:
            raise OutputError(
                f"Output '{target.name}' must be as it was written to be replaced, but '{file.name}' in it was changed "
                "or added since, and would be lost. Move that file, or choose another name."
            )


def _own_files(folder: Path, marks: tuple[str, ...]) -> Iterator[Path]:
    """The files of an output without checksums, as its documents list them."""
    for mark in _marks_in(folder, marks):
        document = _own_document(mark)
        if document is None:
            continue
        yield mark
        yield from (folder / str(name) for name in document.get("files", ()))
        if mark.name == RESULT:
            yield from (folder / "dicom").rglob("*.dcm")
        elif mark.name == "comparison.json":
            yield from (folder / name for name in _BESIDE_COMPARISON)
            for arm in ("a", "b"):
                yield from _own_files(folder / arm, (RESULT,))
        elif mark.name == "cohort.json":
            yield mark.with_suffix(".csv")
            for case in document["cases"]:
                yield from _own_files(folder / str(case), OWN_MARKS)


def _own_document(mark: Path) -> dict[str, Any] | None:
    """What an output is known by, or None where another program wrote it."""
    try:
        document = parse_json(read_small(mark))
        if mark.name == RESULT:
            from_json(ResultDocument, document, RESULT)
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and _KEYS.get(mark.name, set()) <= document.keys() else None


def _marks_in(folder: Path, marks: tuple[str, ...]) -> list[Path]:
    return [folder / mark for mark in marks if (folder / mark).is_file()]


FORMAT: Literal[1] = 1
RESULT = "result.json"
LABELS = "labels.nii.gz"
SEGMENTATION = "segmentation.seg.nrrd"
PROBABILITIES = "probabilities.nii.gz"
DISPLACEMENT = "displacement.nii.gz"
IMAGE_SUFFIX = ".nii.gz"
WRITE_STAGE = "write"
_MAX_RESULT_BYTES = 64 << 20

Probability = Annotated[float, Limits(minimum=0, maximum=1.000001)]
# Of a file in the result's own folder: a name alone, so that it leads nowhere else.
FileName = Annotated[
    str, Limits(pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}", words="the name of a file in the result's folder")
]
Sha256 = Annotated[str, Limits(pattern="[0-9a-f]{64}")]


@dataclass(frozen=True)
class ModelRow:
    """The network that predicted, and how it was run.

    Attributes:
        arm: Empty where the weights are no arm of a transfer study.
        sha256: Of the weights.
        min_confidence: Of lesions: a place above the threshold whose largest probability is below it is no mark. Absent
            where each one is.
        gland_sha256: Of the weights of the network that searched the prostate for this one; absent where none did.
    """

    bundle: str
    title: str
    arm: Literal["pretrained", "scratch", ""]
    sha256: Sha256
    runtime: str
    device: str
    precision: str
    min_confidence: Probability | None = field(default=None, metadata=OMITTED)
    gland_sha256: Sha256 | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True)
class LabelRow:
    """What a value in `labels.nii.gz` means; 0 is background.

    Attributes:
        code: SNOMED CT type of the structure, where its meaning is known.
    """

    value: Annotated[int, Limits(minimum=1, maximum=255)]
    name: str
    title: str
    code: Code | None


@dataclass(frozen=True, kw_only=True)
class ResultDocument:
    """What one network predicted for one case; image files lie beside it, each on its input's grid. For research only.

    Attributes:
        format: Grows when a key changes its meaning or goes.
        case: Name of the case, never of a patient.
        options: What was asked for: crop, threshold (null is the network's own), only_cspca, phase_axis.
        versions: Package to version.
        seconds: Stage to wall-clock seconds: read (the network), preprocess, infer, postprocess, write.
        notes: What was decided on the way.
        caveats: What must be known of any result of this network.
        labels: What the values in `labels.nii.gz` mean.
        probabilities: Labels in `probabilities.nii.gz`: one is a 3D image; several follow each other along the fourth
            axis.
        volumes_ml: Structure to milliliters; prostate is all labels together where they make it up.
        lesions: Connected regions (26 neighbors), largest first.
        class_probabilities: The network's own classes; they add up to 1.
        derived_probabilities: What follows from the classes, as `PI-RADS >= 3`; a note states where the reading is
            this project's own.
        decided_at_mm: Center, LPS, of the slice that the classes are of, where a classifier saw each slice alone and
            the most suspicious one decides; else null.
        gland: Size of the prostate, and PSA density where a PSA was given; null where the prostate is not known.
        quality: Criteria of the images' quality, each with value, threshold and source; there is no score.
        estimate: Dice that a segmentation of the prostate probably has, without a reference; null where it is not
            known for the network, or nothing was marked.
        grid: Of the image that it was predicted from (of the task's reference sequence), in millimeters, LPS.
        case_sha256: Of the names, sizes, times and first bytes of the case's files, by which a batch knows them again;
            empty outside of batches.
        withheld: Whether a correction was withheld, so that the images are the case's own and nothing is synthetic.
        files: Image files in this folder.
        sha256: Of each file in this folder but this one, by relative path with slashes; what differs was changed since,
            and is not replaced.
    """

    format: Literal[1]
    research_use: str
    case: str
    task: str
    model: ModelRow
    options: dict[str, str | float | bool | None] = field(default_factory=dict)  # earlier results lack it
    versions: dict[str, str]
    seconds: dict[str, NotNegative]
    notes: tuple[Note, ...]
    caveats: tuple[Note, ...] = ()  # earlier results lack it
    labels: tuple[LabelRow, ...]
    probabilities: tuple[str, ...]
    volumes_ml: dict[str, NotNegative]
    lesions: tuple[Lesion, ...]
    class_probabilities: dict[str, Probability]
    derived_probabilities: dict[str, Probability]
    decided_at_mm: tuple[float, float, float] | None = None  # earlier results lack it
    gland: GlandMeasurements | None = None  # earlier results lack it, and quality
    quality: tuple[QualityCriterion, ...] = ()
    estimate: DiceEstimate | None = None
    grid: Geometry | None = None  # earlier results lack it, and case_sha256
    case_sha256: str = ""
    withheld: bool = False  # earlier results lack it
    files: tuple[FileName, ...]
    sha256: dict[str, Sha256] | None = field(default=None, metadata=OMITTED)  # earlier results lack it


def save_result(result: Result, folder: Path | str) -> Path:
    """Write all that a result holds into a folder, and return it; see `files_of` for the names.

    Args:
        folder: New, empty, or an earlier output, which is replaced.

    Raises:
        OutputError: The folder is something else, or cannot be written; the disk is full. Nothing is left then.
    """
    with output_folder(folder) as work:
        begin = time.perf_counter()
        if result.labels is not None:
            write_volume(result.labels, work / LABELS)
            layers = [SegmentLayer(result.labels, result.label_values)]
            if Label.PROSTATE in result.volumes_ml and Label.PROSTATE not in result.label_values:
                # Its zones make it up; it lies under them as a whole.
                whole = result.labels.with_array((result.labels.array > 0).astype("uint8"))
                layers.append(SegmentLayer(whole, {str(Label.PROSTATE): 1}))
            write_segmentation(work / SEGMENTATION, layers)
        probabilities = [volume.to_sitk() for volume in result.probabilities.values()]
        if probabilities:
            write_image(sitk.JoinSeries(probabilities) if probabilities[1:] else probabilities[0], work / PROBABILITIES)
        for name, volume in result.images.items():
            write_volume(volume, work / (name + IMAGE_SUFFIX))
        if result.displacement_mm is not None:
            grid = next(iter(result.images.values())).geometry
            write_displacement(result.displacement_mm, grid, work / DISPLACEMENT)
        document = result_to_json(result)
        document["seconds"][WRITE_STAGE] = time.perf_counter() - begin
        (work / RESULT).write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    return Path(folder)


def read_result(folder: Path) -> Result:
    """What `save_result` wrote, but for probabilities, and for a displacement that is not 0 everywhere.

    Raises:
        OutputError: The folder holds no whole result.
        ImageError, GeometryError: An image in it is damaged.
    """
    document = read_result_document(folder)
    missing = [name for name in document.files if not (folder / name).is_file()]
    if missing:
        raise OutputError(f"'{folder.name}' must be a whole result, but lacks {missing[0]}. Predict again.")
    model = document.model
    images = {
        name.removesuffix(IMAGE_SUFFIX): read_volume(folder / name)
        for name in document.files
        if name not in (LABELS, SEGMENTATION, PROBABILITIES, DISPLACEMENT)
    }
    shape = next((image.geometry.shape for image in images.values()), ())
    return Result(
        document.case,
        document.task,
        Provenance(
            model.bundle,
            model.title,
            model.arm,
            model.sha256,
            model.runtime,
            model.device,
            model.precision,
            versions=document.versions,
            seconds=document.seconds,
            notes=document.notes,
            options=document.options,
            caveats=document.caveats,
            min_confidence=model.min_confidence,
            gland_sha256=model.gland_sha256,
        ),
        label_values={row.name: row.value for row in document.labels},
        labels=read_mask(folder / LABELS) if LABELS in document.files else None,
        images=images,
        displacement_mm=np.zeros((*shape, 3), np.float32) if document.withheld and shape else None,
        class_probabilities=document.class_probabilities,
        derived_probabilities=document.derived_probabilities,
        decided_at_mm=document.decided_at_mm,
        volumes_ml=document.volumes_ml,
        lesions=document.lesions,
        gland=document.gland,
        quality=document.quality,
        estimate=document.estimate,
        grid=document.grid,
        case_sha256=document.case_sha256,
    )


def read_result_document(folder: Path) -> ResultDocument:
    """The content of a result's `result.json`; OutputError where there is none, or it cannot be one."""
    try:
        content = parse_json(read_small(folder / RESULT, _MAX_RESULT_BYTES).decode("utf-8"))
        return from_json(ResultDocument, content, RESULT)
    except OSError as error:
        both = [f"'{folder.name}/{name}'" for name in "ab" if (folder / name / RESULT).is_file()]  # of a comparison
        what_to_do = f"Name the result of one network: {' or '.join(both)}." if both else "Predict again."
        raise OutputError(
            f"'{folder.name}' must be a folder of results, but has no {RESULT} that can be read. {what_to_do}"
        ) from error
    except ValueError as error:
        reason = plain_text(" ".join(str(error).split()))
        raise OutputError(
            f"'{folder.name}' must be a folder of results, but its {RESULT} is damaged or was changed: "
            f"{reason.removesuffix('.'):.200}. Predict again."
        ) from error


def files_of(result: Result) -> list[str]:
    """Names of the image files that the result is written as."""
    names = [LABELS, SEGMENTATION] if result.labels is not None else []
    names += [PROBABILITIES] if result.probabilities else []
    names += [name + IMAGE_SUFFIX for name in result.images]
    return names + ([DISPLACEMENT] if result.displacement_mm is not None else [])


def result_to_json(result: Result) -> dict[str, Any]:
    """The content of `result.json`."""
    source = result.provenance
    labels = []
    for name, value in result.label_values.items():
        term = LABEL_TERMS.get(name)
        labels.append(LabelRow(value, str(name), term.title if term else str(name), term.type if term else None))
    document = ResultDocument(
        format=FORMAT,
        research_use=RESEARCH_USE,
        case=result.case_id,
        task=str(result.task),
        model=ModelRow(
            source.bundle,
            source.title,
            source.arm,  # type: ignore[arg-type]
            source.sha256,
            source.runtime,
            source.device,
            source.precision,
            source.min_confidence,
            source.gland_sha256,
        ),
        options=source.options,
        versions=source.versions,
        seconds=source.seconds,
        notes=source.notes,
        caveats=source.caveats,
        labels=tuple(labels),
        probabilities=tuple(str(name) for name in result.probabilities),
        volumes_ml=result.volumes_ml,
        lesions=result.lesions,
        class_probabilities=result.class_probabilities,
        derived_probabilities=result.derived_probabilities,
        decided_at_mm=result.decided_at_mm,
        gland=result.gland,
        quality=result.quality,
        estimate=result.estimate,
        grid=result.grid,
        case_sha256=result.case_sha256,
        withheld=result.is_withheld,
        files=tuple(files_of(result)),
    )
    return to_json(document)
