"""Masks for a job out of Slicer's real segmentations, label maps and boxes."""

from dataclasses import replace

import numpy as np
import pytest
from images import COS, SIN, T2W_GRID
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, in_the_world, matrix_of, slicer, vtk
from specs import MODELS

from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.terms import LABEL_TERMS, Label
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io.segmentations import terminology
from VFMTransferLib.tasks.segmentation import label_values
from VFMTransferSlicer.inputs.exporting import gridInWorld, labelOf, maskOf, referenceOf, roiMask

BOX, CORNER = (slice(2, 5), slice(6, 12), slice(7, 14)), (slice(3, 5), slice(3, 8), slice(8, 12))
LESIONS = MODELS["provicnet-fusion"]
ANATOMY = replace(MODELS["profound-upernet-anatomy"], labels=(Label.BACKGROUND, Label.PROSTATE))
TRANSLATION = next(m for m in MODELS.values() if m.task == "adc-translation")


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def volume(scene):
    return add_volume(scene, an_oblique_t2w(), "T2")


def a_mask(*regions) -> np.ndarray:
    mask = np.zeros(T2W_GRID.shape, np.uint8)
    for region in regions:
        mask[region] = 1
    return mask


def add_segmentation(volume, segments, terms=None, name="Truth"):
    """A segmentation node with one segment for each name → mask on the grid of the volume node."""
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    for title, mask in segments.items():
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*reversed(mask.shape))
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask.ravel()
        image.SetImageToWorldMatrix(matrix)
        segment = node.AddSegmentFromBinaryLabelmapRepresentation(image, title)
        if terms and title in terms:
            own = node.GetSegmentation().GetSegment(segment)
            own.SetTag(own.GetTerminologyEntryTagName(), terms[title])
    return node


def on_the_grid_of(image, folder, geometry: Geometry) -> np.ndarray:
    """What was handed over, at the positions of a grid."""
    grid = image.grid
    written = Volume(np.load(folder / image.file), Geometry(grid.size, grid.spacing_mm, grid.origin_mm, grid.direction))
    return written.resample_to(geometry, "nearest").array


def test_the_gland_is_the_segment_of_that_name_where_it_lies_in_the_world(scene, volume, tmp_path):
    node = add_segmentation(volume, {"Bladder": a_mask(CORNER), "Prostate": a_mask(BOX)})
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    moved = add_volume(scene, in_the_world(an_oblique_t2w()), "T2 in the world")
    image = maskOf(node, moved, tmp_path, "gland")
    np.testing.assert_array_equal(np.load(tmp_path / image.file), a_mask(BOX))
    assert image.grid == gridInWorld(moved)


def test_zones_together_are_the_gland(volume, tmp_path):
    node = add_segmentation(volume, {"PZ": a_mask(BOX), "TZ": a_mask(CORNER), "Lesion in PZ": a_mask(CORNER)})
    image = maskOf(node, volume, tmp_path, "gland")
    np.testing.assert_array_equal(on_the_grid_of(image, tmp_path, an_oblique_t2w().geometry), a_mask(BOX, CORNER))


def test_a_closed_surface_becomes_voxels_and_the_node_stays_as_it_is(scene, volume, tmp_path):
    logic = slicer.vtkSlicerSegmentationsModuleLogic()  # registers the converters, as in the application
    logic.SetMRMLScene(scene)
    mask = a_mask(BOX)
    node = add_segmentation(volume, {"Prostate": mask})
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    node.RemoveBinaryLabelmapRepresentation()
    image = maskOf(node, volume, tmp_path, "gland")
    found = on_the_grid_of(image, tmp_path, an_oblique_t2w().geometry)
    assert found[3, 7:11, 8:13].all()
    assert np.count_nonzero(found) == pytest.approx(np.count_nonzero(mask), rel=0.35)
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_a_label_map_is_handed_over_with_its_values(scene, volume, tmp_path):
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    slicer.util.updateVolumeFromArray(labels, 2 * a_mask(BOX))
    image = maskOf(labels, volume, tmp_path, "gland")
    np.testing.assert_array_equal(np.load(tmp_path / image.file), 2 * a_mask(BOX))


@pytest.mark.parametrize("segments", [{}, {"Prostate": a_mask()}])
def test_an_empty_gland_is_told(volume, tmp_path, segments):
    with pytest.raises(ImageError, match="Truth"):
        maskOf(add_segmentation(volume, segments), volume, tmp_path, "gland")


def test_segments_that_could_be_anything_are_listed(volume, tmp_path):
    node = add_segmentation(volume, {"Left": a_mask(BOX), "Right": a_mask(CORNER)})
    with pytest.raises(ImageError, match=r"its segments are 'Left', 'Right'\. Name the one that does 'Prostate'"):
        maskOf(node, volume, tmp_path, "gland")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Prostate", Label.PROSTATE),
        ("whole gland", Label.PROSTATE),
        ("central_gland", Label.TRANSITION_ZONE),
        ("Peripheral zone of prostate", Label.PERIPHERAL_ZONE),
        ("TZ", Label.TRANSITION_ZONE),
        ("lesion 1 (PZ left)", Label.CSPCA),
        ("Indolent cancer", Label.INDOLENT_CANCER),
        ("Bladder", None),
        ("Segment_3", None),
    ],
)
def test_names_tell_what_a_segment_is(name, label):
    segment = slicer.vtkSegment()
    segment.SetName(name)
    assert labelOf(segment) == label


def test_a_code_outweighs_the_name():
    segment = slicer.vtkSegment()
    segment.SetName("Segment_1")
    segment.SetTag(segment.GetTerminologyEntryTagName(), terminology(LABEL_TERMS[Label.TRANSITION_ZONE]))
    assert labelOf(segment) == Label.TRANSITION_ZONE


def test_zones_are_the_reference_of_a_network_that_marks_the_prostate(volume, tmp_path):
    node = add_segmentation(volume, {"PZ": a_mask(BOX), "TZ": a_mask(CORNER), "csPCa": a_mask(BOX)})
    image = referenceOf(node, volume, tmp_path, "reference", ANATOMY)
    np.testing.assert_array_equal(on_the_grid_of(image, tmp_path, an_oblique_t2w().geometry), a_mask(BOX, CORNER))


def test_zones_keep_the_values_of_a_network_that_marks_them(volume, tmp_path):
    labels = (Label.BACKGROUND, Label.PROSTATE, Label.TRANSITION_ZONE, Label.PERIPHERAL_ZONE)
    node = add_segmentation(volume, {"Prostate": a_mask(BOX, CORNER), "PZ": a_mask(BOX), "TZ": a_mask(CORNER)})
    image = referenceOf(node, volume, tmp_path, "reference", replace(ANATOMY, labels=labels))
    expected = 3 * a_mask(BOX)
    expected[CORNER] = 2
    np.testing.assert_array_equal(on_the_grid_of(image, tmp_path, an_oblique_t2w().geometry), expected)


def test_only_significant_cancer_is_the_reference_for_lesions(volume, tmp_path):
    segments = {"Prostate": a_mask(BOX, CORNER), "csPCa": a_mask(CORNER), "Indolent cancer": a_mask(BOX)}
    image = referenceOf(add_segmentation(volume, segments), volume, tmp_path, "reference", LESIONS)
    found = on_the_grid_of(image, tmp_path, an_oblique_t2w().geometry)
    np.testing.assert_array_equal(found, label_values(LESIONS)["csPCa"] * a_mask(CORNER))


def test_the_reference_of_an_image_is_a_volume(volume, tmp_path):
    image = referenceOf(volume, volume, tmp_path, "reference", TRANSLATION)
    np.testing.assert_array_equal(np.load(tmp_path / image.file), an_oblique_t2w().array)
    with pytest.raises(ImageError, match="volume"):
        referenceOf(add_segmentation(volume, {"PZ": a_mask(BOX)}), volume, tmp_path, "reference", TRANSLATION)


def add_box(scene, center, size, rows=None):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetSize(*size)
    roi.SetCenter(*center)
    if rows is not None:
        roi.SetAndObserveObjectToNodeMatrix(matrix_of(rows))
    return roi


def test_a_turned_box_marks_the_voxels_whose_middle_it_holds(scene, volume, tmp_path):
    center = (-an_oblique_t2w().geometry.center_mm[0], -an_oblique_t2w().geometry.center_mm[1])
    center = (*center, an_oblique_t2w().geometry.center_mm[2])
    turned = [[COS, -SIN, 0, center[0]], [SIN, COS, 0, center[1]], [0, 0, 1, center[2]], [0, 0, 0, 1]]
    roi = add_box(scene, (0, 0, 0), (12, 15, 9), turned)
    for node in (roi, volume):
        node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    image = roiMask(roi, volume, tmp_path, "roi")
    mask = np.load(tmp_path / image.file)
    geometry, inverse = an_oblique_t2w().geometry, np.linalg.inv(np.array(turned))
    for z, y, x in np.ndindex(mask.shape):
        lps = geometry.to_world((x, y, z))
        inside = np.abs(inverse @ [-lps[0], -lps[1], lps[2], 1])[:3] <= (6, 7.5, 4.5)
        assert mask[z, y, x] == inside.all()
    assert 0 < mask.sum() < mask.size
    assert image.grid.origin_mm == pytest.approx(in_the_world(an_oblique_t2w()).geometry.origin_mm)
