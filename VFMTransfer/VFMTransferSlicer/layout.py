"""T2w, network A and network B side by side, in slice views of their own; the user's views stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import slicer

LAYOUT_ID = 5501  # Slicer's own are below 100, and 100 is the one that modules share
VIEW_GROUP = 55  # linked to each other, and to no view outside
VIEWS = {"VFMTransferT2w": "T2w", "VFMTransferA": "A", "VFMTransferB": "B"}  # singleton tag → label in the corner


def layoutXml() -> str:
    """The layout as Slicer reads it: one row of axial slice views."""
    row = ElementTree.Element("layout", type="horizontal")
    for tag, label in VIEWS.items():
        view = ElementTree.SubElement(ElementTree.SubElement(row, "item"), "view")
        view.attrib.update({"class": "vtkMRMLSliceNode", "singletontag": tag})
        properties = {"orientation": "Axial", "viewlabel": label, "viewcolor": "#4A90D9", "viewgroup": str(VIEW_GROUP)}
        for name, value in properties.items():
            ElementTree.SubElement(view, "property", name=name, action="default").text = value
    return ElementTree.tostring(row, encoding="unicode")


class SideBySide:
    """Shows the comparison, and brings the user's former layout back.

    Args:
        layoutNode: Of the application's layout logic.
        application: Knows the slice logic of each view.
    """

    def __init__(self, layoutNode: slicer.vtkMRMLLayoutNode, application: slicer.vtkMRMLApplicationLogic) -> None:
        self._layoutNode = layoutNode
        self._application = application
        self._former: int | None = None
        self._shown: list[slicer.vtkMRMLSegmentationNode] = []

    def show(
        self,
        volume: slicer.vtkMRMLScalarVolumeNode,
        segmentations: Mapping[str, slicer.vtkMRMLSegmentationNode],
    ) -> None:
        """Switch to the three views: the volume in all of them, each segmentation in one.

        Args:
            volume: Shown in the plane of its own slices.
            segmentations: Singleton tag of a view → what is drawn in it.
        """
        if self._former is None:
            self._former = self._layoutNode.GetViewArrangement()
        xml = layoutXml()
        if not self._layoutNode.SetLayoutDescription(LAYOUT_ID, xml):
            self._layoutNode.AddLayoutDescription(LAYOUT_ID, xml)
        self._layoutNode.SetViewArrangement(LAYOUT_ID)
        bounds = [0.0] * 6
        next(iter(segmentations.values())).GetRASBounds(bounds)
        center = [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]
        for tag in VIEWS:
            self._fill(tag, volume, center)
        for tag, segmentation in segmentations.items():
            view = self._application.GetSliceLogicByLayoutName(tag).GetSliceNode()
            segmentation.GetDisplayNode().SetViewNodeIDs([view.GetID()])
            self._shown.append(segmentation)

    def restore(self) -> None:
        """Back to the layout that was there before `show`; the segmentations are in all views again."""
        for segmentation in self._shown:
            if segmentation.GetScene() is not None:
                segmentation.GetDisplayNode().RemoveAllViewNodeIDs()
        self._shown.clear()
        if self._former is not None:
            self._layoutNode.SetViewArrangement(self._former)
            self._former = None

    def _fill(self, tag: str, volume: slicer.vtkMRMLScalarVolumeNode, center: list[float]) -> None:
        logic = self._application.GetSliceLogicByLayoutName(tag)
        composite = logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(volume.GetID())
        composite.SetLinkedControl(1)
        composite.SetHotLinkedControl(1)
        logic.GetSliceNode().RotateToVolumePlane(volume)
        logic.FitSliceToBackground()
        logic.GetSliceNode().JumpSliceByOffsetting(*center)
