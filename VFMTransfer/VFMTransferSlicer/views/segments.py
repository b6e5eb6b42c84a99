"""A segmentation in one view only, drawn our way; the user's own display of it is left alone. MRML only."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import slicer

from .changes import Changes, asOne
from .pairs import leaves

_LINE_PX = 2
_NOWHERE = "none"  # an empty list of views would mean all of them


class Style(StrEnum):
    """How segments are drawn."""

    OUTLINE = "outline"
    FILL = "fill"
    BOTH = "both"


class DrawnSegments:
    """A display node more, for one view. It is not saved, so that a scene saved meanwhile looks as without it.

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
            # Not the visibility as a whole: the eye in Slicer's tree of data would say that the segmentation is hidden.
            display.SetVisibility2DFill(strength > 0 and style != Style.OUTLINE)
            display.SetVisibility2DOutline(strength > 0 and style != Style.FILL)
            display.SetOpacity2DFill(opacity * strength)
            display.SetOpacity2DOutline(strength)


def keepOut(views: Iterable[slicer.vtkMRMLSliceNode], changes: Changes) -> None:
    """Segmentations that are shown in all views are shown in all but these."""
    ours = {view.GetID() for view in views}
    scene = next(iter(views)).GetScene()
    others = [node.GetID() for node in nodesOf(scene, "vtkMRMLAbstractViewNode") if node.GetID() not in ours]
    for segmentation in nodesOf(scene, "vtkMRMLSegmentationNode"):
        for index in range(segmentation.GetNumberOfDisplayNodes()):
            display = segmentation.GetNthDisplayNode(index)
            if display is not None and not display.GetViewNodeIDs():
                changes.set(display, "ViewNodeIDs", others or [_NOWHERE])


def nodesOf(scene: slicer.vtkMRMLScene, kind: str) -> list[slicer.vtkMRMLNode]:
    """All nodes of a class and of those made from it."""
    found = scene.GetNodesByClass(kind)
    found.UnRegister(None)  # the collection comes with a reference of its own
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
