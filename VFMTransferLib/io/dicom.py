"""DICOM folders: the series that is read for T2w, ADC and high-b image, and its slices as a volume.

`dicom_series` reads the headers (pydicom) and recognizes a series by them; pixels by pydicom,
compressed ones by SimpleITK. Slices are stacked by position, with every gap checked; no identity is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.case import UNREAD
from ..core.errors import AmbiguousInputError, GeometryError, ImageError, MissingSequenceError, MixedExamsError
from ..core.measurements import Acquisition
from ..core.notes import Note
from ..core.terms import Sequence as MRSequence
from ..core.volume import Geometry, Volume
from .acquisition import acquisition_of, with_b_values, with_planes
from .dicom_series import (
    T2_WORDS,
    Exam,
    Header,
    Series,
    grouped,
    listed,
    mixed_exams,
    read_headers,
    study_id,
)
from .diffusion import HIGH_B, high_b_image
from .grids import MAX_IMAGE_VARIABLE, max_image_bytes
from .images import require_usable_grid

_SAME_ECHO_MS = 1.0  # scanners round; ours
LOWEST_HIGH_B = 800.0  # below, a single trace image is no high-b image
DICOM_SUFFIXES = (".dcm", ".ima")
ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
SAME_POSITION_MM = 0.01
GAP_TOLERANCE = 0.02  # of the gap; positions are written with rounding
SHEAR_TOLERANCE_MM = 0.1


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its name, or begins as such files do."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def _dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The DICOM files among what a folder holds; hidden ones are the system's (`._IM1.dcm` on disks of a Mac)."""
    return [path for path in sorted(paths) if not path.name.startswith(".") and path.is_file() and is_dicom(path)]


@dataclass(frozen=True)
class ReadSeries:
    """A series as a sequence's volume.

    Attributes:
        note: A sentence on which series it is.
        exams: Those that its slices are of; one, unless they are mixed.
        files: Of its slices, in the volume's order.
        acquisition: As its headers state it.
    """

    volume: Volume
    note: str
    exams: frozenset[Exam]
    files: tuple[Path, ...] = ()
    acquisition: Acquisition = field(default_factory=Acquisition)


@dataclass(frozen=True)
class Study:
    """What was recognized in a folder, and a neutral id of it.

    Attributes:
        notes: What was not read though it could be one of the sequences, in sentences.
    """

    id: str
    series: dict[MRSequence, ReadSeries]
    notes: tuple[Note, ...] = ()


def read_study(folder: Path, wanted: Iterable[MRSequence], allow_mixed: bool = False) -> Study | None:
    """Recognize and read a study's series, or None where the folder holds no DICOM file.

    Args:
        folder: Searched with all folders below it.
        wanted: Sequences to look for; the others may be ambiguous.
        allow_mixed: The folder may hold several studies.

    Raises:
        AmbiguousInputError: Several studies, or several series that could be one sequence.
        ImageError, GeometryError: A series that is needed cannot be read as a volume.
    """
    headers = read_headers(_dicom_files(folder.rglob("*")))
    if not headers:
        return None
    series = grouped(headers)
    studies = {h.study_uid for h in headers}
    if len(studies) > 1 and not allow_mixed:
        raise AmbiguousInputError(
            f"The DICOM folder must hold one study, but holds {len(studies)}. Give the folder of one."
        )
    axial = [s for s in series if s.is_axial_mr and not s.is_reconstructed]
    read = {role: found for role in MRSequence if role in wanted and (found := _read_role(axial, role))}
    unread = [
        Note(
            UNREAD,
            f"Not read: a series that could be {role} is synthetic, made by an algorithm and not measured; to use it "
            f"all the same, name it with --{role}.",
        )
        for role in MRSequence
        if role in wanted
        and role not in read
        and any(s.is_axial_mr and s.is_synthetic and _is(s, role) for s in series)
    ]
    unread += [
        Note(
            UNREAD,
            f"Not read: {s.shown} is multi-frame (enhanced). Export it as single-frame images, or convert it.",
        )
        for s in series
        if s.first.modality == "MR" and s.first.frames > 1
    ]
    measured = [s for s in axial if s.is_diffusion and not s.is_calculated and s.b_values]
    if MRSequence.HBV in wanted and MRSequence.HBV not in read and measured:
        top = max(measured, key=lambda s: s.highest_b)
        unread.append(
            Note(
                UNREAD,
                f"Not read: {top.shown}, diffusion of b {top.highest_b:g} at most; a high-b image needs b "
                f"{LOWEST_HIGH_B:g} or higher.",
            )
        )
    if not read and set(wanted) == set(MRSequence):
        raise MissingSequenceError(
            f"The DICOM folder must hold an axial T2w, ADC or diffusion series, but none was recognized among "
            f"{listed(series)}. Select the series yourself.{''.join(f' {note}' for note in unread)}"
        )
    for role, found in read.items():
        about = found.acquisition
        about = with_planes(about, series) if role is MRSequence.T2W else with_b_values(about, axial)
        read[role] = replace(found, acquisition=about)
    return Study(study_id(headers[0].study_uid), read, tuple(unread))


def read_series(path: Path, role: MRSequence) -> ReadSeries:
    """Read the one series of a folder, or the one that a file belongs to, as the sequence that the user states.

    Raises:
        AmbiguousInputError: The folder holds several series.
        ImageError, GeometryError: It holds none, or it cannot be read as a volume.
    """
    folder = path if path.is_dir() else path.parent
    headers = read_headers(_dicom_files(p for p in folder.iterdir() if not p.is_dir()))
    series = grouped(headers)
    if path.is_file():
        series = [s for s in series if any(h.path.name == path.name for h in s.headers)]
    if not series:
        raise ImageError(f"'{path.name}' must be an image file or a folder of one DICOM series, but holds none.")
    if len(series) > 1:
        raise AmbiguousInputError(
            f"'{path.name}' must hold one DICOM series, but holds {listed(series)}. Name a file of the one wanted."
        )
    chosen = series[0]
    if role is MRSequence.HBV and len(chosen.b_values) > 1:
        return _high_b_of(chosen)
    return _read(chosen, role, f"{role}: {chosen.shown}, as named.")


def _read(series: Series, role: MRSequence, note: str) -> ReadSeries:
    volume = stack_slices(series.headers, str(role), series.label)
    return ReadSeries(volume, note + series.oddity, series.exams, *_origin(series, series.headers))


def _origin(series: Series, headers: Sequence[Header]) -> tuple[tuple[Path, ...], Acquisition]:
    """The files of an image in the order of its slices, and how it was acquired."""
    files = tuple(header.path for header in _along_normal(headers))
    return files, with_b_values(acquisition_of(files[0]), [series])


def _along_normal(headers: Sequence[Header]) -> list[Header]:
    return sorted(headers, key=lambda h: float(np.dot(h.position_mm, headers[0].normal)))


def _read_role(series: list[Series], role: MRSequence) -> ReadSeries | None:
    """The one series that is a sequence."""
    if role is MRSequence.HBV:
        return _read_hbv(series)
    candidates = [s for s in series if _is(s, role)]
    surer = [
        s for s in candidates if (s.first.words & T2_WORDS if role is MRSequence.T2W else "ADC" in s.first.image_type)
    ]
    chosen = _only_one(surer or candidates, role)
    return None if chosen is None else _read(chosen, role, f"{role}: {chosen.shown}.")


def _is(series: Series, role: MRSequence) -> bool:
    return {MRSequence.T2W: series.is_t2w, MRSequence.ADC: series.is_adc, MRSequence.HBV: series.is_diffusion}[role]


def _only_one(candidates: list[Series], role: MRSequence) -> Series | None:
    if len(candidates) > 1:
        raise AmbiguousInputError(
            f"One series must be the {role}, but these could be: {listed(candidates)}. "
            f"Name a folder or a file of the one wanted with --{role}."
        )
    return candidates[0] if candidates else None


def _read_hbv(series: list[Series]) -> ReadSeries | None:
    """The scanner's calculated image where it goes beyond what was measured, else the measured series."""
    diffusion = [s for s in series if s.is_diffusion]
    measured = [s for s in diffusion if not s.is_calculated and s.b_values]
    highest = max((s.highest_b for s in measured), default=0.0)
    calculated = [s for s in diffusion if s.is_calculated and (not s.b_values or s.highest_b > highest)]
    if highest < HIGH_B and calculated:
        top = max(s.highest_b for s in calculated)
        computed = _only_one([s for s in calculated if s.highest_b == top], MRSequence.HBV) or calculated[0]
        b = f"b {top:g} by its tag" if top else "b not stated"
        note = f"High-b image: {computed.shown}, calculated by the scanner, {b}."
        return _read(computed, MRSequence.HBV, note)
    candidates = [s for s in measured if s.highest_b == highest]
    traces = [s for s in candidates if "TRACEW" in s.first.image_type]
    chosen = _only_one(traces or candidates, MRSequence.HBV)
    return _high_b_of(chosen) if chosen is not None and highest >= LOWEST_HIGH_B else None


def _high_b_of(series: Series) -> ReadSeries:
    """The high-b image of one measured series, which is split by b value."""
    by_b, slices = {}, {}
    for b in {h.b_value: None for h in series.headers if h.b_value is not None}:
        headers = [h for h in series.headers if h.b_value == b]
        slices[b] = [h for h in headers if h.is_trace] or headers
        by_b[b] = stack_slices(slices[b], str(MRSequence.HBV), f"{series.label}, b {b:g}")
    files, about = _origin(series, slices[series.highest_b])
    if len(by_b) > 1 and series.highest_b < HIGH_B:  # which will be fitted
        _require_one_echo_time([h for of_b in slices.values() for h in of_b], series.label)
        by_b, about = _on_one_scale(by_b, slices), replace(about, computed_b=HIGH_B)
    if len(by_b) == 1:
        volume = by_b[series.highest_b]
        note = f"High-b image: {series.shown}, b {series.highest_b:g} as measured; it holds no second b value."
    else:
        volume, note = high_b_image(by_b, series.label, series.shown)
    return ReadSeries(volume, note + series.oddity, series.exams, files, about)


def read_b_values(folder: Path) -> tuple[dict[float, Volume], list[Note]]:
    """The measured diffusion images of a folder's DICOM files by b value, in one series or several of one exam.

    Returns:
        b value in s/mm² → image, and sentences on what was taken together and what is odd.

    Raises:
        ImageError: There is none; they have several echo times, or it is not known how their values compare.
        MixedExamsError: They are of different exams.
        GeometryError: A b value's slices make no volume.
    """
    series = [s for s in grouped(read_headers(_dicom_files(folder.rglob("*")))) if s.is_axial_mr]
    measured = [s for s in series if s.is_diffusion and s.b_values and not (s.is_calculated or s.is_reconstructed)]
    measured.sort(key=lambda s: s.first.number.zfill(12))  # a folder lists its files in any order
    headers = [h for s in measured for h in s.headers if h.b_value is not None]
    if not headers:
        raise ImageError(f"'{folder.name}' must hold measured diffusion images with their b values, but holds none.")
    if mixed := mixed_exams({s.shown: s.exams for s in measured}):
        raise MixedExamsError(f"Diffusion images must belong to one exam, but {mixed}. Name the folder of one exam.")
    by_b, slices = {}, {}
    for b in sorted({h.b_value for h in headers if h.b_value is not None}):
        of_b = [h for h in headers if h.b_value == b]
        slices[b] = [h for h in of_b if h.is_trace] or of_b
        by_b[b] = stack_slices(slices[b], "dwi", f"Diffusion, b {b:g},")
    if len(by_b) > 1:
        _require_one_echo_time([h for of_b in slices.values() for h in of_b], f"'{folder.name}'")
        by_b = _on_one_scale(by_b, slices)
    notes = [Note("series", f"Diffusion: {s.shown}.{s.oddity}") for s in measured if s.oddity]
    if len(measured) > 1:
        notes.insert(0, Note("series", f"Several series were taken together: {', '.join(s.shown for s in measured)}."))
    return by_b, notes


def _require_one_echo_time(headers: Sequence[Header], what: str) -> None:
    """ImageError where images that are fitted together differ by T2 decay as well as by diffusion."""
    times = sorted({h.echo_time_ms for h in headers if h.echo_time_ms is not None})
    if not times or times[-1] - times[0] <= _SAME_ECHO_MS:
        return
    found = []
    for ms in times:
        b_values = sorted({h.b_value for h in headers if h.echo_time_ms == ms and h.b_value is not None})
        found.append(f"b {', '.join(f'{b:g}' for b in b_values)} at {ms:g} ms")
    raise ImageError(
        f"Diffusion images must have one echo time to be fitted together, but those of {what} have several: "
        f"{'; '.join(found)}. Name a folder of images of one echo time."
    )


def _on_one_scale(by_b: Mapping[float, Volume], slices: Mapping[float, Sequence[Header]]) -> dict[float, Volume]:
    """Images of Philips, each scan of which has a scale of its own, by the scale of the highest b value's.

    ImageError where only some state theirs, or slices of one image differ.
    """
    scales = {b: {_rounded(h.signal_scale) for h in headers} for b, headers in slices.items()}
    stated = set().union(*scales.values())
    if len(stated) == 1:
        return dict(by_b)
    if None in stated or any(len(of_b) > 1 for of_b in scales.values()):
        raise ImageError(
            f"Diffusion images of b {', '.join(f'{b:g}' for b in sorted(by_b))} must have values of one scale to be "
            "fitted together, but have several, or only some state theirs (Philips' scale slope, 2005,100E). Export "
            "them again with their private elements."
        )
    known = {b: scale for b, of_b in scales.items() for scale in of_b if scale is not None}
    reference = known[max(known)]
    return {b: volume.with_array(volume.array * np.float32(reference / known[b])) for b, volume in by_b.items()}


def _rounded(scale: float | None) -> float | None:
    return None if scale is None else float(f"{scale:.5g}")


@dataclass(frozen=True)
class Origin:
    """What the DICOM files state that a program made images from.

    Attributes:
        files: Of the images that lie where their files state, in the order of their slices.
        acquisitions: As the headers state them, with b values and planes of the exam.
        exams: Those that an image's slices are of.
        notes: What does not fit, in sentences.
    """

    files: dict[MRSequence, tuple[Path, ...]] = field(default_factory=dict)
    acquisitions: dict[MRSequence, Acquisition] = field(default_factory=dict)
    exams: dict[MRSequence, frozenset[Exam]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def read_origin(
    grids: Mapping[MRSequence, Geometry], files: Mapping[MRSequence, Iterable[Path]], others: Iterable[Path] = ()
) -> Origin:
    """Read the headers behind images that are in memory already.

    Args:
        grids: Where each image lies.
        files: Of its slices, in any order.
        others: Files of the exam's further series, for its b values and planes.

    Raises:
        MixedExamsError: The images are of two patients.
    """
    headers = {role: read_headers(p for p in paths if p.is_file()) for role, paths in files.items() if role in grids}
    found = [header for of_role in headers.values() for header in of_role]
    known = {header.path for header in found}
    rest = read_headers(p for p in others if p.is_file() and p not in known)
    series = grouped([*found, *rest])
    axial = [s for s in series if s.is_axial_mr and not s.is_reconstructed]
    origin = Origin(exams={role: frozenset(h.exam for h in of_role) for role, of_role in headers.items() if of_role})
    notes = []
    if mixed := mixed_exams(origin.exams):
        if mixed.endswith("patients"):
            raise MixedExamsError(f"The images must belong to one exam, but {mixed}. Select images of one exam.")
        notes.append(
            Note("mixed-exams", f"Not one exam: {mixed}. They were taken together, since they were selected so.")
        )
    for role, of_role in headers.items():
        if not of_role:
            notes.append(
                Note(
                    "unread-headers",
                    f"The DICOM files of {role} cannot be read any more; what they state is not known.",
                )
            )
            continue
        ordered = _along_grid(of_role, grids[role])
        if ordered is None:
            notes.append(Note("moved", f"{role} does not lie where its DICOM files state: it was moved or resampled."))
        else:
            origin.files[role] = tuple(header.path for header in ordered)
        about = acquisition_of(of_role[0].path)
        about = with_planes(about, series) if role is MRSequence.T2W else with_b_values(about, axial)
        origin.acquisitions[role] = about
    return replace(origin, notes=tuple(notes))


def _along_grid(headers: Sequence[Header], grid: Geometry) -> list[Header] | None:
    """The slices in the grid's order; None where they are not its slices."""
    if len(headers) != grid.size[2]:
        return None
    axes = np.reshape(grid.direction, (3, 3))
    ordered = sorted(headers, key=lambda header: float(np.dot(header.position_mm, axes[:, 2])))
    for z, header in enumerate(ordered):
        apart_mm = np.abs(grid.to_world((0, 0, z)) - header.position_mm).max()
        is_same = (
            header.size == grid.size[:2]
            and apart_mm <= SHEAR_TOLERANCE_MM
            and np.allclose(header.spacing_mm, grid.spacing_mm[:2], atol=SPACING_TOLERANCE_MM)
            and np.allclose(header.orientation, axes[:, :2].T.ravel(), atol=ORIENTATION_TOLERANCE)
        )
        if not is_same:
            return None
    return ordered


def stack_slices(headers: Sequence[Header], name: str, label: str) -> Volume:
    """Read slices, in any order, as a volume that runs along their normal, float32, rescaled as the header states.

    Args:
        label: What to call the series in messages.

    Raises:
        GeometryError: One slice, mixed sizes, spacings or orientations, two slices at one position,
            missing slices, uneven gaps, slices that shift sideways.
        ImageError: A slice's pixels cannot be read.
    """
    _require_one_grid(headers, label)
    ordered = _along_normal(headers)
    gap = _even_gap_mm(ordered, label)
    first = ordered[0]
    x, y = first.size
    direction = np.column_stack([first.orientation[:3], first.orientation[3:], first.normal])
    geometry = Geometry(
        size=(x, y, len(ordered)),
        spacing_mm=(*map(float, first.spacing_mm), gap),  # type: ignore[arg-type]
        origin_mm=tuple(map(float, first.position_mm)),  # type: ignore[arg-type]
        direction=tuple(map(float, direction.ravel())),
    )
    require_usable_grid(geometry, label)
    return Volume(_pixels(ordered, geometry.shape, label), geometry, name)


def _pixels(ordered: Sequence[Header], shape: tuple[int, int, int], label: str) -> np.ndarray:
    """The slices as float32; compressed ones by SimpleITK, which has all codecs that scanners and archives use."""
    import pydicom

    if int(np.prod(shape, dtype=np.int64)) * 4 > max_image_bytes():
        raise ImageError(f"{label} takes more memory than an image may. Select another, or raise {MAX_IMAGE_VARIABLE}.")
    try:
        if any(header.is_compressed for header in ordered):
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames([str(header.path) for header in ordered])
            reader.SetOutputPixelType(sitk.sitkFloat32)  # rescale slopes may differ from slice to slice
            return sitk.GetArrayFromImage(reader.Execute()).reshape(shape)
        array = np.empty(shape, np.float32)
        with pydicom.config.disable_value_validation(), warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")
            for slice_, header in zip(array, ordered, strict=True):
                stored = pydicom.dcmread(header.path, force=True).pixel_array
                slice_[:] = stored * np.float64(header.slope) + np.float64(header.intercept)
        return array
    except Exception as error:  # codecs and pydicom raise errors of many kinds
        raise ImageError(f"{label} has a slice that is truncated or damaged. Export it again.") from error


def _require_one_grid(headers: Sequence[Header], label: str) -> None:
    """Raise unless slices are single-frame gray images of one size, spacing and orientation."""
    first = headers[0]
    if max(h.frames for h in headers) > 1:
        raise ImageError(f"{label} is multi-frame (enhanced). Export it as single-frame files, or convert it first.")
    if len(headers) < 2:
        raise GeometryError(f"{label} has a single slice. Select the whole series.")
    if not all(h.is_gray for h in headers):
        raise ImageError(f"{label} has colors, not one gray value a pixel. Select the original series.")
    if problem := next((h.pixel_problem for h in headers if h.pixel_problem), ""):
        raise ImageError(f"{label} does not state what its pixels' values are: it has {problem}. Export it again.")
    if any(h.is_inverted and h.is_compressed for h in headers):  # which SimpleITK inverts, and pydicom does not
        raise ImageError(f"{label} has compressed inverted gray values (MONOCHROME1). Export it without compression.")
    for header in headers:
        if len(header.spacing_mm) != 2:
            raise GeometryError(f"{label} states no pixel spacing (PixelSpacing). Export it again.")
        same = (
            header.size == first.size
            and np.allclose(header.spacing_mm, first.spacing_mm, atol=SPACING_TOLERANCE_MM)
            and np.allclose(header.orientation, first.orientation, atol=ORIENTATION_TOLERANCE)
        )
        if not same:
            raise GeometryError(
                f"{label} mixes slices of several sizes, spacings or orientations. Split the series, or select another."
            )


def _even_gap_mm(ordered: Sequence[Header], label: str) -> float:
    """Distance between neighboring slices; GeometryError where it is not the same everywhere."""
    positions = np.array([h.position_mm for h in ordered])
    along = positions @ ordered[0].normal
    gaps = np.diff(along)
    if not np.isfinite(gaps).all():
        raise GeometryError(f"{label} has a slice whose position is infinite. Export it again.")
    if repeated := int((gaps < SAME_POSITION_MM).sum()):
        raise GeometryError(
            f"{label} has several slices at one position, {repeated} times (acquisitions, echoes, directions or "
            "copies). Split the series, or select another one."
        )
    gap = float(np.median(gaps))
    uneven = np.abs(gaps - gap) > GAP_TOLERANCE * gap
    if uneven.any():
        missing = int((np.round(gaps[uneven] / gap) - 1).sum())
        found = f"slices are missing: {missing}" if missing > 0 else f"gaps are {gaps.min():.2f}..{gaps.max():.2f} mm"
        raise GeometryError(f"{label} has uneven gaps between slices; {found}. Export the whole series again.")
    sideways = positions - positions[0] - np.outer(along - along[0], ordered[0].normal)
    if np.abs(sideways).max() > SHEAR_TOLERANCE_MM:
        raise GeometryError(f"{label} has slices that shift sideways. Resample it first.")
    return float((along[-1] - along[0]) / (len(ordered) - 1))
