"""An exam as DICOM files, loaded as Slicer's DICOM module does, and a stand-in for the database that it came from."""

import sys
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
import slicer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "library"))

from dicom_series import DicomSeries

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.inputs.dicom import UIDS

FRAME = {
    "FrameOfReferenceUID": "1.2.3.4",
    "AccessionNumber": "ACC-99",
    "PatientPosition": "HFS",
    "InPlanePhaseEncodingDirection": "COL",
}
_KINDS = {
    Sequence.T2W: ("t2_tse_tra", "SE", ("ORIGINAL", "PRIMARY", "M")),
    Sequence.HBV: ("dwi b1400", "EP", ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")),
    Sequence.ADC: ("adc", "EP", ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")),
}


class ADatabase:
    """What is used of `ctkDICOMDatabase`, of the files of a folder."""

    isOpen = True

    def __init__(self, folder: Path) -> None:
        self._headers = {
            str(file): pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(folder.rglob("*.dcm"))
        }
        self._files = {str(header.SOPInstanceUID): file for file, header in self._headers.items()}

    def fileForInstance(self, instance: str) -> str:
        return self._files.get(instance, "")

    def instanceForFile(self, file: str) -> str:
        return str(self._headers[str(file)].SOPInstanceUID)

    def instanceValue(self, instance: str, tag: str) -> str:
        return self.fileValue(self._files[instance], tag)

    def fileValue(self, file: str, tag: str) -> str:
        element = self._headers[str(file)].get(tuple(int(part, 16) for part in tag.split(",")))
        if element is None or element.value is None:
            return ""
        several = element.value if element.VM > 1 else [element.value]
        return "\\".join(str(value) for value in several)

    def seriesForFile(self, file: str) -> str:
        return str(self._headers[str(file)].SeriesInstanceUID)

    def studyForSeries(self, series: str) -> str:
        return next(str(h.StudyInstanceUID) for h in self._headers.values() if h.SeriesInstanceUID == series)

    def seriesForStudy(self, study: str) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(str(h.SeriesInstanceUID) for h in self._headers.values() if h.StudyInstanceUID == study)
        )

    def filesForSeries(self, series: str) -> tuple[str, ...]:
        return tuple(file for file, h in self._headers.items() if h.SeriesInstanceUID == series)


def writeExam(volumes: dict[Sequence, slicer.vtkMRMLScalarVolumeNode], folder: Path) -> None:
    """Volumes of the scene as a scanner's DICOM files, a folder a series."""
    for number, (sequence, node) in enumerate(volumes.items(), start=1):
        description, scanning, kind = _KINDS[sequence]
        ijkToRas = slicer.util.arrayFromVTKMatrix(_matrix(node))
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijkToRas
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        axes = lps[:3, :3] / spacing
        voxels = slicer.util.arrayFromVolume(node).astype(float)
        tags = {**FRAME, "DiffusionBValue": 1400.0} if sequence is Sequence.HBV else FRAME
        DicomSeries(
            voxels if np.linalg.det(axes) > 0 else voxels[::-1],
            description,
            number,
            kind,
            scanning,
            orientation=(*axes[:, 0], *axes[:, 1]),
            spacing_mm=tuple(spacing),
            origin_mm=tuple(lps[:3, 3] if np.linalg.det(axes) > 0 else lps[:3] @ (0, 0, len(voxels) - 1, 1)),
            tags=tags,
        ).write(folder / str(sequence))


def _matrix(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def loadSeries(folder: Path, database: ADatabase, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Load a series' files in their order, as `DICOMScalarVolumePlugin` does, and note their instances."""
    files = sorted(str(file) for file in folder.glob("*.dcm"))
    image = SimpleITK.ReadImage(files)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, SimpleITK.GetArrayFromImage(image))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps))
    node.CreateDefaultDisplayNodes()
    node.SetAttribute(UIDS, " ".join(database.instanceForFile(file) for file in files))
    return node
