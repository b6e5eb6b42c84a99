"""The comparison's views on Slicer's real layout, slice logic and slice linking, off screen."""

from xml.etree import ElementTree

import numpy as np
import pytest
from slicer_runs import a_segmentation_run, an_image_run, numbers_of
from slicer_scenes import add_transform, add_volume, an_oblique_t2w, slicer, vtk
from slicer_views import FORMER, Views, ras_of

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.results.nifti import VECTOR, NiftiImage
from VFMTransferSlicer.results.nodes import gridTransformNode
from VFMTransferSlicer.runs import ArmInScene, RunInScene, renameArm
from VFMTransferSlicer.views.cells import (
    ADC,
    CORONAL,
    DIFFERENCE,
    DISPLACEMENT,
    HBV,
    REFERENCE,
    SAGITTAL,
    T2W,
    A,
    B,
)
from VFMTransferSlicer.views.comparison_view import RESEARCH_TEXT, SYNTHETIC_TEXT, UNCORRECTED_TEXT
from VFMTransferSlicer.views.exam import Exam, findExam
from VFMTransferSlicer.views.layout import ONE_ROW_ID, TWO_ROWS_ID, VIEW_GROUP

SHAPE = an_oblique_t2w().array.shape
PLACE = (3, 7, 6)  # index (k, j, i) of the middle of what is marked


def a_volume(scene, name: str):
    node = add_volume(scene, an_oblique_t2w(), name)
    node.CreateDefaultDisplayNodes()
    return node


@pytest.fixture
def t2w(scene):
    node = a_volume(scene, "T2")
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    return node


def labels(start: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 5:10, start : start + 5] = 1
    return array


@pytest.fixture
def run(scene, t2w) -> RunInScene:
    return a_segmentation_run(scene, t2w, labels(4), labels(5))


@pytest.fixture
def adc_run(scene, t2w) -> RunInScene:
    a, b = (np.full(SHAPE, value, np.float32) for value in (900, 1000))
    return an_image_run(scene, t2w, an_oblique_t2w().geometry, a, b)


def ours(views: Views) -> list[str]:
    return [tag for tag in views.views if tag.startswith("VFMTransfer")]


def plane(view) -> tuple[np.ndarray, np.ndarray]:
    """Middle and normal of what a view shows."""
    matrix = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    return matrix[:3, 3], matrix[:3, 2]


def words(renderer) -> str:
    props = renderer.GetViewProps()
    actors = [props.GetItemAsObject(index) for index in range(props.GetNumberOfItems())]
    return "\n".join(actor.GetInput() for actor in actors if isinstance(actor, vtk.vtkTextActor))


# ---- which views there are


def test_without_other_volumes_there_is_one_row_that_ends_with_the_difference(views, side_by_side, run):
    side_by_side.show(run)
    assert views.node.GetViewArrangement() == ONE_ROW_ID
    assert ours(views) == [T2W, A, B, DIFFERENCE]


def test_adc_and_high_b_make_a_second_row(scene, views, side_by_side, run):
    others = {Sequence.ADC: a_volume(scene, "ADC"), Sequence.HBV: a_volume(scene, "b1400")}
    side_by_side.show(run, others=others)
    assert views.node.GetViewArrangement() == TWO_ROWS_ID
    rows = ElementTree.fromstring(views.node.GetCurrentLayoutDescription()).findall("item/layout")
    tags = [[view.get("singletontag") for view in row.findall("item/view")] for row in rows]
    assert tags == [[T2W, A, B], [ADC, DIFFERENCE, HBV]]
    assert views.composite(HBV).GetBackgroundVolumeID() == others[Sequence.HBV].GetID()


def test_a_reference_takes_the_place_of_the_adc(scene, views, side_by_side, run):
    run.reference = a_segmentation_run(scene, run.about, labels(4), labels(5)).arms[0].segmentation
    side_by_side.show(run, others={Sequence.ADC: a_volume(scene, "ADC")})
    assert REFERENCE in ours(views)
    assert ADC not in ours(views)
    assert seen_in(views, run.reference) == {REFERENCE}


def test_classification_shows_the_sequences_with_the_probabilities(scene, views, side_by_side, t2w):
    task = "classification"
    arms = [
        ArmInScene(f"net-{arm}", numbers_of(arm, task, class_probabilities={"PI-RADS 5": value}))
        for arm, value in (("pretrained", 0.75), ("scratch", 0.25))
    ]
    inputs = {Sequence.T2W: t2w, Sequence.HBV: a_volume(scene, "b1400"), Sequence.ADC: a_volume(scene, "ADC")}
    side_by_side.show(RunInScene(task, inputs, t2w, arms))
    assert ours(views) == [T2W, ADC, HBV]
    expected = "A  Pretrained: A network\nB  From scratch: A network, scratch\nPI-RADS 5:  0.75 / 0.25"
    assert expected in words(views.renderer(T2W))
    assert "PI-RADS" not in words(views.renderer(ADC))


def test_one_arm_is_shown_alone(views, side_by_side, run):
    run.arms.pop()
    side_by_side.show(run)
    assert ours(views) == [T2W, A]


# ---- what is in them


def seen_in(views: Views, segmentation) -> set[str]:
    """Tags of our views in which a segmentation is drawn."""
    found = set()
    for tag in ours(views):
        for index in range(segmentation.GetNumberOfDisplayNodes()):
            display = segmentation.GetNthDisplayNode(index)
            is_drawn = display.GetVisibility2DFill() or display.GetVisibility2DOutline()
            if is_drawn and display.IsDisplayableInView(views.slice_node(tag).GetID()):
                found.add(tag)
    return found


def test_each_segmentation_is_in_its_own_view_only(scene, views, side_by_side, run):
    other = a_segmentation_run(scene, run.about, labels(1), labels(1)).arms[0].segmentation
    side_by_side.show(run)
    first, second = (arm.segmentation for arm in run.arms)
    assert (seen_in(views, first), seen_in(views, second), seen_in(views, other)) == ({A}, {B}, set())
    red = views.slice_node("Red").GetID()
    assert all(node.GetDisplayNode().IsDisplayableInView(red) for node in (first, second, other))


def test_images_are_in_the_views_of_their_networks(views, side_by_side, adc_run):
    side_by_side.show(adc_run)
    shown = [views.composite(tag).GetBackgroundVolumeID() for tag in (T2W, A, B)]
    images = [arm.images["adc-synthetic"].GetID() for arm in adc_run.arms]
    assert shown == [adc_run.about.GetID(), *images]


def test_synthetic_images_say_so_wherever_they_are_dropped(views, side_by_side, adc_run):
    side_by_side.show(adc_run)
    assert SYNTHETIC_TEXT in words(views.renderer(A))
    assert SYNTHETIC_TEXT in words(views.renderer(DIFFERENCE))
    assert SYNTHETIC_TEXT not in words(views.renderer(T2W))
    views.composite(T2W).SetForegroundVolumeID(adc_run.arms[0].images["adc-synthetic"].GetID())
    views.composite(T2W).SetForegroundOpacity(0.5)
    assert SYNTHETIC_TEXT in words(views.renderer(T2W))


@pytest.mark.parametrize("withheld", [(0,), (0, 1)])
def test_images_of_a_withheld_correction_are_uncorrected_and_not_synthetic(views, side_by_side, adc_run, withheld):
    for index in withheld:
        adc_run.arms[index].images["adc-synthetic"].SetAttribute("VFMTransfer.Withheld", "True")
    side_by_side.show(adc_run)
    for index, tag in enumerate((A, B)):
        expected, other = SYNTHETIC_TEXT, UNCORRECTED_TEXT
        if index in withheld:
            expected, other = other, expected
        assert expected in words(views.renderer(tag))
        assert other not in words(views.renderer(tag))
    # What was worked out from both is synthetic where one of them is.
    assert (SYNTHETIC_TEXT in words(views.renderer(DIFFERENCE))) == (len(withheld) == 1)


def test_corners_name_the_network_and_the_use(views, side_by_side, run):
    side_by_side.show(run)
    text = words(views.renderer(B)).split("\n")
    assert text[:2] == ["B", "From scratch: A network, scratch"]
    assert RESEARCH_TEXT in text
    assert "A only" in words(views.renderer(DIFFERENCE))


# ---- where they look


@pytest.mark.parametrize("up", [1, -1])
def test_the_views_lie_in_the_volumes_slices_at_the_largest_disagreement(views, side_by_side, run, up):
    point = ras_of(run.about, PLACE)
    run.comparison = {"disagreements": [{"center_mm": (point * (-1, -1, 1)).tolist()}], "focus_slice": 0}
    side_by_side.show(run)
    across = ras_of(run.about, (1, 0, 0)) - ras_of(run.about, (0, 0, 0))
    for tag in ours(views):
        middle, normal = plane(views.slice_node(tag))
        assert abs(normal @ across) == pytest.approx(np.linalg.norm(across), rel=1e-6)
        assert normal @ (point - middle) == pytest.approx(0, abs=1e-3)


def test_a_jump_goes_to_the_point_in_all_views_and_not_in_the_users(views, side_by_side, run):
    side_by_side.show(run)
    red = views.slice_node("Red").GetSliceOffset()
    point = ras_of(run.about, (2, 6, 6))
    side_by_side.jumpTo(tuple(point))
    for tag in ours(views):
        middle, normal = plane(views.slice_node(tag))
        assert normal @ (point - middle) == pytest.approx(0, abs=1e-3)
    assert views.slice_node("Red").GetSliceOffset() == red


def test_shown_again_they_stay_where_the_user_was(scene, views, side_by_side, run):
    side_by_side.show(run)
    side_by_side.jumpTo(tuple(ras_of(run.about, (2, 6, 6))))
    before = plane(views.slice_node(A))[0]
    side_by_side.show(run, isBlinded=True, order=(1, 0))
    np.testing.assert_allclose(plane(views.slice_node(A))[0], before)


# ---- how they hang together


def test_scrolling_and_zooming_one_view_takes_the_others_along_and_no_other(views, side_by_side, run):
    link = slicer.vtkMRMLSliceLinkLogic()
    link.SetMRMLApplicationLogic(views.application)
    link.SetMRMLScene(views.scene)
    side_by_side.show(run)
    assert {views.slice_node(tag).GetViewGroup() for tag in ours(views)} == {VIEW_GROUP}
    red = views.slice_node("Red").GetSliceOffset()
    logic = views.views[A].logic
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(views.slice_node(A).GetSliceOffset() + 4)
    logic.EndSliceOffsetInteraction()
    offsets = {round(views.slice_node(tag).GetSliceOffset(), 3) for tag in ours(views)}
    assert len(offsets) == 1
    assert views.slice_node("Red").GetSliceOffset() == red


def test_images_of_one_kind_have_one_window(scene, views, side_by_side, adc_run):
    adc = a_volume(scene, "ADC")
    adc.GetDisplayNode().SetAutoWindowLevel(False)
    adc.GetDisplayNode().SetWindowLevel(2000, 1000)
    side_by_side.show(adc_run, others={Sequence.ADC: adc})
    displays = [arm.images["adc-synthetic"].GetDisplayNode() for arm in adc_run.arms]
    assert [display.GetWindow() for display in displays] == [2000, 2000]
    displays[1].SetWindowLevel(800, 700)
    assert (displays[0].GetWindow(), adc.GetDisplayNode().GetLevel()) == (800, 700)
    assert adc_run.about.GetDisplayNode().GetWindow() != 800


# ---- blinded


def test_blinded_nothing_names_a_network(views, side_by_side, adc_run):
    for arm, side in zip(adc_run.arms, ("Right", "Left"), strict=True):
        arm.title = arm.numbers["model"]["arm"]
        renameArm(arm, side, isSeen=False)
    side_by_side.show(adc_run, order=(1, 0), isBlinded=True)
    for tag, side in ((A, "Left"), (B, "Right")):
        text = words(views.renderer(tag))
        assert text.split("\n")[0] == views.slice_node(tag).GetLayoutLabel() == side
        assert "network" not in text
        assert SYNTHETIC_TEXT in text
        volume = views.scene.GetNodeByID(views.composite(tag).GetBackgroundVolumeID())
        assert volume.GetName() == f"T2 ADC ({side}, synthetic)"
    names = [views.scene.GetNthNode(index).GetName() or "" for index in range(views.scene.GetNumberOfNodes())]
    assert not [name for name in names if "pretrained" in name or "scratch" in name]


def test_unblinded_each_network_is_named_where_it_is(views, side_by_side, run):
    side_by_side.show(run, order=(1, 0), isBlinded=True)
    side_by_side.show(run, order=(1, 0))
    assert words(views.renderer(A)).startswith("B\nFrom scratch: A network, scratch")
    assert seen_in(views, run.arms[1].segmentation) == {A}


# ---- images beside what they were made of


@pytest.fixture
def correction(scene, t2w) -> RunInScene:
    """High-b diffusion that A found 2 mm too far left."""
    volume = an_oblique_t2w()
    hbv = a_volume(scene, "b1400")
    arms = []
    for arm in ("pretrained", "scratch"):
        image = a_volume(scene, f"b1400 corrected ({arm}, synthetic)")
        image.SetAttribute("VFMTransfer.Task", "distortion-correction")
        vectors = np.zeros((3, *volume.array.shape), np.float32)
        vectors[0] = 2.0  # LPS
        affine = slicer.util.arrayFromVTKMatrix(matrix_of_grid(hbv))
        transform = scene.AddNode(gridTransformNode(NiftiImage(vectors, affine, VECTOR), f"correction ({arm})"))
        numbers = numbers_of(arm, "distortion-correction")
        arms.append(ArmInScene(f"net-{arm}", numbers, images={"hbv-corrected": image}, transform=transform))
    inputs = {Sequence.HBV: hbv, Sequence.ADC: a_volume(scene, "ADC"), Sequence.T2W: t2w}
    gland = a_segmentation_run(scene, hbv, labels(4), labels(5)).arms[0].segmentation
    return RunInScene("distortion-correction", inputs, hbv, arms, gland=gland)


def matrix_of_grid(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_correction_stands_beside_its_input_with_the_shift_and_the_outline_of_t2w(views, side_by_side, correction):
    side_by_side.show(correction)
    assert ours(views) == [HBV, A, B, T2W, DIFFERENCE, DISPLACEMENT]
    assert "High-b DWI, input" in words(views.renderer(HBV))
    shift = views.scene.GetNodeByID(views.composite(DISPLACEMENT).GetForegroundVolumeID())
    np.testing.assert_allclose(slicer.util.arrayFromVolume(shift), 2.0)
    assert "Signal shift toward left, -2 to +2 mm" in words(views.renderer(DISPLACEMENT))
    assert {HBV, A, B, T2W} <= seen_in(views, correction.gland)


def test_high_b_is_windowed_at_the_prostate(scene, views, side_by_side, correction):
    hbv = correction.about
    array = slicer.util.arrayFromVolume(hbv)
    array[:] = 10_000
    array[1:6, 3:13, 3:11] = np.linspace(100, 200, array[1:6, 3:13, 3:11].size).reshape(array[1:6, 3:13, 3:11].shape)
    slicer.util.arrayFromVolumeModified(hbv)
    hbv.GetDisplayNode().SetAutoWindowLevel(True)
    side_by_side.show(correction)
    display = hbv.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    assert 100 <= low < 105
    assert 190 < high <= 200


# ---- the exam


@pytest.fixture
def exam(scene, t2w) -> Exam:
    return findExam({Sequence.T2W: t2w, Sequence.ADC: a_volume(scene, "ADC"), Sequence.HBV: a_volume(scene, "b1400")})


def test_an_exam_is_hung_in_five_views_at_the_prostate(scene, views, side_by_side, exam):
    gland = a_segmentation_run(scene, exam.about, labels(4), labels(5)).arms[0].segmentation
    side_by_side.showExam(findExam(exam.volumes, gland))
    assert ours(views) == [T2W, SAGITTAL, CORONAL, ADC, HBV]
    axes = [np.abs(plane(views.slice_node(tag))[1]).argmax() for tag in (T2W, SAGITTAL, CORONAL, ADC)]
    assert axes == [2, 0, 1, 2]
    middle = ras_of(exam.about, PLACE)
    for tag in ours(views):
        point, normal = plane(views.slice_node(tag))
        assert abs((middle - point) @ normal) < 2.5, tag  # within a slice
    scales = {
        round(view.GetFieldOfView()[0] / view.GetDimensions()[0], 3) for view in map(views.slice_node, ours(views))
    }
    assert len(scales) == 1
    assert seen_in(views, gland).isdisjoint(ours(views))


# ---- and when they go


def state(scene) -> dict:
    """All nodes, and what of them the views change."""
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return {node.GetID(): node.GetSaveWithScene() for node in nodes} | settings(scene)


def settings(scene) -> dict:
    """What the views change of nodes that are saved."""
    found = {}
    for node in (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())):
        if node.IsA("vtkMRMLDisplayNode"):
            found[node.GetID()] = (node.GetViewNodeIDs(), node.GetVisibility())
        if node.IsA("vtkMRMLScalarVolumeDisplayNode"):
            found[node.GetID()] += (node.GetWindow(), node.GetLevel(), node.GetAutoWindowLevel())
        if node.IsA("vtkMRMLCrosshairNode"):
            found[node.GetID()] = node.GetCrosshairMode()
    return found


def test_all_that_was_the_users_comes_back_and_nothing_of_ours_stays(scene, views, side_by_side, run):
    scene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
    others = {Sequence.ADC: a_volume(scene, "ADC"), Sequence.HBV: a_volume(scene, "b1400")}
    side_by_side.show(run, others=others)  # makes the difference, which stays
    side_by_side.restore()
    before = state(scene)
    side_by_side.show(run, others=others)
    assert scene.GetFirstNodeByClass("vtkMRMLCrosshairNode").GetCrosshairMode() != 0
    others[Sequence.ADC].GetDisplayNode().SetWindowLevel(5, 6)
    side_by_side.viewing.setStyle("both", 0.3)
    side_by_side.viewing.setFade(0.4)
    side_by_side.viewing.setTool("checkerboard")
    side_by_side.restore()
    assert state(scene) == before
    assert (views.node.GetViewArrangement(), list(views.views)) == (FORMER, ["Red", "Green", "Yellow"])
    assert words(views.renderer("Red")) == ""


def test_a_scene_saved_meanwhile_holds_nothing_of_the_views(scene, side_by_side, run):
    side_by_side.show(run)
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    tags = [tag for tag in (T2W, f'"{A}"', f'"{B}"', str(ONE_ROW_ID)) if tag in text]
    assert tags == []
    assert "vtkMRMLLayoutNode" not in text
    assert "Red" in text


def test_a_scene_closed_meanwhile_leaves_the_former_layout(scene, views, side_by_side, run):
    side_by_side.show(run)
    scene.Clear(False)
    assert (views.node.GetViewArrangement(), ours(views), side_by_side.isShown) == (FORMER, [], False)
