"""What is in the views of a comparison, from its coming to its going. MRML only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import slicer
import vtk

from VFMTransferLib.core.terms import Sequence

from ..runs import RunInScene
from .cells import ADC, DIFFERENCE, HBV, REFERENCE, T2W, A, B, Cell, Rows
from .changes import Changes
from .corners import CornerActors, Corners, cornersOf, isSynthetic
from .difference import SYNTHETIC, Difference, showLegend
from .pairs import Order, putOnGridOf
from .segments import keepOut
from .viewing import Viewing
from .windows import LinkedWindows

_OVERLAY_OPACITY = 0.8  # of the difference, so that the anatomy can be seen dimly below it
_LABEL_OPACITY = 0.7
_ALL_FLAGS = 0xFFFFFFFF
_SEQUENCE_TAGS = {Sequence.T2W: T2W, Sequence.ADC: ADC, Sequence.HBV: HBV}


class Shown:
    """A run in the views; `close` takes it out of them.

    Args:
        run, order, isBlinded: As in `SideBySide.show`.
        rows: What each view shows.
        difference: A minus B, if there is one.
        logics: Singleton tag → view.
        rendererOf: Singleton tag → renderer.
    """

    def __init__(
        self,
        run: RunInScene,
        order: Order,
        rows: Rows,
        difference: Difference | None,
        logics: Mapping[str, slicer.vtkMRMLSliceLogic],
        isBlinded: bool,
        rendererOf: Callable[[str], vtk.vtkRenderer],
    ) -> None:
        self.run, self.logics = run, logics
        self.changes = Changes()
        self._difference, self._isBlinded = difference, isBlinded
        self._cells = {cell.tag: self._nameless(cell) if isBlinded else cell for row in rows for cell in row}
        if isBlinded:
            self._renameSegmentations()
        keepOut([logic.GetSliceNode() for logic in logics.values()], self.changes)
        for tag, cell in self._cells.items():
            _fill(cell, logics[tag])
        if DIFFERENCE in self._cells:
            showLegend(difference)
        self._windows = self._linkWindows()
        self.viewing = Viewing(run, order, self._cells, logics, self._windows[0], self.changes)
        self._showCrosshair()
        self._corners = {tag: CornerActors(rendererOf(tag)) for tag in logics}
        self.viewing.changed.connect(self._writeCorners)
        self._tags = [
            (composite, composite.AddObserver(vtk.vtkCommand.ModifiedEvent, self._writeCorners))
            for composite in (logic.GetSliceCompositeNode() for logic in logics.values())
        ]
        for tag, actors in self._corners.items():
            actors.show(self._wordsOf(tag))

    def close(self) -> None:
        """Give back everything but the layout."""
        for node, tag in self._tags:
            node.RemoveObserver(tag)
        for actors in self._corners.values():
            actors.remove()
        self.viewing.close()
        for windows in self._windows:
            windows.close()
        self.changes.giveBack()

    def _nameless(self, cell: Cell) -> Cell:
        """The cell with a volume that does not tell its network by its name, which Slicer shows in many places."""
        if cell.arm is None or not isSynthetic(cell.volume):
            return cell
        scene, volume = cell.volume.GetScene(), cell.volume
        display = self.changes.add(scene, slicer.vtkMRMLScalarVolumeDisplayNode(), f"{cell.label} display")
        node = self.changes.add(scene, slicer.vtkMRMLScalarVolumeNode(), cell.label)
        display.CopyContent(volume.GetDisplayNode())
        display.SetAndObserveColorNodeID(volume.GetDisplayNode().GetColorNodeID())
        node.SetAndObserveDisplayNodeID(display.GetID())
        putOnGridOf(node, volume)
        node.SetAndObserveImageData(volume.GetImageData())
        node.SetAttribute(SYNTHETIC, "1")
        return replace(cell, volume=node)

    def _renameSegmentations(self) -> None:
        """Slicer's data probe names the segmentation under the mouse. A scene that is saved meanwhile stays blinded."""
        for cell in self._cells.values():
            if cell.segmentation is not None and cell.arm is not None:
                self.changes.set(cell.segmentation, "Name", cell.label)

    def _linkWindows(self) -> list[LinkedWindows]:
        """Images of one kind together, the first group being that of the networks' images; each other one by itself."""
        volumes = {tag: cell.volume for tag, cell in self._cells.items() if _isScalar(cell.volume)}
        output = next(iter(self.run.arms[0].images), None)
        alike = (A, B) if output is None else (_SEQUENCE_TAGS[Sequence(output.split("-")[0])], REFERENCE, A, B)
        group = dict.fromkeys(volumes[tag] for tag in alike if tag in volumes)
        others = dict.fromkeys(volume for volume in volumes.values() if volume not in group)
        return [LinkedWindows(found, self.changes) for found in (group, *([volume] for volume in others))]

    def _showCrosshair(self) -> None:
        crosshair = self.run.about.GetScene().GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None and crosshair.GetCrosshairMode() == crosshair.NoCrosshair:
            self.changes.set(crosshair, "CrosshairMode", crosshair.ShowSmallBasic)

    def _writeCorners(self, caller: vtk.vtkObject | None = None, event: str = "") -> None:
        for tag, actors in self._corners.items():
            if actors.show(self._wordsOf(tag)):
                self.logics[tag].GetSliceNode().Modified()  # draws the view anew

    def _wordsOf(self, tag: str) -> Corners:
        cell = self.viewing.middle() if tag == A else self._cells[tag]
        return cornersOf(cell, self.run, self._difference, _seenIn(self.logics[tag]), isBlinded=self._isBlinded)


def _fill(cell: Cell, logic: slicer.vtkMRMLSliceLogic) -> None:
    """Show a cell's volumes in a view, and link it with the others in all but these."""
    view, composite = logic.GetSliceNode(), logic.GetSliceCompositeNode()
    for node in (view, composite):
        node.SetSaveWithScene(False)
    view.SetLayoutLabel(cell.label)
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
