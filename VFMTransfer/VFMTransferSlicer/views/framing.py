"""Where the views look: plane, slice, place and zoom, the same in all. MRML only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import slicer
import vtk

from ..runs import RunInScene

Point = tuple[float, float, float]  # RAS millimeters of the world
_FIRST_FIELD_MM = 110.0  # what the report's page begins with
_MARGIN_MM = 12.0  # around what is marked
_LPS_TO_RAS = (-1.0, -1.0, 1.0)


def focusOf(run: RunInScene) -> Point:
    """Where to look first: at the largest disagreement, else at the slice that differs most, else at the middle."""
    comparison = run.comparison or {}
    for disagreement in comparison.get("disagreements", ()):
        x, y, z = (float(part * sign) for part, sign in zip(disagreement["center_mm"], _LPS_TO_RAS, strict=True))
        return (x, y, z)
    index = np.array([(n - 1) / 2 for n in run.about.GetImageData().GetDimensions()])
    if comparison.get("focus_slice") is not None:
        axis, isUp = _sliceAxis(run.about)
        last = run.about.GetImageData().GetDimensions()[axis] - 1
        slice_ = min(comparison["focus_slice"], last)
        index[axis] = slice_ if isUp else last - slice_
    elif (marked := _marked(run)) is not None:
        return tuple(((marked[0] + marked[1]) / 2).tolist())
    return _toWorld(run.about, index)


def frame(run: RunInScene, logics: Sequence[slicer.vtkMRMLSliceLogic], focus: Point) -> None:
    """Turn all views into the plane of the run's volume, onto what is marked, and to one scale.

    Args:
        run: What is looked at; where nothing is marked, its whole volume is shown.
        logics: The views.
        focus: A point of the slice.
    """
    marked = _marked(run)
    center, size = (
        (_middle(run.about), None) if marked is None else ((marked[0] + marked[1]) / 2, marked[1] - marked[0])
    )
    first = logics[0]
    first.GetSliceNode().RotateToVolumePlane(run.about)
    if size is None:
        field = _fieldOf(first, run.about)
    else:
        field = np.full(2, max(_FIRST_FIELD_MM, float(size[:2].max()) + 2 * _MARGIN_MM))
    scale = max(max(field / view.GetSliceNode().GetDimensions()[:2]) for view in logics)  # mm a pixel
    for logic in logics:
        view = logic.GetSliceNode()
        wasModifying = view.StartModify()
        view.RotateToVolumePlane(run.about)
        view.JumpSliceByCentering(*center)
        view.JumpSliceByOffsetting(*focus)
        width, height, _ = view.GetDimensions()
        view.SetFieldOfView(width * scale, height * scale, view.GetFieldOfView()[2])
        view.EndModify(wasModifying)


def jump(views: Iterable[slicer.vtkMRMLSliceNode], point: Point) -> None:
    """Go to the slice through a point; where the point is out of sight, to the point itself."""
    for view in views:
        view.JumpSliceByOffsetting(*point)
        toXy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(view.GetXYToRAS(), toXy)
        seen = toXy.MultiplyPoint((*point, 1.0))[:2]
        if not all(0 <= place < size for place, size in zip(seen, view.GetDimensions(), strict=False)):
            view.JumpSliceByCentering(*point)


def _fieldOf(logic: slicer.vtkMRMLSliceLogic, volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """How many millimeters wide and high a volume is in a view."""
    dimensions, center = [0.0] * 3, [0.0] * 3
    logic.GetVolumeSliceDimensions(volume, dimensions, center)
    return np.abs(dimensions[:2])


def _marked(run: RunInScene) -> np.ndarray | None:
    """Lowest and highest RAS of what the networks mark; None where they mark nothing."""
    corners = [corner for arm in run.arms if arm.segmentation is not None for corner in _corners(arm.segmentation)]
    return np.array([np.min(corners, axis=0), np.max(corners, axis=0)]) if corners else None


def _corners(segmentation: slicer.vtkMRMLSegmentationNode) -> list[Point]:
    """Of the boxes around its segments, in RAS; a label map is often larger than what it marks."""
    toWorld, found = vtk.vtkGeneralTransform(), []
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(segmentation.GetParentTransformNode(), None, toWorld)
    for name in segmentation.GetSegmentation().GetSegmentIDs():
        image, extent, matrix = slicer.vtkOrientedImageData(), [0] * 6, vtk.vtkMatrix4x4()
        segmentation.GetBinaryLabelmapRepresentation(name, image)
        if slicer.vtkOrientedImageDataResample.CalculateEffectiveExtent(image, extent):
            image.GetImageToWorldMatrix(matrix)
            ends = (extent[0:2], extent[2:4], extent[4:6])
            found += [toWorld.TransformPoint(matrix.MultiplyPoint((*index, 1.0))[:3]) for index in product(*ends)]
    return found


def _sliceAxis(volume: slicer.vtkMRMLVolumeNode) -> tuple[int, bool]:
    """The index axis that runs nearest to superior, and whether it runs up."""
    up = np.array([_toWorld(volume, axis)[2] for axis in np.eye(3)]) - _toWorld(volume, np.zeros(3))[2]
    axis = int(np.abs(up / volume.GetSpacing()).argmax())
    return axis, bool(up[axis] > 0)


def _middle(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    return np.array(_toWorld(volume, np.array([(n - 1) / 2 for n in volume.GetImageData().GetDimensions()])))


def _toWorld(volume: slicer.vtkMRMLVolumeNode, index: np.ndarray) -> Point:
    matrix, toWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, toWorld)
    vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return matrix.MultiplyPoint((*index.tolist(), 1.0))[:3]
