"""Volume nodes to files of a job, on Slicer's real MRML."""

import numpy as np
import pytest
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, in_the_world, vtk

from VFMTransferLib.core.errors import GeometryError, ImageError
from VFMTransferSlicer.inputs.exporting import exportVolume, gridInWorld


@pytest.fixture
def scene():
    return a_scene()


def test_a_grid_says_where_the_voxels_are_in_the_world(scene):
    volume = an_oblique_t2w()
    node = add_volume(scene, volume, "T2")
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    grid, expected = gridInWorld(node), in_the_world(volume).geometry
    assert grid.size == (20, 18, 7)
    assert grid.spacing_mm == pytest.approx((2.0, 2.5, 4.0))
    assert grid.origin_mm == pytest.approx(expected.origin_mm)
    assert grid.direction == pytest.approx(expected.direction)


def test_handing_over_writes_the_voxels_and_leaves_the_node_alone(scene, tmp_path):
    volume = an_oblique_t2w()
    node = add_volume(scene, volume, "T2")
    transform = add_transform(scene)
    node.SetAndObserveTransformNodeID(transform.GetID())
    image = exportVolume(node, tmp_path, "t2w")
    assert image.file == "t2w.npy"
    np.testing.assert_array_equal(np.load(tmp_path / image.file), volume.array)
    assert node.GetTransformNodeID() == transform.GetID()


def test_an_empty_volume_is_told(scene, tmp_path):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    with pytest.raises(ImageError, match="empty"):
        exportVolume(node, tmp_path, "t2w")


def test_a_transform_that_bends_is_refused(scene, tmp_path):
    node = add_volume(scene, an_oblique_t2w(), "T2")
    bend = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Bend")
    thin_plate = vtk.vtkThinPlateSplineTransform()
    points = vtk.vtkPoints()
    for point in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (5, 5, 5)):
        points.InsertNextPoint(point)
    moved = vtk.vtkPoints()
    moved.DeepCopy(points)
    moved.SetPoint(4, 6, 5, 4)
    thin_plate.SetSourceLandmarks(points)
    thin_plate.SetTargetLandmarks(moved)
    thin_plate.SetBasisToR()
    bend.SetAndObserveTransformToParent(thin_plate)
    node.SetAndObserveTransformNodeID(bend.GetID())
    with pytest.raises(GeometryError, match="'T2' must be under linear transforms only, but 'Bend' is nonlinear"):
        exportVolume(node, tmp_path, "t2w")
