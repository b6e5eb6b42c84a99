"""The images of one case: a folder by file names, DICOM series, single files, or images that a program exported."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..core.case import Case
from ..core.errors import (
    AmbiguousInputError,
    ImageError,
    MissingSequenceError,
    MixedExamsError,
    PlacementError,
)
from ..core.files import given_name, plain_text
from ..core.measurements import Acquisition
from ..core.notes import Note
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume
from . import dicom
from .dicom_series import Exam, mixed_exams
from .diffusion import HIGH_B, high_b_of_file, is_series, volumes_by_b
from .grids import ImageArray
from .images import (
    image_stem,
    is_image_name,
    read_image,
    read_mask,
    require_usable_grid,
    to_mask,
    to_volume,
    with_checked_voxels,
)
from .plausibility import adc_unit, checked_sequence, notes_on

log = logging.getLogger(__name__)

GLAND = "gland"
DWI = "dwi"
# Words of a file name, split at anything that is no letter or digit, that name its role.
_ROLE_WORDS: dict[str, frozenset[str]] = {
    Sequence.T2W: frozenset({"t2w", "t2", "t2wi"}),
    Sequence.HBV: frozenset({"hbv", "highb"}),
    Sequence.ADC: frozenset({"adc"}),
    DWI: frozenset({"dwi", "diffusion"}),
    GLAND: frozenset({"gland", "prostate"}),
}
_B_VALUE = re.compile(r"b(?:val)?(\d{3,4})")  # b1400, BVAL1400
_OTHER_PLANES = frozenset({"sag", "sagittal", "cor", "coronal"})
# Words by which results and truths, made from a scan, are distinguished from it.
_NO_SCAN = frozenset(
    {"super", "resolved", "corrected", "synthetic", "distorted", "undistorted", "displacement", "probabilities", "true"}
    | {"lesion", "lesions", "zone", "zones", "cspca"}
)
_NO_T2W = frozenset({"map", "maps", "mapping"})  # of T2 in milliseconds
# How words begin, or are, that name a part of the prostate, what is in it, or what lies beside it.
_NO_GLAND = re.compile(
    "lesion|tumou?r|cancer|carcinoma|cspca|nodule|suspicious|target|zon(e|al)|peripheral|transition|central|anterior|"
    "fibromuscular|stroma|urethra|seminal|vesicle|bladder|rectum|((pz|tz|cz|cg|afs|afms|pca|bph|sv|gtv)[0-9]*$)"
)
_MASK = frozenset({"mask", "masks", "label", "labels", "seg", "segmentation", "roi", "gland"})
_SEQUENCES = frozenset().union(*(_ROLE_WORDS[role] for role in (*Sequence, DWI)))
MIN_OVERLAP = 0.1
_SAMPLES = 12
_KINDS = "biuf"  # booleans, whole and floating-point numbers, as numpy calls them
_MAX_BYTES = 8  # a voxel; SimpleITK has none larger


def read_case(
    path: str | Path | None = None,
    *,
    t2w: str | Path | None = None,
    hbv: str | Path | None = None,
    adc: str | Path | None = None,
    gland: str | Path | None = None,
    sequences: Collection[Sequence] = tuple(Sequence),
    allow_mixed_exams: bool = False,
) -> Case:
    """Read one case; each sequence stays on the grid it was scanned on.

    Args:
        path: A folder with one file for each role (`t2w.nii.gz`, `adc.mha`, `*_hbv.nrrd`; a 4D
            `dwi` with its `.bval` gives the high-b image), a folder of DICOM series, or one T2w
            file.
        t2w: The T2w image; it and the following overrule what `path` holds. Each is an image file,
            a folder of one DICOM series, or a file of such a series.
        hbv: The high-b image, or a diffusion series that holds one.
        adc: The ADC map, in any usual unit.
        gland: A mask of the prostate.
        sequences: What to find in `path`; that others are ambiguous or damaged does not matter.
        allow_mixed_exams: Take DICOM images of different patients, studies or frames of reference together; a note
            states it.

    Returns:
        The case, with ADC in 1e-6 mm²/s and with notes on what reading had to decide.

    Raises:
        ImageError: A file is missing, damaged, or cannot be what its role needs.
        GeometryError: A grid cannot be used, or the images do not lie in one space.
        AmbiguousInputError: Several files or series could fill one role.
        MissingSequenceError: Nothing was recognized.
        MixedExamsError: The images belong to different exams.
    """
    named = {Sequence.T2W: t2w, Sequence.HBV: hbv, Sequence.ADC: adc}
    sources = {role: Path(given) for role, given in named.items() if given is not None}
    if path is None and not sources:
        raise ValueError("Give a path, or at least one of t2w, hbv, adc.")
    exams: dict[Sequence, frozenset[Exam]] = {}
    if path is None:
        first = next(iter(sources.values()))
        # A neutral word for DICOM, whose folders often bear the patient's name.
        found = Case("study" if _is_dicom(first) else plain_text(first.absolute().parent.name) or "case", {})
    else:
        wanted = frozenset(sequences) - sources.keys()
        found, exams = _find(Path(path), sources, wanted, gland is None, allow_mixed_exams)
    volumes, notes = dict(found.volumes), list(found.notes)
    files, acquisitions = dict(found.files), dict(found.acquisitions)
    for role in [role for role in Sequence if role in sources]:
        volumes[role], decided, series = _read_source(role, sources)
        notes += decided
        exams[role] = frozenset() if series is None else series.exams
        files.pop(role, None), acquisitions.pop(role, None)
        if series is not None:
            files[role], acquisitions[role] = series.files, series.acquisition
    if mixed := mixed_exams({role: exams[role] for role in Sequence if role in exams}):
        if not allow_mixed_exams:
            raise MixedExamsError(
                f"The images must belong to one exam, but {mixed}. Select images of one exam; if you know that these "
                "belong together, add --allow-mixed-exams."
            )
        notes.append(Note("mixed-exams", f"Not one exam: {mixed}. They were taken together as asked."))
    mask = found.gland if gland is None else _read_gland(Path(gland))
    volumes = {role: volumes[role] for role in Sequence if role in volumes}
    shared = require_sensible(found.id, volumes, mask)
    # Identifiers that are compared and agree prove more than the images can.
    notes += notes_on(volumes, mask, shared, is_one_exam=all(exams.get(role) for role in volumes) and not mixed)
    for note in notes:
        log.info(note)
    return Case(found.id, volumes, mask, tuple(notes), acquisitions, files)


def read_case_for(needed: Collection[Sequence], path: str | Path | None = None, **given: Any) -> Case:
    """As `read_case`, with its other arguments; images of `path` that are not needed and cannot be read are left out.

    A note states which; the others stay. Images that do not belong together, or lie apart, are refused all the same,
    since any of them may be wrong.
    """
    try:
        return read_case(path, **given)
    except (PlacementError, MixedExamsError):
        raise
    except (ImageError, AmbiguousInputError):
        spare = [role for role in Sequence if role not in needed and given.get(role) is None]
        if path is None or not spare:
            raise
        case, left_out = _read_without(spare, path, **given)
    # Without the reason, which names files.
    note = Note("left-out", f"Left out, since it could not be read whole and is not needed: {', '.join(left_out)}.")
    log.info(note)
    return replace(case, notes=(*case.notes, note))


def _read_without(spare: list[Sequence], path: str | Path, **given: Any) -> tuple[Case, list[Sequence]]:
    """As `read_case` without one of some sequences, or without all of them, and those that it was without."""
    for role in spare if len(spare) > 1 else []:
        try:
            return read_case(path, sequences=[one for one in Sequence if one != role], **given), [role]
        except (PlacementError, MixedExamsError):
            raise
        except (ImageError, AmbiguousInputError):
            continue
    return read_case(path, sequences=[one for one in Sequence if one not in spare], **given), spare


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and not is_image_name(path.name) and dicom.is_dicom(path))


def _find(
    path: Path, sources: dict[Sequence, Path], wanted: frozenset[Sequence], with_gland: bool, allow_mixed: bool
) -> tuple[Case, dict[Sequence, frozenset[Exam]]]:
    """Add to `sources` the files that `path` has for other sequences, and read at once what lies in series.

    Returns:
        What was read, and the exams of DICOM images. The case's id is the folder's or file's own name, a neutral one
        where a DICOM study was read.
    """
    case_id = plain_text(image_stem(given_name(path))) or "case"
    if path.is_file() and is_image_name(path.name):
        sources.setdefault(Sequence.T2W, path)
        return Case(case_id, {}), {}
    if not path.is_dir():
        found = "is neither; for DICOM give the folder" if path.exists() else "there is none; check the path"
        raise ImageError(f"Case '{path.name}' must be a folder or an image file, but {found}.")
    files = sorted(f for f in path.iterdir() if f.is_file() and is_image_name(f.name) and not f.name.startswith("."))
    by_name = {role: file for role in Sequence if role in wanted and (file := _only_file(role, files))}
    sources |= by_name
    volumes: dict[Sequence, Volume] = {}
    notes: list[Note] = []
    exams: dict[Sequence, frozenset[Exam]] = {}
    files_of: dict[Sequence, tuple[Path, ...]] = {}
    acquisitions: dict[Sequence, Acquisition] = {}
    gland = None
    if Sequence.HBV in wanted and Sequence.HBV not in sources and (file := _only_file(DWI, files)):
        image = read_image(file)
        note = Note(
            "high-b",
            "The diffusion file has no b values and was not used; if it is the high-b image, select it as such.",
        )
        if is_series(image):
            volume, text = high_b_of_file(file, image)
            note = Note("high-b", text)
            volumes[Sequence.HBV], _ = checked_sequence(volume, Sequence.HBV, file.name)
        notes.append(note)
    if not by_name and not volumes and (study := dicom.read_study(path, wanted, allow_mixed)):
        case_id = study.id
        notes += [*(Note("series", series.note) for series in study.series.values()), *study.notes]
        for role, series in study.series.items():
            checked = with_checked_voxels(series.volume, f"{role} series")
            volumes[role], decided = checked_sequence(checked, role, f"{role} series")
            notes += decided
            exams[role] = series.exams
            files_of[role], acquisitions[role] = series.files, series.acquisition
    glands = candidates_for(GLAND, files) if with_gland else []
    if len(glands) == 1:
        gland = _read_gland(glands[0])
        notes.append(Note("gland-mask", "Gland mask: the file that is named so in the case's folder."))
    elif glands:
        notes.append(
            Note(
                "gland-mask",
                f"{len(glands)} files could be the gland mask; none was used. Keep one of them, or select it yourself.",
            )
        )
    return Case(case_id, volumes, gland, tuple(notes), acquisitions, files_of), exams


def _only_file(role: str, files: list[Path]) -> Path | None:
    candidates = candidates_for(role, files)
    if len(candidates) > 1:
        raise AmbiguousInputError(
            f"One file must be the {role}, but these could be: {', '.join(f.name for f in candidates)}. "
            f"Keep one of them in the folder, or select it as {Sequence.HBV if role == DWI else role}."
        )
    return candidates[0] if candidates else None


def _read_source(
    role: Sequence, sources: Mapping[Sequence, Path]
) -> tuple[Volume, list[Note], dicom.ReadSeries | None]:
    """Read one named input, whose values must be those of its sequence."""
    path = sources[role]
    volume, notes, series = _read_values(path, role)
    if role is Sequence.ADC and adc_unit(volume.array) is None and Sequence.HBV in sources:
        other = sources[Sequence.HBV]
        if adc_unit(_read_values(other, Sequence.HBV)[0].array) is not None:
            raise ImageError(
                f"'{path.name}' must be the ADC map and '{other.name}' the high-b image, but by their values it is the "
                "other way round. Swap them."
            )
    volume, more = checked_sequence(volume, role, path.name)
    return volume, [*notes, *more], series


def _read_values(path: Path, role: Sequence) -> tuple[Volume, list[Note], dicom.ReadSeries | None]:
    """Read an image file, the DICOM series in a folder, or the DICOM series that a file belongs to."""
    if _is_dicom(path):
        series = dicom.read_series(path, role)
        return with_checked_voxels(series.volume, path.name), [Note("series", series.note)], series
    image = read_image(path)
    if role is Sequence.HBV and is_series(image):
        volume, note = high_b_of_file(path, image)
        return volume, [Note("high-b", note)], None
    return to_volume(image, path.name, str(role)), [], None


def read_diffusion(path: Path) -> tuple[dict[float, Volume], list[Note]]:
    """A measured diffusion series by b value: a 4D file with its `.bval`, or a folder of DICOM files; and notes on it.

    Raises:
        ImageError, GeometryError: It is none, or cannot be read.
    """
    if path.is_dir():
        return dicom.read_b_values(path)
    image = read_image(path)
    if not is_series(image):
        raise ImageError(f"'{path.name}' must be 4D, one image a b value, but is one image. Select the whole series.")
    return volumes_by_b(path, image), []


def _read_gland(path: Path) -> Volume:
    return checked_gland(read_mask(path, GLAND), path.name)


def checked_gland(mask: Volume, file: str) -> Volume:
    """A label map as the prostate's mask, 0 and 1.

    Raises:
        ImageError: It is empty.
    """
    if not mask.array.any():
        raise ImageError(f"'{file}' must mark the prostate, but is empty. Select another mask, or none.")
    return mask.with_array((mask.array > 0).astype(np.uint8))


def require_sensible(case_id: str, volumes: Mapping[Sequence, Volume], gland: Volume | None) -> float:
    """Raise unless there is an image, no two are the same, and their fields of view overlap, the gland in the first.

    Returns:
        The smallest share of their fields of view that an image has in common with the first one.

    Raises:
        MissingSequenceError: There is no image.
        ImageError: Two are the same.
        PlacementError: They lie elsewhere; the message names the pair.
    """
    if not volumes:
        raise MissingSequenceError(
            f"Case '{case_id}' must contain t2w, hbv or adc by name (t2w.nii.gz, *_hbv.mha, ADC.nrrd) or as DICOM "
            "series, but none was recognized. Name the files so, or select each image; a folder of several cases is a "
            "cohort (predict --cohort)."
        )
    for (role, a), (other, b) in combinations(volumes.items(), 2):
        if a.geometry.equals(b.geometry) and np.array_equal(a.array, b.array):
            raise ImageError(f"{role} and {other} must be two images, but are the same. Select another file for one.")
    reference_name, reference = next(iter(volumes.items()))
    smallest = 1.0
    for name, volume in volumes.items():
        shared = max(
            share_inside(volume.geometry, reference.geometry), share_inside(reference.geometry, volume.geometry)
        )
        smallest = min(smallest, shared)
        if shared < MIN_OVERLAP:
            apart_mm = np.linalg.norm(volume.geometry.center_mm - reference.geometry.center_mm)
            raise PlacementError(
                f"{name} must show the same region as {reference_name}, but their fields of view share "
                f"{100 * shared:.0f} % (centers {apart_mm:.0f} mm apart). Select images of one case."
            )
    if gland is not None:
        z, y, x = (np.median(indices) for indices in np.nonzero(gland.array))
        if not _is_inside(reference.geometry, gland.geometry.to_world((x, y, z))):
            raise PlacementError(
                f"The gland mask must lie within {reference_name}, but lies outside. Select this case's mask."
            )
    return smallest


@dataclass(frozen=True)
class ExportedImage:
    """One image that another program exported for a job: a file, or an array (D, H, W) by `numpy.save` and its grid."""

    path: Path
    geometry: Geometry | None = None

    def read(self) -> ImageArray:
        """The image, with nothing checked of its values.

        Raises:
            ImageError: Missing or damaged, or the array does not fill the grid.
            GeometryError: The grid cannot be used.
            MemoryError: It does not fit in memory.
        """
        if self.geometry is None:
            return read_image(self.path)
        require_usable_grid(self.geometry, self.path.name)
        return ImageArray(_read_array(self.path, self.geometry), self.geometry)


def read_exported_case(
    case_id: str,
    images: Mapping[Sequence, ExportedImage],
    gland: ExportedImage | None = None,
    files: Mapping[Sequence, Iterable[Path]] | None = None,
    others: Iterable[Path] = (),
) -> Case:
    """The case, after the same checks as `read_case` makes, and with the same errors.

    Args:
        case_id: Its name.
        images: Sequence → image.
        gland: Mask of the prostate.
        files: The DICOM files that images were made from, where they were.
        others: DICOM files of the exam's further series, for its b values and planes.

    Raises:
        MemoryError: The images do not fit in memory.
    """
    volumes, notes = {}, []
    for sequence in (sequence for sequence in Sequence if sequence in images):
        volume = to_volume(images[sequence].read(), sequence, sequence)
        volumes[sequence], decided = checked_sequence(volume, sequence, sequence)
        notes += decided
    mask = None if gland is None else checked_gland(read_exported_mask(gland, GLAND), GLAND)
    shared = require_sensible(case_id, volumes, mask)
    origin = dicom.Origin()
    if files or others:  # which need pydicom
        origin = dicom.read_origin({role: volume.geometry for role, volume in volumes.items()}, files or {}, others)
    is_one = all(origin.exams.get(role) for role in volumes) and not mixed_exams(origin.exams)
    notes += [*origin.notes, *notes_on(volumes, mask, shared, is_one_exam=is_one)]
    return Case(case_id, volumes, mask, tuple(notes), origin.acquisitions, origin.files)


def read_exported_mask(mask: ExportedImage, name: str) -> Volume:
    """An exported label map; see `read_mask`."""
    return to_mask(mask.read(), name, name)


def read_exported_volume(image: ExportedImage, name: str) -> Volume:
    """An exported image; see `read_volume`."""
    return to_volume(image.read(), name, name)


def _read_array(path: Path, geometry: Geometry) -> np.ndarray:
    """The array, checked before it is taken into memory; nothing pickled is ever loaded."""
    if path.exists() and not path.is_file():  # a pipe, which may never be written to
        raise ImageError(f"'{path.name}' must be an array file, but is no file. Export it again.")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(f"{path.name} does not fit in memory") from error
        raise ImageError(f"'{path.name}' must be an array file, but cannot be opened. Export it again.") from error
    except (ValueError, EOFError) as error:
        raise ImageError(f"'{path.name}' must be an array file, but is damaged. Export it again.") from error
    if mapped.shape != geometry.shape or mapped.dtype.kind not in _KINDS or mapped.dtype.itemsize > _MAX_BYTES:
        raise ImageError(
            f"'{path.name}' must hold numbers, {geometry.shape} (D, H, W) as its grid states, but holds "
            f"{mapped.dtype}, {mapped.shape}. Export it again."
        )
    native = mapped.dtype.newbyteorder("=")
    return np.array(mapped, dtype=np.uint8 if native.kind == "b" else native, order="C")


def candidates_for(role: str, files: Iterable[Path]) -> list[Path]:
    """Files whose names contain the role; those named by the role alone go before all others."""
    stems = {file: image_stem(file.name).lower() for file in files}
    exact = [file for file, stem in stems.items() if stem == role]
    return exact or [file for file, stem in stems.items() if _names_role(stem, role)]


def words_of(stem: str) -> list[str]:
    """The words, in lower case, of which a file's name is made."""
    return re.findall(r"[a-z0-9]+", stem.lower())


def _names_role(stem: str, role: str) -> bool:
    """Whether a word names the role and none speaks against it; `prostate_t2w_mask` is a mask, not a scan.

    A mask of a zone or a tumor is not that of the prostate, and a map of T2 is no T2-weighted image.
    """
    words = set(words_of(stem))
    high = any(float(match.group(1)) >= HIGH_B for word in words if (match := _B_VALUE.fullmatch(word)))
    if high and not words & _ROLE_WORDS[Sequence.ADC]:  # an ADC map may name the b values that it was fitted to
        words.add("hbv")
    if not words & _ROLE_WORDS[role] or words & (_OTHER_PLANES | _NO_SCAN):
        return False
    if role == GLAND:
        return not any(map(_NO_GLAND.match, words)) and (bool(words & _MASK) or not words & _SEQUENCES)
    return not words & (_MASK | _NO_T2W if role == Sequence.T2W else _MASK)


def share_inside(inner: Geometry, outer: Geometry) -> float:
    """Fraction of a field of view that lies within another, by a coarse grid of points."""
    steps = [(np.arange(_SAMPLES) + 0.5) / _SAMPLES * n - 0.5 for n in inner.size]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
    return float(_is_inside(outer, inner.to_world(points)).mean())


def _is_inside(geometry: Geometry, points_mm: np.ndarray) -> np.ndarray:
    index = geometry.to_index(points_mm)
    return np.all((index >= -0.5) & (index <= np.asarray(geometry.size) - 0.5), axis=-1)
