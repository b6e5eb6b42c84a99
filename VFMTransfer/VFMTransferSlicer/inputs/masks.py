"""Masks for a job: the gland and the reference from segments, and a region from a box. Needs MRML, but no Qt."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVTKMatrix
from vtk.util.numpy_support import vtk_to_numpy

from VFMTransferLib.core.errors import GeometryError, ImageError, OutputError
from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.worker.messages import ImageFile

from .handover import gridInWorld, handOver
from .structures import glandValues, referenceValues

_VOXELS = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def maskOf(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str) -> ImageFile:
    """Write the prostate's mask: 1 where the node marks it or one of its zones.

    Args:
        node: A segmentation, or a label map, of which every value above 0 counts.
        volume: On whose grid segments are written; a label map keeps its own.
        folder: The job's folder.
        name: What to call the file.

    Raises:
        ImageError: No segment is known to be the prostate, or nothing is marked.
        GeometryError: A parent transform bends it.
        OutputError: The file cannot be written.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        return handOver(node, folder, name)
    return _write(node, volume, glandValues(node), folder / f"{name}.npy")


def referenceOf(
    node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str, spec: ModelSpec
) -> ImageFile:
    """Write the truth that the networks are measured against, with the label values that they write.

    Args:
        node: For segmentation tasks a segmentation, or a label map with those values; for image tasks a volume.
        volume: As for `maskOf`.
        folder: The job's folder.
        name: What to call the file.
        spec: Of the first network, which says what its values mean.

    Raises:
        ImageError: A segment cannot be told to be one of the network's labels, or the node is of the wrong kind.
        GeometryError: A parent transform bends it.
        OutputError: The file cannot be written.
    """
    task, isSegmentation = spec.prediction_task, node.IsA("vtkMRMLSegmentationNode")
    if task.output == "classification":
        raise ImageError(f"{task.title} cannot be measured against '{node.GetName()}'. Choose no reference.")
    if task.output == "image" and (isSegmentation or node.IsA("vtkMRMLLabelMapVolumeNode")):
        raise ImageError(f"Reference '{node.GetName()}' must be a volume for this task, but marks structures.")
    if not isSegmentation:
        return handOver(node, folder, name)
    mayBeEmpty = task.id is TaskId.LESION_SEGMENTATION  # no cancer is a truth as well
    return _write(node, volume, referenceValues(node, spec), folder / f"{name}.npy", mayBeEmpty)


def roiMask(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str
) -> ImageFile:
    """Write a mask on the volume's grid: 1 where the middle of a voxel lies in the box, however both are turned.

    Raises:
        GeometryError: The box holds no voxel, or a parent transform bends it or the volume.
        OutputError: The file cannot be written.
    """
    _requireLinear(roi)
    grid = gridInWorld(volume)
    toLps = np.eye(4)
    toLps[:3, :3] = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_mm)
    toLps[:3, 3] = grid.origin_mm
    toBox = np.linalg.inv(arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())) @ _RAS_TO_LPS @ toLps
    half = np.array(roi.GetSize()) / 2
    box = _boxAround(toBox, half, grid.size)
    k, j, i = np.ogrid[box]
    inside = np.zeros(tuple(reversed(grid.size)), bool)  # (D, H, W)
    inside[box] = True
    for row, length in zip(toBox[:3], half, strict=True):
        inside[box] &= np.abs(row[0] * i + row[1] * j + row[2] * k + row[3]) <= length
    if not inside.any():
        raise GeometryError(
            f"Region '{roi.GetName()}' must hold a part of '{volume.GetName()}', but holds none of its voxels. "
            "Move it there, or choose none."
        )
    _save(inside.astype(np.uint8), folder / f"{name}.npy")
    return ImageFile(f"{name}.npy", grid)


def _boxAround(toBox: np.ndarray, half: np.ndarray, size: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Indices (z, y, x) that a turned box can reach, which are far fewer than all."""
    corners = np.array(list(product((-1, 1), repeat=3))) * half
    index = (corners - toBox[:3, 3]) @ np.linalg.inv(toBox[:3, :3]).T
    first = np.clip(np.ceil(index.min(axis=0)), 0, size).astype(int)
    end = np.clip(np.floor(index.max(axis=0)) + 1, 0, size).astype(int)
    return tuple(slice(low, max(low, high)) for low, high in zip(first[::-1], end[::-1], strict=True))


def _write(
    node: slicer.vtkMRMLSegmentationNode,
    volume: slicer.vtkMRMLScalarVolumeNode,
    values: dict[str, int],
    path: Path,
    mayBeEmpty: bool = False,
) -> ImageFile:
    """Write segments as one label map on the volume's grid; of those that overlap the last one counts.

    The whole grid, not the box around the segments: a reference says of every voxel what it is.
    """
    _requireLinear(node)
    grid = gridInWorld(volume)
    names, numbers = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segment, value in values.items():
        names.InsertNextValue(segment)
        numbers.InsertNextValue(value)
    merged, place = slicer.vtkOrientedImageData(), gridBelow(node, volume)
    whole = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not _voxelized(node, place).GenerateMergedLabelmapForAllSegments(merged, whole, place, names, numbers):
        raise ImageError(f"Segmentation '{node.GetName()}' cannot be turned into voxels. Draw or load it again.")
    array = vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(tuple(reversed(grid.size)))  # (D, H, W)
    if not (array.any() or mayBeEmpty):
        raise ImageError(f"Segmentation '{node.GetName()}' must mark something, but is empty. Draw it, or choose none.")
    _save(array.astype(np.uint8), path)
    return ImageFile(path.name, grid)


def gridBelow(
    node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkOrientedImageData:
    """The volume's grid as the segmentation sees it, below its own parent transform."""
    matrix, toNode = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        volume.GetParentTransformNode(), node.GetParentTransformNode(), toNode
    )
    vtk.vtkMatrix4x4.Multiply4x4(toNode, matrix, matrix)
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(volume.GetImageData().GetExtent())
    grid.SetImageToWorldMatrix(matrix)
    return grid


def _voxelized(
    node: slicer.vtkMRMLSegmentationNode, grid: slicer.vtkOrientedImageData
) -> slicer.vtkMRMLSegmentationNode:
    """The node, or where it holds surfaces alone a copy outside the scene, voxelized on the grid."""
    if node.GetSegmentation().ContainsRepresentation(_VOXELS):
        return node
    copy = slicer.vtkMRMLSegmentationNode()
    copy.GetSegmentation().DeepCopy(node.GetSegmentation())
    converter = slicer.vtkSegmentationConverter
    copy.GetSegmentation().SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(grid)
    )
    if not copy.GetSegmentation().CreateRepresentation(_VOXELS):
        raise ImageError(f"Segmentation '{node.GetName()}' cannot be turned into voxels. Draw or load it again.")
    return copy


def _requireLinear(node: slicer.vtkMRMLTransformableNode) -> None:
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f"'{node.GetName()}' must be under linear transforms only, but '{parent.GetName()}' bends it. "
            "Harden the transform first."
        )


def _save(array: np.ndarray, path: Path) -> None:
    try:
        np.save(path, array)
    except OSError as error:
        raise OutputError(
            f"A mask cannot be written into the temporary folder: {error.strerror or error}. "
            "Free some space on its disk."
        ) from error
