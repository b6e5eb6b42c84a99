"""T2w, network A and network B side by side, in slice views of their own; the user's views stay as they are.

The views are linked with each other by Slicer itself: slice, place and zoom by their view group, window and level by
`LinkedWindows`. All that is changed of the user's nodes is restored, and the views leave the scene with the layout:
a view that stays makes Slicer slower, and is saved with the scene (Slicer issue 7522). Slicer gives no notice before it
saves a scene, so what is there only for the views is kept from being saved at all, and segmentations that were kept out
of them are shown again when the scene is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from xml.etree import ElementTree

import numpy as np
import slicer
import vtk

from VFMTransferLib.tasks import TASKS

from ..runs import RunInScene
from ..signals import Signal
from ..workers.steps import Steps
from .cells import ORIENTATIONS, TAG, Rows, Volumes, cellsOf
from .comparison_view import ComparisonView
from .display import markedBounds, nodesOf, prostateBounds
from .exam import Exam, ShownExam, examRows
from .pairs import Order, makeDifference, makeDisplacement
from .viewing import Viewing

Point = tuple[float, float, float]  # RAS millimeters of the world
_FIRST_FIELD_MM = 110.0  # what the report's page begins with
_MARGIN_MM = 12.0  # around what is marked
_LPS_TO_RAS = (-1.0, -1.0, 1.0)


def focusOf(run: RunInScene) -> Point:
    """Where to go first: the largest disagreement, else the slice that differs most or decides, else the middle."""
    comparison = run.comparison or {}
    for disagreement in comparison.get("disagreements", ()):
        return _rasOf(disagreement["center_mm"])
    index = np.array([(n - 1) / 2 for n in run.about.GetImageData().GetDimensions()])
    if comparison.get("focus_slice") is not None:
        axis, isUp = _sliceAxis(run.about)
        last = run.about.GetImageData().GetDimensions()[axis] - 1
        slice_ = min(comparison["focus_slice"], last)
        index[axis] = slice_ if isUp else last - slice_
    elif run.arms and run.arms[0].numbers.get("decided_at_mm"):  # earlier results lack it
        return _rasOf(run.arms[0].numbers["decided_at_mm"])
    elif (marked := _marked(run)) is not None:
        return middleOf(marked)
    return _toWorld(run.about, index)


def _rasOf(point_mm: Sequence[float]) -> Point:
    """A point of a result, which states LPS."""
    x, y, z = (float(part * sign) for part, sign in zip(point_mm, _LPS_TO_RAS, strict=True))
    return (x, y, z)


def middleOf(bounds: np.ndarray) -> Point:
    """The middle of a box."""
    return tuple(((bounds[0] + bounds[1]) / 2).tolist())


def _fieldMm(bounds: np.ndarray | None) -> float | None:
    """How wide a view is to be, of what is marked; None for the whole volume."""
    return None if bounds is None else max(_FIRST_FIELD_MM, float((bounds[1] - bounds[0])[:2].max()) + 2 * _MARGIN_MM)


def frame(
    about: slicer.vtkMRMLVolumeNode,
    logics: Mapping[str, slicer.vtkMRMLSliceLogic],
    focus: Point,
    bounds: np.ndarray | None,
) -> Steps:
    """Turn all views into the planes of a volume, onto what is marked, and to one scale; a view with each step.

    Args:
        about: A view that shows nothing of another plane lies in its slices.
        logics: Singleton tag → view.
        focus: A point of the slice.
        bounds: Lowest and highest RAS of what is marked; None where nothing is, and the whole volume is shown.
    """
    center = _middle(about) if bounds is None else middleOf(bounds)
    field = _fieldMm(bounds)
    first = next(iter(logics.values()))
    first.GetSliceNode().RotateToVolumePlane(about)
    wanted = _fieldOf(first, about) if field is None else np.full(2, field)
    scale = max(max(wanted / logic.GetSliceNode().GetDimensions()[:2]) for logic in logics.values())  # mm a pixel
    for tag, logic in logics.items():
        view = logic.GetSliceNode()
        wasModifying = view.StartModify()
        view.SetOrientation(ORIENTATIONS.get(tag, "Axial"))
        view.RotateToVolumePlane(logic.GetBackgroundLayer().GetVolumeNode() if tag in ORIENTATIONS else about)
        view.JumpSliceByCentering(*center)
        view.JumpSliceByOffsetting(*focus)
        width, height, _ = view.GetDimensions()
        view.SetFieldOfView(width * scale, height * scale, view.GetFieldOfView()[2])
        view.EndModify(wasModifying)
        yield


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
    """Lowest and highest RAS of what the networks mark, else of the prostate; None where neither is known."""
    nodes = [arm.segmentation for arm in run.arms]
    bounds = markedBounds(node for node in nodes if node is not None and node.GetScene() is not None)
    if bounds is None and run.gland is not None and run.gland.GetScene() is not None:
        bounds = markedBounds([run.gland])
    return bounds


def _sliceAxis(volume: slicer.vtkMRMLVolumeNode) -> tuple[int, bool]:
    """The index axis that runs nearest to superior, and whether it runs up."""
    up = np.array([_toWorld(volume, axis)[2] for axis in np.eye(3)]) - _toWorld(volume, np.zeros(3))[2]
    axis = int(np.abs(up / volume.GetSpacing()).argmax())
    return axis, bool(up[axis] > 0)


def _middle(volume: slicer.vtkMRMLVolumeNode) -> Point:
    return _toWorld(volume, np.array([(n - 1) / 2 for n in volume.GetImageData().GetDimensions()]))


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
    """The layout as Slicer reads it: rows of slice views."""
    root = ElementTree.Element("layout", type="vertical")
    for cells in rows:
        row = ElementTree.SubElement(ElementTree.SubElement(root, "item"), "layout", type="horizontal")
        for cell in cells:
            view = ElementTree.SubElement(ElementTree.SubElement(row, "item"), "view")
            view.attrib.update({"class": "vtkMRMLSliceNode", "singletontag": cell.tag})
            # The label is that of the cell only later: another one would make it another layout.
            orientation = ORIENTATIONS.get(cell.tag, "Axial")
            properties = {"orientation": orientation, "viewlabel": cell.tag.removeprefix(TAG), "viewcolor": _COLOR}
            for name, value in {**properties, "viewgroup": str(VIEW_GROUP)}.items():
                ElementTree.SubElement(view, "property", name=name, action="default").text = value
    return ElementTree.tostring(root, encoding="unicode")


class SideBySide:
    """Shows a run or an exam in views of its own, and brings the user's former layout back.

    Args:
        layoutNode: Of the application's layout logic.
        application: Knows the slice logic of each view.
        rendererOf: Singleton tag of a view → its renderer, for the words in its corners.
        later: Calls a function when the application has done what it is at.
        forget: Called with the singleton tag and the logic of each view that left the scene.

    Attributes:
        changed: Emitted when the views come and go, also when the user chooses another layout.
    """

    def __init__(
        self,
        layoutNode: slicer.vtkMRMLLayoutNode,
        application: slicer.vtkMRMLApplicationLogic,
        rendererOf: Callable[[str], vtk.vtkRenderer],
        later: Callable[[Callable[[], None]], None] = lambda function: function(),
        forget: Callable[[str, slicer.vtkMRMLSliceLogic | None], None] = lambda tag, logic: None,
    ) -> None:
        self.changed = Signal()
        self._layoutNode = layoutNode
        self._application = application
        self._rendererOf = rendererOf
        self._later = later
        self._forget = forget
        self._scene = layoutNode.GetScene()
        self._former: int | None = None
        self._shown: ComparisonView | ShownExam | None = None
        self._focus: Point | None = None
        self._isDiscarding = False
        self._tags: list[tuple[vtk.vtkObject, int]] = []

    @property
    def isShown(self) -> bool:
        return self._shown is not None

    @property
    def run(self) -> RunInScene | None:
        """The run that is shown; None for an exam."""
        return self._shown.run if isinstance(self._shown, ComparisonView) else None

    @property
    def exam(self) -> Exam | None:
        """The exam that is shown; None for a run."""
        return self._shown.exam if isinstance(self._shown, ShownExam) else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Singleton tags of the views that are shown."""
        return tuple(self._shown.logics) if self._shown is not None else ()

    @property
    def viewing(self) -> Viewing | None:
        """Style and tools of what is shown."""
        return self._shown.viewing if isinstance(self._shown, ComparisonView) else None

    def prepare(self, tags: Iterable[str]) -> Steps:
        """Make views that will be wanted, one with each step: Slicer takes its time for each, and none to show it then.

        Args:
            tags: Their singleton tags; those that are there are left alone.
        """
        self._isDiscarding = False
        for tag in tags:
            if self._scene.GetSingletonNode(tag, "vtkMRMLSliceNode") is None:
                view = self._scene.CreateNodeByClass("vtkMRMLSliceNode")  # with the orientations of this scene
                view.UnRegister(None)  # it comes with a reference of its own
                view.SetLayoutName(tag)
                view.SetName(tag)
                view.SetLayoutColor(*(int(_COLOR[place : place + 2], 16) / 255 for place in (1, 3, 5)))
                view.SetViewGroup(VIEW_GROUP)
                view.SetOrientation(ORIENTATIONS.get(tag, "Axial"))
                view.SetSaveWithScene(False)
                self._scene.AddNode(view)
            yield

    def discard(self) -> None:
        """Take views out of the scene that are not shown, one each time that the application has had its turn."""
        self._isDiscarding = True
        self._discardNext()

    def _discardNext(self) -> None:
        views = _views(self._scene) if self._isDiscarding and not self.isShown else []
        if views:
            self._remove(views[0])
            self._later(self._discardNext)

    def close(self) -> None:
        """Leave nothing behind, now."""
        self.restore()
        for view in _views(self._scene):
            self._remove(view)

    def show(self, run: RunInScene, **options) -> None:
        """Switch to the views of a run, all at once; see `showInSteps`."""
        for _ in self.showInSteps(run, **options):
            pass

    def showInSteps(
        self,
        run: RunInScene,
        *,
        others: Volumes | None = None,
        secondRow: bool = True,
        order: Order = (0, 1),
        isBlinded: bool = False,
    ) -> Steps:
        """Switch to the views of a run, a view with each step.

        The same run shown again stays at its slice.

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
        yield
        displacement = makeDisplacement(run, order, names)
        rows = cellsOf(run, others or {}, difference, displacement, secondRow=secondRow, order=order, names=names)
        tags = {cell.tag for row in rows for cell in row}
        scales = [scale for scale in (difference, displacement) if scale is not None and _isSeen(scale.node, rows)]

        def make(logics: Mapping[str, slicer.vtkMRMLSliceLogic]) -> ComparisonView:
            return ComparisonView(run, order, rows, tuple(scales), logics, isBlinded, self._rendererOf)

        isSame = self.run is run
        self._focus = self._middle() if isSame else focusOf(run)
        bounds = prostateBounds(run) if TASKS[run.task].output.gives_images else _marked(run)
        yield from self._open(rows, make, run.about, bounds, isPlaced=isSame and tags == set(self.tags))

    def showExam(self, exam: Exam) -> None:
        """Switch to the views of an exam, all at once; see `showExamInSteps`."""
        for _ in self.showExamInSteps(exam):
            pass

    def showExamInSteps(self, exam: Exam) -> Steps:
        """Switch to T2w in three planes, ADC and high-b, with the field of view at the prostate, in steps."""
        rows, bounds = examRows(exam), exam.bounds

        def make(logics: Mapping[str, slicer.vtkMRMLSliceLogic]) -> ShownExam:
            return ShownExam(exam, rows, logics, self._rendererOf)

        self._focus = middleOf(bounds)
        yield from self._open(rows, make, exam.about, bounds)

    def _open(
        self,
        rows: Rows,
        make: Callable[[Mapping[str, slicer.vtkMRMLSliceLogic]], ComparisonView | ShownExam],
        about: slicer.vtkMRMLVolumeNode,
        bounds: np.ndarray | None,
        isPlaced: bool = False,
    ) -> Steps:
        tags = [cell.tag for row in rows for cell in row]
        yield from self.prepare(tags)
        self._clear()
        yield
        yield from self._arrange(rows)
        shown = self._shown = make({tag: self._application.GetSliceLogicByLayoutName(tag) for tag in tags})
        self._frame = lambda: frame(about, shown.logics, self._focus, bounds)
        self._saveLayout(False)  # it would need views that are not saved
        yield from shown.fill()
        if not isPlaced and self._shown is shown:
            yield from self._frame()
            self._point(self._focus)
        if self._shown is shown:  # the user may have chosen another layout meanwhile
            self.changed.emit()

    def frameInSteps(self) -> Steps:
        """The first zoom, at the slice where the views are to be.

        `show` does so; once more it is needed when Slicer has laid out the views: they get another size then, and their
        sliders put them to slice 0.
        """
        if self._shown is not None and self._focus is not None:
            yield from self._frame()
            self._point(self._focus)

    def jumpTo(self, ras: Point) -> None:
        """Go to a point: in these views, or while they are not shown in the user's."""
        views = nodesOf(self._scene, "vtkMRMLSliceNode")
        self._focus = ras
        jump([view for view in views if not self.isShown or view.GetViewGroup() == VIEW_GROUP], ras)
        self._point(ras)

    def restore(self) -> None:
        """Back to the layout that was there before, at once; the views leave one by one."""
        for _ in self.restoreInSteps():
            pass

    def restoreInSteps(self) -> Steps:
        """Back to the layout that was there before; what was changed for the views goes with the second step."""
        shown = self._shown
        if self._former is None:  # none of this module's layouts was begun
            self.discard()
            return
        self._stopWatching()
        self._saveLayout(True)
        if self._layoutNode.GetViewArrangement() in (ONE_ROW_ID, TWO_ROWS_ID):
            self._layoutNode.SetViewArrangement(self._former)
        self._former = None
        yield
        if self._shown is shown:
            self._clear()
            yield
            self.discard()
            self.changed.emit()

    def _remove(self, view: slicer.vtkMRMLSliceNode) -> None:
        tag, logic = view.GetLayoutName(), self._application.GetSliceLogic(view)
        _removeView(view, self._application)
        self._forget(tag, logic)

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

    def _arrange(self, rows: Rows) -> Steps:
        self._stopWatching()
        if self._former is None:
            self._former = self._layoutNode.GetViewArrangement()
        layout = ONE_ROW_ID if len(rows) == 1 else TWO_ROWS_ID
        # A view that is laid out for the first time gets its window and its graphics, which takes Slicer its time.
        for shown in _growing(rows, {view.GetLayoutName() for view in _views(self._scene) if view.IsMappedInLayout()}):
            xml = layoutXml(shown)
            if not self._layoutNode.SetLayoutDescription(layout, xml):
                self._layoutNode.AddLayoutDescription(layout, xml)
            self._layoutNode.SetViewArrangement(layout)
            yield
        watched = ((self._layoutNode, vtk.vtkCommand.ModifiedEvent, self._onLayout),)
        watched += ((self._scene, self._scene.StartCloseEvent, self._onClose),)
        self._tags = [(node, node.AddObserver(event, slot)) for node, event, slot in watched]
        yield
        kept = {cell.tag for cells in rows for cell in cells}
        for view in _views(self._scene):
            if view.GetLayoutName() not in kept:
                self._remove(view)
                yield

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


def _growing(rows: Rows, mapped: set[str]) -> list[Rows]:
    """The rows with one view more each time that is not laid out yet; all of them in the end."""
    tags = [cell.tag for row in rows for cell in row]
    new = [tag for tag in tags if tag not in mapped]
    found = []
    for count in range(1, len(new) + 1):
        left = set(new[count:])
        kept = (tuple(cell for cell in row if cell.tag not in left) for row in rows)
        found.append(tuple(row for row in kept if row))
    return found or [rows]


def _isSeen(node: slicer.vtkMRMLNode, rows: Rows) -> bool:
    return any(node in (cell.overlay, cell.labels) for row in rows for cell in row)


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
