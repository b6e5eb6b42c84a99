"""Scenes of Slicer's real MRML with small studies in them."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed; the dev extra brings it.")
vtk = pytest.importorskip("vtk")

from images import COS, SIN, a_t2w  # noqa: E402  (only where MRML is)

from VFMTransferLib.core.volume import Geometry, Volume  # noqa: E402

# Turned about the x axis by 30 degrees, and moved; the rest of the way to the world.
OBLIQUE = (1, 0, 0, 0, COS, -SIN, 0, SIN, COS)
TO_WORLD_RAS = ((COS, -SIN, 0, 12.5), (SIN, COS, 0, -7.25), (0, 0, 1, 30.0), (0, 0, 0, 1))


def a_scene() -> "slicer.vtkMRMLScene":
    """An empty scene, which is also `slicer.mrmlScene`."""
    slicer.mrmlScene = slicer.vtkMRMLScene()
    return slicer.mrmlScene


def matrix_of(rows) -> "vtk.vtkMatrix4x4":
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(rows[row][column]))
    return matrix


def add_volume(scene, volume: Volume, name: str):
    """A node on the volume's grid, by the definition of LPS and RAS."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, volume.array)
    ras = volume.geometry.affine.copy()
    ras[:2] *= -1
    node.SetIJKToRASMatrix(matrix_of(ras))
    return node


def add_transform(scene, rows=TO_WORLD_RAS):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "To the world")
    node.SetMatrixTransformToParent(matrix_of(rows))
    return node


def an_oblique_t2w() -> Volume:
    """On a grid unequal in every axis, anisotropic, oblique."""
    plain = a_t2w()
    grid = plain.geometry
    return Volume(plain.array, Geometry(grid.size, grid.spacing_mm, grid.origin_mm, OBLIQUE), "t2w")


def in_the_world(volume: Volume, rows=TO_WORLD_RAS) -> Volume:
    """The same voxels, where a parent transform (RAS) puts them."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine = flip @ np.array(rows, float) @ flip @ volume.geometry.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = (affine[:3, :3] / spacing).ravel()
    geometry = Geometry(volume.geometry.size, tuple(spacing), tuple(affine[:3, 3]), tuple(direction))
    return Volume(volume.array, geometry, volume.name)


def voxels_of(segmentation, segment: str, volume) -> np.ndarray:
    """A segment as an array (D, H, W) on the grid of a volume node."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(segmentation.GetScene())
    labels = segmentation.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    names = vtk.vtkStringArray()
    names.InsertNextValue(segment)
    assert logic.ExportSegmentsToLabelmapNode(segmentation, names, labels, volume)
    array = slicer.util.arrayFromVolume(labels).copy()
    segmentation.GetScene().RemoveNode(labels)
    return array > 0
