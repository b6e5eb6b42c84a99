"""One image or label map with A in some places and B in others: a checkerboard, or a window around the mouse."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from .changes import Changes
from .difference import SYNTHETIC
from .pairs import LabelPair, putOnGridOf

FIELD_MM = 12.0  # a side of the checkerboard's fields
WINDOW_MM = 30.0  # a side of the window around the mouse
NAME = "A and B"
_NO_WINDOW = np.s_[0:0, 0:0, 0:0]


class Mixture:
    """A volume that is made of two others.

    Args:
        node: Holds the voxels that are shown.
        first: Voxels (D, H, W) of the one.
        second: Voxels of the other, on the same grid.
    """

    def __init__(self, node: slicer.vtkMRMLScalarVolumeNode, first: np.ndarray, second: np.ndarray) -> None:
        self.node = node
        self._first = first
        self._second = second
        self._window = _NO_WINDOW
        slicer.util.updateVolumeFromArray(node, first)

    def showFirst(self) -> None:
        """The one, whole."""
        np.copyto(slicer.util.arrayFromVolume(self.node), self._first)
        self._window = _NO_WINDOW
        self._touch()

    def showCheckerboard(self) -> None:
        """Fields of the one and of the other in turn; the first corner is the first one's."""
        width, height = (max(round(FIELD_MM / spacing), 1) for spacing in self.node.GetSpacing()[:2])
        _, rows, columns = self._first.shape
        isSecond = (np.arange(rows)[:, None] // height + np.arange(columns) // width) % 2 == 1
        voxels = slicer.util.arrayFromVolume(self.node)
        np.copyto(voxels, self._first)
        np.copyto(voxels, self._second, where=isSecond)
        self._touch()

    def showWindow(self, ras: tuple[float, float, float] | None) -> None:
        """The other in a square around a point of the world, through all slices; nowhere for None.

        Call `showFirst` before the first window.
        """
        window = _NO_WINDOW if ras is None else self._windowAround(ras)
        if window == self._window:
            return
        voxels = slicer.util.arrayFromVolume(self.node)
        voxels[self._window] = self._first[self._window]
        voxels[window] = self._second[window]
        self._window = window
        self._touch()

    def _windowAround(self, ras: tuple[float, float, float]) -> tuple[slice, ...]:
        toNode, toIjk = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        parent = self.node.GetParentTransformNode()
        slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(None, parent, toNode)
        self.node.GetRASToIJKMatrix(toIjk)
        vtk.vtkMatrix4x4.Multiply4x4(toIjk, toNode, toIjk)
        center = toIjk.MultiplyPoint((*ras, 1.0))[:2]
        sides = []
        for index, spacing, count in zip(center, self.node.GetSpacing(), self._first.shape[:0:-1], strict=False):
            half = WINDOW_MM / 2 / spacing
            low, high = (int(np.clip(round(index + end), 0, count)) for end in (-half, half))
            sides.append(slice(low, high))
        return (slice(None), sides[1], sides[0])

    def _touch(self) -> None:
        slicer.util.arrayFromVolumeModified(self.node)


def imageMixture(
    first: slicer.vtkMRMLScalarVolumeNode, second: slicer.vtkMRMLScalarVolumeNode, changes: Changes
) -> Mixture:
    """Of two volumes on one grid, shown as the first one is."""
    scene = first.GetScene()
    display = changes.add(scene, slicer.vtkMRMLScalarVolumeDisplayNode(), f"{NAME} display")
    node = changes.add(scene, slicer.vtkMRMLScalarVolumeNode(), NAME)
    display.CopyContent(first.GetDisplayNode())
    display.SetAutoWindowLevel(False)
    node.SetAndObserveDisplayNodeID(display.GetID())
    node.SetAttribute(SYNTHETIC, "1")
    putOnGridOf(node, first)
    return Mixture(node, *(slicer.util.arrayFromVolume(volume) for volume in (first, second)))


def labelMixture(labels: LabelPair, grid: slicer.vtkMRMLScalarVolumeNode, changes: Changes) -> Mixture:
    """Of two label maps on a volume's grid, in the segments' colors."""
    scene = grid.GetScene()
    colors = changes.add(scene, slicer.vtkMRMLColorTableNode(), f"{NAME} colors")
    colors.SetTypeToUser()
    colors.SetNumberOfColors(len(labels.names) + 1)
    colors.SetColor(0, "none", 0.0, 0.0, 0.0, 0.0)
    for index, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True), start=1):
        colors.SetColor(index, name, *color, 1.0)
    display = changes.add(scene, slicer.vtkMRMLLabelMapVolumeDisplayNode(), f"{NAME} display")
    node = changes.add(scene, slicer.vtkMRMLLabelMapVolumeNode(), NAME)
    display.SetAndObserveColorNodeID(colors.GetID())
    node.SetAndObserveDisplayNodeID(display.GetID())
    putOnGridOf(node, grid)
    return Mixture(node, labels.first, labels.second)
