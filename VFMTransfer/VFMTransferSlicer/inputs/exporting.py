"""Nodes as the files of a job: volumes, masks from segments and boxes. Needs MRML, but no Qt.

Which segment is the gland, a zone or a cancer is found by its terminology, else by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVTKMatrix
from vtk.util.numpy_support import vtk_to_numpy

from VFMTransferLib.core.errors import GeometryError, ImageError
from VFMTransferLib.core.files import writing
from VFMTransferLib.core.terms import LABEL_TERMS, Label
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.tasks import task_of
from VFMTransferLib.worker.messages import Exported, Grid, ImageFile

EXPORTED = "case.json"
_INSIDE = 1
_ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
_GLAND = (Label.PROSTATE, *_ZONES)
_UNCODED = frozenset({"", "85756007", "T-D0050"})  # Slicer's code of a segment that nobody has coded: tissue
# Words of a segment's name, the most telling first: a lesion of the peripheral zone, the central gland.
_WORDS: tuple[tuple[Label, frozenset[str]], ...] = (
    (Label.INDOLENT_CANCER, frozenset({"indolent", "insignificant"})),
    (Label.CSPCA, frozenset({"cspca", "lesion", "lesions", "cancer", "tumor", "tumour", "significant"})),
    (Label.PERIPHERAL_ZONE, frozenset({"pz", "peripheral"})),
    (Label.TRANSITION_ZONE, frozenset({"tz", "transition", "transitional", "cg", "central"})),
    (Label.PROSTATE, frozenset({"prostate", "gland", "wg"})),
)


def drawnOn(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLNode | None:
    """The volume that a segmentation was drawn on, where the Segment Editor noted one."""
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def labelOf(segment: slicer.vtkSegment) -> Label | None:
    """What a segment stands for, by its terminology, else by the words of its name; None if neither is clear."""
    words = set(re.split(r"[^a-z0-9]+", segment.GetName().lower()))
    byName = next((label for label, own in _WORDS if words & own), None)
    code = _codeOf(segment)
    coded = [label for label, term in LABEL_TERMS.items() if term.type.value == code]
    if len(coded) > 1:  # a mass: only the name states which
        return byName if byName in coded else Label.CSPCA
    return coded[0] if coded else byName


def glandValues(node: slicer.vtkMRMLSegmentationNode) -> dict[str, int]:
    """Segment → 1, of the segments that are the prostate or a zone of it; a lone segment without a name counts too.

    Raises:
        ImageError: None is.
    """
    labels = _labelsOf(node)
    chosen = [segment for segment, label in labels.items() if label in _GLAND]
    if not chosen and len(labels) == 1:
        chosen = list(labels)
    if not chosen:
        raise ImageError(
            f"Segmentation '{node.GetName()}' marks no prostate; its segments are {_named(node)}. "
            f"Name the one that does '{LABEL_TERMS[Label.PROSTATE].title}'."
        )
    return dict.fromkeys(chosen, _INSIDE)


def referenceValues(node: slicer.vtkMRMLSegmentationNode, spec: ModelSpec) -> dict[str, int]:
    """Segment → the network's value for it, of the segments that the network's task is about.

    Raises:
        ImageError: None is, or one could be anything.
    """
    values = valuesOf(spec)
    labels = _labelsOf(node, values)
    if task_of(spec).finds_lesions:
        values = {name: value for name, value in values.items() if name == Label.CSPCA}
    elif set(values).intersection(_ZONES):
        if not set(labels.values()).intersection(_ZONES):
            return dict.fromkeys(glandValues(node), _INSIDE)  # a mask of one value is the whole prostate
        values.pop(Label.PROSTATE, None)  # the networks write the zones alone, which together are the prostate
    elif Label.PROSTATE in values:
        labels = {segment: Label.PROSTATE if label in _ZONES else label for segment, label in labels.items()}
    unknown = [segment for segment, label in labels.items() if label is None]
    if len(labels) == len(unknown) == len(values) == 1:
        return {unknown[0]: next(iter(values.values()))}
    chosen = {segment: values[label] for segment, label in labels.items() if label in values}
    if unknown or not chosen:
        raise ImageError(
            f"Reference '{node.GetName()}' does not mark {', '.join(values)}; its segments are {_named(node)}"
            + (f", of which {_named(node, unknown)} could be anything" if chosen else "")
            + ". Name each for what it marks, or choose its terminology."
        )
    return chosen


def valuesOf(spec: ModelSpec) -> dict[str, int]:
    """Label name → value, as `tasks.segmentation.label_values`, which would bring all of SciPy into this process."""
    first = 0 if spec.labels[0] == Label.BACKGROUND else 1
    return {str(name): value for value, name in enumerate(spec.labels, first) if name != Label.BACKGROUND}


def _labelsOf(node: slicer.vtkMRMLSegmentationNode, names: Iterable[str] = ()) -> dict[str, str | None]:
    """Segment → what it stands for; `names` are known in addition. Segments that are coded as something else are out.

    The order is that in which they are drawn over each other: the prostate, zones, then what lies in them.
    """
    segmentation = node.GetSegmentation()
    labels: dict[str, str | None] = {}
    for segment in segmentation.GetSegmentIDs():
        own = segmentation.GetSegment(segment)
        named = next((name for name in names if name in (segment, own.GetName())), None)
        label = named or labelOf(own)
        if label is not None or _codeOf(own) in _UNCODED:
            labels[segment] = label
    order = {str(label): place for place, label in enumerate(Label)}
    return dict(sorted(labels.items(), key=lambda item: order.get(item[1], len(order))))


def _codeOf(segment: slicer.vtkSegment) -> str:
    """Value of the coded type in the segment's terminology: context~category~type~…, each scheme^value^meaning."""
    entry = vtk.mutable("")
    segment.GetTag(segment.GetTerminologyEntryTagName(), entry)
    fields = str(entry).split("~")
    code = fields[2].split("^") if len(fields) > 2 else []
    return code[1] if len(code) > 1 else ""


def _named(node: slicer.vtkMRMLSegmentationNode, segments: Iterable[str] | None = None) -> str:
    """Names of segments, by default of all, as a message lists them."""
    segmentation = node.GetSegmentation()
    listed = segmentation.GetSegmentIDs() if segments is None else segments
    return ", ".join(f"'{segmentation.GetSegment(segment).GetName()}'" for segment in listed) or "none"


_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def exportVolume(node: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str) -> ImageFile:
    """Write a volume's voxels into a job's folder, and return where in the world they lie.

    Parent transforms count; the node itself stays as it is.

    Args:
        node: A scalar volume.
        folder: The job's folder.
        name: What to call the file.

    Raises:
        ImageError: The volume is empty, or holds more than one value a voxel.
        GeometryError: A parent transform bends it.
        OutputError: The file cannot be written.
    """
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise ImageError(f"Volume '{node.GetName()}' is empty. Load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        components = image.GetNumberOfScalarComponents()
        raise ImageError(f"Volume '{node.GetName()}' has {components} values a voxel. Choose a volume with one.")
    grid = gridInWorld(node)
    saveArray(slicer.util.arrayFromVolume(node), folder / f"{name}.npy")  # (D, H, W)
    return ImageFile(f"{name}.npy", grid)


def gridInWorld(node: slicer.vtkMRMLScalarVolumeNode) -> Grid:
    """Where a volume's voxels lie in the world, with all parent transforms, in LPS millimeters.

    Raises:
        GeometryError: A parent transform bends it, so that it has no grid in the world.
    """
    lps = _RAS_TO_LPS @ ijkToWorld(node)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    return Grid(
        tuple(node.GetImageData().GetDimensions()),
        tuple(spacing.tolist()),
        tuple(lps[:3, 3].tolist()),
        tuple(direction.ravel().tolist()),  # row by row
    )


def ijkToWorld(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """4x4, voxel index to RAS millimeters of the world.

    Raises:
        GeometryError: A parent transform bends the volume.
    """
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise GeometryError(
                f"Volume '{node.GetName()}' must be under linear transforms only, but '{parent.GetName()}' is "
                "nonlinear. Harden the transform first."
            )
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return arrayFromVTKMatrix(matrix)


_VOXELS = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def maskOf(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str) -> ImageFile:
    """Write the prostate's mask: 1 where the node marks it or one of its zones.

    Args:
        node: A segmentation, or a label map, of which every value above 0 counts.
        volume: On whose grid segments are written; a label map keeps its own.
        folder: The job's folder.
        name: What to call the file.

    Raises:
        ImageError: No segment is known to be the prostate, or nothing is marked.
        GeometryError: A parent transform bends it.
        OutputError: The file cannot be written.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        return exportVolume(node, folder, name)
    return _write(node, volume, glandValues(node), folder / f"{name}.npy")


def referenceOf(
    node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str, spec: ModelSpec
) -> ImageFile:
    """Write the truth that the networks are measured against, with the label values that they write.

    Args:
        node: For segmentation tasks a segmentation, or a label map with those values; for image tasks a volume.
        volume: As for `maskOf`.
        folder: The job's folder.
        name: What to call the file.
        spec: Of the first network, which defines its values.

    Raises:
        ImageError: A segment is not recognized as one of the network's labels, or the node is of the wrong kind.
        GeometryError: A parent transform bends it.
        OutputError: The file cannot be written.
    """
    task, isSegmentation = task_of(spec), node.IsA("vtkMRMLSegmentationNode")
    if not task.output.has_voxels:
        raise ImageError(f"{task.title} cannot be measured against '{node.GetName()}'. Choose no reference.")
    if task.output.gives_images and (isSegmentation or node.IsA("vtkMRMLLabelMapVolumeNode")):
        raise ImageError(f"Reference '{node.GetName()}' marks structures. Choose a volume for this task.")
    if not isSegmentation:
        return exportVolume(node, folder, name)
    mayBeEmpty = task.finds_lesions  # no cancer is a truth as well
    return _write(node, volume, referenceValues(node, spec), folder / f"{name}.npy", mayBeEmpty)


def roiMask(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str
) -> ImageFile:
    """Write a mask on the volume's grid: 1 where the middle of a voxel lies in the box, however both are turned.

    Raises:
        GeometryError: The box holds no voxel, or a parent transform bends it or the volume.
        OutputError: The file cannot be written.
    """
    _requireLinear(roi)
    grid = gridInWorld(volume)
    toLps = np.eye(4)
    toLps[:3, :3] = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_mm)
    toLps[:3, 3] = grid.origin_mm
    toBox = np.linalg.inv(arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())) @ _RAS_TO_LPS @ toLps
    half = np.array(roi.GetSize()) / 2
    box = _boxAround(toBox, half, grid.size)
    k, j, i = np.ogrid[box]
    inside = np.zeros(tuple(reversed(grid.size)), bool)  # (D, H, W)
    inside[box] = True
    for row, length in zip(toBox[:3], half, strict=True):
        inside[box] &= np.abs(row[0] * i + row[1] * j + row[2] * k + row[3]) <= length
    if not inside.any():
        raise GeometryError(
            f"Region '{roi.GetName()}' must hold a part of '{volume.GetName()}', but holds none of its voxels. "
            "Move it there, or choose none."
        )
    saveArray(inside.astype(np.uint8), folder / f"{name}.npy")
    return ImageFile(f"{name}.npy", grid)


def _boxAround(toBox: np.ndarray, half: np.ndarray, size: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Indices (z, y, x) that a turned box can reach, which are far fewer than all."""
    corners = np.array(list(product((-1, 1), repeat=3))) * half
    index = (corners - toBox[:3, 3]) @ np.linalg.inv(toBox[:3, :3]).T
    first = np.clip(np.ceil(index.min(axis=0)), 0, size).astype(int)
    end = np.clip(np.floor(index.max(axis=0)) + 1, 0, size).astype(int)
    return tuple(slice(low, max(low, high)) for low, high in zip(first[::-1], end[::-1], strict=True))


def _write(
    node: slicer.vtkMRMLSegmentationNode,
    volume: slicer.vtkMRMLScalarVolumeNode,
    values: dict[str, int],
    path: Path,
    mayBeEmpty: bool = False,
) -> ImageFile:
    array = mergedLabels(node, volume, values)
    if not (array.any() or mayBeEmpty):
        raise ImageError(f"Segmentation '{node.GetName()}' is empty. Draw it, or choose none.")
    saveArray(array, path)
    return ImageFile(path.name, gridInWorld(volume))


def mergedLabels(
    node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, values: dict[str, int]
) -> np.ndarray:
    """Segments as one label map (D, H, W), uint8, on the volume's grid; of those that overlap the last one counts.

    The whole grid, not the box around the segments: a reference labels every voxel.

    Args:
        node: The segmentation.
        volume: On whose grid.
        values: Segment → value.

    Raises:
        ImageError: The segments cannot be turned into voxels.
        GeometryError: A parent transform bends it or the volume.
    """
    _requireLinear(node)
    names, numbers = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segment, value in values.items():
        names.InsertNextValue(segment)
        numbers.InsertNextValue(value)
    merged, place = slicer.vtkOrientedImageData(), gridBelow(node, volume)
    whole = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not _voxelized(node, place).GenerateMergedLabelmapForAllSegments(merged, whole, place, names, numbers):
        raise ImageError(f"Segmentation '{node.GetName()}' cannot be turned into voxels. Draw or load it again.")
    shape = tuple(reversed(gridInWorld(volume).size))  # (D, H, W)
    return vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(shape).astype(np.uint8)


def gridBelow(
    node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkOrientedImageData:
    """The volume's grid as the segmentation sees it, below its own parent transform."""
    matrix, toNode = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        volume.GetParentTransformNode(), node.GetParentTransformNode(), toNode
    )
    vtk.vtkMatrix4x4.Multiply4x4(toNode, matrix, matrix)
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(volume.GetImageData().GetExtent())
    grid.SetImageToWorldMatrix(matrix)
    return grid


def _voxelized(
    node: slicer.vtkMRMLSegmentationNode, grid: slicer.vtkOrientedImageData
) -> slicer.vtkMRMLSegmentationNode:
    """The node, or where it holds surfaces alone a copy outside the scene, voxelized on the grid."""
    if node.GetSegmentation().ContainsRepresentation(_VOXELS):
        return node
    copy = slicer.vtkMRMLSegmentationNode()
    copy.GetSegmentation().DeepCopy(node.GetSegmentation())
    converter = slicer.vtkSegmentationConverter
    copy.GetSegmentation().SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(grid)
    )
    if not copy.GetSegmentation().CreateRepresentation(_VOXELS):
        raise ImageError(f"Segmentation '{node.GetName()}' cannot be turned into voxels. Draw or load it again.")
    return copy


def _requireLinear(node: slicer.vtkMRMLTransformableNode) -> None:
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f"'{node.GetName()}' must be under linear transforms only, but '{parent.GetName()}' is nonlinear. "
            "Harden the transform first."
        )


def saveArray(array: np.ndarray, path: Path) -> None:
    """Write an array (D, H, W) into a job's folder.

    Raises:
        OutputError: It cannot be written.
    """
    with writing(path):
        np.save(path, np.ascontiguousarray(array))


def writeExported(exported: Exported, folder: Path) -> Path:
    """Write the document that commands of the library read with `--exported`, beside the images that it names.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / EXPORTED
    with writing(path):
        path.write_text(json.dumps(asdict(exported)), "utf-8")
    return path
