"""Ways to compare A with B in the middle view: fade, flicker, checkerboard, a window around the mouse.

MRML only: mouse and keys come in through nodes and calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np
import slicer
import vtk

from ..runs import RunInScene
from ..signals import Signal
from ..workers.steps import Steps
from .cells import A, B, Cell
from .display import Changes, DrawnSegments, LinkedWindows, Style
from .pairs import LabelPair, Order, isSameGrid, labelPair, markSynthetic, putOnGridOf, sharedSegments

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
        others: Nodes that are only there to show it.
    """

    def __init__(
        self,
        node: slicer.vtkMRMLScalarVolumeNode,
        first: np.ndarray,
        second: np.ndarray,
        others: Sequence[slicer.vtkMRMLNode] = (),
    ) -> None:
        self.node, self.others = node, others
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
    markSynthetic(node, (first, second))
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
    return Mixture(node, labels.first, labels.second, (display, colors))


_HALF = 0.5


def _isThere(cell: Cell | None) -> bool:
    """Whether a view has a volume, which the user has not removed from the scene."""
    return cell is not None and cell.volume is not None and cell.volume.GetScene() is not None


class Tool(StrEnum):
    """What the middle view is made of."""

    NONE = "none"  # A, fading into B
    CHECKERBOARD = "checkerboard"
    REVEAL = "reveal"


class Viewing:
    """Style of all segments, and the tools of the middle view.

    Args:
        run: What is shown.
        order: Which arm comes first.
        cells: Singleton tag → what the view was given to show.
        logics: Singleton tag → the view.
        windows: Links the volumes of A and B, if there are any.
        changes: Undoes all of it in the end.
        before: What images are to be looked at beside: their input, or what they are measured against.

    Attributes:
        changed: Emitted when the middle view shows something else.
    """

    def __init__(
        self,
        run: RunInScene,
        order: Order,
        cells: Mapping[str, Cell],
        logics: Mapping[str, slicer.vtkMRMLSliceLogic],
        windows: LinkedWindows | None,
        changes: Changes,
        before: Cell | None = None,
    ) -> None:
        self.changed = Signal()
        self._run, self._order, self._cells, self._logics = run, order, cells, logics
        self._windows, self._changes = windows, changes
        self._style, self._opacity, self._fade, self._tool = Style.OUTLINE, 0.5, 0.0, Tool.NONE
        self._mixture: Mixture | None = None
        self._cursor: tuple[slicer.vtkMRMLCrosshairNode, int] | None = None
        self._pairs = {"": (A, B)}
        if before is not None and self._hasImages:
            self._pairs |= {f"{before.label} and {cells[tag].label}": (before.tag, tag) for tag in (A, B)}
        self._pair = ""
        self._drawn: dict[str, DrawnSegments] = {}
        self._over: DrawnSegments | None = None  # the second one's segments in the middle view

    def draw(self) -> Steps:
        """Draw the segments into their views, a view with each step; nothing of them is there before."""
        for tag, cell in self._cells.items():
            view = self._logics[tag].GetSliceNode()
            if cell.outline is not None and cell.outline.GetScene() is not None:
                DrawnSegments(cell.outline, view, self._changes).draw(Style.OUTLINE, 1.0)
                yield
            if cell.segmentation is not None:
                self._drawn[tag] = DrawnSegments(cell.segmentation, view, self._changes)
                yield
        if A in self._drawn and B in self._drawn:
            view = self._logics[A].GetSliceNode()
            self._over = DrawnSegments(self._cells[B].segmentation, view, self._changes)
            yield
        self._draw()

    @property
    def canCompare(self) -> bool:
        """Whether there is an A and a B to compare."""
        return self._over is not None or self._hasImages

    @property
    def canMix(self) -> bool:
        """Whether one image or label map can be made of both."""
        if not self._hasImages:
            return self.canCompare and bool(sharedSegments(self._run, self._order))
        return all(_isThere(cell) for cell in self._both) and isSameGrid(*(cell.volume for cell in self._both))

    @property
    def pairs(self) -> tuple[str, ...]:
        """What the middle view can be made of: A and B, which is an empty name, or input and output."""
        return tuple(self._pairs)

    @property
    def pair(self) -> str:
        """What it is made of now."""
        return self._pair

    def namesOf(self, pair: str) -> tuple[str, str]:
        """What the two that the middle view can be made of are called, as their views are."""
        first, second = (self._cells.get(tag) for tag in self._pairs[pair])
        return first.label, second.label if second is not None else ""

    def setPair(self, pair: str) -> None:
        """Make the middle view of these, one of `pairs`."""
        self._pair = pair if pair in self._pairs else ""
        self._forgetMixture()
        self.setTool(Tool.NONE)

    @property
    def _both(self) -> tuple[Cell, Cell | None]:
        first, second = self._pairs[self._pair]
        return self._cells[first], self._cells.get(second)

    @property
    def tool(self) -> Tool:
        return self._tool

    @property
    def fade(self) -> float:
        """0 shows A, 1 shows B."""
        return self._fade

    def setStyle(self, style: Style | str, opacity: float) -> None:
        """How segments are drawn, in all views; the opacity (0..1) is that of the fill."""
        self._style, self._opacity = Style(style), opacity
        self._draw()

    def setFade(self, fade: float) -> None:
        """Between A (0) and B (1), in the middle view."""
        self._fade = min(max(fade, 0.0), 1.0)
        self._draw()
        self.changed.emit()

    def flip(self) -> None:
        """From A to B, or back."""
        self.setFade(0.0 if self._fade > _HALF else 1.0)

    def setTool(self, tool: Tool | str) -> None:
        """Make the middle view of A and B in this way, if `canMix`."""
        tool = Tool(tool) if self.canMix else Tool.NONE
        if tool is not Tool.NONE:
            if self._tool is Tool.NONE and not self._hasImages:  # the user may have edited segments since
                self._forgetMixture()
            self._mixture = self._mixture or self._mix()
        self._tool = tool
        self._followCursor(tool is Tool.REVEAL)
        if self._tool is Tool.CHECKERBOARD:
            self._mixture.showCheckerboard()
        elif self._tool is Tool.REVEAL:
            self._mixture.showFirst()
        self._draw()
        self.changed.emit()

    def middle(self) -> Cell:
        """What the middle view shows now, for its corners."""
        first, second = self._both
        names = self.namesOf(self._pair)
        if self._tool is Tool.CHECKERBOARD:
            return replace(first, label=f"{names[0]} / {names[1]}", arm=None, sentence="Checkerboard")
        if self._tool is Tool.REVEAL:
            return replace(first, sentence=f"{names[1]} around the mouse")
        if self._fade == 1:
            return replace(first, label=names[1], arm=second.arm)
        if self._fade == 0:
            return first
        return replace(first, label=f"{names[0]} to {names[1]}: {self._fade:.0%}", arm=None)

    def close(self) -> None:
        """Follow the mouse no longer; what was changed is given back by `changes`."""
        self._followCursor(False)

    @property
    def _hasImages(self) -> bool:
        cells = [self._cells.get(tag) for tag in (A, B)]
        return all(_isThere(cell) and cell.segmentation is None for cell in cells)

    def _draw(self) -> None:
        share = self._fade if self._tool is Tool.NONE else 0.0
        for tag, drawn in self._drawn.items():
            isHidden = tag == A and self._tool is not Tool.NONE
            drawn.draw(self._style, self._opacity, 0.0 if isHidden else 1.0 - share if tag == A else 1.0)
        if self._over is not None:
            self._over.draw(self._style, self._opacity, share)
        if not self.canCompare:
            return
        composite = self._logics[A].GetSliceCompositeNode()
        wasModifying = composite.StartModify()
        if self._hasImages:
            self._showImages(composite, share)
        else:
            self._showLabels(composite)
        composite.EndModify(wasModifying)

    def _showImages(self, composite: slicer.vtkMRMLSliceCompositeNode, share: float) -> None:
        isPlain = self._tool is Tool.NONE
        first, second = self._both
        composite.SetBackgroundVolumeID((first.volume if isPlain else self._mixture.node).GetID())
        composite.SetForegroundVolumeID(second.volume.GetID() if isPlain and share > 0 else None)
        composite.SetForegroundOpacity(share)

    def _showLabels(self, composite: slicer.vtkMRMLSliceCompositeNode) -> None:
        composite.SetLabelVolumeID(None if self._tool is Tool.NONE else self._mixture.node.GetID())
        isOutline = self._style is Style.OUTLINE
        composite.SetLabelOpacity(1.0 if isOutline else self._opacity)
        self._logics[A].GetSliceNode().SetUseLabelOutline(isOutline)

    def _mix(self) -> Mixture:
        if not self._hasImages:
            return labelMixture(labelPair(self._run, self._order), self._run.about, self._changes)
        mixture = imageMixture(*(cell.volume for cell in self._both), self._changes)
        if self._windows is not None:
            self._windows.add(mixture.node)
        return mixture

    def _forgetMixture(self) -> None:
        if self._mixture is not None:
            for node in (self._mixture.node, *self._mixture.others):
                self._changes.remove(node)
            self._mixture = None

    def _followCursor(self, isOn: bool) -> None:
        if self._cursor is not None:
            self._cursor[0].RemoveObserver(self._cursor[1])
            self._cursor = None
        crosshair = self._run.about.GetScene().GetFirstNodeByClass("vtkMRMLCrosshairNode") if isOn else None
        if crosshair is not None:
            self._cursor = crosshair, crosshair.AddObserver(crosshair.CursorPositionModifiedEvent, self._onCursor)

    def _onCursor(self, crosshair: slicer.vtkMRMLCrosshairNode, event: str) -> None:
        view, ras = crosshair.GetCursorPositionXYZ([0.0] * 3), [0.0] * 3
        isOurs = view is not None and any(view is logic.GetSliceNode() for logic in self._logics.values())
        isSomewhere = isOurs and crosshair.GetCursorPositionRAS(ras)
        self._mixture.showWindow(tuple(ras) if isSomewhere else None)
