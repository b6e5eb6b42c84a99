"""T2w, network A and network B side by side, in slice views of their own; the user's views stay as they are.

The views are linked with each other by Slicer itself: slice, place and zoom by their view group, window and level by
`LinkedWindows`. All that is changed of the user's nodes is restored, and the views leave the scene with the layout:
a view that stays makes Slicer slower, and is saved with the scene (Slicer issue 7522). Slicer gives no notice before it
saves a scene, so what is there only for the views is kept from being saved at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from xml.etree import ElementTree

import numpy as np
import slicer
import vtk

from ..runs import RunInScene
from ..signals import Signal
from ..workers.steps import Steps
from .cells import TAG, Rows, Volumes, cellsOf
from .display import nodesOf
from .pairs import Order, makeDifference
from .shown import Shown
from .viewing import Viewing

Point = tuple[float, float, float]  # RAS millimeters of the world
_FIRST_FIELD_MM = 110.0  # what the report's page begins with
_MARGIN_MM = 12.0  # around what is marked
_LPS_TO_RAS = (-1.0, -1.0, 1.0)


def focusOf(run: RunInScene) -> Point:
    """Where to go first: to the largest disagreement, else to the slice that differs most, else to the middle."""
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
        run: What is shown; where nothing is marked, its whole volume is shown.
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


ONE_ROW_ID, TWO_ROWS_ID = 5501, 5502  # Slicer's own are below 100, and 100 is the one that modules share
VIEW_GROUP = 55  # linked to each other, and to no view outside
_BLINDED = ("Left", "Right")
_COLOR = "#4A90D9"


def layoutXml(rows: Rows) -> str:
    """The layout as Slicer reads it: rows of axial slice views."""
    root = ElementTree.Element("layout", type="vertical")
    for cells in rows:
        row = ElementTree.SubElement(ElementTree.SubElement(root, "item"), "layout", type="horizontal")
        for cell in cells:
            view = ElementTree.SubElement(ElementTree.SubElement(row, "item"), "view")
            view.attrib.update({"class": "vtkMRMLSliceNode", "singletontag": cell.tag})
            # The label is that of the cell only later: another one would make it another layout.
            properties = {"orientation": "Axial", "viewlabel": cell.tag.removeprefix(TAG), "viewcolor": _COLOR}
            for name, value in {**properties, "viewgroup": str(VIEW_GROUP)}.items():
                ElementTree.SubElement(view, "property", name=name, action="default").text = value
    return ElementTree.tostring(root, encoding="unicode")


class SideBySide:
    """Shows a run, and brings the user's former layout back.

    Args:
        layoutNode: Of the application's layout logic.
        application: Knows the slice logic of each view.
        rendererOf: Singleton tag of a view → its renderer, for the words in its corners.
        later: Calls a function when the application has done what it is at.

    Attributes:
        changed: Emitted when the views come and go, also when the user chooses another layout.
    """

    def __init__(
        self,
        layoutNode: slicer.vtkMRMLLayoutNode,
        application: slicer.vtkMRMLApplicationLogic,
        rendererOf: Callable[[str], vtk.vtkRenderer],
        later: Callable[[Callable[[], None]], None] = lambda function: function(),
    ) -> None:
        self.changed = Signal()
        self._layoutNode = layoutNode
        self._application = application
        self._rendererOf = rendererOf
        self._later = later
        self._scene = layoutNode.GetScene()
        self._former: int | None = None
        self._shown: Shown | None = None
        self._focus: Point | None = None
        self._tags: list[tuple[vtk.vtkObject, int]] = []

    @property
    def isShown(self) -> bool:
        return self._shown is not None

    @property
    def run(self) -> RunInScene | None:
        """What is shown."""
        return self._shown.run if self._shown is not None else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Singleton tags of the views that are shown."""
        return tuple(self._shown.logics) if self._shown is not None else ()

    @property
    def viewing(self) -> Viewing | None:
        """Style and tools of what is shown."""
        return self._shown.viewing if self._shown is not None else None

    def prepare(self, tags: Iterable[str]) -> Steps:
        """Make views that will be wanted, one with each step: Slicer takes its time for each, and none to show it then.

        Args:
            tags: Their singleton tags; those that are there are left alone.
        """
        for tag in tags:
            if self._scene.GetSingletonNode(tag, "vtkMRMLSliceNode") is None:
                view = self._scene.CreateNodeByClass("vtkMRMLSliceNode")  # with the orientations of this scene
                view.UnRegister(None)  # it comes with a reference of its own
                view.SetLayoutName(tag)
                view.SetName(tag)
                view.SetLayoutColor(*(int(_COLOR[place : place + 2], 16) / 255 for place in (1, 3, 5)))
                view.SetViewGroup(VIEW_GROUP)
                view.SetOrientation("Axial")
                view.SetSaveWithScene(False)
                self._scene.AddNode(view)
            yield

    def discard(self) -> None:
        """Take views out of the scene that are not shown, one each time that the application has had its turn."""
        views = [] if self.isShown else _views(self._scene)
        if views:
            _removeView(views[0], self._application)
            self._later(self.discard)

    def close(self) -> None:
        """Leave nothing behind, now."""
        self.restore()
        for view in _views(self._scene):
            _removeView(view, self._application)

    def show(
        self,
        run: RunInScene,
        *,
        others: Volumes | None = None,
        secondRow: bool = True,
        order: Order = (0, 1),
        isBlinded: bool = False,
    ) -> None:
        """Switch to the views of a run. The same run shown again stays at its slice.

        Args:
            run: With one arm at least.
            others: Volumes of the same case that the networks did not get.
            secondRow: Reference or ADC, difference and high-b as well.
            order: Which arm comes first.
            isBlinded: Call the networks left and right.

        Raises:
            GeometryError: The arms' volumes are not on one grid; nothing is changed then.
        """
        names = _BLINDED if isBlinded else tuple("AB"[index] for index in order)
        difference = makeDifference(run, order, names)
        rows = cellsOf(run, others or {}, difference, secondRow=secondRow, order=order, names=names)
        tags = tuple(cell.tag for row in rows for cell in row)
        isShown = self._shown is not None and self._shown.run is run
        self._focus = self._middle() if isShown else focusOf(run)
        hasPlace = isShown and tags == self.tags
        self._clear()
        self._arrange(rows)
        logics = {tag: self._application.GetSliceLogicByLayoutName(tag) for tag in tags}
        self._shown = Shown(run, order, rows, difference, logics, isBlinded, self._rendererOf)
        self._saveLayout(False)  # it would need views that are not saved
        if not hasPlace:
            self.frame()
        self.changed.emit()

    def frame(self) -> None:
        """The first zoom, at the slice where the views are to be.

        `show` does so; once more it is needed when Slicer has laid out the views: they get another size then, and their
        sliders put them to slice 0.
        """
        if self._shown is not None and self._focus is not None:
            frame(self._shown.run, list(self._shown.logics.values()), self._focus)
            self._point(self._focus)

    def jumpTo(self, ras: Point) -> None:
        """Go to a point: in these views, or while they are not shown in the user's."""
        views = nodesOf(self._scene, "vtkMRMLSliceNode")
        self._focus = ras
        jump([view for view in views if not self.isShown or view.GetViewGroup() == VIEW_GROUP], ras)
        self._point(ras)

    def restore(self) -> None:
        """Back to the layout that was there before `show`."""
        if self._shown is None:
            return
        self._clear()
        self._stopWatching()
        self._saveLayout(True)
        if self._layoutNode.GetViewArrangement() in (ONE_ROW_ID, TWO_ROWS_ID):
            self._layoutNode.SetViewArrangement(self._former)
        self._former = None
        self.discard()
        self.changed.emit()

    def _point(self, ras: Point) -> None:
        crosshair = self._scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            crosshair.SetCrosshairRAS(*ras)

    def _middle(self) -> Point:
        """Where the first view is."""
        matrix = next(iter(self._shown.logics.values())).GetSliceNode().GetSliceToRAS()
        return tuple(matrix.GetElement(row, 3) for row in range(3))

    def _saveLayout(self, isSaved: bool) -> None:
        node = self._layoutNode
        wasDisabled = node.GetDisableModifiedEvent()
        node.SetDisableModifiedEvent(True)  # Slicer would lay out all views again
        node.SetSaveWithScene(isSaved)
        node.SetDisableModifiedEvent(wasDisabled)

    def _arrange(self, rows: Rows) -> None:
        self._stopWatching()
        if self._former is None:
            self._former = self._layoutNode.GetViewArrangement()
        layout = ONE_ROW_ID if len(rows) == 1 else TWO_ROWS_ID
        xml = layoutXml(rows)
        if not self._layoutNode.SetLayoutDescription(layout, xml):
            self._layoutNode.AddLayoutDescription(layout, xml)
        self._layoutNode.SetViewArrangement(layout)
        kept = {cell.tag for cells in rows for cell in cells}
        for view in _views(self._scene):
            if view.GetLayoutName() not in kept:
                _removeView(view, self._application)
        watched = ((self._layoutNode, vtk.vtkCommand.ModifiedEvent, self._onLayout),)
        watched += ((self._scene, self._scene.StartCloseEvent, self._onClose),)
        self._tags = [(node, node.AddObserver(event, slot)) for node, event, slot in watched]

    def _stopWatching(self) -> None:
        for node, tag in self._tags:
            node.RemoveObserver(tag)
        self._tags = []

    def _clear(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None

    def _onLayout(self, caller: vtk.vtkObject, event: str) -> None:
        """The user chose another layout: leave it there."""
        if self._layoutNode.GetViewArrangement() not in (ONE_ROW_ID, TWO_ROWS_ID):
            self._later(self.restore)  # Slicer is still at work on this layout

    def _onClose(self, caller: vtk.vtkObject, event: str) -> None:
        self.restore()


def _views(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLSliceNode]:
    """Our views, shown or not."""
    return [view for view in nodesOf(scene, "vtkMRMLSliceNode") if view.GetLayoutName().startswith(TAG)]


def _removeView(view: slicer.vtkMRMLSliceNode, application: slicer.vtkMRMLApplicationLogic) -> None:
    """Take a view out of the scene, with all that Slicer made for it."""
    scene, logic, made = view.GetScene(), application.GetSliceLogic(view), []
    if logic is not None:
        made += [logic.GetSliceCompositeNode(), logic.GetSliceModelNode()]
        made += [logic.GetSliceModelDisplayNode(), logic.GetSliceModelTransformNode()]
    scene.RemoveNode(view)  # first, so that the view's logic goes, and does not make the others again
    for node in made:
        if node is not None and node.GetScene() is not None:
            scene.RemoveNode(node)
