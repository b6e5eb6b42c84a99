"""What Slicer's DICOM database has of the chosen volumes: their files, those of their exam, the axis of phase encoding.

Needs MRML, but no Qt. Paths and identifiers go to the worker, into no log and no message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import slicer

from VFMTransferLib.core.measurements import nearest_phase_axis
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.worker.messages import DicomFiles

from .series import TagOf

UIDS = "DICOM.instanceUIDs"
_MODALITY, _SCANNING_SEQUENCE = "0008,0060", "0018,0020"
_PHASE_DIRECTION, _ORIENTATION = "0018,1312", "0020,0037"
_ALONG_ROWS, _ALONG_COLUMNS = ("ROW",), ("COL", "COLUMN")


class Database(Protocol):
    """What is used of Slicer's DICOM database (`ctkDICOMDatabase`)."""

    isOpen: bool

    def fileForInstance(self, instance: str) -> str: ...

    def instanceValue(self, instance: str, tag: str) -> str: ...

    def fileValue(self, file: str, tag: str) -> str: ...

    def seriesForFile(self, file: str) -> str: ...

    def studyForSeries(self, series: str) -> str: ...

    def seriesForStudy(self, study: str) -> tuple[str, ...]: ...

    def filesForSeries(self, series: str) -> tuple[str, ...]: ...


def theDatabase() -> Database | None:
    """The database of this application; None where it has none, or none is open."""
    database = getattr(slicer, "dicomDatabase", None)
    return database if database is not None and database.isOpen else None


def databaseTag(instance: str, tag: str) -> str:
    """A DICOM tag of an image that the database holds; empty where there is none."""
    database = theDatabase()
    return database.instanceValue(instance, tag) if database is not None else ""


def dicomFilesOf(
    volumes: Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode | None], database: Database | None
) -> DicomFiles | None:
    """The files behind volumes, and of their exam what shows its b values and planes; None where none is from DICOM.

    Args:
        volumes: Sequence → volume; of those that were not loaded from DICOM there are no files.
        database: In which they were found.
    """
    if database is None:
        return None
    files: dict[Sequence, tuple[str, ...]] = {}
    for sequence, node in volumes.items():
        instances = ((node.GetAttribute(UIDS) if node is not None else None) or "").split()
        found = [database.fileForInstance(instance) for instance in instances]
        if found and all(found):
            files[sequence] = tuple(found)
    if not files:
        return None
    chosen = {database.seriesForFile(several[0]) for several in files.values()}
    studies = dict.fromkeys(database.studyForSeries(series) for series in sorted(chosen))
    others: list[str] = []
    for series in (series for study in studies for series in database.seriesForStudy(study)):
        if series not in chosen:
            others += _telling(tuple(database.filesForSeries(series)), database)
    return DicomFiles(files, tuple(others))


def _telling(files: tuple[str, ...], database: Database) -> tuple[str, ...]:
    """All slices of an echo-planar MR series, for its b values; of another one the first, which shows its plane."""
    if not files or database.fileValue(files[0], _MODALITY) != "MR":
        return ()
    isEchoPlanar = "EP" in (database.fileValue(files[0], _SCANNING_SEQUENCE) or "").split("\\")
    return files if isEchoPlanar else files[:1]


def phaseAxisOf(node: slicer.vtkMRMLScalarVolumeNode | None, tagOf: TagOf) -> str:
    """The patient's axis nearest to the phase encoding, one of `PHASE_AXES`; empty where DICOM does not state it."""
    instances = ((node.GetAttribute(UIDS) if node is not None else None) or "").split()
    if not instances:
        return ""
    phase = (tagOf(instances[0], _PHASE_DIRECTION) or "").strip().upper()
    try:
        cosines = [float(number) for number in (tagOf(instances[0], _ORIENTATION) or "").split("\\")]
    except ValueError:
        return ""
    if len(cosines) != 6 or phase not in (*_ALONG_ROWS, *_ALONG_COLUMNS):
        return ""
    return nearest_phase_axis(cosines[:3] if phase in _ALONG_ROWS else cosines[3:]) or ""
