"""Results to nodes, on Slicer's real MRML: right place, names, terms, origin, and nothing left where it fails."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from images import T2W_GRID, an_adc
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, in_the_world, slicer, voxels_of, vtk

from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import LABEL_TERMS, RESEARCH_USE, Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io.results import save_result
from VFMTransferLib.io.segmentations import terminology
from VFMTransferLib.tasks.distortion_correction.task import warp
from VFMTransferSlicer.inputs.exporting import gridInWorld
from VFMTransferSlicer.results.scene import loadArm, placeBeside
from VFMTransferSlicer.views.pairs import isSynthetic, isWithheld

SHA256 = "ab" * 32
PZ, TZ = str(Label.PERIPHERAL_ZONE), str(Label.TRANSITION_ZONE)

OBLIQUE_AROUND_TWO_AXES = tuple(
    (
        np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) @ np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    ).ravel()
)


@pytest.fixture
def scene():
    return a_scene()


def a_result(task: str, arm: str = "pretrained", **says) -> Result:
    versions, seconds = {"numpy": "2.4.6", "vfm-transfer": "0.1.0"}, {"read": 0.25, "infer": 1.5}
    options = {"crop": "gland", "threshold": None}
    provenance = Provenance("b", "B", arm, SHA256, "onnx", "cpu", versions=versions, seconds=seconds, options=options)
    return Result("study", task, provenance, **says)


def some_zones(volume: Volume | None = None) -> Volume:
    """1 in a box, 2 in a smaller one beside it, on an oblique grid."""
    array = np.zeros(T2W_GRID.shape, np.uint8)
    array[2:5, 6:12, 7:14] = 1
    array[3:5, 3:6, 8:12] = 2
    return (volume or an_oblique_t2w()).with_array(array)


def zones_result(labels: Volume, **about) -> Result:
    volumes = {"prostate": 2.0, PZ: 1.5, TZ: 0.5}
    return a_result("anatomy-segmentation", labels=labels, label_values={PZ: 1, TZ: 2}, volumes_ml=volumes, **about)


def a_wave(grid: Geometry) -> Volume:
    """An image that is as smooth between its voxels as linear interpolation takes it to be."""
    z, y, x = np.indices(grid.shape)
    return Volume((1000 + 300 * np.sin(x / 10) * np.cos(y / 11) + 20 * z).astype(np.float32), grid)


def a_field(grid: Geometry) -> np.ndarray:
    """A smooth displacement (D, H, W, 3) of a few millimeters, different along each axis."""
    z, y, x = np.indices(grid.shape)
    along = np.stack([2 * np.sin(y / 6), 1.5 * np.cos(x / 7), 0.5 * np.sin(z / 3 + x / 9)], axis=-1)
    return along.astype(np.float32)


def tag_of(segment, name: str) -> str:
    value = vtk.mutable("")
    segment.GetTag(f"DICOM.Segment{name}", value)
    return str(value)


def load(result: Result, folder, inputs, reference=Sequence.T2W):
    return loadArm(save_result(result, folder / "arm"), inputs, reference)


def test_segments_come_with_names_colors_terms_and_place(scene, tmp_path):
    labels = some_zones()
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    node = load(zones_result(labels), tmp_path, {Sequence.T2W: volume}).segmentation
    assert node.GetName() == "T2 segmentation (pretrained)"
    segmentation = node.GetSegmentation()
    assert set(segmentation.GetSegmentIDs()) == {PZ, TZ, str(Label.PROSTATE)}
    for value, label in ((1, Label.PERIPHERAL_ZONE), (2, Label.TRANSITION_ZONE)):
        segment, term = segmentation.GetSegment(str(label)), LABEL_TERMS[label]
        assert segment.GetName() == term.title
        assert segment.GetColor() == pytest.approx([c / 255 for c in term.color], abs=1e-5)
        tag = vtk.mutable("")
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        assert str(tag) == terminology(term)
        np.testing.assert_array_equal(voxels_of(node, str(label), volume), labels.array == value)
        assert (tag_of(segment, "AlgorithmType"), tag_of(segment, "AlgorithmName")) == ("AUTOMATIC", "b")
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume
    assert node.GetDisplayNode() is not None


def test_segments_of_an_input_under_a_transform_lie_in_the_world_on_its_grid(scene, tmp_path):
    t2w = an_oblique_t2w()
    volume = add_volume(scene, t2w, "T2")
    volume.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    labels = some_zones(in_the_world(t2w))
    node = load(zones_result(labels), tmp_path, {Sequence.T2W: volume}).segmentation
    assert node.GetParentTransformNode() is None
    np.testing.assert_array_equal(voxels_of(node, PZ, volume), labels.array == 1)
    segmentation, grid = node.GetSegmentation(), slicer.vtkOrientedImageData()
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(segmentation.GetConversionParameter(parameter), grid)
    expected = gridInWorld(volume)
    assert grid.GetDimensions() == expected.size
    assert grid.GetOrigin() == pytest.approx([-expected.origin_mm[0], -expected.origin_mm[1], expected.origin_mm[2]])


def test_a_new_run_leaves_the_old_nodes_alone(scene, tmp_path):
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    first = load(zones_result(some_zones()), tmp_path / "1", {Sequence.T2W: volume}).segmentation
    second = load(zones_result(some_zones()), tmp_path / "2", {Sequence.T2W: volume}).segmentation
    assert (first.GetName(), second.GetName()) == ("T2 segmentation (pretrained)", "T2 segmentation (pretrained)_1")
    assert first.GetScene() is scene


def test_probabilities_of_several_labels_are_volumes_from_black_at_0_to_white_at_1(scene, tmp_path):
    t2w = an_oblique_t2w()
    probabilities = {
        str(label): t2w.with_array(np.full(t2w.array.shape, value, np.float32))
        for label, value in ((Label.INDOLENT_CANCER, 0.25), (Label.CSPCA, 0.75))
    }
    volume = add_volume(scene, t2w, "T2")
    result = a_result("lesion-segmentation", "scratch", probabilities=probabilities)
    arm = load(result, tmp_path, {Sequence.T2W: volume})
    assert list(arm.probabilities) == ["indolent-cancer", "csPCa"]
    node = arm.probabilities["csPCa"]
    assert node.GetName() == "T2 Clinically significant cancer probability (from scratch)"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), probabilities["csPCa"].array)
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 1)
    assert not display.GetAutoWindowLevel()


def test_a_super_resolved_image_is_named_synthetic_lies_right_and_is_shown_as_its_input(scene, tmp_path):
    t2w = an_oblique_t2w()
    grid = t2w.geometry
    fine = Geometry((40, 36, 7), (1.0, 1.25, 4.0), grid.origin_mm, grid.direction)
    image = Volume(np.random.default_rng(0).normal(300, 50, fine.shape).astype(np.float32), fine)
    volume = add_volume(scene, t2w, "T2")
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevelMinMax(100, 700)
    arm = load(a_result("super-resolution", images={"t2w-super-resolved": image}), tmp_path, {Sequence.T2W: volume})
    node = arm.images["t2w-super-resolved"]
    assert node.GetName() == "T2 SR (pretrained, synthetic)"
    assert gridInWorld(node).origin_mm == pytest.approx(fine.origin_mm, abs=1e-4)
    assert gridInWorld(node).direction == pytest.approx(fine.direction, abs=1e-5)
    assert gridInWorld(node).spacing_mm == pytest.approx(fine.spacing_mm, abs=1e-5)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), image.array)
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (100, 700)


def test_the_grid_transform_takes_the_distorted_volume_to_the_corrected_one(scene, tmp_path):
    adc = a_wave(Geometry((22, 21, 9), (2.5, 2.0, 3.5), (-8, 5, 20), OBLIQUE_AROUND_TWO_AXES))
    field = a_field(adc.geometry)
    corrected = warp(adc, field, adc.geometry, "adc-corrected")
    images = {"hbv-corrected": corrected, "adc-corrected": corrected}
    node = add_volume(scene, adc, "ADC")
    inputs = {Sequence.T2W: add_volume(scene, an_oblique_t2w(), "T2"), Sequence.HBV: node, Sequence.ADC: node}
    result = a_result("distortion-correction", images=images, displacement_mm=field)
    arm = load(result, tmp_path, inputs, Sequence.HBV)
    assert arm.transform.GetName() == "ADC distortion correction (pretrained)"
    assert [image.GetName() for image in arm.images.values()] == [
        "ADC corrected (pretrained, synthetic)",
        "ADC corrected (pretrained, synthetic)_1",
    ]
    node.SetAndObserveTransformNodeID(arm.transform.GetID())
    node.HardenTransform()  # resamples onto a larger grid, for the transform bends
    hardened = Volume(slicer.util.arrayFromVolume(node).copy(), Geometry(**asdict(gridInWorld(node))))
    moved, inner = hardened.resample_to(adc.geometry, "linear").array, np.s_[1:-1, 4:-4, 4:-4]
    distorted = np.abs(adc.array - corrected.array)[inner].max()
    assert np.abs(moved - corrected.array)[inner].max() < 0.05 * distorted


def test_images_of_a_withheld_correction_are_named_uncorrected(scene, tmp_path):
    node = add_volume(scene, an_adc(), "ADC")
    inputs = {Sequence.T2W: add_volume(scene, an_oblique_t2w(), "T2"), Sequence.HBV: node, Sequence.ADC: node}
    still = np.zeros((*an_adc().geometry.shape, 3), np.float32)
    result = a_result("distortion-correction", images={"adc-corrected": an_adc()}, displacement_mm=still)
    arm = load(result, tmp_path, inputs, Sequence.HBV)
    (image,) = arm.images.values()
    assert arm.isWithheld
    assert image.GetName() == "ADC corrected (pretrained, uncorrected)"
    assert isWithheld(image)
    assert not isSynthetic(image)


def test_nodes_say_where_they_came_from(scene, tmp_path):
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    result = zones_result(some_zones())
    result = replace(result, provenance=replace(result.provenance, min_confidence=0.62))
    node = load(result, tmp_path, {Sequence.T2W: volume}).segmentation
    facts = {
        "Bundle": "b",
        "MinConfidence": "0.62",
        "Title": "B",
        "Arm": "pretrained",
        "Sha256": SHA256,
        "Runtime": "onnx",
        "Device": "cpu",
        "Task": "anatomy-segmentation",
        "ResearchUse": RESEARCH_USE,
        "Versions": "numpy 2.4.6, vfm-transfer 0.1.0",
        "Options": "crop gland",
        "Inputs": "t2w: T2",
    }
    assert {name: node.GetAttribute(f"VFMTransfer.{name}") for name in facts} == facts
    assert float(node.GetAttribute("VFMTransfer.Seconds")) >= 1.75
    assert node.GetNodeReference("VFMTransfer.t2w") is volume


def test_a_node_goes_into_the_study_of_its_neighbor(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    hierarchy.CreateItem(study, volume)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    placeBeside(segmentation, volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study


def test_a_broken_file_is_told_and_leaves_no_node(scene, tmp_path):
    t2w = an_oblique_t2w()
    volume = add_volume(scene, t2w, "T2")
    folder = save_result(zones_result(some_zones(), probabilities={PZ: t2w}), tmp_path / "arm")
    (folder / "probabilities.nii.gz").write_bytes(b"no image")
    before = scene.GetNumberOfNodes()
    with pytest.raises(ImageError, match="probabilities"):
        loadArm(folder, {Sequence.T2W: volume}, Sequence.T2W)
    assert {n.GetClassName() for n in slicer.util.getNodes().values()}.isdisjoint({"vtkMRMLSegmentationNode"})
    assert scene.GetNumberOfNodes() <= before + 1  # the subject hierarchy comes with the first result
