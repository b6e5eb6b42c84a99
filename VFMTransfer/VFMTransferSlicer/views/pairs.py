"""What the two networks of a run give, as two arrays on one grid, and A minus B in diverging colors. MRML only.

`order` is which arm comes first: (0, 1) is A, then B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.terms import Label
from VFMTransferLib.tasks import TASKS

from ..inputs.exporting import gridBelow
from ..results.nodes import freeName, removeNode
from ..results.scene import ABOUT, ROLE, findNode, placeBeside
from ..runs import ArmInScene, RunInScene, startFirst

Order = tuple[int, int]
Color = tuple[float, float, float]
_SAME_GRID = 1e-3  # of a matrix element, in mm; what a file's float32 header may lose
_FIRST_CHOICE = (str(Label.CSPCA), str(Label.PROSTATE))


@dataclass(frozen=True)
class LabelPair:
    """Both segmentations as label maps (D, H, W), voxel for voxel those of the run's volume.

    Attributes:
        first, second: Value 1 + i for the segment of `names[i]`, 0 elsewhere.
        names: IDs of the segments that both have.
        colors: Of the segments, 0..1.
    """

    first: np.ndarray
    second: np.ndarray
    names: tuple[str, ...]
    colors: tuple[Color, ...]


def imagePair(
    run: RunInScene, order: Order = (0, 1)
) -> tuple[str, slicer.vtkMRMLVolumeNode, slicer.vtkMRMLVolumeNode] | None:
    """The first output image that both networks give: its name and the two volumes; None for other tasks.

    Raises:
        GeometryError: The volumes are not on one grid, for example because the user has changed one.
    """
    return _volumePair(*(alive(run.arms[index].images) for index in order)) if len(run.arms) > max(order) else None


def probabilityPair(
    run: RunInScene, order: Order = (0, 1)
) -> tuple[str, slicer.vtkMRMLVolumeNode, slicer.vtkMRMLVolumeNode] | None:
    """The label whose probability both networks give, cancer first, and the two volumes; None where there is none.

    Raises:
        GeometryError: The volumes are not on one grid.
    """
    if len(run.arms) <= max(order):
        return None
    first, second = (alive(run.arms[index].probabilities) for index in order)
    names = [name for name in first if name != Label.BACKGROUND]
    names.sort(key=lambda name: _FIRST_CHOICE.index(name) if name in _FIRST_CHOICE else len(_FIRST_CHOICE))
    return _volumePair({name: first[name] for name in names}, second)


def labelPair(run: RunInScene, order: Order = (0, 1)) -> LabelPair | None:
    """Both segmentations as label maps; None where the task gives none, or they share no segment."""
    names = sharedSegments(run, order)
    if not names:
        return None
    nodes = [run.arms[index].segmentation for index in order]
    first, second = (_labels(node, names, gridBelow(node, run.about)) for node in nodes)
    colors = tuple(nodes[0].GetSegmentation().GetSegment(name).GetColor() for name in names)
    return LabelPair(first, second, names, colors)


def sharedSegments(run: RunInScene, order: Order = (0, 1)) -> tuple[str, ...]:
    """IDs of the segments that both networks mark; empty where one of them is not there."""
    nodes = [run.arms[index].segmentation for index in order if index < len(run.arms)]
    if len(nodes) < len(order) or any(node is None or node.GetScene() is None for node in nodes):
        return ()
    first, second = (node.GetSegmentation() for node in nodes)
    return leaves(name for name in first.GetSegmentIDs() if second.GetSegment(name) is not None)


def alive(nodes: dict[str, slicer.vtkMRMLNode]) -> dict[str, slicer.vtkMRMLNode]:
    """Those that the user has not removed from the scene."""
    return {name: node for name, node in nodes.items() if node is not None and node.GetScene() is not None}


def leaves(names: Iterable[str]) -> tuple[str, ...]:
    """Segments without the whole prostate where its parts are marked, for it lies under them."""
    names = tuple(names)
    return tuple(name for name in names if name != Label.PROSTATE) or names


def putOnGridOf(node: slicer.vtkMRMLVolumeNode, other: slicer.vtkMRMLVolumeNode) -> None:
    """Where the other's voxels are, there are the node's as well."""
    matrix = vtk.vtkMatrix4x4()
    other.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(other.GetTransformNodeID())


def armTitle(arm: ArmInScene) -> str:
    """How a network is called in the views: where its weights started, then its bundle's title."""
    model = arm.numbers["model"]
    return startFirst(model.get("title") or arm.bundle, model.get("arm"))


def _volumePair(first, second):
    for name, volume in first.items():
        if name in second:
            _requireSameGrid(volume, second[name])
            return name, volume, second[name]
    return None


def _requireSameGrid(first: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> None:
    if not isSameGrid(first, second):
        raise GeometryError(f"'{first.GetName()}' and '{second.GetName()}' lie on different grids. Run again.")


def isSameGrid(first: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether the voxels of two volumes lie in the same places."""
    matrices = []
    for volume in (first, second):
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        matrices.append([matrix.GetElement(row, column) for row in range(4) for column in range(4)])
    sizes = [volume.GetImageData().GetDimensions() for volume in (first, second)]
    transforms = [volume.GetTransformNodeID() for volume in (first, second)]
    isAlike = sizes[0] == sizes[1] and transforms[0] == transforms[1]
    return isAlike and np.allclose(*matrices, rtol=0, atol=_SAME_GRID)


def _labels(
    node: slicer.vtkMRMLSegmentationNode, names: tuple[str, ...], grid: slicer.vtkOrientedImageData
) -> np.ndarray:
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for index, name in enumerate(names):
        ids.InsertNextValue(name)
        values.InsertNextValue(index + 1)
    merged = slicer.vtkOrientedImageData()
    extent = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not node.GenerateMergedLabelmapForAllSegments(merged, extent, grid, ids, values):
        raise GeometryError(f"Segmentation '{node.GetName()}' cannot be put on the grid of its volume. Run again.")
    shape = merged.GetDimensions()[::-1]
    return vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(shape).astype(np.uint8)


DIFFERENCE, DISPLACEMENT = "difference", "displacement"
# Axis of RAS → where it is positive, as it is shown: by left, front or head.
_TOWARD = (("left", -1.0), ("front", 1.0), ("head", 1.0))
SYNTHETIC, _WITHHELD, _TASK = "VFMTransfer.Synthetic", "VFMTransfer.Withheld", "VFMTransfer.Task"
_COLORS = "VFMTransfer.Colors"

# From blue to red by ColorBrewer 2.0, "RdBu" (Brewer, Harrower; colorbrewer2.org; Apache-2.0), whose two sides are told
# apart by the color-blind too. Its white middle is black here: the views are black, and what is equal must not glare.
# So lightness grows with the difference, the same on both sides.
_DIVERGING = ("92c5de", "4393c3", "2166ac", "000000", "b2182b", "d6604d", "f4a582")
_STEPS = 255  # odd, so that zero has a color of its own
_PERCENTILE = 99.5  # as on the report's page: one bright vessel must not set the scale
_LABELS_OF_SCALE = 5
_SCALE_SIZE, _SCALE_PLACE = (0.12, 0.4), (0.86, 0.3)  # of the view: width and height, lower left corner
_SCALE_FONT_PX = 12
_SAMPLE = 400_000  # voxels that the percentile is taken of; of all of them it takes too long for the window

FIRST_ONLY, SECOND_ONLY, OTHER = 1, 2, 3
# The colors of A, B and "another label" on the report's page (`VFMTransferLib.report.scene`), whose import would hold
# up the window; a test keeps them equal.
LABEL_COLORS = {FIRST_ONLY: (76, 184, 255), SECOND_ONLY: (255, 168, 38), OTHER: (214, 112, 255)}


def isWithheld(volume: slicer.vtkMRMLVolumeNode | None) -> bool:
    """Whether it is an output of a network whose correction was withheld, and so the case's own image."""
    return volume is not None and volume.GetAttribute(_WITHHELD) is not None


def isSynthetic(volume: slicer.vtkMRMLVolumeNode | None) -> bool:
    """Whether a network made this image: one of its outputs, or what was worked out from them."""
    if volume is None or isWithheld(volume):
        return False
    task = volume.GetAttribute(_TASK)
    isImage = task in TASKS and TASKS[task].output.gives_images
    return isImage or volume.GetAttribute(SYNTHETIC) is not None


def markSynthetic(node: slicer.vtkMRMLVolumeNode, sources: Iterable[slicer.vtkMRMLVolumeNode]) -> None:
    """Mark what was worked out from images as synthetic where one of them is."""
    node.SetAttribute(SYNTHETIC, "1" if any(map(isSynthetic, sources)) else None)


@dataclass(frozen=True)
class Difference:
    """How two networks differ.

    Attributes:
        node: Signed difference as a scalar volume, or a label map of `FIRST_ONLY`, `SECOND_ONLY` and `OTHER`.
        subject: What differs: an output image or a label; empty for a label map.
        unit: Of the values; empty where they have none.
        limit: The scale goes from minus this to this; 0 where nothing differs, None for a label map.
    """

    node: slicer.vtkMRMLScalarVolumeNode
    subject: str
    unit: str
    limit: float | None


def makeDifference(run: RunInScene, order: Order = (0, 1), names: tuple[str, str] = ("A", "B")) -> Difference | None:
    """Put the difference of the arms into the scene, in place of an earlier one about the same volume.

    Args:
        run: With two arms; otherwise, and for tasks that give no voxels, there is none.
        order: Which arm the other one is taken from.
        names: What the arms are called, in that order.

    Raises:
        GeometryError: The arms' volumes are not on one grid.
    """
    kind = TASKS[run.task].output
    pair = imagePair(run, order) if kind.gives_images else probabilityPair(run, order)
    title = f"{run.about.GetName()} difference {names[0]} - {names[1]}"
    if pair is not None:
        subject, first, second = pair
        array = np.subtract(slicer.util.arrayFromVolume(first), slicer.util.arrayFromVolume(second), dtype=np.float32)
        unit = unitOf(run, subject) if kind.gives_images else ""
        title = f"{title} (synthetic)" if any(map(isSynthetic, (first, second))) else title
        difference = _showScalars(run, title, subject, array, unit, first)
        markSynthetic(difference.node, (first, second))
        return difference
    labels = labelPair(run, order) if kind.marks_voxels else None
    return None if labels is None else _showLabels(run, title, labels, names)


def makeDisplacement(run: RunInScene, order: Order = (0, 1), names: tuple[str, str] = ("A", "B")) -> Difference | None:
    """Put how far from its place the signal lay, by the first arm, into the scene; None where it corrected nothing.

    In millimeters along the patient's axis along which it lay farthest, positive toward left, front or head. It takes
    the place of an earlier one about the same volume.
    """
    arm = run.arms[order[0]] if len(run.arms) > order[0] else None
    if arm is None or arm.transform is None or arm.transform.GetScene() is None:
        return None
    transform = arm.transform.GetTransformFromParent()
    grid = getattr(transform, "GetDisplacementGrid", lambda: None)()
    if grid is None or grid.GetPointData().GetScalars() is None or tuple(grid.GetDimensions()) != _sizeOf(run.about):
        return None
    vectors = vtk_to_numpy(grid.GetPointData().GetScalars())  # RAS millimeters
    axis = int(np.abs(vectors).sum(axis=0).argmax())
    array = (vectors[:, axis] * _TOWARD[axis][1]).reshape(_sizeOf(run.about)[::-1]).astype(np.float32)
    title = f"{run.about.GetName()} displacement {names[0]}"
    subject = f"Signal shift toward {_TOWARD[axis][0]}"
    difference = _showScalars(run, title, subject, array, "mm", run.about, DISPLACEMENT)
    markSynthetic(difference.node, arm.images.values())
    return difference


def _sizeOf(volume: slicer.vtkMRMLVolumeNode) -> tuple[int, ...]:
    return tuple(volume.GetImageData().GetDimensions())


def unitOf(run: RunInScene, output: str) -> str:
    """The unit of an output image, as the comparison states it; empty as long as there is none."""
    rows = (run.comparison or {}).get("measures", ())
    units = (row["unit"] for row in rows if row["subject"] == output and row["measure"] == "mae")
    return next(units, "")


def robustLimit(array: np.ndarray) -> float:
    """End of a symmetric scale: a high percentile of what is not zero, rounded up to 1, 2 or 5 times a power of ten."""
    values = np.abs(array.ravel()[:: max(array.size // _SAMPLE, 1)])
    values = values[values > 0]
    if not values.size:
        return 1.0
    limit = float(np.percentile(values, _PERCENTILE))
    power = 10.0 ** np.floor(np.log10(limit))
    return float(next(step for step in (1, 2, 5, 10) if step * power >= limit * (1 - 1e-6)) * power)


def labelDifference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two label maps differ, and how."""
    difference = np.where(first != second, OTHER, 0).astype(np.uint8)
    difference[(first != 0) & (second == 0)] = FIRST_ONLY
    difference[(first == 0) & (second != 0)] = SECOND_ONLY
    return difference


def _showScalars(
    run: RunInScene,
    title: str,
    subject: str,
    array: np.ndarray,
    unit: str,
    grid: slicer.vtkMRMLScalarVolumeNode,
    role: str = DIFFERENCE,
) -> Difference:
    node = _node(run, slicer.vtkMRMLScalarVolumeNode, title, role)
    limit = robustLimit(array)
    display = node.GetScalarVolumeDisplayNode()
    display.SetAutoWindowLevel(False)  # before the voxels come, or Slicer goes through all of them to find a window
    display.SetWindowLevelMinMax(-limit, limit)
    display.SetAndObserveColorNodeID(_colors(node, _fillDiverging).GetID())
    putOnGridOf(node, grid)
    slicer.util.updateVolumeFromArray(node, array)
    return Difference(node, subject, unit, limit if array.any() else 0.0)


def _showLabels(run: RunInScene, title: str, labels: LabelPair, names: tuple[str, str]) -> Difference:
    node = _node(run, slicer.vtkMRMLLabelMapVolumeNode, title)
    words = {FIRST_ONLY: f"{names[0]} only", SECOND_ONLY: f"{names[1]} only", OTHER: "other label"}

    def fill(colors: slicer.vtkMRMLColorTableNode) -> None:
        colors.SetNumberOfColors(len(words) + 1)
        colors.SetColor(0, "same", 0.0, 0.0, 0.0, 0.0)
        for value, word in words.items():
            colors.SetColor(value, word, *(part / 255 for part in LABEL_COLORS[value]), 1.0)

    node.GetDisplayNode().SetAndObserveColorNodeID(_colors(node, fill).GetID())
    putOnGridOf(node, run.about)
    slicer.util.updateVolumeFromArray(node, labelDifference(labels.first, labels.second))
    return Difference(node, "", "", None)


def _node(run: RunInScene, kind: type, title: str, role: str = DIFFERENCE) -> slicer.vtkMRMLScalarVolumeNode:
    """The case's node of this role; a new one where there is none yet, or one of another kind."""
    former = _find(run, role)
    if type(former) is kind:
        former.SetName(title)
        return former
    if former is not None:
        _remove(former)
    scene = run.about.GetScene()
    node = scene.AddNewNodeByClass(kind.__name__, freeName(scene, title))
    node.SetAttribute(ROLE, role)
    node.SetNodeReferenceID(ABOUT, run.about.GetID())
    node.CreateDefaultDisplayNodes()
    placeBeside(node, run.about)
    return node


def _find(run: RunInScene, role: str) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The node of this role that the scene has of the case."""
    return findNode(run.about, "vtkMRMLScalarVolumeNode", role)


def _remove(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    scene, colors = node.GetScene(), node.GetNodeReference(_COLORS)
    removeNode(node)
    if colors is not None:
        scene.RemoveNode(colors)


def _colors(
    node: slicer.vtkMRMLVolumeNode, fill: Callable[[slicer.vtkMRMLColorTableNode], None]
) -> slicer.vtkMRMLColorTableNode:
    """The node's own color table, filled again."""
    colors = node.GetNodeReference(_COLORS)
    if colors is None:
        colors = node.GetScene().AddNewNodeByClass("vtkMRMLColorTableNode", f"{node.GetName()} colors")
        colors.SetTypeToUser()
        colors.SetHideFromEditors(True)
        node.SetNodeReferenceID(_COLORS, colors.GetID())
    wasModifying = colors.StartModify()  # views that show it are drawn once, not for each color
    fill(colors)
    colors.EndModify(wasModifying)
    return colors


def _fillDiverging(colors: slicer.vtkMRMLColorTableNode) -> None:
    """Blue where the second is higher, red where the first is."""
    ends = np.array([[int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)] for color in _DIVERGING])
    at = np.linspace(-1, 1, _STEPS)
    parts = [np.interp(at, np.linspace(-1, 1, len(ends)), ends[:, part]) for part in range(3)]
    colors.SetNumberOfColors(_STEPS)
    for index, (place, *color) in enumerate(zip(at, *parts, strict=True)):
        colors.SetColor(index, f"{place:+.2f}", *color, 1.0)


def showLegend(difference: Difference) -> None:
    """Draw the scale at the edge of each view that shows the difference; none for a label map.

    It is made again, since views that are younger than a scale do not show it.
    """
    if difference.limit is None:
        return
    former = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(difference.node)
    if former is not None:
        difference.node.GetScene().RemoveNode(former)
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(difference.node)
    wasModifying = legend.StartModify()
    legend.SetTitleText(difference.unit)
    legend.SetLabelFormat("%+g")
    legend.SetNumberOfLabels(_LABELS_OF_SCALE)
    legend.SetSize(*_SCALE_SIZE)
    legend.SetPosition(*_SCALE_PLACE)
    for look in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        look.SetFontFamilyToArial()
        look.SetFontSize(_SCALE_FONT_PX)
    legend.EndModify(wasModifying)
