"""Which view shows what of a run, as data. Nothing here changes a scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.tasks import TASKS

from ..runs import RunInScene
from .pairs import Difference, Order, alive

TAG = "VFMTransfer"  # singleton tags of our views begin with it
T2W, A, B, DIFFERENCE, ADC, HBV, REFERENCE, DISPLACEMENT, CORONAL, SAGITTAL = (
    f"{TAG}{name}"
    for name in ("T2w", "A", "B", "Difference", "ADC", "HBV", "Reference", "Displacement", "Coronal", "Sagittal")
)
_MAX_COLUMNS = 3  # a fourth one makes Slicer's window wider than many screens
# What stands in the narrow bar above a view.
_SHORT = {
    T2W: "T2",
    HBV: "DWI",
    REFERENCE: "Ref",
    DIFFERENCE: "Diff",
    DISPLACEMENT: "mm",
    CORONAL: "Cor",
    SAGITTAL: "Sag",
}
ORIENTATIONS = {CORONAL: "Coronal", SAGITTAL: "Sagittal"}  # all others are axial
_SEQUENCES = {Sequence.T2W: (T2W, "T2w"), Sequence.ADC: (ADC, "ADC"), Sequence.HBV: (HBV, "High-b DWI")}
_MISSING = {ADC: "No ADC in this case.", HBV: "No high-b DWI in this case."}

Volumes = Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode]


@dataclass(frozen=True)
class Cell:
    """One view.

    Attributes:
        tag: Its singleton tag.
        label: Its name, in its bar and its corner.
        volume: Shown in it; None leaves it black.
        overlay: Signed difference on top of it.
        labels: Label map on top of it.
        segmentation: Drawn in it.
        outline: Of the prostate, drawn in it as a thin line.
        arm: Index of the network that it is about; None if it is about none.
        sentence: Why it is black.
    """

    tag: str
    label: str
    volume: slicer.vtkMRMLScalarVolumeNode | None = None
    overlay: slicer.vtkMRMLScalarVolumeNode | None = None
    labels: slicer.vtkMRMLLabelMapVolumeNode | None = None
    segmentation: slicer.vtkMRMLSegmentationNode | None = None
    outline: slicer.vtkMRMLSegmentationNode | None = None
    arm: int | None = None
    sentence: str = ""

    @property
    def short(self) -> str:
        """Its name where there is little room."""
        return _SHORT.get(self.tag, self.label)


Rows = tuple[tuple[Cell, ...], ...]


def cellsOf(
    run: RunInScene,
    others: Volumes,
    difference: Difference | None,
    displacement: Difference | None = None,
    *,
    secondRow: bool = True,
    order: Order = (0, 1),
    names: tuple[str, str] = ("A", "B"),
) -> Rows:
    """The views of a run, row by row.

    The second row is omitted where it would hold the difference alone, which then ends the first one.

    Args:
        run: What is shown.
        others: Volumes of the same case that the networks did not get.
        difference: A minus B, if there is one.
        displacement: How far the first network moved the signal, if it did.
        secondRow: Whether it is wanted.
        order: Which arm comes first.
        names: What the arms are called, in that order.
    """
    volumes = {**others, **alive(run.inputs)}
    if not TASKS[run.task].output.has_voxels:
        shown = [sequence for sequence in _SEQUENCES if sequence in volumes]
        return (tuple(Cell(*_SEQUENCES[sequence], volumes[sequence]) for sequence in shown),)
    if TASKS[run.task].output.gives_images:
        return _imageRows(run, volumes, difference, displacement, order, names)[: 2 if secondRow else 1]
    first = (_sequence(Sequence.T2W, volumes), *_arms(run, order, names))
    if not secondRow:
        return (first,)
    left, right = _reference(run, volumes), _sequence(Sequence.HBV, volumes)
    middle = () if difference is None else (_difference(run, difference, names),)
    if left.volume is None and right.volume is None:
        return ((*first, *middle),)
    return (first, (left, *middle, right))


def _imageRows(
    run: RunInScene,
    volumes: Volumes,
    difference: Difference | None,
    displacement: Difference | None,
    order: Order,
    names: tuple[str, str],
) -> Rows:
    """Input and outputs above; below what they are measured by, their difference, and the first in other planes.

    The prostate's outline on T2w lies over every image, so that it shows where diffusion is distorted.
    """
    arms = _arms(run, order, names)
    source = TASKS[run.task].reference
    label = f"{_SEQUENCES[source][1]}, input"
    first = [replace(_sequence(source, volumes), label=label), *arms]
    reference = _reference(run, volumes)
    measured = TASKS[run.task].measured_by
    if reference.tag != REFERENCE and (measured is None or measured not in volumes):
        reference = _sequence(Sequence.T2W, volumes) if source is not Sequence.T2W else None
    elif reference.tag != REFERENCE:
        reference = replace(_sequence(measured, volumes), label=f"{_SEQUENCES[measured][1]}, measured")
    second = [cell for cell in (reference,) if cell is not None]
    if difference is not None:
        second.append(_difference(run, difference, names))
    if displacement is not None:
        second.append(Cell(DISPLACEMENT, f"Shift by {names[0]}", volumes.get(source), displacement.node))
    if arms and arms[0].volume is not None:
        planes = ((SAGITTAL, "sagittal"), (CORONAL, "coronal"))
        second += [replace(arms[0], tag=tag, label=f"{names[0]}, {plane}") for tag, plane in planes]
        second = second[:_MAX_COLUMNS]
    return tuple(tuple(replace(cell, outline=run.gland) for cell in row) for row in (first, second) if row)


def _sequence(sequence: Sequence, volumes: Volumes) -> Cell:
    tag, label = _SEQUENCES[sequence]
    volume = volumes.get(sequence)
    return Cell(tag, label, volume, sentence="" if volume is not None else _MISSING.get(tag, ""))


def _arms(run: RunInScene, order: Order, names: tuple[str, str]) -> list[Cell]:
    cells = []
    for tag, name, index in zip((A, B), names, order, strict=True):
        if index < len(run.arms):
            arm = run.arms[index]
            image = next(iter(alive(arm.images).values()), None)
            segmentation = arm.segmentation if arm.segmentation is not None and arm.segmentation.GetScene() else None
            sentence = "" if image is not None or segmentation is not None else "Its result is no longer in the scene."
            volume = run.about if TASKS[run.task].marks_voxels else image
            cells.append(Cell(tag, name, volume, segmentation=segmentation, arm=index, sentence=sentence))
    return cells


def _reference(run: RunInScene, volumes: Volumes) -> Cell:
    """The truth where it is known, else the ADC."""
    node = run.reference
    if node is None or node.GetScene() is None:
        return _sequence(Sequence.ADC, volumes)
    if node.IsA("vtkMRMLSegmentationNode"):
        return Cell(REFERENCE, "Reference", run.about, segmentation=node)
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return Cell(REFERENCE, "Reference", run.about, labels=node)
    return Cell(REFERENCE, "Reference", node)


def _difference(run: RunInScene, difference: Difference, names: tuple[str, str]) -> Cell:
    label = f"{names[0]} - {names[1]}"
    if difference.limit is None:
        return Cell(DIFFERENCE, label, run.about, labels=difference.node)
    return Cell(DIFFERENCE, label, run.about, overlay=difference.node)
