"""The three views on Slicer's real layout and slice logic, off screen."""

from xml.etree import ElementTree

import numpy as np
import pytest
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, slicer, vtk

from VFMTransferSlicer.layout import LAYOUT_ID, VIEW_GROUP, VIEWS, SideBySide, layoutXml

FORMER = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
T2W, A, B = VIEWS


class Views:
    """What the application does for the layout: it makes a slice logic for each view that the layout names."""

    def __init__(self, scene) -> None:
        self.application = slicer.vtkMRMLApplicationLogic()
        self.logics = vtk.vtkCollection()
        self.application.SetSliceLogics(self.logics)
        self.application.SetMRMLScene(scene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        self.layout = slicer.vtkMRMLLayoutLogic()
        self.layout.SetMRMLScene(scene)
        self.node = self.layout.GetLayoutNode()
        self.node.SetViewArrangement(FORMER)
        for tag in VIEWS:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.application)
            self.logics.AddItem(logic)
            logic.SetMRMLScene(scene)
            logic.AddSliceNode(tag)
            logic.ResizeSliceNode(200, 180)

    def view(self, tag: str):
        return self.application.GetSliceLogicByLayoutName(tag).GetSliceNode()


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def views(scene) -> Views:
    return Views(scene)


@pytest.fixture
def t2w(scene):
    node = add_volume(scene, an_oblique_t2w(), "T2")
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    return node


def a_segmentation(scene, center):
    """A sphere of 5 mm."""
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(*center)
    sphere.SetRadius(5.0)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Sphere", [1.0, 0.0, 0.0], "sphere")
    return node


def test_the_layout_is_a_row_of_linked_views_of_their_own_group():
    views = ElementTree.fromstring(layoutXml()).findall("item/view")
    assert [view.get("singletontag") for view in views] == [T2W, A, B]
    groups = [view.find("property[@name='viewgroup']").text for view in views]
    assert groups == [str(VIEW_GROUP)] * 3


def test_every_view_shows_the_volume_and_one_segmentation_at_most(scene, views, t2w):
    first, second = a_segmentation(scene, (5, 8, 30)), a_segmentation(scene, (6, 8, 30))
    SideBySide(views.node, views.application).show(t2w, {A: first, B: second})
    assert views.node.GetViewArrangement() == LAYOUT_ID
    for tag in VIEWS:
        composite = views.application.GetSliceLogicByLayoutName(tag).GetSliceCompositeNode()
        assert composite.GetBackgroundVolumeID() == t2w.GetID()
        assert composite.GetLinkedControl() == 1
    for tag, segmentation in ((A, first), (B, second)):
        assert segmentation.GetDisplayNode().GetViewNodeIDs() == (views.view(tag).GetID(),)


def test_the_views_lie_in_the_volumes_own_slices_and_go_through_the_segmentation(scene, views, t2w):
    center = np.array([5.0, 8.0, 30.0])
    SideBySide(views.node, views.application).show(t2w, {A: a_segmentation(scene, center)})
    matrix, world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    t2w.GetIJKToRASMatrix(matrix)
    t2w.GetParentTransformNode().GetMatrixTransformToWorld(world)
    vtk.vtkMatrix4x4.Multiply4x4(world, matrix, matrix)
    across = np.array([matrix.GetElement(row, 2) for row in range(3)])
    for tag in VIEWS:
        plane = views.view(tag).GetSliceToRAS()
        normal = np.array([plane.GetElement(row, 2) for row in range(3)])
        origin = np.array([plane.GetElement(row, 3) for row in range(3)])
        assert abs(normal @ across) == pytest.approx(np.linalg.norm(across), rel=1e-6)
        assert normal @ (center - origin) == pytest.approx(0, abs=0.5)


def test_the_former_layout_comes_back_however_often_the_comparison_was_shown(scene, views, t2w):
    layout, segmentation = SideBySide(views.node, views.application), a_segmentation(scene, (5, 8, 30))
    layout.restore()
    assert views.node.GetViewArrangement() == FORMER
    layout.show(t2w, {A: segmentation})
    layout.show(t2w, {A: segmentation})
    layout.restore()
    assert views.node.GetViewArrangement() == FORMER


def test_segmentations_are_in_all_views_again_when_the_former_layout_is_back(scene, views, t2w):
    layout, kept, gone = SideBySide(views.node, views.application), *(a_segmentation(scene, (5, 8, 30)) for _ in "AB")
    layout.show(t2w, {A: kept, B: gone})
    scene.RemoveNode(gone)
    layout.restore()
    assert kept.GetDisplayNode().GetViewNodeIDs() == ()
