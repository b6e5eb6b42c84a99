"""Ways to look from A to B in the middle view, on Slicer's real slice views, off screen."""

import numpy as np
import pytest
from panel_stand_ins import (  # noqa: F401  (fixtures)
    AComboBox,
    AWidget,
    SomeLogic,
    SomeParameters,
    clipboard,
    in_qt,
    settings,
)
from slicer_runs import TRANSITION, a_segmentation_run, an_image_run
from slicer_scenes import add_volume, an_oblique_t2w, slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.views.cells import T2W, A, B
from VFMTransferSlicer.views.viewing import FIELD_MM, WINDOW_MM, Tool

SHAPE = an_oblique_t2w().array.shape
SPACING = an_oblique_t2w().geometry.spacing_mm
INSIDE = np.s_[50:170]  # rows of a picture without words


def zones() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[2:5, 4:11, 4:9] = 1
    first[2:5, 6:9, 6:8] = 2
    second[2:5, 4:11, 8:14] = 1
    return first, second


@pytest.fixture
def run(scene, t2w):
    return a_segmentation_run(scene, t2w, *zones())


@pytest.fixture
def adc_run(scene, t2w):
    a, b = (np.random.default_rng(seed).uniform(500, 1500, SHAPE).astype(np.float32) for seed in (1, 2))
    return an_image_run(scene, t2w, an_oblique_t2w().geometry, a, b)


@pytest.fixture
def viewing(side_by_side, run):
    side_by_side.show(run)
    return side_by_side.viewing


@pytest.fixture
def image_viewing(side_by_side, adc_run):
    side_by_side.show(adc_run)
    return side_by_side.viewing


def picture(views, tag: str) -> np.ndarray:
    return views.views[tag].image()[INSIDE].astype(int)


def drawn(views, tag: str) -> int:
    """How many pixels the segments of a view cover."""
    return int((np.abs(picture(views, tag) - picture(views, T2W)).max(axis=-1) > 8).sum())


def background(views, tag: str):
    return views.scene.GetNodeByID(views.composite(tag).GetBackgroundVolumeID())


def voxels(node) -> np.ndarray:
    return slicer.util.arrayFromVolume(node)


# ---- style


def test_fill_covers_more_than_the_outline_and_opacity_is_that_of_the_fill(views, viewing):
    viewing.setStyle("outline", 0.5)
    outline = drawn(views, A)
    viewing.setStyle("outline", 0.1)
    assert drawn(views, A) == outline
    viewing.setStyle("fill", 0.9)
    strong = np.abs(picture(views, A) - picture(views, T2W)).sum()
    assert drawn(views, A) > outline > 0
    viewing.setStyle("fill", 0.3)
    assert np.abs(picture(views, A) - picture(views, T2W)).sum() < 0.6 * strong


# ---- fade and flicker


def test_fade_leads_from_as_segments_to_bs_in_the_middle_view_alone(views, viewing):
    viewing.setStyle("fill", 1.0)
    a, b = picture(views, A), picture(views, B)
    viewing.setFade(1.0)
    np.testing.assert_array_equal(picture(views, A), b)
    viewing.setFade(0.5)
    middle = picture(views, A)
    assert (middle != a).any()
    assert (middle != b).any()
    np.testing.assert_array_equal(picture(views, B), b)
    viewing.setFade(0.0)
    np.testing.assert_array_equal(picture(views, A), a)


def test_fade_leads_from_as_image_to_bs(views, image_viewing):
    a, b = picture(views, A), picture(views, B)
    image_viewing.setFade(1.0)
    assert np.abs(picture(views, A) - b).max() <= 1
    image_viewing.setFade(0.5)
    assert np.abs(picture(views, A) - (a + b) / 2).max() <= 2


def test_input_and_output_are_compared_in_the_middle_view_too(scene, views, side_by_side, adc_run, t2w):
    measured = add_volume(scene, an_oblique_t2w(), "ADC")
    measured.CreateDefaultDisplayNodes()
    measured.SetAndObserveTransformNodeID(t2w.GetTransformNodeID())
    side_by_side.show(adc_run, others={Sequence.ADC: measured})
    viewing = side_by_side.viewing
    assert viewing.pairs == ("", "ADC, measured and A", "ADC, measured and B")
    viewing.setPair("ADC, measured and B")
    assert background(views, A) is measured
    assert viewing.middle().label == "ADC, measured"
    viewing.flip()
    assert viewing.middle().label == "B"
    viewing.setPair("")
    assert background(views, A) is adc_run.arms[0].images["adc-synthetic"]
    assert viewing.canMix


# ---- checkerboard


def expected_board(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Voxel by voxel, by definition."""
    board = first.copy()
    width, height = (round(FIELD_MM / SPACING[axis]) for axis in (0, 1))
    for k, j, i in np.ndindex(SHAPE):
        if (i // width + j // height) % 2:
            board[k, j, i] = second[k, j, i]
    return board


def test_the_checkerboard_has_a_and_b_in_turn(views, image_viewing, adc_run):
    first, second = (voxels(arm.images["adc-synthetic"]).copy() for arm in adc_run.arms)
    image_viewing.setTool(Tool.CHECKERBOARD)
    np.testing.assert_array_equal(voxels(background(views, A)), expected_board(first, second))
    for arm, before in zip(adc_run.arms, (first, second), strict=True):
        np.testing.assert_array_equal(voxels(arm.images["adc-synthetic"]), before)


def test_the_checkerboard_of_segments_is_a_label_map_in_their_colors(views, viewing, run):
    viewing.setStyle("fill", 1.0)
    viewing.setTool(Tool.CHECKERBOARD)
    labels = views.scene.GetNodeByID(views.composite(A).GetLabelVolumeID())
    np.testing.assert_array_equal(voxels(labels), expected_board(*zones()))
    color = [0.0] * 4
    labels.GetDisplayNode().GetColorNode().GetColor(2, color)
    segment = run.arms[0].segmentation.GetSegmentation().GetSegment(TRANSITION)
    np.testing.assert_allclose(color, (*segment.GetColor(), 1.0), atol=0.01)
    assert background(views, A) is run.about


# ---- the window around the mouse


def move_mouse(views, tag: str, ras) -> None:
    """As Slicer's interactor style tells of it."""
    crosshair = views.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    view = views.slice_node(tag)
    matrix = slicer.util.arrayFromVTKMatrix(view.GetXYToRAS())
    xyz = np.linalg.solve(matrix, [*ras, 1.0])[:3]
    crosshair.SetCursorPositionXYZ(xyz.tolist(), view)


def ras_of(node, index) -> np.ndarray:
    from slicer_views import ras_of

    return ras_of(node, index)


@pytest.fixture
def crosshair(scene):
    node = scene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
    node.SetCrosshairName("default")
    return node


def test_b_shows_through_around_the_mouse(crosshair, views, side_by_side, adc_run, t2w):
    side_by_side.show(adc_run)
    side_by_side.viewing.setTool(Tool.REVEAL)
    first, second = (voxels(arm.images["adc-synthetic"]) for arm in adc_run.arms)
    volume = adc_run.arms[0].images["adc-synthetic"]
    np.testing.assert_array_equal(voxels(background(views, A)), first)
    for index in ((3, 9, 9), (3, 2, 17)):
        move_mouse(views, A, ras_of(volume, index))
        expected = first.copy()
        halves = [WINDOW_MM / 2 / SPACING[axis] for axis in (1, 0)]
        rows, columns = (
            slice(max(round(index[1 + axis] - half), 0), round(index[1 + axis] + half))
            for axis, half in enumerate(halves)
        )
        expected[:, rows, columns] = second[:, rows, columns]
        np.testing.assert_array_equal(voxels(background(views, A)), expected)


# ---- what cannot be


def test_one_arm_alone_cannot_be_compared(side_by_side, run):
    run.arms.pop()
    side_by_side.show(run)
    assert not side_by_side.viewing.canCompare
    side_by_side.viewing.setTool(Tool.CHECKERBOARD)
    assert side_by_side.viewing.tool is Tool.NONE


# ---- their widgets
