"""Write DICOM series as scanners of several makes do, for tests of reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE_AXIAL = (1.0, 0.0, 0.0, 0.0, 0.9659258262890683, -0.25881904510252074)  # 15° about left-right
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
STUDY_UID = generate_uid(entropy_srcs=["a study"])
PATIENT_NAME, PATIENT_ID = "Doe^John", "MRN-4711"


@dataclass
class DicomSeries:
    """One series to write; `voxels` (D, H, W) are its slices along the normal of `orientation`."""

    voxels: np.ndarray
    description: str
    number: int = 1
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M")
    scanning_sequence: str = "SE"
    echo_time_ms: float | None = 101.0
    orientation: tuple[float, ...] = OBLIQUE_AXIAL
    spacing_mm: tuple[float, float, float] = (1.5, 2.0, 4.0)
    origin_mm: tuple[float, float, float] = (-15.0, -20.0, -8.0)
    manufacturer: str = "SIEMENS"
    tags: dict[str, object] = field(default_factory=dict)
    private: tuple[tuple[int, str, int, str, object], ...] = ()  # group, creator, element, VR, value
    slope: float = 1.0
    study_uid: str = STUDY_UID
    series_uid: str = field(default_factory=generate_uid)
    instance_start: int = 1

    @property
    def positions_mm(self) -> list[np.ndarray]:
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return [np.asarray(self.origin_mm) + i * self.spacing_mm[2] * normal for i in range(len(self.voxels))]

    def datasets(self) -> list[FileDataset]:
        return [self._dataset(i, position) for i, position in enumerate(self.positions_mm)]

    def write(self, folder: Path, suffix: str = ".dcm") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for index, dataset in enumerate(self.datasets()):
            paths.append(folder / f"IM{self.number:02d}{self.instance_start + index:03d}{suffix}")
            dataset.save_as(paths[-1], enforce_file_format=True)
        return paths

    def _dataset(self, index: int, position: np.ndarray) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.study_uid, self.series_uid
        ds.PatientName, ds.PatientID = PATIENT_NAME, PATIENT_ID
        ds.Modality, ds.Manufacturer = "MR", self.manufacturer
        ds.ImageType = list(self.image_type)
        ds.SeriesDescription, ds.SeriesNumber = self.description, self.number
        ds.InstanceNumber = self.instance_start + index
        ds.ScanningSequence = self.scanning_sequence
        if self.echo_time_ms is not None:
            ds.EchoTime = self.echo_time_ms
        ds.ImageOrientationPatient = [f"{v:.10g}" for v in self.orientation]
        ds.ImagePositionPatient = [f"{v:.10g}" for v in position]
        ds.PixelSpacing = [self.spacing_mm[1], self.spacing_mm[0]]
        ds.SliceThickness = self.spacing_mm[2]
        self._add_pixels(ds, self.voxels[index])
        for keyword, value in self.tags.items():
            setattr(ds, keyword, value)
        for group, creator, element, vr, value in self.private:
            ds.private_block(group, creator, create=True).add_new(element, vr, value)
        return ds

    def _add_pixels(self, ds: Dataset, pixels: np.ndarray) -> None:
        stored = np.round(pixels / self.slope).astype(np.uint16)
        ds.Rows, ds.Columns = stored.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 0
        ds.RescaleSlope, ds.RescaleIntercept = str(self.slope), "0"
        ds.PixelData = stored.tobytes()
