"""Ways to look from A to B in the middle view, on Slicer's real slice views, off screen."""

import sys
from types import SimpleNamespace

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
from VFMTransferSlicer.results.nodes import removeNode
from VFMTransferSlicer.views.cells import T2W, A, B
from VFMTransferSlicer.views.pairs import labelPair
from VFMTransferSlicer.views.viewing import FIELD_MM, WINDOW_MM, Tool

SHAPE = an_oblique_t2w().array.shape
SPACING = an_oblique_t2w().geometry.spacing_mm
VOXELS = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
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


def test_style_changes_both_views_but_not_the_users(views, viewing, run):
    display = run.arms[0].segmentation.GetDisplayNode()
    before = (display.GetVisibility2DFill(), display.GetOpacity2DFill(), display.GetVisibility())
    viewing.setStyle("outline", 0.5)
    outline = drawn(views, B)
    viewing.setStyle("both", 0.5)
    assert drawn(views, B) > outline
    assert (display.GetVisibility2DFill(), display.GetOpacity2DFill(), display.GetVisibility()) == before


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


def test_a_flip_shows_the_other_one_and_says_which(views, viewing):
    a, b = picture(views, A), picture(views, B)
    viewing.flip()
    np.testing.assert_array_equal(picture(views, A), b)
    assert viewing.middle().label == "B"
    viewing.flip()
    np.testing.assert_array_equal(picture(views, A), a)
    assert viewing.middle().label == "A"


def test_between_a_and_b_no_network_is_named(viewing):
    viewing.setFade(0.4)
    assert (viewing.middle().label, viewing.middle().arm) == ("A to B: 40%", None)


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


@pytest.mark.parametrize("tool", [Tool.NONE, Tool.CHECKERBOARD, Tool.REVEAL])
@pytest.mark.parametrize("place", [0, 1])
def test_without_an_image_that_was_removed_nothing_is_compared_or_mixed(image_viewing, adc_run, tool, place):
    image_viewing.setTool(tool)
    removeNode(adc_run.arms[place].images["adc-synthetic"])
    assert not image_viewing.canCompare
    assert not image_viewing.canMix
    image_viewing.setTool(Tool.CHECKERBOARD)
    assert image_viewing.tool is Tool.NONE
    image_viewing.setStyle("outline", 0.5)
    image_viewing.setFade(0.5)


def test_an_input_that_was_removed_is_not_mixed(scene, side_by_side, adc_run):
    measured = add_volume(scene, an_oblique_t2w(), "ADC")
    measured.CreateDefaultDisplayNodes()
    side_by_side.show(adc_run, others={Sequence.ADC: measured})
    viewing = side_by_side.viewing
    viewing.setPair("ADC, measured and B")
    assert viewing.canMix
    removeNode(measured)
    assert not viewing.canMix
    viewing.setTool(Tool.CHECKERBOARD)
    viewing.setFade(0.5)
    viewing.setPair("")
    assert viewing.canMix


def test_a_mixture_that_cannot_be_made_leaves_the_views_as_they_are(image_viewing, adc_run, monkeypatch):
    monkeypatch.setattr(image_viewing, "_mix", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        image_viewing.setTool(Tool.CHECKERBOARD)
    assert image_viewing.tool is Tool.NONE
    image_viewing.setStyle("outline", 0.5)


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


def test_the_checkerboard_is_of_the_segments_as_they_were_edited(views, viewing, run):
    viewing.setTool(Tool.CHECKERBOARD)
    count = views.scene.GetNumberOfNodes()
    viewing.setTool(Tool.NONE)
    segmentation = run.arms[0].segmentation
    segmentation.GetSegmentation().GetSegment(TRANSITION).GetRepresentation(VOXELS).GetPointData().GetScalars().Fill(0)
    viewing.setTool(Tool.CHECKERBOARD)
    labels = views.scene.GetNodeByID(views.composite(A).GetLabelVolumeID())
    edited = labelPair(run)
    assert (edited.first != zones()[0]).any()
    np.testing.assert_array_equal(voxels(labels), expected_board(edited.first, edited.second))
    assert views.scene.GetNumberOfNodes() == count


def test_the_fields_lie_where_the_segments_lie(views, viewing):
    """Where A and B mark the same, the board looks as each of them does, but for the edge of a voxel."""
    viewing.setStyle("fill", 1.0)
    plain = picture(views, A)
    viewing.setTool(Tool.CHECKERBOARD)
    board = picture(views, A)
    viewing.setTool(Tool.NONE)
    np.testing.assert_array_equal(picture(views, A), plain)
    changed = np.argwhere(np.abs(board - plain).max(axis=-1) > 8)
    covered = np.argwhere(np.abs(plain - picture(views, T2W)).max(axis=-1) > 8)
    other = np.argwhere(np.abs(picture(views, B) - picture(views, T2W)).max(axis=-1) > 8)
    both = np.concatenate([covered, other])
    assert (changed.min(axis=0) >= both.min(axis=0) - 8).all()
    assert (changed.max(axis=0) <= both.max(axis=0) + 8).all()


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


def test_outside_of_the_views_nothing_is_revealed(crosshair, views, side_by_side, adc_run):
    side_by_side.show(adc_run)
    side_by_side.viewing.setTool(Tool.REVEAL)
    first = voxels(adc_run.arms[0].images["adc-synthetic"])
    volume = adc_run.arms[0].images["adc-synthetic"]
    move_mouse(views, B, ras_of(volume, (3, 9, 9)))
    assert (voxels(background(views, A)) != first).any()
    move_mouse(views, "Red", ras_of(volume, (3, 9, 9)))
    np.testing.assert_array_equal(voxels(background(views, A)), first)


def test_a_window_after_a_checkerboard_has_no_fields_left(crosshair, views, side_by_side, adc_run):
    side_by_side.show(adc_run)
    side_by_side.viewing.setTool(Tool.CHECKERBOARD)
    side_by_side.viewing.setTool(Tool.REVEAL)
    np.testing.assert_array_equal(voxels(background(views, A)), voxels(adc_run.arms[0].images["adc-synthetic"]))


def test_the_mouse_is_followed_no_longer_than_the_views_are_there(crosshair, views, side_by_side, run):
    side_by_side.show(run)
    side_by_side.viewing.setTool(Tool.REVEAL)
    side_by_side.restore()
    assert not crosshair.HasObserver(crosshair.CursorPositionModifiedEvent)


# ---- what cannot be


def test_one_arm_alone_cannot_be_compared(side_by_side, run):
    run.arms.pop()
    side_by_side.show(run)
    assert not side_by_side.viewing.canCompare
    side_by_side.viewing.setTool(Tool.CHECKERBOARD)
    assert side_by_side.viewing.tool is Tool.NONE


def test_segmentations_without_a_common_segment_fade_but_do_not_mix(side_by_side, run):
    segmentation = run.arms[1].segmentation.GetSegmentation()
    for name in segmentation.GetSegmentIDs():
        segmentation.GetSegment(name).SetName("Other")
        segmentation.AddSegment(segmentation.GetSegment(name), f"other-{name}")
        segmentation.RemoveSegment(name)
    side_by_side.show(run)
    assert side_by_side.viewing.canCompare
    assert not side_by_side.viewing.canMix


# ---- their widgets


class ATimer:
    """Never due."""

    def setInterval(self, milliseconds: int) -> None:  # noqa: N802  (Qt's names, here and below)
        pass

    def connect(self, signal: str, slot) -> None:
        pass

    def isActive(self) -> bool:  # noqa: N802
        return False

    def stop(self) -> None:
        pass


@pytest.fixture
def ui() -> SimpleNamespace:
    names = ("fadeSlider", "fadeLabel", "flickerButton", "checkerboardButton", "revealButton", "viewHintLabel")
    names += ("sideBySideButton", "examButton", "opacitySlider")
    combos = {name: AComboBox() for name in ("pairComboBox", "styleComboBox")}
    return SimpleNamespace(**{name: AWidget() for name in names}, **combos)


@pytest.fixture
def tools(in_qt, ui, side_by_side):  # noqa: F811
    sys.modules["qt"].QTimer = ATimer
    from VFMTransferSlicer.panel.views import ViewTools

    return ViewTools(ui, lambda: side_by_side.viewing)


def texts(ui) -> list[str]:
    tips = [getattr(ui, name).toolTip for name in ("fadeSlider", "flickerButton", "checkerboardButton", "revealButton")]
    return [ui.fadeLabel.text, ui.pairComboBox.items[0][0], *tips, ui.viewHintLabel.text.split(" in the middle")[0]]


@pytest.mark.parametrize(
    ("order", "is_blinded", "first", "second"),
    [((0, 1), False, "A", "B"), ((1, 0), False, "B", "A"), ((1, 0), True, "left", "right")],
)
def test_the_tools_name_what_the_middle_view_and_the_one_beside_it_show(
    tools, ui, side_by_side, run, order, is_blinded, first, second
):
    side_by_side.show(run, order=order, isBlinded=is_blinded)
    tools.setBlinded(is_blinded)
    assert texts(ui) == [
        f"Fade {first} to {second}:",
        f"{first} and {second}",
        f"In the middle view, from {first} (0) to {second} (1).",
        f"Change between {first} and {second} in one place.",
        f"{first} and {second} in alternate fields.",
        f"In a square around the mouse, {second} shows through.",
        f"X changes between {first} and {second}",
    ]


def test_the_tools_name_input_and_output_where_the_middle_view_is_made_of_them(
    scene, tools, ui, side_by_side, adc_run, t2w
):
    measured = add_volume(scene, an_oblique_t2w(), "ADC")
    measured.SetAndObserveTransformNodeID(t2w.GetTransformNodeID())
    side_by_side.show(adc_run, others={Sequence.ADC: measured}, order=(1, 0))
    tools.update()
    ui.pairComboBox.choose("ADC, measured and A")
    assert texts(ui)[:3] == ["Fade:", "B and A", "In the middle view, from ADC, measured (0) to A (1)."]
    assert texts(ui)[-1] == "X changes between ADC, measured and A"


def test_the_panel_shows_segmentations_again_that_were_kept_out_when_their_scene_was_saved(
    in_qt,  # noqa: F811
    scene,
    ui,
    side_by_side,
    run,
):
    sys.modules["qt"].QTimer = ATimer
    from VFMTransferSlicer.panel.views import ViewSection

    section, parameters = ViewSection(ui, SomeLogic(), lambda: side_by_side), SomeParameters()
    parameters.segmentStyle = "outline"
    side_by_side.show(run)
    display = run.arms[0].segmentation.GetDisplayNode()
    saved = display.GetViewNodeIDs()
    side_by_side.restore()
    display.SetViewNodeIDs(saved)  # as it is loaded
    section.setParameters(parameters)
    assert display.GetViewNodeIDs() == ()
