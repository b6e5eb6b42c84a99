"""What the two networks of a run say, as two arrays on one grid. MRML only.

`order` says which arm comes first: (0, 1) is A, then B.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.terms import Label

from ..inputs.masks import gridBelow
from ..runs import ArmInScene, RunInScene

Order = tuple[int, int]
Color = tuple[float, float, float]
_SAME_GRID = 1e-3  # of a matrix element, in mm; what a file's float32 header may lose
_FIRST_CHOICE = (str(Label.CSPCA), str(Label.PROSTATE))


@dataclass(frozen=True)
class LabelPair:
    """Both segmentations as label maps (D, H, W), voxel for voxel those of the run's volume.

    Attributes:
        first, second: Value 1 + i for the segment of `names[i]`, 0 elsewhere.
        names: IDs of the segments that both have.
        colors: Of the segments, 0..1.
    """

    first: np.ndarray
    second: np.ndarray
    names: tuple[str, ...]
    colors: tuple[Color, ...]


def imagePair(
    run: RunInScene, order: Order = (0, 1)
) -> tuple[str, slicer.vtkMRMLVolumeNode, slicer.vtkMRMLVolumeNode] | None:
    """The first output image that both networks give: its name and the two volumes; None for other tasks.

    Raises:
        GeometryError: The volumes are not on one grid, for example because the user has changed one.
    """
    return _volumePair(*(alive(run.arms[index].images) for index in order)) if len(run.arms) > max(order) else None


def probabilityPair(
    run: RunInScene, order: Order = (0, 1)
) -> tuple[str, slicer.vtkMRMLVolumeNode, slicer.vtkMRMLVolumeNode] | None:
    """The label whose probability both networks give, cancer first, and the two volumes; None where there is none.

    Raises:
        GeometryError: The volumes are not on one grid.
    """
    if len(run.arms) <= max(order):
        return None
    first, second = (alive(run.arms[index].probabilities) for index in order)
    names = [name for name in first if name != Label.BACKGROUND]
    names.sort(key=lambda name: _FIRST_CHOICE.index(name) if name in _FIRST_CHOICE else len(_FIRST_CHOICE))
    return _volumePair({name: first[name] for name in names}, second)


def labelPair(run: RunInScene, order: Order = (0, 1)) -> LabelPair | None:
    """Both segmentations as label maps; None where the task gives none, or they share no segment."""
    names = sharedSegments(run, order)
    if not names:
        return None
    nodes = [run.arms[index].segmentation for index in order]
    first, second = (_labels(node, names, gridBelow(node, run.about)) for node in nodes)
    colors = tuple(nodes[0].GetSegmentation().GetSegment(name).GetColor() for name in names)
    return LabelPair(first, second, names, colors)


def sharedSegments(run: RunInScene, order: Order = (0, 1)) -> tuple[str, ...]:
    """IDs of the segments that both networks mark; empty where one of them is not there."""
    nodes = [run.arms[index].segmentation for index in order if index < len(run.arms)]
    if len(nodes) < len(order) or any(node is None or node.GetScene() is None for node in nodes):
        return ()
    first, second = (node.GetSegmentation() for node in nodes)
    return leaves(name for name in first.GetSegmentIDs() if second.GetSegment(name) is not None)


def alive(nodes: dict[str, slicer.vtkMRMLNode]) -> dict[str, slicer.vtkMRMLNode]:
    """Those that the user has not removed from the scene."""
    return {name: node for name, node in nodes.items() if node is not None and node.GetScene() is not None}


def leaves(names: Iterable[str]) -> tuple[str, ...]:
    """Segments without the whole prostate where its parts are told apart, for it lies under them."""
    names = tuple(names)
    return tuple(name for name in names if name != Label.PROSTATE) or names


def putOnGridOf(node: slicer.vtkMRMLVolumeNode, other: slicer.vtkMRMLVolumeNode) -> None:
    """Where the other's voxels are, there are the node's as well."""
    matrix = vtk.vtkMatrix4x4()
    other.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(other.GetTransformNodeID())


def armTitle(arm: ArmInScene) -> str:
    """How a network is called in the views: by its bundle's title."""
    return arm.numbers["model"].get("title") or arm.bundle


def _volumePair(first, second):
    for name, volume in first.items():
        if name in second:
            _requireSameGrid(volume, second[name])
            return name, volume, second[name]
    return None


def _requireSameGrid(first: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> None:
    matrices = []
    for volume in (first, second):
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        matrices.append([matrix.GetElement(row, column) for row in range(4) for column in range(4)])
    sizes = [volume.GetImageData().GetDimensions() for volume in (first, second)]
    transforms = [volume.GetTransformNodeID() for volume in (first, second)]
    if sizes[0] != sizes[1] or transforms[0] != transforms[1] or not np.allclose(*matrices, rtol=0, atol=_SAME_GRID):
        raise GeometryError(
            f"'{first.GetName()}' and '{second.GetName()}' must lie on one grid to be compared, but do not. Run again."
        )


def _labels(
    node: slicer.vtkMRMLSegmentationNode, names: tuple[str, ...], grid: slicer.vtkOrientedImageData
) -> np.ndarray:
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for index, name in enumerate(names):
        ids.InsertNextValue(name)
        values.InsertNextValue(index + 1)
    merged = slicer.vtkOrientedImageData()
    extent = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not node.GenerateMergedLabelmapForAllSegments(merged, extent, grid, ids, values):
        raise GeometryError(f"Segmentation '{node.GetName()}' cannot be put on the grid of its volume. Run again.")
    shape = merged.GetDimensions()[::-1]
    return vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(shape).astype(np.uint8)
