"""Results as DICOM beside the exam that they are of: segmentations, measurements (SR TID 1500), derived images.

By highdicom and pydicom, both imported where they are needed. Patient, study and frame of reference are taken over from
the exam, all other identifiers are new; nothing of them is logged or shown.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from ..core import __version__
from ..core.case import Case
from ..core.errors import GeometryError, ImageError
from ..core.files import writing
from ..core.result import Lesion, Result
from ..core.terms import LABEL_TERMS, RESEARCH_USE, Code, Label
from ..core.terms import Sequence as MRSequence
from ..core.volume import Volume
from .dicom_series import is_study_id, study_id

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FOLDER = "dicom"
SEGMENTATION, MEASUREMENTS = "segmentation.dcm", "measurements.dcm"
PROSTATE_MEASUREMENTS = "measurements-prostate.dcm"
"""Where another report has the lesions."""
MANUFACTURER, MODEL = "VFM Transfer project", "VFM Transfer"
SCHEME = "99VFMT"
"""Coding scheme of what no standard has a code for: ours."""
MAX_SEGMENTED_LESIONS = 50
_SERIES_NUMBERS = {"segmentation": 9001, "measurements": 9002, "images": 9003, "prostate": 9051, "more": 9052}
_MAX_LONG_STRING = 64
_UNIT_OF_ADC = Code("UCUM", "um2/s", "square micrometer per second")
"""1e-6 mm²/s."""
_NO_UNIT = Code("UCUM", "1", "no units")
_MILLIMETER, _MILLILITER = Code("UCUM", "mm", "millimeter"), Code("UCUM", "ml", "milliliter")
_RATIO = Code("UCUM", "{ratio}", "ratio")
_DENSITY = Code("UCUM", "ng/ml/ml", "nanogram per milliliter per milliliter")
_CONCENTRATION = Code("UCUM", "ng/ml", "nanogram per milliliter")
_PROSTATE = LABEL_TERMS[Label.PROSTATE].type
_DIAMETER = Code("SCT", "103339001", "Long Axis")
_VOLUME = Code("SCT", "118565006", "Volume")
_ADC = Code("DCM", "113041", "Apparent Diffusion Coefficient")
_MEAN = Code("SCT", "373098007", "Mean")
_ARTIFICIAL_INTELLIGENCE = Code("DCM", "123110", "Artificial Intelligence")
_ALGORITHM_FAMILY = Code("DCM", "111000", "Algorithm Family")
_ALGORITHM_MANUFACTURER = Code("DCM", "122405", "Algorithm Manufacturer")
_PROCEDURE = Code("SCT", "113091000", "Magnetic resonance imaging")
# What an image of the exam gives to one that is made from it: whose it is, where it lies, how it was scanned.
_KEPT = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("StudyDescription", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"),
    *("PositionReferenceIndicator", "PatientPosition", "AcquisitionDate", "AcquisitionTime", "BodyPartExamined"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime"),
    *("EchoTrainLength", "MagneticFieldStrength", "FlipAngle", "ImagingFrequency", "InPlanePhaseEncodingDirection"),
    "DiffusionBValue",
)


# Of these, what must be there even where it is not known.
_MAY_BE_EMPTY = frozenset(
    {
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
        *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "EchoTime", "EchoTrainLength"),
        *("ScanOptions", "MRAcquisitionType", "RepetitionTime"),
    }
)


# Without these no object can refer to a slice.
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# What may be empty, and else must be of this form; other values are left out, as what is not known.
_FORMS = {
    **dict.fromkeys(("PatientBirthDate", "StudyDate", "AcquisitionDate"), r"\d{8}"),
    **dict.fromkeys(("StudyTime", "AcquisitionTime"), r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
    "PatientSex": "[MFO]",
    "PatientAge": r"\d{3}[DWMY]",
}
# What a derived MR image must state; where the exam does not, that it is not known.
_REQUIRED = {"ScanningSequence": "RM", "SequenceVariant": "NONE", "BodyPartExamined": "PROSTATE"}


@dataclass(frozen=True)
class DerivedImage:
    """How an image of a result is written.

    Attributes:
        title: Begins with what it is; the series' description.
        derivation: What was done, in a sentence.
        kind: The last word of Image Type, and the label of a map.
    """

    title: str
    derivation: str
    kind: str = "SYNTHETIC"


_DERIVED = {
    "super-resolved": DerivedImage("SYNTHETIC super-resolved", "Matrix doubled in plane by a neural network."),
    "corrected": DerivedImage(
        "SYNTHETIC distortion-corrected", "Resampled by a displacement that a network estimated."
    ),
    "synthetic": DerivedImage("SYNTHETIC", "Predicted from T2-weighted images by a neural network; not measured."),
}
# Nothing is synthetic where a correction was withheld: the images are the exam's own.
_UNCORRECTED = DerivedImage(
    "UNCORRECTED (correction withheld)", "Copied from the exam: the correction was withheld.", "UNCORRECTED"
)
_UNCORRECTED_COMPUTED = replace(_UNCORRECTED, derivation="The correction was withheld.")


def require_dicom(case: Case, sequence: MRSequence) -> None:
    """Raise unless an image, on whose grid results lie, was read from DICOM.

    Raises:
        ImageError: They were read from other files.
    """
    if not case.files.get(sequence):
        raise ImageError(
            f"To write DICOM, {sequence} of case '{case.id}' must be read from DICOM, but was read from an image file. "
            "Give the DICOM exam."
        )


def require_dicom_of_outputs(case: Case, reference: MRSequence, images: Iterable[str]) -> None:
    """Raise unless DICOM of a result can be written: of each image that it derives from, before the network runs.

    Args:
        reference: The sequence on whose grid results lie.
        images: Names of the output images, as `Result.images` has them.

    Raises:
        ImageError: One was not read from DICOM, or its slices have no identifiers of their own.
        GeometryError: It states no frame of reference.
    """
    with _quiet():
        for source in dict.fromkeys((reference, *map(_source_of, images))):
            _headers(case, source)


def _source_of(name: str) -> MRSequence:
    """What is predicted of another sequence is made from T2w, what is changed from the sequence itself."""
    prefix, _, kind = name.partition("-")
    return next((s for s in MRSequence if str(s) == prefix and kind != "synthetic"), MRSequence.T2W)


def write_dicom(result: Result, case: Case, folder: Path, sector_codes: Mapping[str, Code] | None = None) -> list[Path]:
    """Write all that a result holds as DICOM.

    Args:
        result: On the grids of the case's images.
        case: Read from DICOM.
        folder: Exists; its file names are those of this module, and `<image>/0001.dcm` for derived images.
        sector_codes: Abbreviation of a sector → its code, for the sites of lesions.

    Returns:
        The files.

    Raises:
        ImageError: The case was not read from DICOM, or what its headers state cannot be written.
        GeometryError: The result is of another exam: it states another study, or lies on the grid of no image of this
            one.
        OutputError: The folder cannot be written.
        ModuleNotFoundError: highdicom is not installed.
    """
    written: list[Path] = []
    with _quiet(), writing(folder):
        images = _source_datasets(result, case)
        segmentation: Dataset | None = None
        lesions: dict[int, int] = {}
        if result.labels is not None:
            segmentation, lesions = _segmentation(result, result.labels, images)
            if segmentation is not None:
                written.append(_saved(segmentation, folder / SEGMENTATION))
        for name, report in _reports(result, images, segmentation, lesions, sector_codes or {}):
            written.append(_saved(report, folder / name))
        for number, (name, image) in enumerate(result.images.items()):
            written += _derived(name, image, result, case, folder, _SERIES_NUMBERS["images"] + number)
    return written


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings and errors of pydicom and highdicom repeat values of the header, which nobody must find in a log.

    ImageError, without the value, where one is not as the standard has it.
    """
    import pydicom

    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ImageError(
                "To write DICOM, the headers of the exam must hold values as the standard has them, but one does not "
                f"({type(error).__name__}). Export the exam again."
            ) from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _saved(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def _source_datasets(result: Result, case: Case) -> list[Dataset]:
    """Headers of the slices on whose grid the result's labels lie, or of its task's image."""
    headers = _headers(case, _sequence_of(result, case))
    _require_same_study(result, case, headers[0])
    return headers


def _require_same_study(result: Result, case: Case, header: Dataset) -> None:
    """GeometryError where a result states another study: exams of one protocol may share a grid.

    Images that a program exported have no study's id, and a mixed exam has that of any of its series.
    """
    known = {case.id, study_id(str(header.get("StudyInstanceUID") or ""))}
    if is_study_id(result.case_id) and result.case_id not in known:
        raise GeometryError(
            f"To be written as DICOM, a result must be of the exam that is given, but is of '{result.case_id}', which "
            "is another one. Name the exam that it was predicted from."
        )


def _sequence_of(result: Result, case: Case) -> MRSequence:
    """The sequence that a result was predicted from, known by its grid.

    GeometryError where the exam has no such image, as one of another patient.
    """
    stated = result.grid if result.labels is None else result.labels.geometry
    grids = [image.geometry for image in result.images.values()] if stated is None else [stated]
    for sequence, volume in case.volumes.items():
        if any(volume.geometry.equals(grid) for grid in grids):
            return sequence
    if stated is None:
        raise GeometryError(
            "To be written as DICOM, a result must state its grid, but is of an earlier version. Run it again."
        )
    raise GeometryError(
        "To be written as DICOM, a result must lie on the grid of an image of the exam, but lies on none: it is of "
        "another exam, or of the same one stored with other axes. Predict from the DICOM exam, and name that one."
    )


def _headers(case: Case, sequence: MRSequence) -> list[Dataset]:
    """Headers of the slices of an image, in their order; errors as of `require_dicom_of_outputs`."""
    require_dicom(case, sequence)
    headers = [_header(file) for file in case.files[sequence]]
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise ImageError(
            f"To write DICOM, each slice of {sequence} must have an identifier of its own (SOPInstanceUID), but "
            "several share one. Export the exam again."
        )
    return headers


def _header(file: Path) -> Dataset:
    import pydicom

    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)  # as it was read: without a preamble too
    lacking = [keyword for keyword in _IDENTIFIERS if not header.get(keyword)]
    if lacking:
        raise ImageError(
            f"To write DICOM, each slice must have {', '.join(lacking)}, to which results refer, but one has not. "
            "Export the exam again."
        )
    known = pydicom.charset.python_encoding
    stated = header.get("SpecificCharacterSet") or ""
    if any(name not in known for name in ([stated] if isinstance(stated, str) else stated)):
        raise ImageError(
            "To write DICOM, the exam must state a character set of the standard (SpecificCharacterSet), but states "
            "another one, so that names cannot be taken over. Export it again."
        )
    if not header.get("FrameOfReferenceUID"):
        raise GeometryError(
            "The exam must state its frame of reference to write DICOM that lies in it, but does not. Export it again."
        )
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    for keyword, form in _FORMS.items():
        if header.get(keyword) and not re.fullmatch(form, str(header[keyword].value).strip()):
            header[keyword].value = None
    return header


def _code(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning[:_MAX_LONG_STRING])


def _own(value: str, meaning: str) -> Code:
    return Code(SCHEME, value, meaning)


def _equipment() -> dict[str, Any]:
    return {"manufacturer": MANUFACTURER, "software_versions": __version__}


# Segmentation: the labels, or of lesions one segment each.


def _segmentation(result: Result, labels: Volume, images: list[Dataset]) -> tuple[Dataset | None, dict[int, int]]:
    """The segmentation, None of one without a voxel, and lesion's index → number of its segment."""
    import highdicom as hd

    algorithm = hd.AlgorithmIdentificationSequence(
        result.provenance.title[:_MAX_LONG_STRING],
        _code(_ARTIFICIAL_INTELLIGENCE),
        result.provenance.versions.get("vfm-transfer", __version__),
        source=MANUFACTURER,
        parameters={"bundle": result.provenance.bundle, "weights SHA-256": result.provenance.sha256},
    )
    masks: list[np.ndarray] = []
    segments: list[Any] = []
    lesions: dict[int, int] = {}

    def add(mask: np.ndarray, title: str, label: str) -> int:
        term = LABEL_TERMS.get(label)
        kind = term.type if term else _own(label.upper()[:16], label)
        category = term.category if term else Code("SCT", "85756007", "Tissue")
        masks.append(mask)
        segments.append(
            hd.seg.SegmentDescription(
                len(segments) + 1,
                title[:_MAX_LONG_STRING],
                _code(category),
                _code(kind),
                hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                tracking_uid=hd.UID(),
                tracking_id=title[:_MAX_LONG_STRING],
                anatomic_regions=[_code(_PROSTATE)],
            )
        )
        return len(segments)

    if result.lesions:
        for lesion, mask in lesion_masks(labels, result.lesions[:MAX_SEGMENTED_LESIONS]):
            lesions[lesion.index] = add(mask, f"Lesion {lesion.index}", lesion.label)
    else:
        if Label.PROSTATE in result.volumes_ml and Label.PROSTATE not in result.label_values:
            add(labels.array > 0, LABEL_TERMS[Label.PROSTATE].title, str(Label.PROSTATE))
        for name, value in result.label_values.items():
            term = LABEL_TERMS.get(name)
            add(labels.array == value, term.title if term else str(name), str(name))
    filled = [i for i, mask in enumerate(masks) if mask.any()]
    if not filled:
        return None, {}
    if len(filled) < len(masks):
        masks, segments = [masks[i] for i in filled], [segments[i] for i in filled]
        for number, segment in enumerate(segments, start=1):
            segment.SegmentNumber = number
    segmentation = hd.seg.Segmentation(
        images,
        np.stack(masks, axis=-1).astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        segments,
        hd.UID(),
        _SERIES_NUMBERS["segmentation"],
        hd.UID(),
        1,
        manufacturer_model_name=MODEL,
        device_serial_number=_serial(),
        content_label="AI_RESEARCH",
        content_description="Network output, for research only",
        series_description=_series_description("SEG", result),
        **_equipment(),
    )
    return segmentation, lesions


def _serial() -> str:
    return f"vfm-transfer-{__version__}"


def _series_description(kind: str, result: Result) -> str:
    return f"{kind} RESEARCH {result.provenance.arm} {result.provenance.bundle}".replace("  ", " ")[:_MAX_LONG_STRING]


def lesion_masks(labels: Volume, lesions: Sequence[Lesion]) -> list[tuple[Lesion, np.ndarray]]:
    """The mask (D, H, W) of each lesion in the label map that it was found in, largest first."""
    regions, count = ndimage.label(labels.array > 0, structure=np.ones((3, 3, 3), bool))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    return [(lesion, regions == order[lesion.index - 1] + 1) for lesion in lesions]


# Measurements: a structured report by template 1500.


def _reports(
    result: Result,
    images: list[Dataset],
    segmentation: Dataset | None,
    lesions: Mapping[int, int],
    sector_codes: Mapping[str, Code],
) -> Iterator[tuple[str, Dataset]]:
    """File name and report of the measurements of gland and lesions; none where nothing was measured.

    Slicer's reader of TID 1500 takes the columns of a report's table from its first finding, and its findings in the
    order of the segments. So the findings of a report have the same measurements, and what has others, as the prostate
    beside lesions, a report of its own.
    """
    from highdicom import sr

    algorithm = sr.AlgorithmIdentification(
        result.provenance.title[:_MAX_LONG_STRING],
        result.provenance.versions.get("vfm-transfer", __version__),
        [f"bundle {result.provenance.bundle}", f"weights SHA-256 {result.provenance.sha256}"],
    )
    # highdicom takes these as arguments since 0.28 only, and Slicer 5.12 has 0.27.
    modifier = sr.RelationshipTypeValues.HAS_CONCEPT_MOD
    algorithm.append(sr.TextContentItem(_code(_ALGORITHM_MANUFACTURER), MANUFACTURER, modifier))
    algorithm.append(sr.CodeContentItem(_code(_ALGORITHM_FAMILY), _code(_ARTIFICIAL_INTELLIGENCE), modifier))
    by_measures: dict[tuple[str, ...], list[Any]] = {}
    for lesion in result.lesions:
        if lesion.index in lesions:
            sites = [sector_codes[name] for name in lesion.sectors if name in sector_codes] or [_PROSTATE]
            term = LABEL_TERMS.get(lesion.label)
            kind = term.type if term else Code("SCT", "52988006", "Lesion")
            numbers = _lesion_measurements(lesion)
            name, segment = f"Lesion {lesion.index}", lesions[lesion.index]
            group = _group(name, kind, numbers, sites, algorithm, segmentation, segment, images)
            measures = tuple(f"{what.value} {how}" for what, value, _, how in numbers if value is not None)
            by_measures.setdefault(measures, []).append(group)
    of_lesions = list(by_measures.values())
    gland = _gland_measurements(result)
    whole = None
    if segmentation is not None and not lesions:
        kinds = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in segmentation.SegmentSequence]
        whole = kinds.index(_PROSTATE.value) + 1 if _PROSTATE.value in kinds else None
    if gland:
        group = _group("Prostate", _PROSTATE, gland, [_PROSTATE], algorithm, segmentation, whole, images)
        name = PROSTATE_MEASUREMENTS if of_lesions else MEASUREMENTS
        number = _SERIES_NUMBERS["prostate" if of_lesions else "measurements"]
        # Beside lesions it is of no segment, and Slicer would look for one where the segmentation is referred to.
        refers_to = None if of_lesions else segmentation
        yield name, _report([group], images, refers_to, result, number)
    for extra, groups in enumerate(of_lesions):
        name = MEASUREMENTS if extra == 0 else MEASUREMENTS.replace(".dcm", f"-{extra + 1}.dcm")
        number = _SERIES_NUMBERS["measurements"] if extra == 0 else _SERIES_NUMBERS["more"] + extra
        yield name, _report(groups, images, segmentation, result, number)


def _report(
    groups: list[Any], images: list[Dataset], segmentation: Dataset | None, result: Result, number: int
) -> Dataset:
    """One structured report of findings, which refers to images and, where they are of it, a segmentation."""
    from highdicom import UID, sr

    observer = sr.ObserverContext(
        _code(Code("DCM", "121007", "Device")),
        sr.DeviceObserverIdentifyingAttributes(UID(), name=MODEL, manufacturer_name=MANUFACTURER, model_name=MODEL),
    )
    content = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer),
        _code(_PROCEDURE),
        groups,
        title=_code(Code("DCM", "126000", "Imaging Measurement Report")),
    )
    return sr.Comprehensive3DSR(
        [*images, *([] if segmentation is None else [segmentation])],
        content,
        UID(),
        number,
        UID(),
        1,
        manufacturer=MANUFACTURER,
        is_complete=True,  # though nobody has verified it
        series_description=_series_description("SR", result),
    )


Numbers = list[tuple[Code, float | None, Code, Code | None]]
"""Name, value, unit and derivation."""


def _gland_measurements(result: Result) -> Numbers:
    gland = result.gland
    if gland is None:
        return []
    return [
        (_own("TRANSVERSE", "Transverse diameter, axial"), gland.transverse_mm, _MILLIMETER, None),
        (
            _own("ANTEROPOSTERIOR", "Anteroposterior diameter, mid-sagittal"),
            gland.anteroposterior_mm,
            _MILLIMETER,
            None,
        ),
        (_own("LONGITUDINAL", "Longitudinal diameter, mid-sagittal"), gland.longitudinal_mm, _MILLIMETER, None),
        (_VOLUME, gland.segmented_ml, _MILLILITER, None),
        (_own("ELLIPSOID", "Volume of the ellipsoid"), gland.ellipsoid_ml, _MILLILITER, None),
        (_own("PSA", "Prostate-specific antigen as entered"), gland.psa_ng_ml, _CONCENTRATION, None),
        (_own("PSAD", "PSA density by the mask"), gland.psa_density_segmented, _DENSITY, None),
        (_own("PSAD_ELLIPSOID", "PSA density by the ellipsoid"), gland.psa_density_ellipsoid, _DENSITY, None),
    ]


def _lesion_measurements(lesion: Lesion) -> Numbers:
    return [
        (_VOLUME, lesion.volume_ml, _MILLILITER, None),
        (_DIAMETER, lesion.diameter_mm, _MILLIMETER, None),
        (_ADC, lesion.mean_adc, _UNIT_OF_ADC, _MEAN),
        (_ADC, lesion.adc_p10, _UNIT_OF_ADC, _own("P10", "10th percentile")),
        (_own("HIGH_B_RATIO", "High-b signal ratio, lesion to contralateral zone"), lesion.high_b_ratio, _RATIO, None),
        (_own("CAPSULE", "Distance to capsule"), lesion.capsule_distance_mm, _MILLIMETER, None),
        (_own("CONTACT", "Length of capsular contact"), lesion.capsule_contact_mm, _MILLIMETER, None),
        (_own("PROBABILITY", "Maximum network probability"), lesion.confidence, _NO_UNIT, None),
    ]


def _group(
    name: str,
    kind: Code,
    numbers: Numbers,
    sites: Sequence[Code],
    algorithm: Any,
    segmentation: Dataset | None,
    segment: int | None,
    images: list[Dataset],
) -> Any:
    """One finding: of a segment where there is one, else of the images."""
    from highdicom import UID, sr

    measurements = [
        sr.Measurement(_code(what), value, _code(unit), derivation=None if derivation is None else _code(derivation))
        for what, value, unit, derivation in numbers
        if value is not None
    ]
    about = {
        "finding_type": _code(kind),
        "algorithm_id": algorithm,
        "finding_sites": [sr.FindingSite(_code(site)) for site in sites],
        "measurements": measurements,
    }
    if segmentation is None or segment is None:
        return sr.MeasurementsAndQualitativeEvaluations(sr.TrackingIdentifier(UID(), name), **about)
    uid = segmentation.SegmentSequence[segment - 1].TrackingUID
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid, name),
        referenced_segment=sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            segment,
            source_series=sr.SourceSeriesForSegmentation(images[0].SeriesInstanceUID),
        ),
        **about,
    )


# Derived images.


def _derived(name: str, image: Volume, result: Result, case: Case, folder: Path, number: int) -> list[Path]:
    """One output image: an ADC map as a parametric map with its unit, another one as a series of MR images."""
    prefix, _, kind = name.partition("-")
    source = _source_of(name)
    made = _DERIVED.get(kind, DerivedImage("SYNTHETIC", "Made by a neural network."))
    words = _UNCORRECTED if result.is_withheld else made
    computed_b = case.acquisitions[source].computed_b if source in case.acquisitions else None
    if computed_b is not None:
        words = _UNCORRECTED_COMPUTED if result.is_withheld else made
        how = f"Computed for b {computed_b:g} from the exam's diffusion images; not measured."
        words = replace(words, derivation=f"{how} {words.derivation}")
    title = f"{words.title} {prefix.upper()} RESEARCH {result.provenance.arm}".strip()[:_MAX_LONG_STRING]
    headers = _headers(case, source)
    if prefix == str(MRSequence.ADC):
        return [_saved(_parametric_map(image, headers, title, words, number), folder / f"{name}.dcm")]
    series = folder / name
    series.mkdir(exist_ok=True)
    return [
        _saved(dataset, series / f"{index + 1:04d}.dcm")
        for index, dataset in enumerate(_mr_images(image, headers, title, words, number, computed_b))
    ]


def _parametric_map(image: Volume, headers: list[Dataset], title: str, words: DerivedImage, number: int) -> Dataset:
    """A map of ADC, floating point, in 1e-6 mm²/s."""
    import highdicom as hd

    grid, array = image.geometry, image.array.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    mapping = hd.pm.RealWorldValueMapping(
        "ADC", "Apparent diffusion coefficient", _code(_UNIT_OF_ADC), (low, max(high, low + 1)), 1.0, 0.0,
        quantity_definition=_code(_ADC),
    )  # fmt: skip
    axes = np.reshape(grid.direction, (3, 3))
    made = hd.pm.ParametricMap(
        headers,
        array,
        hd.UID(),
        number,
        hd.UID(),
        1,
        manufacturer_model_name=MODEL,
        device_serial_number=_serial(),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=1200.0,
        window_width=2400.0,
        pixel_measures=hd.PixelMeasuresSequence(grid.spacing_mm[1::-1], grid.spacing_mm[2], grid.spacing_mm[2]),
        plane_orientation=hd.PlaneOrientationSequence(
            hd.CoordinateSystemNames.PATIENT, [*axes[:, 0].tolist(), *axes[:, 1].tolist()]
        ),
        plane_positions=[
            hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, grid.to_world((0, 0, z)).tolist())
            for z in range(grid.size[2])
        ],
        content_label=words.kind,
        content_description=words.derivation[:_MAX_LONG_STRING],
        series_description=title,
        derived_pixel_contrast=hd.pm.DerivedPixelContrastValues.QUANTITY,
        **_equipment(),
    )
    made.BodyPartExamined = "PROSTATE"  # which has no laterality; without it that would have to be stated
    return made


def _mr_images(
    image: Volume,
    headers: list[Dataset],
    title: str,
    words: DerivedImage,
    number: int,
    computed_b: float | None = None,
) -> Iterator[Dataset]:
    """A series of derived MR images, one a slice, that refer to the slices that they were made from.

    `computed_b` is the b value of images that were computed, which is not that of the slices.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    grid = image.geometry
    axes, series_uid = np.reshape(grid.direction, (3, 3)), generate_uid()
    low, high = float(image.array.min()), float(image.array.max())
    slope = max(high - low, 1e-6) / 4095  # 12 bits, as scanners have
    places = np.array([[float(v) for v in header.ImagePositionPatient] for header in headers])
    for z in range(grid.size[2]):
        position = grid.to_world((0, 0, z))
        source = headers[int((((places - position) @ axes[:, 2]) ** 2).argmin())]
        made = Dataset()
        for keyword in _KEPT:
            if keyword in source:
                made[keyword] = copy.deepcopy(source[keyword])
        for keyword, value in _REQUIRED.items():
            if not made.get(keyword):
                setattr(made, keyword, value)
        if computed_b is not None:
            made.DiffusionBValue = computed_b
        made.SOPClassUID, made.SOPInstanceUID = MRImageStorage, generate_uid()
        made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "MR", series_uid, number
        made.InstanceNumber, made.SeriesDescription = z + 1, title
        made.ImageType = ["DERIVED", "SECONDARY", "OTHER", words.kind]
        made.DerivationDescription, made.ImageComments = words.derivation, RESEARCH_USE
        made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = MANUFACTURER, MODEL, __version__
        made.SourceImageSequence = [_reference(source)]
        made.Rows, made.Columns = grid.size[1], grid.size[0]
        made.PixelSpacing = [_decimal(grid.spacing_mm[1]), _decimal(grid.spacing_mm[0])]
        made.SliceThickness = made.SpacingBetweenSlices = _decimal(grid.spacing_mm[2])
        made.ImagePositionPatient = [_decimal(v) for v in position]
        made.ImageOrientationPatient = [_decimal(v) for v in (*axes[:, 0], *axes[:, 1])]
        stored = np.clip(np.rint((image.array[z] - low) / slope), 0, 4095).astype("<u2")
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
        made.RescaleSlope, made.RescaleIntercept, made.RescaleType = _decimal(slope), _decimal(low), "US"
        made.WindowCenter, made.WindowWidth = _decimal((low + high) / 2), _decimal(max(high - low, 1))
        made.PixelData = stored.tobytes()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        yield made


def _reference(source: Dataset) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item


def _decimal(value: float) -> str:
    """A number as DICOM's decimal strings hold it: at most 16 characters."""
    return f"{float(value):.10g}"[:16]
