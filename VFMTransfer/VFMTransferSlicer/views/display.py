"""How images and segmentations are displayed for a comparison, and how the user's display is restored. MRML only.

Images to be compared share one window and level. A segmentation is drawn in one view only, in a style of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from itertools import product
from typing import Any

import numpy as np
import slicer
import vtk

from VFMTransferLib.tasks import TASKS

from ..results.nodes import isWindowChosen, isWindowOfHeader, windowFor
from ..runs import RunInScene
from .pairs import leaves

# Displayable node, display node that was taken from it; where a reload of the module does not reach.
_outliving: list[tuple[slicer.vtkMRMLNode, slicer.vtkMRMLNode]]
_outliving = slicer.__dict__.setdefault("_vfmTransferOutliving", [])


class Changes:
    """Remembers settings before they are changed, and nodes and observers that are only there for the views."""

    def __init__(self) -> None:
        self._former: dict[tuple[slicer.vtkMRMLNode, str], Any] = {}
        self._added: list[slicer.vtkMRMLNode] = []
        self._tags: list[tuple[vtk.vtkObject, int]] = []  # of the observers that call them

    def set(self, node: slicer.vtkMRMLNode, name: str, value: Any) -> None:
        """Call `node.Set<name>(value)`; what `node.Get<name>()` returned before the first time comes back.

        Args:
            node: In a scene.
            name: Of a setting that has a getter and a setter of this name.
            value: The setter's one argument.
        """
        self._former.setdefault((node, name), getattr(node, f"Get{name}")())
        getattr(node, f"Set{name}")(value)

    def add(self, scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode, name: str) -> slicer.vtkMRMLNode:
        """Add a node that is neither listed to the user nor saved with the scene; `giveBack` removes it.

        Add a volume after its display, so that it goes before it: shown without one it would get another.
        """
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        self._added.append(scene.AddNode(node))
        return node

    def remove(self, node: slicer.vtkMRMLNode) -> None:
        """Remove a node that `add` added, before the others."""
        self._added.remove(node)
        if node.GetScene() is not None:
            if node.IsA("vtkMRMLDisplayNode"):
                _keepAlive(node)
            node.GetScene().RemoveNode(node)

    def observe(self, subject: vtk.vtkObject, event: int, slot: Callable[..., None]) -> None:
        """Call a function with each event; `giveBack` ends it."""
        self._tags.append((subject, subject.AddObserver(event, slot)))

    def giveBack(self) -> None:
        """Undo everything, the last change first. Nodes that the user removed meanwhile are skipped."""
        self._stopObserving()
        self._apply(dict(reversed(self._former.items())))
        self._former.clear()
        for node in reversed(self._added[:]):
            self.remove(node)

    def _apply(self, settings: Mapping[tuple[slicer.vtkMRMLNode, str], Any]) -> None:
        nodes = {node: None for node, _ in settings if node.GetScene() is not None}
        with asOne(*nodes):
            for (node, name), value in settings.items():
                if node in nodes:
                    getattr(node, f"Set{name}")(value)

    def _stopObserving(self) -> None:
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags.clear()


@contextmanager
def asOne(*nodes: slicer.vtkMRMLNode) -> Iterator[None]:
    """Emit all changes of each node together, in the end: each event makes Slicer compute its views again."""
    wereModifying = [node.StartModify() for node in nodes]
    try:
        yield
    finally:
        for node, wasModifying in zip(nodes, wereModifying, strict=True):
            node.EndModify(wasModifying)


def _keepAlive(display: slicer.vtkMRMLDisplayNode) -> None:
    """Let a display node that leaves the scene live as long as what it showed is there.

    The slice views of segmentations go on pointing to it, and would crash when the segmentation changes, as it does
    when the scene is saved (`vtkMRMLSegmentationsDisplayableManager2D::OnMRMLSceneNodeRemoved` in Slicer 5.12).
    """
    _outliving[:] = [(shown, node) for shown, node in _outliving if shown.GetScene() is not None]
    shown = display.GetDisplayableNode()
    if shown is not None:
        _outliving.append((shown, display))


class LinkedWindows:
    """Keeps window and level of some volumes the same, whichever of them the user changes.

    Args:
        volumes: The first one's window counts at the beginning.
        changes: Remembers what each of them had, and ends the link.
        around: Lowest and highest RAS of where a window that nobody chose is measured, even where a DICOM header has
            one; by default everywhere, and a header's window stays.
    """

    def __init__(
        self,
        volumes: Iterable[slicer.vtkMRMLScalarVolumeNode],
        changes: Changes,
        around: np.ndarray | None = None,
    ) -> None:
        self._changes = changes
        self._around = around
        self._displays: list[slicer.vtkMRMLScalarVolumeDisplayNode] = []
        self._isCopying = False
        for volume in volumes:
            self.add(volume)

    def add(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Link one more, which takes the others' window."""
        if volume.GetDisplayNode() is None:
            volume.CreateDefaultDisplayNodes()
        display = volume.GetScalarVolumeDisplayNode()
        window, level = display.GetWindow(), display.GetLevel()
        isOfHeader = self._around is not None and isWindowOfHeader(display)
        if isOfHeader or not isWindowChosen(display):  # a few bright vessels would make diffusion images dark
            low, high = windowFor(_voxelsIn(volume, self._around))
            window, level = high - low, (high + low) / 2
        with asOne(display):
            for name, value in (("AutoWindowLevel", False), ("Window", window), ("Level", level)):
                self._changes.set(display, name, value)
        self._displays.append(display)
        self._changes.observe(display, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self._copy(self._displays[0])

    def _onModified(self, display: slicer.vtkMRMLScalarVolumeDisplayNode, event: str) -> None:
        if not self._isCopying:
            self._copy(display)

    def _copy(self, source: slicer.vtkMRMLScalarVolumeDisplayNode) -> None:
        self._isCopying = True
        try:
            for display in self._displays:
                if (display.GetWindow(), display.GetLevel()) != (source.GetWindow(), source.GetLevel()):
                    display.SetWindowLevel(source.GetWindow(), source.GetLevel())
        finally:
            self._isCopying = False


def _voxelsIn(volume: slicer.vtkMRMLVolumeNode, around: np.ndarray | None) -> np.ndarray:
    """Voxels (D, H, W) in a box of the world; all of them where it holds none."""
    array = slicer.util.arrayFromVolume(volume)
    if around is None:
        return array
    corners = np.array(list(product(*around.T)))
    toIjk, toNode = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(None, volume.GetParentTransformNode(), toNode)
    volume.GetRASToIJKMatrix(toIjk)
    vtk.vtkMatrix4x4.Multiply4x4(toIjk, toNode, toIjk)
    index = np.array([toIjk.MultiplyPoint((*corner, 1.0))[:3] for corner in corners])
    low, high = np.rint(index.min(axis=0)).astype(int), np.rint(index.max(axis=0)).astype(int) + 1
    box = [slice(max(a, 0), max(b, 0)) for a, b in zip(low[::-1], high[::-1], strict=True)]
    return array[tuple(box)] if array[tuple(box)].size else array


_MIDDLE_MM = np.array([30.0, 25.0, 25.0])  # half of a box that holds most prostates


def prostateBounds(run: RunInScene) -> np.ndarray:
    """Lowest and highest RAS of the prostate; where nothing marks it, of the middle of the run's volume."""
    nodes = [run.gland, *(arm.segmentation for arm in run.arms if TASKS[run.task].finds_gland)]
    known = [node for node in nodes if node is not None and node.GetScene() is not None]
    if (marked := markedBounds(known)) is not None:
        return marked
    ends = [0.0] * 6
    run.about.GetRASBounds(ends)
    middle = np.reshape(ends, (3, 2)).mean(axis=1)
    return np.array([middle - _MIDDLE_MM, middle + _MIDDLE_MM])


def markedBounds(nodes: Iterable[slicer.vtkMRMLSegmentationNode]) -> np.ndarray | None:
    """Lowest and highest RAS of what segmentations mark; None where they mark nothing."""
    corners = [corner for node in nodes for corner in _corners(node)]
    return np.array([np.min(corners, axis=0), np.max(corners, axis=0)]) if corners else None


def _corners(segmentation: slicer.vtkMRMLSegmentationNode) -> list[tuple[float, float, float]]:
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


_LINE_PX = 2
_KEPT_OUT = "VFMTransfer.KeptOut"  # no view, but marks a list of views as this module's, also in a scene that is loaded


class Style(StrEnum):
    """How segments are drawn."""

    OUTLINE = "outline"
    FILL = "fill"
    BOTH = "both"


class DrawnSegments:
    """A display node more, for one view. It is not saved, so that a scene saved meanwhile is as without it.

    Args:
        segmentation: What is drawn.
        view: Where; nowhere else.
        changes: Removes the display node in the end.
    """

    def __init__(
        self, segmentation: slicer.vtkMRMLSegmentationNode, view: slicer.vtkMRMLSliceNode, changes: Changes
    ) -> None:
        name = f"{segmentation.GetName()} in {view.GetName()}"
        display = slicer.vtkMRMLSegmentationDisplayNode()
        display.SetViewNodeIDs([view.GetID()])  # at once, or the other views would begin to draw it
        self._display = changes.add(segmentation.GetScene(), display, name)
        segmentation.AddAndObserveDisplayNodeID(self._display.GetID())
        shown = leaves(segmentation.GetSegmentation().GetSegmentIDs())
        with asOne(self._display):
            self._display.SetVisibility3D(False)
            self._display.SetSliceIntersectionThickness(_LINE_PX)
            for name in segmentation.GetSegmentation().GetSegmentIDs():
                self._display.SetSegmentVisibility(name, name in shown)
                self._display.SetSegmentOpacity2DFill(name, 1.0)

    def draw(self, style: Style, opacity: float, strength: float = 1.0) -> None:
        """Draw it.

        Args:
            style: What of each segment.
            opacity: Of the fill, 0..1; outlines are opaque.
            strength: Of all of it, 0..1.
        """
        display = self._display
        with asOne(display):
            # Not the visibility as a whole: the eye in Slicer's tree of data would show the segmentation as hidden.
            display.SetVisibility2DFill(strength > 0 and style != Style.OUTLINE)
            display.SetVisibility2DOutline(strength > 0 and style != Style.FILL)
            display.SetOpacity2DFill(opacity * strength)
            display.SetOpacity2DOutline(strength)


def keepOut(views: Iterable[slicer.vtkMRMLSliceNode], changes: Changes) -> None:
    """Segmentations that are shown in all views are shown in all but these; so are those that come into the scene."""
    ours = {view.GetID() for view in views}
    scene = next(iter(views)).GetScene()
    others = [node.GetID() for node in nodesOf(scene, "vtkMRMLAbstractViewNode") if node.GetID() not in ours]

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def keep(scene: slicer.vtkMRMLScene, event: str, node: slicer.vtkMRMLNode) -> None:
        if not node.IsA("vtkMRMLSegmentationDisplayNode"):
            return
        if _KEPT_OUT in node.GetViewNodeIDs():
            node.SetViewNodeIDs([])
        if not node.GetViewNodeIDs():
            changes.set(node, "ViewNodeIDs", [*others, _KEPT_OUT])

    for display in nodesOf(scene, "vtkMRMLSegmentationDisplayNode"):
        keep(scene, "", display)
    changes.observe(scene, scene.NodeAddedEvent, keep)


def showKeptOut(scene: slicer.vtkMRMLScene) -> None:
    """Show segmentations in all views again that were kept out of this module's views, which must be closed."""
    for display in nodesOf(scene, "vtkMRMLSegmentationDisplayNode"):
        if _KEPT_OUT in display.GetViewNodeIDs():
            display.SetViewNodeIDs([])


def nodesOf(scene: slicer.vtkMRMLScene, kind: str) -> list[slicer.vtkMRMLNode]:
    """All nodes of a class and of those made from it."""
    found = scene.GetNodesByClass(kind)
    found.UnRegister(None)  # the collection comes with a reference of its own
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
