"""What is in the views of a comparison, with the texts in their corners, until it is removed. MRML only.

The texts are actors of our own, since Slicer's data probe rewrites its corner annotations.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import slicer
import vtk

from VFMTransferLib.core.terms import LABEL_TERMS, Label, Sequence
from VFMTransferLib.tasks import TASKS

from ..runs import RunInScene
from ..workers.steps import Steps
from .cells import ADC, HBV, REFERENCE, T2W, A, B, Cell, Rows
from .display import Changes, LinkedWindows, keepOut, prostateBounds
from .pairs import Color, Difference, Order, armTitle, isSynthetic, isWithheld, showLegend
from .viewing import Viewing

SYNTHETIC_TEXT = "Synthetic (not acquired)"
UNCORRECTED_TEXT = "Uncorrected (correction withheld)"
RESEARCH_TEXT = "Research use only"
_SEQUENCES = {Sequence.T2W: "T2w", Sequence.HBV: "High-b DWI", Sequence.ADC: "ADC"}
_MARGIN = 0.015  # of the view's sides
_TITLE_PX, _TEXT_PX, _SMALL_PX = 18, 14, 11
_LINE_CHARACTERS = 40  # three views side by side on a window of 1500 pixels show so many
_SHADE = 0.35
_SPACING = 1.25  # of lines of one text
_LINE = 1.35  # of a letter's size, from one line to the next
_WHITE, _ORANGE, _GRAY = (1.0, 1.0, 1.0), (1.0, 0.65, 0.15), (0.65, 0.65, 0.65)


@dataclass(frozen=True)
class Corners:
    """What is written into a view.

    Attributes:
        title: Top left, large.
        text: Under it.
        warning: Top right, in a color that is seen.
        note: Bottom right, small.
        legend: What colors mean, above the note: words and their color (0..1).
    """

    title: str = ""
    text: str = ""
    warning: str = ""
    note: str = ""
    legend: tuple[tuple[str, Color], ...] = ()


def cornersOf(
    cell: Cell,
    run: RunInScene,
    scales: tuple[Difference, ...],
    shown: tuple[slicer.vtkMRMLVolumeNode, ...],
    *,
    isBlinded: bool = False,
) -> Corners:
    """What to write into a view.

    Args:
        cell: What it was given to show.
        run: What all views are about.
        scales: What is shown in diverging colors: A minus B, a displacement.
        shown: The volumes that it shows now; the user may have dropped others into it.
        isBlinded: Whether the networks must not be named.
    """
    lines = [cell.sentence] if cell.sentence else []
    if cell.arm is not None and not isBlinded:
        lines.append(armTitle(run.arms[cell.arm]))
    seen = [scale for scale in scales if scale.node in shown]
    lines += [_scaleOf(scale) for scale in seen if scale.limit is not None]
    if not TASKS[run.task].output.has_voxels and cell.volume is run.about:
        lines += probabilityLines(run, isBlinded)
    legend = next((_legendOf(scale) for scale in seen if scale.limit is None), ())
    wrapped = (part for line in lines for part in textwrap.wrap(line, _LINE_CHARACTERS))
    return Corners(cell.label, "\n".join(wrapped), warningOf(shown), RESEARCH_TEXT, legend)


def warningOf(shown: tuple[slicer.vtkMRMLVolumeNode, ...]) -> str:
    """What a reader must know of the volumes that a view shows; empty where all of them were acquired."""
    warnings = ((isSynthetic, SYNTHETIC_TEXT), (isWithheld, UNCORRECTED_TEXT))
    return next((text for isSo, text in warnings if any(map(isSo, shown))), "")


def probabilityLines(run: RunInScene, isBlinded: bool = False) -> list[str]:
    """The networks, and the classes that each gives; nothing while blinded, for there is no picture to judge."""
    if isBlinded:
        return []
    columns = [{**arm.numbers["class_probabilities"], **arm.numbers["derived_probabilities"]} for arm in run.arms]
    lines = [f"{letter}  {armTitle(arm)}" for letter, arm in zip("AB", run.arms, strict=False)]
    for name in dict.fromkeys(name for column in columns for name in column):
        values = (f"{column[name]:.2f}" if name in column else "n/a" for column in columns)
        lines.append(f"{name}:  {' / '.join(values)}")
    return lines


def _scaleOf(difference: Difference) -> str:
    """What differs, and what the ends of the scale stand for."""
    first, _, rest = difference.subject.partition("-")
    if difference.subject in tuple(Label):
        title = f"{LABEL_TERMS[Label(difference.subject)].title} probability"
    else:
        title = f"{_SEQUENCES.get(first, first)} {rest.replace('-', ' ')}".strip()
    if not difference.limit:
        return f"{title}: no difference"
    unit = f" {difference.unit}" if difference.unit else ""
    return f"{title}, -{difference.limit:g} to +{difference.limit:g}{unit}"


def _legendOf(difference: Difference) -> tuple[tuple[str, Color], ...]:
    colors = difference.node.GetDisplayNode().GetColorNode()
    found = []
    for value in range(1, colors.GetNumberOfColors()):
        color = [0.0] * 4
        colors.GetColor(value, color)
        found.append((colors.GetColorName(value), tuple(color[:3])))
    return tuple(found)


class CornerActors:
    """Draws corners into a view.

    Args:
        renderer: Of the view.
    """

    def __init__(self, renderer: vtk.vtkRenderer) -> None:
        self._renderer = renderer
        self._actors: list[vtk.vtkTextActor] = []
        self._shown = Corners()

    def show(self, corners: Corners) -> bool:
        """Draw these, and no longer those before; False where they are the same."""
        if corners == self._shown:
            return False
        self.remove()
        self._shown = corners
        low, high = _MARGIN, 1 - _MARGIN
        self._add(corners.title, low, high, _TITLE_PX, _WHITE)
        self._add(corners.text, low, high, _TEXT_PX, _WHITE, above=_TITLE_PX)
        self._add(corners.warning, high, high, _TEXT_PX, _ORANGE)
        self._add(corners.note, high, low, _SMALL_PX, _GRAY)
        for row, (words, color) in enumerate(reversed(corners.legend), start=1):
            self._add(words, high, low, _TEXT_PX, color, above=row * _TEXT_PX)
        return True

    def remove(self) -> None:
        """Draw nothing any more."""
        for actor in self._actors:
            self._renderer.RemoveViewProp(actor)
        self._actors = []
        self._shown = Corners()

    def _add(self, text: str, x: float, y: float, size: int, color: Color, above: int = 0) -> None:
        """Text in the corner (x, y) of the view, with `above` pixels of other text between it and the corner."""
        if not text:
            return
        actor = vtk.vtkTextActor()
        isTop, isRight = y > 0.5, x > 0.5
        actor.SetInput(text.replace("→", " to "))  # VTK's own font has no arrow
        look = actor.GetTextProperty()
        look.SetFontSize(size)
        look.SetColor(color)
        look.SetShadow(True)
        look.SetBackgroundColor(0.0, 0.0, 0.0)
        look.SetBackgroundOpacity(_SHADE)  # fat is as bright as the letters
        look.SetLineSpacing(_SPACING)
        look.SetJustificationToRight() if isRight else look.SetJustificationToLeft()
        look.SetVerticalJustificationToTop() if isTop else look.SetVerticalJustificationToBottom()
        corner = vtk.vtkCoordinate()
        corner.SetCoordinateSystemToNormalizedViewport()
        corner.SetValue(x, y)
        place = actor.GetPositionCoordinate()
        place.SetCoordinateSystemToViewport()  # pixels from the corner on
        place.SetReferenceCoordinate(corner)
        place.SetValue(0, -_LINE * above if isTop else _LINE * above)
        self._renderer.AddViewProp(actor)
        self._actors.append(actor)


class ViewCorners:
    """The corners of all views, written again whenever a view shows another volume.

    Args:
        wordsOf: Singleton tag of a view, and the volumes that it shows now → what to write into it.
        rendererOf: Singleton tag → renderer.
        changes: Ends the watch in the end.
    """

    def __init__(
        self,
        wordsOf: Callable[[str, tuple[slicer.vtkMRMLVolumeNode, ...]], Corners],
        rendererOf: Callable[[str], vtk.vtkRenderer],
        changes: Changes,
    ) -> None:
        self._wordsOf, self._rendererOf, self._changes = wordsOf, rendererOf, changes
        self._views: dict[str, tuple[slicer.vtkMRMLSliceLogic, CornerActors]] = {}

    def add(self, tag: str, logic: slicer.vtkMRMLSliceLogic) -> None:
        """Write into one more view."""
        self._views[tag] = logic, CornerActors(self._rendererOf(tag))
        self._changes.observe(logic.GetSliceCompositeNode(), vtk.vtkCommand.ModifiedEvent, self._onModified)
        self._write(tag)

    def update(self) -> None:
        """Write what has changed."""
        for tag in self._views:
            self._write(tag)

    def remove(self) -> None:
        """Write nothing any more."""
        for _, actors in self._views.values():
            actors.remove()
        self._views.clear()

    def _onModified(self, composite: slicer.vtkMRMLSliceCompositeNode, event: str) -> None:
        self.update()

    def _write(self, tag: str) -> None:
        logic, actors = self._views[tag]
        if actors.show(self._wordsOf(tag, _seenIn(logic))):
            logic.GetSliceNode().Modified()  # redraws the view


_OVERLAY_OPACITY = 0.8  # of the difference, so that the anatomy can be seen dimly below it
_LABEL_OPACITY = 0.7
_ALL_FLAGS = 0xFFFFFFFF
_SEQUENCE_TAGS = {Sequence.T2W: T2W, Sequence.ADC: ADC, Sequence.HBV: HBV}


class ComparisonView:
    """A run in the views; `close` takes it out of them.

    Args:
        run, order, isBlinded: As in `SideBySide.show`.
        rows: What each view shows.
        scales: What is shown in diverging colors: A minus B, a displacement.
        logics: Singleton tag → view.
        rendererOf: Singleton tag → renderer.
    """

    def __init__(
        self,
        run: RunInScene,
        order: Order,
        rows: Rows,
        scales: tuple[Difference, ...],
        logics: Mapping[str, slicer.vtkMRMLSliceLogic],
        isBlinded: bool,
        rendererOf: Callable[[str], vtk.vtkRenderer],
    ) -> None:
        self.run, self.logics = run, logics
        self.changes = Changes()
        self.viewing: Viewing | None = None
        self._order, self._scales, self._isBlinded = order, scales, isBlinded
        self._cells = {cell.tag: cell for row in rows for cell in row}
        self._windows: list[LinkedWindows] = []
        self._corners = ViewCorners(self._wordsOf, rendererOf, self.changes)

    def fill(self) -> Steps:
        """Put all into the views, a view with each step; closed on the way, `close` takes out what is there."""
        keepOut([logic.GetSliceNode() for logic in self.logics.values()], self.changes)
        yield
        for tag, cell in self._cells.items():
            fillView(cell, self.logics[tag])
            yield
        for scale in self._scales:
            showLegend(scale)
            yield
        yield from self._linkWindows()
        windows, before = self._windows[0], self._before()
        self.viewing = Viewing(self.run, self._order, self._cells, self.logics, windows, self.changes, before)
        yield from self.viewing.draw()
        self._showCrosshair()
        self.viewing.changed.connect(self._corners.update)
        for tag, logic in self.logics.items():
            self._corners.add(tag, logic)
            yield

    def close(self) -> None:
        """Give back everything but the layout."""
        self._corners.remove()
        if self.viewing is not None:
            self.viewing.close()
        self.changes.giveBack()

    def _before(self) -> Cell | None:
        """The view of what the output images are measured against, else of the input that they are of."""
        if not TASKS[self.run.task].output.gives_images or not self.run.arms[0].images:
            return None
        sequence = Sequence(next(iter(self.run.arms[0].images)).split("-")[0])
        cells = (self._cells.get(tag) for tag in (REFERENCE, _SEQUENCE_TAGS[sequence]))
        return next((cell for cell in cells if cell is not None and _isScalar(cell.volume)), None)

    def _linkWindows(self) -> Steps:
        """Images of one kind together, the first group being that of the networks' images; each other one by itself."""
        volumes = {tag: cell.volume for tag, cell in self._cells.items() if _isScalar(cell.volume)}
        output = next(iter(self.run.arms[0].images), None)
        alike = (A, B) if output is None else (_SEQUENCE_TAGS[Sequence(output.split("-")[0])], REFERENCE, A, B)
        group = list(dict.fromkeys(volumes[tag] for tag in alike if tag in volumes))
        others = dict.fromkeys(volume for volume in volumes.values() if volume not in group)
        high = self.run.inputs.get(Sequence.HBV) or (self._cells[HBV].volume if HBV in self._cells else None)
        for found in (group, *([volume] for volume in others)):
            # Vessels and the bladder's rim are far brighter on diffusion than a lesion is.
            around = prostateBounds(self.run) if high is not None and high in found else None
            self._windows.append(LinkedWindows(found, self.changes, around))
            yield

    def _showCrosshair(self) -> None:
        crosshair = self.run.about.GetScene().GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None and crosshair.GetCrosshairMode() == crosshair.NoCrosshair:
            self.changes.set(crosshair, "CrosshairMode", crosshair.ShowSmallBasic)

    def _wordsOf(self, tag: str, shown: tuple[slicer.vtkMRMLVolumeNode, ...]) -> Corners:
        cell = self.viewing.middle() if tag == A else self._cells[tag]
        return cornersOf(cell, self.run, self._scales, shown, isBlinded=self._isBlinded)


def fillView(cell: Cell, logic: slicer.vtkMRMLSliceLogic) -> None:
    """Show a cell's volumes in a view, and link it with the others in all but these."""
    view, composite = logic.GetSliceNode(), logic.GetSliceCompositeNode()
    for node in (view, composite):
        node.SetSaveWithScene(False)
    view.SetLayoutLabel(cell.short)
    # Outlined label maps are not passed on to the other views: the difference stays filled.
    view.SetInteractionFlagsModifier(_ALL_FLAGS & ~view.LabelOutlineFlag)
    view.SetUseLabelOutline(False)
    wasModifying = composite.StartModify()
    composite.SetLinkedControl(True)
    composite.SetHotLinkedControl(True)
    composite.SetInteractionFlagsModifier(0)  # a volume that is dropped into one view stays in that one
    composite.SetDoPropagateVolumeSelection(False)  # nor does one that is loaded, or shown elsewhere, come in
    composite.SetBackgroundVolumeID(cell.volume.GetID() if cell.volume is not None else None)
    composite.SetForegroundVolumeID(cell.overlay.GetID() if cell.overlay is not None else None)
    composite.SetForegroundOpacity(_OVERLAY_OPACITY if cell.overlay is not None else 0.0)
    composite.SetLabelVolumeID(cell.labels.GetID() if cell.labels is not None else None)
    composite.SetLabelOpacity(_LABEL_OPACITY)
    composite.EndModify(wasModifying)


def _seenIn(logic: slicer.vtkMRMLSliceLogic) -> tuple[slicer.vtkMRMLVolumeNode, ...]:
    """The volumes that a view shows, whoever put them there."""
    composite = logic.GetSliceCompositeNode()
    ids = [composite.GetBackgroundVolumeID(), composite.GetLabelVolumeID()]
    if composite.GetForegroundOpacity() > 0:
        ids.append(composite.GetForegroundVolumeID())
    nodes = (composite.GetScene().GetNodeByID(id_) for id_ in ids if id_)
    return tuple(node for node in nodes if node is not None)


def _isScalar(volume: slicer.vtkMRMLVolumeNode | None) -> bool:
    return volume is not None and volume.IsA("vtkMRMLScalarVolumeNode") and not volume.IsA("vtkMRMLLabelMapVolumeNode")
