"""The exam layout: T2w in three planes, ADC and high-b, linked by position, as a reader hangs them. MRML only.

No network takes part; where one marked the prostate, the views open at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import slicer
import vtk

from VFMTransferLib.core.terms import Label, Sequence

from ..inputs.exporting import drawnOn, labelOf
from ..inputs.series import planeOf
from ..workers.steps import Steps
from .cells import ADC, CORONAL, HBV, SAGITTAL, T2W, Cell, Rows, Volumes
from .comparison_view import Corners, ViewCorners, fillView, warningOf
from .display import Changes, LinkedWindows, keepOut, markedBounds, nodesOf

_PROSTATE = (Label.PROSTATE, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
_HALF_MM = np.array([55.0, 55.0, 40.0])  # of what is shown around the middle of T2w, where no prostate is known
_PLANES = {SAGITTAL: "sagittal", CORONAL: "coronal"}


@dataclass(frozen=True)
class Exam:
    """One case.

    Attributes:
        volumes: Sequence → volume, T2w at least.
        gland: A segmentation of the prostate; None where there is none.
        planes: Singleton tag of the sagittal and the coronal view → a T2w that was scanned in this plane.
    """

    volumes: Volumes
    gland: slicer.vtkMRMLSegmentationNode | None = None
    planes: Mapping[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)

    @property
    def about(self) -> slicer.vtkMRMLScalarVolumeNode:
        """In whose slices the axial views lie."""
        return self.volumes[Sequence.T2W]

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest RAS of the prostate, or of the middle of T2w where it is not known."""
        known = None if self.gland is None else markedBounds([self.gland])
        if known is not None:
            return known
        ends = [0.0] * 6
        self.about.GetRASBounds(ends)
        middle = np.reshape(ends, (3, 2)).mean(axis=1)
        return np.array([middle - _HALF_MM, middle + _HALF_MM])


def findExam(volumes: Volumes, gland: slicer.vtkMRMLNode | None = None) -> Exam:
    """The exam of some volumes, with what else of it is in the scene.

    Args:
        volumes: Sequence → volume, T2w at least.
        gland: The prostate, if the user chose one; else a segmentation of the same study that marks it.
    """
    t2w = volumes[Sequence.T2W]
    if gland is None or not gland.IsA("vtkMRMLSegmentationNode"):
        found = [node for node in nodesOf(t2w.GetScene(), "vtkMRMLSegmentationNode") if _marksProstateOf(node, t2w)]
        gland = found[-1] if found else None
    return Exam(volumes, gland, _otherPlanes(t2w))


def _marksProstateOf(node: slicer.vtkMRMLSegmentationNode, t2w: slicer.vtkMRMLScalarVolumeNode) -> bool:
    segmentation = node.GetSegmentation()
    labels = {labelOf(segmentation.GetSegment(name)) for name in segmentation.GetSegmentIDs()}
    isBeside = _isOfStudy(node, t2w) or (_studyOf(node) == _studyOf(t2w) and drawnOn(node) is t2w)
    return bool(labels & set(_PROSTATE)) and isBeside


def _otherPlanes(t2w: slicer.vtkMRMLScalarVolumeNode) -> dict[str, slicer.vtkMRMLScalarVolumeNode]:
    """T2w scans of the same DICOM study that lie in other planes; of several the first."""
    found: dict[str, slicer.vtkMRMLScalarVolumeNode] = {}
    for node in nodesOf(t2w.GetScene(), "vtkMRMLScalarVolumeNode"):
        isOther = node is not t2w and node.GetImageData() is not None and "t2" in node.GetName().lower()
        if isOther and _isOfStudy(node, t2w):
            for tag, plane in _PLANES.items():
                if planeOf(node) == plane:
                    found.setdefault(tag, node)
    return found


def _studyOf(node: slicer.vtkMRMLNode) -> int:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()


def _isOfStudy(node: slicer.vtkMRMLNode, other: slicer.vtkMRMLNode) -> bool:
    """Whether both lie in one study of DICOM; volumes that lie loose in the scene may be anybody's."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    study = _studyOf(node)
    return study == _studyOf(other) and study != hierarchy.GetSceneItemID()


def examRows(exam: Exam) -> Rows:
    """The views: T2w in three planes above, diffusion below."""
    first = [Cell(T2W, "T2w axial", exam.about)]
    for tag, plane in _PLANES.items():
        scanned = exam.planes.get(tag)
        sentence = "" if scanned is not None else "Reformatted from the axial slices"
        first.append(Cell(tag, f"T2w {plane}", scanned or exam.about, sentence=sentence))
    second = [
        Cell(tag, label, exam.volumes[sequence])
        for sequence, tag, label in ((Sequence.ADC, ADC, "ADC"), (Sequence.HBV, HBV, "High-b DWI"))
        if exam.volumes.get(sequence) is not None
    ]
    return (tuple(first), tuple(second)) if second else (tuple(first),)


class ShownExam:
    """An exam in the views; `close` takes it out of them.

    Args:
        exam, rows: What each view shows.
        logics: Singleton tag → view.
        rendererOf: Singleton tag → renderer.
    """

    def __init__(
        self,
        exam: Exam,
        rows: Rows,
        logics: Mapping[str, slicer.vtkMRMLSliceLogic],
        rendererOf: Callable[[str], vtk.vtkRenderer],
    ) -> None:
        self.exam, self.logics = exam, logics
        self._cells = {cell.tag: cell for row in rows for cell in row}
        self.changes = Changes()
        self._corners = ViewCorners(self._wordsOf, rendererOf, self.changes)

    def fill(self) -> Steps:
        """Put all into the views, a view with each step."""
        keepOut([logic.GetSliceNode() for logic in self.logics.values()], self.changes)
        yield
        for tag, cell in self._cells.items():
            fillView(cell, self.logics[tag])
            self._corners.add(tag, self.logics[tag])
            yield
        around = self.exam.bounds if self.exam.gland is not None else None
        for sequence, volume in self.exam.volumes.items():
            isHigh = sequence is Sequence.HBV
            LinkedWindows([volume], self.changes, around if isHigh else None)
            yield
        crosshair = self.exam.about.GetScene().GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None and crosshair.GetCrosshairMode() == crosshair.NoCrosshair:
            self.changes.set(crosshair, "CrosshairMode", crosshair.ShowSmallBasic)

    def close(self) -> None:
        """Give back everything but the layout."""
        self._corners.remove()
        self.changes.giveBack()

    def _wordsOf(self, tag: str, shown: tuple[slicer.vtkMRMLVolumeNode, ...]) -> Corners:
        return Corners(self._cells[tag].label, self._cells[tag].sentence, warningOf(shown))
