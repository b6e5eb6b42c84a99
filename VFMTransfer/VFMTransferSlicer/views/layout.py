"""T2w, network A and network B side by side, in slice views of their own; the user's views stay as they are.

The views are linked with each other by Slicer itself: slice, place and zoom by their view group, window and level by
`LinkedWindows`. All that is changed of the user's nodes is given back, and the views leave the scene with the layout:
a view that stays makes Slicer slower, and is saved with the scene (Slicer issue 7522). Slicer says nothing before it
saves a scene, so what is there only for the views is kept from being saved at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from xml.etree import ElementTree

import slicer
import vtk

from ..runs import RunInScene
from ..signals import Signal
from ..workers.steps import Steps
from .cells import TAG, Rows, Volumes, cellsOf
from .difference import makeDifference
from .framing import Point, focusOf, frame, jump
from .pairs import Order
from .segments import nodesOf
from .shown import Shown
from .viewing import Viewing

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
                view = self._scene.CreateNodeByClass("vtkMRMLSliceNode")  # knows the orientations of this scene
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
            others: Volumes of the same study that the networks did not see.
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
        self._saveLayout(False)  # it would ask for views that are not saved
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
        node.SetDisableModifiedEvent(True)  # Slicer would lay out all views anew
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
    scene.RemoveNode(view)  # first, for then the view's logic lets go, and does not make the others anew
    for node in made:
        if node is not None and node.GetScene() is not None:
            scene.RemoveNode(node)
