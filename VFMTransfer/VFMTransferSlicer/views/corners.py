"""Words in the corners of views: whose answer it is, that an image is synthetic, what the colors mean.

They are actors of our own: Slicer's own corner texts are rewritten by its data probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import slicer
import vtk

from VFMTransferLib.core.terms import LABEL_TERMS, Label, Sequence, TaskId
from VFMTransferLib.tasks import TASKS

from ..runs import RunInScene
from .cells import Cell
from .difference import SYNTHETIC, Difference
from .pairs import Color, armTitle

SYNTHETIC_TEXT = "Synthetic (not acquired)"
RESEARCH_TEXT = "Research use only"
_TASK = "VFMTransfer.Task"
_SEQUENCES = {Sequence.T2W: "T2w", Sequence.HBV: "High-b DWI", Sequence.ADC: "ADC"}
_ARMS = {"pretrained": "pretrained", "scratch": "from scratch"}
_MARGIN = 0.015  # of the view's sides
_TITLE_PX, _TEXT_PX, _SMALL_PX = 18, 14, 11
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


def isSynthetic(volume: slicer.vtkMRMLVolumeNode | None) -> bool:
    """Whether a network made this image: one of its outputs, or what was worked out from them."""
    if volume is None:
        return False
    task = volume.GetAttribute(_TASK)
    isImage = task in tuple(TaskId) and TASKS[TaskId(task)].output == "image"
    return isImage or volume.GetAttribute(SYNTHETIC) is not None


def cornersOf(
    cell: Cell,
    run: RunInScene,
    difference: Difference | None,
    shown: tuple[slicer.vtkMRMLVolumeNode, ...],
    *,
    isBlinded: bool = False,
) -> Corners:
    """What to write into a view.

    Args:
        cell: What it was given to show.
        run: What all views are about.
        difference: A minus B, if there is one.
        shown: The volumes that it shows now; the user may have dropped others into it.
        isBlinded: Whether the networks must not be named.
    """
    warning = SYNTHETIC_TEXT if any(map(isSynthetic, shown)) else ""
    lines = [cell.sentence] if cell.sentence else []
    if cell.arm is not None and not isBlinded:
        lines.append(_networkOf(run, cell.arm))
    isDifference = difference is not None and difference.node in shown
    if isDifference and difference.limit is not None:
        lines.append(_scaleOf(difference))
    if TASKS[run.task].output == "classification" and cell.volume is run.about:
        lines += probabilityLines(run, isBlinded)
    legend = _legendOf(difference) if isDifference and difference.limit is None else ()
    return Corners(cell.label, "\n".join(lines), warning, RESEARCH_TEXT, legend)


def probabilityLines(run: RunInScene, isBlinded: bool = False) -> list[str]:
    """Who says it, and what each says of the classes; blinded nothing, for there is no picture to judge."""
    if isBlinded:
        return []
    columns = [{**arm.numbers["class_probabilities"], **arm.numbers["derived_probabilities"]} for arm in run.arms]
    lines = [f"{letter}  {armTitle(arm)}" for letter, arm in zip("AB", run.arms, strict=False)]
    for name in dict.fromkeys(name for column in columns for name in column):
        values = (f"{column[name]:.2f}" if name in column else "n/a" for column in columns)
        lines.append(f"{name}:  {' / '.join(values)}")
    return lines


def _networkOf(run: RunInScene, index: int) -> str:
    """`A, pretrained` and the bundle's title: letters stay with the networks, whichever view they are in."""
    arm = run.arms[index]
    start = _ARMS.get(arm.numbers["model"].get("arm"), "")
    return armTitle(arm) if not start or start in armTitle(arm) else f"{armTitle(arm)}, {start}"


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
        actor.SetInput(text)
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
