"""Mean ADC of a network's image in lesions that are marked in the same study. Needs MRML, but no Qt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVolume, arrayFromVTKMatrix
from vtk.util.numpy_support import vtk_to_numpy

from VFMTransferLib.core.terms import Label

from ..inputs.structures import labelOf
from ..runs import RunInScene

ADC_OUTPUTS = ("adc-synthetic", "adc-corrected")
_LESIONS = (Label.CSPCA, Label.INDOLENT_CANCER)
_INVALID_ITEM = 0

Lesion = tuple[str, np.ndarray]  # what it is called, and its voxels (N, 3) in the world, RAS millimeters


def meanAdcInLesions(run: RunInScene) -> list[tuple[str, list[float | None]]]:
    """What each network's ADC is on average in each lesion, by position.

    A lesion is a segment that its terminology or its name calls one, in a segmentation beside the study's images.

    Returns:
        Name of the lesion's segmentation and segment → the mean of each arm, 1e-6 mm²/s; None where its image does not
        reach.
    """
    images = [next((arm.images[name] for name in ADC_OUTPUTS if name in arm.images), None) for arm in run.arms]
    if not images or any(image is None or image.GetScene() is None for image in images) or not run.isInScene:
        return []
    return [(name, [_meanAt(image, points) for image in images]) for name, points in _lesionsBeside(run.about)]


def _lesionsBeside(volume: slicer.vtkMRMLScalarVolumeNode) -> Iterator[Lesion]:
    scene = volume.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = _studyOf(hierarchy, volume)
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
        if _studyOf(hierarchy, node) != study:
            continue
        segmentation = node.GetSegmentation()
        for name in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(name)
            points = _voxelsOf(node, name) if labelOf(segment) in _LESIONS else np.empty((0, 3))
            if len(points):
                yield f"{segment.GetName()} of {node.GetName()}", points


def _studyOf(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, node: slicer.vtkMRMLNode) -> int:
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetSceneItemID() if item == _INVALID_ITEM else hierarchy.GetItemParent(item)


def _voxelsOf(node: slicer.vtkMRMLSegmentationNode, name: str) -> np.ndarray:
    """The middles of a segment's voxels (N, 3); none where it has no voxels, or a transform bends it."""
    parent = node.GetParentTransformNode()
    image = node.GetBinaryLabelmapInternalRepresentation(name)
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or (parent is not None and not parent.IsTransformToWorldLinear()):
        return np.empty((0, 3))
    array = vtk_to_numpy(scalars).reshape(tuple(reversed(image.GetDimensions())))  # (D, H, W)
    marked = np.argwhere(array == node.GetSegmentation().GetSegment(name).GetLabelValue())[:, ::-1]
    toNode, toWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(toNode)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(parent, None, toWorld)
    first = np.asarray(image.GetExtent()[::2])  # the array begins where the extent does
    return _moved(marked + first, arrayFromVTKMatrix(toWorld) @ arrayFromVTKMatrix(toNode))


def _meanAt(image: slicer.vtkMRMLScalarVolumeNode, points: np.ndarray) -> float | None:
    """Mean of the voxels that the points (N, 3, RAS) lie in."""
    toRas = vtk.vtkMatrix4x4()
    image.GetIJKToRASMatrix(toRas)
    index = np.rint(_moved(points, np.linalg.inv(arrayFromVTKMatrix(toRas)))).astype(int)
    array = arrayFromVolume(image)  # (D, H, W)
    inside = ((index >= 0) & (index < array.shape[::-1])).all(axis=1)
    x, y, z = index[inside].T
    return float(array[z, y, x].mean()) if inside.any() else None


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
