import numpy as np
import pytest
import SimpleITK as sitk

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.terms import LABEL_TERMS, Label
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io import SegmentLayer, read_mask, write_segmentation

GRID = Geometry((7, 6, 5), (0.5, 0.6, 3.0), (10.0, -20.0, 30.0), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))


@pytest.fixture
def a_gland() -> SegmentLayer:
    gland = np.zeros(GRID.shape, np.uint8)
    gland[1:4, 1:5, 1:6] = 1
    return SegmentLayer(Volume(gland, GRID, "gland"), {Label.PROSTATE: 1})


@pytest.fixture
def its_zones() -> SegmentLayer:
    zones = np.zeros(GRID.shape, np.uint8)
    zones[1:4, 1:3, 1:6] = 1
    zones[1:4, 3:5, 1:6] = 2
    return SegmentLayer(Volume(zones, GRID, "zones"), {Label.TRANSITION_ZONE: 1, Label.PERIPHERAL_ZONE: 2})


def header_of(path) -> dict[str, str]:
    image = sitk.ReadImage(str(path))
    return {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}


def test_segments_carry_name_color_codes_and_extent(tmp_path, a_gland, its_zones):
    write_segmentation(tmp_path / "a.seg.nrrd", [a_gland, its_zones])
    header = header_of(tmp_path / "a.seg.nrrd")
    assert header["Segment2_Name"] == "Peripheral zone"
    assert header["Segment2_Color"] == "0.705882 0.549020 0.745098"
    assert (header["Segment2_LabelValue"], header["Segment2_Layer"]) == ("2", "1")
    assert header["Segment2_Extent"] == "1 5 3 4 1 3"
    assert (
        "~SCT^123037004^Anatomical Structure~SCT^279706003^Peripheral zone of prostate~^^~" in header["Segment2_Tags"]
    )


def test_a_lesion_is_coded_with_the_region_it_lies_in(tmp_path, a_gland):
    write_segmentation(tmp_path / "a.seg.nrrd", [SegmentLayer(a_gland.labels, {Label.CSPCA: 1})])
    tags = header_of(tmp_path / "a.seg.nrrd")["Segment0_Tags"]
    assert "~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~SCT^41216001^Prostate~^^|" in tags


def test_a_label_without_a_term_keeps_its_name_and_gets_an_own_color(tmp_path, its_zones):
    write_segmentation(tmp_path / "a.seg.nrrd", [SegmentLayer(its_zones.labels, {"structure-1": 1, "structure-2": 2})])
    header = header_of(tmp_path / "a.seg.nrrd")
    assert header["Segment1_Name"] == "structure-2"
    assert header["Segment0_Color"] != header["Segment1_Color"]


def test_an_absent_label_stays_listed_with_an_empty_extent(tmp_path, a_gland):
    write_segmentation(tmp_path / "a.seg.nrrd", [SegmentLayer(a_gland.labels, {Label.PROSTATE: 1, Label.CSPCA: 2})])
    assert header_of(tmp_path / "a.seg.nrrd")["Segment1_Extent"] == "0 -1 0 -1 0 -1"


def test_one_layer_is_an_ordinary_label_map_on_the_same_grid(tmp_path, its_zones):
    write_segmentation(tmp_path / "a.seg.nrrd", [its_zones])
    mask = read_mask(tmp_path / "a.seg.nrrd")
    assert mask.geometry.equals(GRID)
    np.testing.assert_array_equal(mask.array, its_zones.labels.array)


def test_layers_on_two_grids_are_refused(tmp_path, a_gland):
    other = SegmentLayer(Volume(np.zeros((2, 3, 4), np.uint8), Geometry((4, 3, 2)), "zones"), {})
    with pytest.raises(GeometryError, match="zones must lie on the grid of gland"):
        write_segmentation(tmp_path / "a.seg.nrrd", [a_gland, other])
    assert list(tmp_path.iterdir()) == []


def test_slicer_opens_overlapping_segments(tmp_path, a_gland, its_zones):
    """In Slicer's own MRML: names, codes, colors, voxels and geometry of each segment."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed; the dev extra brings it.")
    if not hasattr(slicer, "vtkMRMLScene"):
        pytest.skip("Another package named slicer is installed.")
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [a_gland, its_zones])
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)

    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfLayers() == 2
    truth = {
        Label.PROSTATE: a_gland.labels.array == 1,
        Label.TRANSITION_ZONE: its_zones.labels.array == 1,
        Label.PERIPHERAL_ZONE: its_zones.labels.array == 2,
    }
    for label, expected in truth.items():
        segment = segmentation.GetSegment(str(label))
        term = LABEL_TERMS[label]
        assert segment.GetName() == term.title
        assert segment.GetColor() == pytest.approx(tuple(c / 255 for c in term.color), abs=1e-5)
        tag = vtk.mutable("")
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        assert f"SCT^{term.type.value}^{term.type.meaning}" in str(tag)
        voxels, ijk_to_world = _voxels_of(slicer, vtk, vtk_to_numpy, node, str(label))
        np.testing.assert_array_equal(voxels, expected)
        to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.affine
        np.testing.assert_allclose(ijk_to_world, to_ras, atol=1e-6)


def _voxels_of(slicer, vtk, vtk_to_numpy, node, segment_id):
    """A segment's mask over the whole grid, as MRML gives it, and its IJK-to-RAS matrix."""
    image = slicer.vtkOrientedImageData()
    matrix = vtk.vtkMatrix4x4()
    node.GetSegmentation().GetSegment(segment_id).GetRepresentation("Binary labelmap").GetImageToWorldMatrix(matrix)
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    padded = np.zeros(GRID.shape, bool)
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    part = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
    padded[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1] = part > 0
    return padded, np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
