"""From volume nodes to the files of a job, and from the files of a result to nodes. Needs MRML, but no Qt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from VFMTransferLib.errors import GeometryError, ImageError, OutputError
from VFMTransferLib.job import Grid, ImageFile
from VFMTransferLib.terms import Sequence

from .runs import ArmInScene

ATTRIBUTE = "VFMTransfer."
RESULT = "result.json"
SEGMENTATION = "segmentation.seg.nrrd"
IMAGE_SUFFIX = ".nii.gz"
_NO_IMAGES = ("labels", "probabilities", "displacement")  # files that are no image to look at
_ARM_TITLES = {"pretrained": "pretrained", "scratch": "from scratch"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_INVALID_ITEM = 0


def handOver(node: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str) -> ImageFile:
    """Write a volume's voxels into a job's folder, and say where in the world they lie.

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
        raise ImageError(f"Volume '{node.GetName()}' must hold voxels, but is empty. Load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        components = image.GetNumberOfScalarComponents()
        raise ImageError(f"Volume '{node.GetName()}' must hold one value a voxel, but holds {components}.")
    grid = gridInWorld(node)
    try:
        np.save(folder / f"{name}.npy", slicer.util.arrayFromVolume(node))  # (D, H, W)
    except OSError as error:
        raise OutputError(
            f"Volume '{node.GetName()}' cannot be written into the temporary folder: {error.strerror or error}. "
            "Free some space on its disk."
        ) from error
    return ImageFile(f"{name}.npy", grid)


def gridInWorld(node: slicer.vtkMRMLScalarVolumeNode) -> Grid:
    """Where a volume's voxels lie in the world, with all parent transforms, in LPS millimeters.

    Raises:
        GeometryError: A parent transform bends it, so that it has no grid in the world.
    """
    lps = _RAS_TO_LPS @ _ijkToWorld(node)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    return Grid(
        tuple(node.GetImageData().GetDimensions()),
        tuple(spacing.tolist()),
        tuple(lps[:3, 3].tolist()),
        tuple(direction.ravel().tolist()),  # row by row
    )


def loadArm(folder: Path, inputs: Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode], reference: Sequence) -> ArmInScene:
    """Load what a network wrote, as new nodes in the scene of its inputs; nothing is overwritten.

    Args:
        folder: The arm's folder, with its `result.json`.
        inputs: The volumes that the network saw.
        reference: The one on whose grid the result lies.

    Raises:
        ImageError: A file cannot be read; no node is left then.
    """
    numbers = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    about = inputs[reference]
    arm = ArmInScene(numbers["model"]["bundle"], numbers)
    title = _ARM_TITLES.get(numbers["model"]["arm"], arm.bundle)
    for file in numbers["files"]:
        name = file.removesuffix(IMAGE_SUFFIX)
        if file == SEGMENTATION:
            arm.segmentation = loadSegmentation(folder / file, f"{about.GetName()} segmentation ({title})", about)
        elif file.endswith(IMAGE_SUFFIX) and name not in _NO_IMAGES:
            label = f"{about.GetName()} {name} ({title}, synthetic)"
            arm.images[name] = loadImage(folder / file, label, about.GetScene())
    for node in (arm.segmentation, *arm.images.values()):
        if node is not None:
            placeBeside(node, about)
            describe(node, numbers, inputs)
    return arm


def loadSegmentation(
    path: Path, name: str, reference: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """A new segmentation node with the file's names, colors and terminology.

    Args:
        path: Named `*.seg.nrrd`.
        name: Made unique in the scene.
        reference: The volume whose grid the segmentation is drawn on, and is exported with.

    Raises:
        ImageError: The file cannot be read.
    """
    node = _newNode("vtkMRMLSegmentationNode", name, reference.GetScene())
    _read(slicer.vtkMRMLSegmentationStorageNode(), path, node)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node


def loadImage(path: Path, name: str, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLScalarVolumeNode:
    """A new volume node.

    Raises:
        ImageError: The file cannot be read.
    """
    node = _newNode("vtkMRMLScalarVolumeNode", name, scene)
    _read(slicer.vtkMRMLVolumeArchetypeStorageNode(), path, node)
    node.CreateDefaultDisplayNodes()
    return node


def placeBeside(node: slicer.vtkMRMLNode, neighbor: slicer.vtkMRMLNode) -> None:
    """Put a node into the study, or folder, of its neighbor in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    beside = hierarchy.GetItemByDataNode(neighbor)
    parent = hierarchy.GetSceneItemID() if beside == _INVALID_ITEM else hierarchy.GetItemParent(beside)
    item = hierarchy.GetItemByDataNode(node)
    if item == _INVALID_ITEM:  # the application makes an item for each new node; without it nobody does
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(item, parent)


def describe(
    node: slicer.vtkMRMLNode, numbers: Mapping[str, Any], inputs: Mapping[Sequence, slicer.vtkMRMLNode]
) -> None:
    """Write into a node where it came from; attributes and references are saved with the scene."""
    facts = {key.title(): value for key, value in numbers["model"].items()}
    facts |= {"Task": numbers["task"], "ResearchUse": numbers["research_use"]}
    facts["Versions"] = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    for name, value in facts.items():
        node.SetAttribute(ATTRIBUTE + name, str(value))
    for sequence, volume in inputs.items():
        node.SetNodeReferenceID(ATTRIBUTE + sequence, volume.GetID())


def _ijkToWorld(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """4x4, voxel index to RAS millimeters of the world."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise GeometryError(
                f"Volume '{node.GetName()}' must be under linear transforms only, but '{parent.GetName()}' bends it. "
                "Harden the transform first."
            )
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _newNode(kind: str, name: str, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLNode:
    return scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))


def _read(storage: slicer.vtkMRMLStorageNode, path: Path, node: slicer.vtkMRMLStorableNode) -> None:
    """Fill a node from a file that will soon be gone: the storage node is not kept with it."""
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        node.GetScene().RemoveNode(node)
        raise ImageError(f"Result '{path.name}' must be an image file, but cannot be read. Run again.")
