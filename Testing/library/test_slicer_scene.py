"""Volume nodes to files, results to nodes, on Slicer's real MRML."""

import json

import numpy as np
import pytest
from images import T2W_GRID
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, in_the_world, slicer, voxels_of, vtk

from VFMTransferLib.errors import GeometryError, ImageError
from VFMTransferLib.io import SegmentLayer, write_segmentation, write_volume
from VFMTransferLib.io.segments import terminology
from VFMTransferLib.terms import LABEL_TERMS, Label, Sequence
from VFMTransferLib.volume import Volume
from VFMTransferSlicer.scene import gridInWorld, handOver, loadArm, loadImage, loadSegmentation, placeBeside


@pytest.fixture
def scene():
    return a_scene()


def a_label_map() -> Volume:
    """1 in a box, 2 in a smaller one beside it, on an oblique grid."""
    array = np.zeros(T2W_GRID.shape, np.uint8)
    array[2:5, 6:12, 7:14] = 1
    array[3:5, 3:6, 8:12] = 2
    return an_oblique_t2w().with_array(array)


def write_zones(path) -> Volume:
    labels = a_label_map()
    values = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}
    write_segmentation(path, [SegmentLayer(labels, values)])
    return labels


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
    image = handOver(node, tmp_path, "t2w")
    assert image.file == "t2w.npy"
    np.testing.assert_array_equal(np.load(tmp_path / image.file), volume.array)
    assert node.GetTransformNodeID() == transform.GetID()


def test_an_empty_volume_is_told(scene, tmp_path):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    with pytest.raises(ImageError, match="'Empty' must hold voxels"):
        handOver(node, tmp_path, "t2w")


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
    with pytest.raises(GeometryError, match="'T2' must be under linear transforms only, but 'Bend' bends it"):
        handOver(node, tmp_path, "t2w")


def test_segments_come_with_names_colors_terms_and_place(scene, tmp_path):
    labels = write_zones(tmp_path / "segmentation.seg.nrrd")
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    node = loadSegmentation(tmp_path / "segmentation.seg.nrrd", "Zones", volume)
    segmentation = node.GetSegmentation()
    for value, label in ((1, Label.PERIPHERAL_ZONE), (2, Label.TRANSITION_ZONE)):
        segment, term = segmentation.GetSegment(str(label)), LABEL_TERMS[label]
        assert segment.GetName() == term.title
        assert segment.GetColor() == pytest.approx([c / 255 for c in term.color], abs=1e-5)
        tag = vtk.mutable("")
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        assert str(tag) == terminology(term)
        np.testing.assert_array_equal(voxels_of(node, str(label), volume), labels.array == value)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume
    assert node.GetDisplayNode() is not None


def test_a_file_that_is_no_image_is_told_and_leaves_no_node(scene, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    before = scene.GetNumberOfNodes()
    with pytest.raises(ImageError, match=r"'broken\.nii\.gz' must be an image file"):
        loadImage(tmp_path / "broken.nii.gz", "Broken", scene)
    assert scene.GetNumberOfNodes() == before


def test_a_node_goes_into_the_study_of_its_neighbor(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    hierarchy.CreateItem(study, volume)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    placeBeside(segmentation, volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study


def test_images_are_loaded_where_they_lie_and_are_called_synthetic(scene, tmp_path):
    image = an_oblique_t2w()
    write_volume(image, tmp_path / "adc.nii.gz")
    model = {"bundle": "b", "title": "B", "arm": "scratch", "sha256": "0" * 64, "runtime": "onnx", "device": "cpu"}
    numbers = {"model": model, "task": "adc-translation", "research_use": "Research", "versions": {"numpy": "2"}}
    (tmp_path / "result.json").write_text(json.dumps({**numbers, "files": ["adc.nii.gz"]}), encoding="utf-8")
    volume = add_volume(scene, image, "T2")
    arm = loadArm(tmp_path, {Sequence.T2W: volume}, Sequence.T2W)
    node = arm.images["adc"]
    assert node.GetName() == "T2 adc (from scratch, synthetic)"
    assert gridInWorld(node).origin_mm == pytest.approx(image.geometry.origin_mm, abs=1e-4)
    assert gridInWorld(node).direction == pytest.approx(image.geometry.direction, abs=1e-5)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), image.array)
    assert node.GetAttribute("VFMTransfer.Sha256") == "0" * 64
    assert node.GetNodeReference("VFMTransfer.t2w") is volume
