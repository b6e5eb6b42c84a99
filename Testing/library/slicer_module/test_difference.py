"""The difference of two networks as a node of Slicer's real MRML: its values, its place, its colors and its scale."""

import numpy as np
import pytest
from slicer_runs import PERIPHERAL, TRANSITION, a_segmentation_run, an_image_run
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer, vtk

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.report.scene import ARM_A, ARM_B, OTHER_LABEL
from VFMTransferSlicer.views.pairs import (
    FIRST_ONLY,
    LABEL_COLORS,
    OTHER,
    SECOND_ONLY,
    SYNTHETIC,
    labelPair,
    makeDifference,
    robustLimit,
)

SHAPE = an_oblique_t2w().array.shape


@pytest.fixture
def scene():
    scene = a_scene()
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    return scene


@pytest.fixture
def adc_run(scene, t2w):
    a, b = (np.random.default_rng(seed).uniform(500, 1500, SHAPE).astype(np.float32) for seed in (1, 2))
    return an_image_run(scene, t2w, an_oblique_t2w().geometry, a, b)


def zones() -> tuple[np.ndarray, np.ndarray]:
    """A has the peripheral zone in front, B one voxel further on; the last voxel is called something else."""
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[2:5, 4:9, 5:9] = 1
    second[2:5, 4:9, 6:10] = 1
    second[2, 4, 6] = 2
    return first, second


def to_world(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    if node.GetParentTransformNode() is not None:
        parent = vtk.vtkMatrix4x4()
        node.GetParentTransformNode().GetMatrixTransformToWorld(parent)
        vtk.vtkMatrix4x4.Multiply4x4(parent, matrix, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def test_images_are_subtracted_voxel_by_voxel_where_they_lie(adc_run):
    difference = makeDifference(adc_run)
    a, b = (slicer.util.arrayFromVolume(arm.images["adc-synthetic"]) for arm in adc_run.arms)
    np.testing.assert_allclose(slicer.util.arrayFromVolume(difference.node), a - b, rtol=1e-6)
    np.testing.assert_allclose(to_world(difference.node), to_world(adc_run.arms[0].images["adc-synthetic"]))
    assert (difference.subject, difference.unit) == ("adc-synthetic", "1e-6 mm²/s")


def test_the_other_order_changes_the_sign_and_the_name(adc_run):
    forth = slicer.util.arrayFromVolume(makeDifference(adc_run).node).copy()
    back = makeDifference(adc_run, (1, 0), ("Left", "Right")).node
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), -forth)
    assert back.GetName() == "T2 difference Left - Right (synthetic)"


@pytest.mark.parametrize(("highest", "limit"), [(430.0, 500.0), (1.2, 2.0), (0.05, 0.05)])
def test_the_limit_is_round_and_not_set_by_a_few_bright_voxels(highest, limit):
    array = np.full((20, 30, 40), highest, np.float32)
    array[::2] *= -1
    array[0, 0, :10] = 1e5
    assert robustLimit(array) == pytest.approx(limit)


def test_a_difference_of_synthetic_images_is_marked_as_synthetic(adc_run):
    assert makeDifference(adc_run).node.GetAttribute(SYNTHETIC) == "1"


def test_probabilities_are_subtracted_where_both_networks_give_them(scene, t2w, adc_run):
    makeDifference(adc_run)  # the node is used again, but what it was is forgotten
    run = a_segmentation_run(scene, t2w, *zones())
    for arm, value in zip(run.arms, (0.75, 0.25), strict=True):
        arm.probabilities = {
            name: add_volume(scene, an_oblique_t2w().with_array(np.full(SHAPE, value, np.float32)), name)
            for name in ("background", TRANSITION, "csPCa")
        }
    difference = makeDifference(run)
    assert difference.subject == "csPCa"
    assert difference.unit == ""
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference.node), 0.5)
    assert difference.node.GetAttribute(SYNTHETIC) is None


def test_without_probabilities_the_labels_are_compared(scene, t2w):
    first, second = zones()
    difference = makeDifference(a_segmentation_run(scene, t2w, first, second))
    assert type(difference.node) is slicer.vtkMRMLLabelMapVolumeNode
    expected = np.zeros(SHAPE, np.uint8)
    expected[(first > 0) & (second == 0)] = FIRST_ONLY
    expected[(first == 0) & (second > 0)] = SECOND_ONLY
    expected[2, 4, 6] = OTHER
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference.node), expected)
    np.testing.assert_allclose(to_world(difference.node), to_world(t2w))
    assert difference.limit is None


def test_labels_come_back_voxel_for_voxel_from_segmentations(scene, t2w):
    first, second = zones()
    pair = labelPair(a_segmentation_run(scene, t2w, first, second))
    assert pair.names == (PERIPHERAL, TRANSITION)
    np.testing.assert_array_equal(pair.first, first)
    np.testing.assert_array_equal(pair.second, second)


def test_the_colors_of_a_and_b_are_those_of_the_report():
    assert LABEL_COLORS == {FIRST_ONLY: ARM_A, SECOND_ONLY: ARM_B, OTHER: OTHER_LABEL}


def test_the_next_run_on_the_study_uses_the_same_node(scene, adc_run, t2w):
    first = makeDifference(adc_run).node
    assert makeDifference(adc_run).node is first
    labels = makeDifference(a_segmentation_run(scene, t2w, *zones())).node
    assert first.GetScene() is None
    assert labels.GetScene() is scene
    assert scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == 1


def test_volumes_on_two_grids_are_refused(adc_run):
    adc_run.arms[1].images["adc-synthetic"].SetOrigin(1, 2, 3)
    with pytest.raises(GeometryError, match="grids"):
        makeDifference(adc_run)


def test_one_arm_differs_from_nothing(adc_run):
    adc_run.arms.pop()
    assert makeDifference(adc_run) is None
