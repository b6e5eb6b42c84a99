"""The images of one case: a folder by file names, DICOM series, single files, or images that a program exported."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.case import Case
from ..core.errors import AmbiguousInputError, GeometryError, ImageError, MissingSequenceError
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume
from . import dicom
from .diffusion import HIGH_B, high_b_of_file, is_series
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
from .sequence_values import adc_unit, checked_sequence

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
)
_MASK = frozenset({"mask", "masks", "label", "labels", "seg", "segmentation", "roi", "gland"})
_NO_GLAND = frozenset({"lesion", "lesions", "zone", "zones", "cspca"})
_SEQUENCES = frozenset().union(*(_ROLE_WORDS[role] for role in (*Sequence, DWI)))
MIN_OVERLAP = 0.1
_SAMPLES = 12
_KINDS = "biuf"  # booleans, whole and floating-point numbers, as numpy calls them
_MAX_BYTES = 8  # a voxel; SimpleITK has none larger


@dataclass
class _Reading:
    """A case in the making: sequence → volume, and what had to be decided."""

    volumes: dict[Sequence, Volume] = field(default_factory=dict)
    gland: Volume | None = None
    notes: list[str] = field(default_factory=list)


def read_case(
    path: str | Path | None = None,
    *,
    t2w: str | Path | None = None,
    hbv: str | Path | None = None,
    adc: str | Path | None = None,
    gland: str | Path | None = None,
    sequences: Collection[Sequence] = tuple(Sequence),
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

    Returns:
        The case, with ADC in 1e-6 mm²/s and with notes on what reading had to decide.

    Raises:
        ImageError: A file is missing, damaged, or cannot be what its role needs.
        GeometryError: A grid cannot be used, or the images do not lie in one space.
        AmbiguousInputError: Several files or series could fill one role.
        MissingSequenceError: Nothing was recognized.
    """
    named = {Sequence.T2W: t2w, Sequence.HBV: hbv, Sequence.ADC: adc}
    sources = {role: Path(given) for role, given in named.items() if given is not None}
    if path is None and not sources:
        raise ValueError("Give a path, or at least one of t2w, hbv, adc.")
    case_id = _id_by_path(Path(path)) if path is not None else _id_by_options(sources)
    reading = _Reading()
    if path is not None:
        case_id = _find(Path(path), sources, reading, frozenset(sequences) - sources.keys()) or case_id
        if gland is None and Path(path).is_dir():
            _read_gland(candidates_for(GLAND, _image_files(Path(path))), reading)
    for role in [role for role in Sequence if role in sources]:
        volume, notes = _read_source(role, sources)
        reading.volumes[role] = volume
        reading.notes += notes
    if gland is not None:
        reading.gland = _gland_of(Path(gland))
    volumes = {role: reading.volumes[role] for role in Sequence if role in reading.volumes}
    require_sensible(case_id, volumes, reading.gland)
    for note in reading.notes:
        log.info("%s: %s", case_id, note)
    return Case(case_id, volumes, reading.gland, tuple(reading.notes))


def _id_by_path(path: Path) -> str:
    """The folder's or file's own name, also where it was named as `..`; links keep the name that they were given."""
    named = path.resolve() if path.name in ("", "..") else path
    return image_stem(named.name) or "case"


def _id_by_options(sources: Mapping[Sequence, Path]) -> str:
    """The folder's name; a neutral word for DICOM, whose folders often bear the patient's name."""
    first = next(iter(sources.values()))
    return "study" if _is_dicom(first) else first.absolute().parent.name or "case"


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and not is_image_name(path.name) and dicom.is_dicom(path))


def _find(path: Path, sources: dict[Sequence, Path], reading: _Reading, wanted: frozenset[Sequence]) -> str | None:
    """Add to `sources` the files that `path` has for other sequences, and read at once what lies in series.

    Returns:
        A neutral id where a DICOM study was read.
    """
    if path.is_file() and is_image_name(path.name):
        sources.setdefault(Sequence.T2W, path)
        return None
    if not path.is_dir():
        found = "is neither; for DICOM give the folder" if path.exists() else "there is none; check the path"
        raise ImageError(f"Case '{path.name}' must be a folder or an image file, but {found}.")
    files = _image_files(path)
    by_name = {role: file for role in Sequence if role in wanted and (file := _only_file(role, files))}
    sources |= by_name
    if Sequence.HBV in wanted and Sequence.HBV not in sources:
        _read_high_b_of_file(_only_file(DWI, files), reading)
    return None if by_name or reading.volumes else _read_dicom(path, wanted, reading)


def _image_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and is_image_name(f.name) and not f.name.startswith("."))


def _only_file(role: str, files: list[Path]) -> Path | None:
    candidates = candidates_for(role, files)
    if len(candidates) > 1:
        raise AmbiguousInputError(
            f"One file must be the {role}, but these could be: {', '.join(f.name for f in candidates)}. "
            f"Keep one of them in the folder, or select it as {Sequence.HBV if role == DWI else role}."
        )
    return candidates[0] if candidates else None


def _read_dicom(folder: Path, wanted: frozenset[Sequence], reading: _Reading) -> str | None:
    study = dicom.read_study(folder, wanted)
    if study is None:
        return None
    reading.notes += study.notes
    for role, volume in study.volumes.items():
        name = f"{role} series"
        reading.volumes[role], notes = checked_sequence(with_checked_voxels(volume, name), role, name)
        reading.notes += notes
    return study.id


def _read_source(role: Sequence, sources: Mapping[Sequence, Path]) -> tuple[Volume, list[str]]:
    """Read one named input, whose values must be those of its sequence."""
    path = sources[role]
    volume, notes = _read_values(path, role)
    if role is Sequence.ADC and adc_unit(volume.array) is None and Sequence.HBV in sources:
        other = sources[Sequence.HBV]
        if adc_unit(_read_values(other, Sequence.HBV)[0].array) is not None:
            raise ImageError(
                f"'{path.name}' must be the ADC map and '{other.name}' the high-b image, but by their values it is the "
                "other way round. Swap them."
            )
    volume, more = checked_sequence(volume, role, path.name)
    return volume, [*notes, *more]


def _read_values(path: Path, role: Sequence) -> tuple[Volume, list[str]]:
    """Read an image file, the DICOM series in a folder, or the DICOM series that a file belongs to."""
    if _is_dicom(path):
        volume, notes = dicom.read_series(path, role)
        return with_checked_voxels(volume, path.name), notes
    image = read_image(path)
    if role is Sequence.HBV and is_series(image):
        volume, note = high_b_of_file(path, image)
        return volume, [note]
    return to_volume(image, path.name, str(role)), []


def _read_high_b_of_file(path: Path | None, reading: _Reading) -> None:
    """The high-b image of a 4D diffusion file, if there is one."""
    if path is None:
        return
    image = read_image(path)
    if not is_series(image):
        reading.notes.append(
            f"'{path.name}' has no b values and was not used; if it is the high-b image, select it as such."
        )
        return
    volume, note = high_b_of_file(path, image)
    reading.volumes[Sequence.HBV], _ = checked_sequence(volume, Sequence.HBV, path.name)
    reading.notes.append(note)


def _read_gland(candidates: list[Path], reading: _Reading) -> None:
    if len(candidates) == 1:
        reading.gland = _gland_of(candidates[0])
        reading.notes.append(f"Gland mask: '{candidates[0].name}'.")
    elif candidates:
        names = ", ".join(f.name for f in candidates)
        reading.notes.append(
            f"Several files could be the gland mask ({names}); none was used. Keep one of them, or select it yourself."
        )


def _gland_of(path: Path) -> Volume:
    return checked_gland(read_mask(path, GLAND), path.name)


def checked_gland(mask: Volume, file: str) -> Volume:
    """A label map as the prostate's mask, 0 and 1.

    Raises:
        ImageError: It is empty.
    """
    if not mask.array.any():
        raise ImageError(f"'{file}' must mark the prostate, but is empty. Select another mask, or none.")
    return mask.with_array((mask.array > 0).astype(np.uint8))


def require_sensible(case_id: str, volumes: Mapping[Sequence, Volume], gland: Volume | None) -> None:
    """Raise unless there is an image, no two are the same, and all lie in one space.

    Raises:
        MissingSequenceError: There is no image.
        ImageError: Two are the same.
        GeometryError: They lie elsewhere.
    """
    if not volumes:
        raise MissingSequenceError(
            f"Case '{case_id}' must contain t2w, hbv or adc by name (t2w.nii.gz, *_hbv.mha, ADC.nrrd) or as DICOM "
            "series, but none was recognized. Name the files so, or select each image."
        )
    for (role, a), (other, b) in combinations(volumes.items(), 2):
        if a.geometry.equals(b.geometry) and np.array_equal(a.array, b.array):
            raise ImageError(f"{role} and {other} must be two images, but are the same. Select another file for one.")
    require_one_space(volumes, gland)


@dataclass(frozen=True)
class ExportedImage:
    """One image that another program exported for a job.

    Attributes:
        path: An image file, or an array (D, H, W) as `numpy.save` writes it.
        geometry: Where the array's voxels lie; None for an image file.
    """

    path: Path
    geometry: Geometry | None = None

    def read(self) -> sitk.Image:
        """The image, with nothing checked of its values.

        Raises:
            ImageError: Missing or damaged, or the array does not fill the grid.
            GeometryError: The grid cannot be used.
            MemoryError: It does not fit in memory.
        """
        if self.geometry is None:
            return read_image(self.path)
        require_usable_grid(self.geometry, self.path.name)
        return Volume(_read_array(self.path, self.geometry), self.geometry).to_sitk()


def read_exported_case(
    case_id: str, images: Mapping[Sequence, ExportedImage], gland: ExportedImage | None = None
) -> Case:
    """The case, after the same checks as `read_case` makes.

    Args:
        case_id: What to call it.
        images: Sequence → image.
        gland: Mask of the prostate.

    Raises:
        ImageError: An image is missing, damaged, or cannot be what its role needs.
        GeometryError: A grid cannot be used, or the images do not lie in one space.
        MissingSequenceError: There is no image.
        MemoryError: They do not fit in memory.
    """
    volumes, notes = {}, []
    for sequence in (sequence for sequence in Sequence if sequence in images):
        volume = to_volume(images[sequence].read(), sequence, sequence)
        volumes[sequence], decided = checked_sequence(volume, sequence, sequence)
        notes += decided
    mask = None if gland is None else checked_gland(read_exported_mask(gland, GLAND), GLAND)
    require_sensible(case_id, volumes, mask)
    return Case(case_id, volumes, mask, tuple(notes))


def read_exported_mask(mask: ExportedImage, name: str) -> Volume:
    """An exported label map; see `read_mask`."""
    return to_mask(mask.read(), name, name)


def read_exported_volume(image: ExportedImage, name: str) -> Volume:
    """An exported image; see `read_volume`."""
    return to_volume(image.read(), name, name)


def _read_array(path: Path, geometry: Geometry) -> np.ndarray:
    """The array, checked before it is taken into memory; nothing pickled is ever loaded."""
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
            f"'{path.name}' must hold numbers, {geometry.shape} (D, H, W) as its grid says, but holds "
            f"{mapped.dtype}, {mapped.shape}. Export it again."
        )
    native = mapped.dtype.newbyteorder("=")
    return np.array(mapped, dtype=np.uint8 if native.kind == "b" else native, order="C")


def candidates_for(role: str, files: Iterable[Path]) -> list[Path]:
    """Files whose names contain the role; those named by the role alone go before all others."""
    files = list(files)
    exact = [f for f in files if image_stem(f.name).lower() == role]
    if exact:
        return exact
    return [f for f in files if (words := _words(f.name)) & _ROLE_WORDS[role] and _may_be(role, words)]


def _may_be(role: str, words: set[str]) -> bool:
    """Whether no word speaks against the role; `prostate_t2w` is a scan, `prostate_t2w_mask` a mask."""
    if words & (_OTHER_PLANES | _NO_SCAN | _NO_GLAND):
        return False
    return bool(words & _MASK) or not words & _SEQUENCES if role == GLAND else not words & _MASK


def _words(name: str) -> set[str]:
    words = set(re.split(r"[^a-z0-9]+", image_stem(name).lower())) - {""}
    b_values = [float(match.group(1)) for word in words if (match := _B_VALUE.fullmatch(word))]
    return words | {"hbv"} if any(b >= HIGH_B for b in b_values) else words


def require_one_space(volumes: Mapping[Sequence, Volume], gland: Volume | None) -> None:
    """Raise unless the fields of view overlap, and the gland lies in the first image's.

    Raises:
        GeometryError: They do not; the message names the pair.
    """
    images = list(volumes.items())
    reference_name, reference = images[0]
    for name, volume in images[1:]:
        shared = max(
            share_inside(volume.geometry, reference.geometry), share_inside(reference.geometry, volume.geometry)
        )
        if shared < MIN_OVERLAP:
            raise GeometryError(
                f"{name} must show the same region as {reference_name}, but their fields of view share "
                f"{100 * shared:.0f} % (centers {_distance_mm(volume, reference):.0f} mm apart). "
                "Select images of one case."
            )
    if gland is not None and not _mask_reaches(gland, reference.geometry):
        raise GeometryError(
            f"The gland mask must lie within {reference_name}, but lies outside. Select this case's mask."
        )


def share_inside(inner: Geometry, outer: Geometry) -> float:
    """Fraction of a field of view that lies within another, by a coarse grid of points."""
    steps = [(np.arange(_SAMPLES) + 0.5) / _SAMPLES * n - 0.5 for n in inner.size]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
    return float(_is_inside(outer, inner.to_world(points)).mean())


def _mask_reaches(mask: Volume, geometry: Geometry) -> bool:
    """Whether the middle of the mask's voxels lies in a field of view."""
    z, y, x = (np.median(indices) for indices in np.nonzero(mask.array))
    return bool(_is_inside(geometry, mask.geometry.to_world((x, y, z))))


def _is_inside(geometry: Geometry, points_mm: np.ndarray) -> np.ndarray:
    index = geometry.to_index(points_mm)
    return np.all((index >= -0.5) & (index <= np.asarray(geometry.size) - 0.5), axis=-1)


def _distance_mm(a: Volume, b: Volume) -> float:
    return float(np.linalg.norm(a.geometry.center_mm - b.geometry.center_mm))
