"""Volumes, segmentations and transforms as MRML nodes, filled before they come into a scene. Needs MRML, but no Qt.

In a scene each change of a node redraws views and lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVolume, arrayFromVolumeModified, vtkMatrixFromArray
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk

from VFMTransferLib.core.errors import ImageError

from .nifti import VECTOR, NiftiImage

_OUR_WINDOW = "VFMTransfer.Window"
_WINDOW_PERCENTILES = (0.5, 99.5)
_WINDOW_SAMPLES = 100_000  # of the voxels; more would not move the percentiles, but take time
_VOXELS_A_STEP = 4_000_000
_LONGEST_DICOM_TEXT = 64  # of a Long String (DICOM PS3.5, 6.2)
_VOLUME_TOLERANCE = 1e-3  # of a structure's volume, for what files round
_LPS_TO_RAS = (-1.0, -1.0, 1.0)

Window = tuple[float, float]  # the values shown black and white


def freeName(scene: slicer.vtkMRMLScene, name: str) -> str:
    """The name, with a number where a node of the scene has it; Slicer gives one to all that were given before."""
    return name if scene.GetFirstNodeByName(name) is None else scene.GenerateUniqueName(name)


def addNode(node: slicer.vtkMRMLNode, scene: slicer.vtkMRMLScene, window: Window | None = None) -> None:
    """Bring a node into the scene under a name that no other one has, and show it the usual way.

    Args:
        node: Filled.
        scene: Where it goes; nothing in it is overwritten.
        window: How a volume is shown. Slicer would go through all voxels to find one.
    """
    node.SetName(scene.GenerateUniqueName(node.GetName()))
    if node.IsA("vtkMRMLScalarVolumeNode"):
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*window)
        display.SetAttribute(_OUR_WINDOW, _windowWords(display))
        scene.AddNode(display)
        display.SetDefaultColorMap()
        node.SetAndObserveDisplayNodeID(display.GetID())
        scene.AddNode(node)
    else:
        scene.AddNode(node)
        node.CreateDefaultDisplayNodes()


def _windowWords(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> str:
    return f"{display.GetWindow():g} {display.GetLevel():g}"


def isWindowChosen(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> bool:
    """Whether the user or the file set a volume's window: Slicer does not follow the voxels, nor did this module."""
    return not display.GetAutoWindowLevel() and display.GetAttribute(_OUR_WINDOW) != _windowWords(display)


def isWindowOfHeader(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> bool:
    """Whether a volume's window is one of its DICOM header, which Slicer sets when it loads it and keeps as presets."""
    presets = range(display.GetNumberOfWindowLevelPresets())
    windows = [(display.GetWindowPreset(index), display.GetLevelPreset(index)) for index in presets]
    return (display.GetWindow(), display.GetLevel()) in windows


def removeNode(node: slicer.vtkMRMLDisplayableNode) -> None:
    """Take a node out of its scene, with what shows it, which would stay otherwise.

    The last one first: a color legend cannot be drawn without what shows the colors, and Slicer logs errors.
    """
    for display in [node.GetNthDisplayNode(i) for i in reversed(range(node.GetNumberOfDisplayNodes()))]:
        node.GetScene().RemoveNode(display)
    node.GetScene().RemoveNode(node)


def segmentationNode(
    path: Path, name: str, reference: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation with the file's names, colors and terminology.

    Args:
        path: Named `*.seg.nrrd`. It will soon be gone, so that the node keeps no way to it.
        name: What to call it.
        reference: The volume whose grid the segmentation is drawn on, and is exported with.

    Raises:
        ImageError: The file cannot be read.
    """
    aside = slicer.vtkMRMLScene()  # reading needs a scene to show the node in
    read = aside.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(read):
        raise ImageError(f"Result '{path.name}' is damaged or no image file. Run again.")
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(name)
    node.SetAndObserveSegmentation(read.GetSegmentation())
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node


def isOtherVolume(found_ml: float, given_ml: float) -> bool:
    """Whether a structure has another volume than the network gave it: somebody edited it."""
    return abs(found_ml - given_ml) > _VOLUME_TOLERANCE * given_ml


def signSegments(node: slicer.vtkMRMLSegmentationNode, bundle: str) -> None:
    """State in each segment that a network drew it; without that DICOM SEG would call it drawn by hand."""
    segmentation = node.GetSegmentation()
    for name in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(name)
        segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
        segment.SetTag("DICOM.SegmentAlgorithmName", bundle[:_LONGEST_DICOM_TEXT])


def volumeNode(
    voxels: np.ndarray, ijkToRas: np.ndarray, name: str, window: Window, scene: slicer.vtkMRMLScene
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume in the scene, in shades of gray; see `blankVolume`, `fillVolume` and `addNode`."""
    node = blankVolume(voxels, ijkToRas, name)
    for _ in fillVolume(node, voxels):
        pass
    addNode(node, scene, window)
    return node


def blankVolume(voxels: np.ndarray, ijkToRas: np.ndarray, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume with room for voxels (D, H, W); what it holds is not defined before `fillVolume`.

    Args:
        voxels: Of this shape and type.
        ijkToRas: 4x4, voxel index to RAS millimeters.
        name: What to call it.
    """
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.AllocateScalars(get_vtk_array_type(voxels.dtype), 1)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtkMatrixFromArray(ijkToRas))
    return node


def fillVolume(node: slicer.vtkMRMLScalarVolumeNode, voxels: np.ndarray) -> Iterator[None]:
    """Copy voxels into a blank volume, some slices a step: all of a super-resolved T2w take too long for one."""
    array = arrayFromVolume(node)
    slices = max(1, _VOXELS_A_STEP // voxels[0].size)
    for first in range(0, len(voxels), slices):
        array[first : first + slices] = voxels[first : first + slices]
        yield
    arrayFromVolumeModified(node)


def gridTransformNode(image: NiftiImage, name: str) -> slicer.vtkMRMLGridTransformNode:
    """A transform that takes the distorted image to the corrected one.

    A point p of the corrected image shows what lay at p + d(p) in the distorted one (`Result.displacement_mm`): d
    leads from the corrected image, the parent's side in Slicer's words, to the distorted one. Interpolated linearly,
    as the library does.

    Args:
        image: Vectors (3, D, H, W), LPS millimeters.
        name: What to call it.

    Raises:
        ImageError: The file holds no vectors in LPS.
    """
    if image.intent != VECTOR or len(image.frames) != 3:
        raise ImageError("The displacement holds no vectors in LPS. Run again.")
    spacing = np.linalg.norm(image.ijkToRas[:3, :3], axis=0)
    direction = np.eye(4)
    direction[:3, :3] = image.ijkToRas[:3, :3] / spacing
    vectors = image.frames.transpose(1, 2, 3, 0) * np.array(_LPS_TO_RAS)  # (D, H, W, 3), RAS
    grid = vtk.vtkImageData()
    grid.SetDimensions(*reversed(vectors.shape[:3]))
    grid.SetSpacing(*spacing)
    grid.SetOrigin(*image.ijkToRas[:3, 3])
    grid.GetPointData().SetScalars(numpy_to_vtk(vectors.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetInterpolationModeToLinear()
    transform.SetGridDirectionMatrix(vtkMatrixFromArray(direction))
    transform.SetDisplacementGridData(grid)
    node = slicer.vtkMRMLGridTransformNode()
    node.SetName(name)
    node.SetAndObserveTransformFromParent(transform)
    return node


def windowOf(volume: slicer.vtkMRMLScalarVolumeNode) -> Window | None:
    """How a volume is shown; None if it is not."""
    display = volume.GetDisplayNode()
    return (display.GetWindowLevelMin(), display.GetWindowLevelMax()) if display is not None else None


def windowFor(voxels: np.ndarray) -> Window:
    """Values between which nearly all voxels lie."""
    some = voxels.ravel()[:: max(1, voxels.size // _WINDOW_SAMPLES)]
    low, high = (float(value) for value in np.percentile(some, _WINDOW_PERCENTILES))
    return low, high if high > low else low + 1.0
