"""Mean ADC in lesions that were marked in the same study, on grids of their own."""

import numpy as np
import pytest
from slicer_runs import add_segmentation, an_image_run
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, in_the_world, slicer

from VFMTransferLib.core.terms import Label
from VFMTransferSlicer.results.numbers import meanAdcInLesions, numbersOf

CSPCA = str(Label.CSPCA)


@pytest.fixture
def scene():
    return a_scene()


def a_run_with_lesion(scene, *, transform: bool = False):
    """A's image is 1000 everywhere but 700 in the lesion, B's 1200 but 900; the T2w may be moved."""
    volume = an_oblique_t2w()
    t2w = add_volume(scene, volume, "T2")
    if transform:
        t2w.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    grid = (in_the_world(volume) if transform else volume).geometry
    lesion = np.zeros(grid.shape, np.uint8)
    lesion[2:4, 5:9, 6:11] = 1
    images = [np.where(lesion > 0, level - 300, level).astype(np.float32) for level in (1000, 1200)]
    run = an_image_run(scene, t2w, grid, *images, comparison=None)
    node = add_segmentation(scene, t2w, lesion, (CSPCA,), "Reader")
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), t2w.GetID())  # as the Segment Editor does
    return run, node


@pytest.mark.parametrize("transform", [False, True])
def test_the_mean_is_taken_where_the_lesion_lies_in_the_world(scene, transform):
    run, _ = a_run_with_lesion(scene, transform=transform)
    assert meanAdcInLesions(run) == [("csPCa of Reader", [700.0, 900.0])]


def test_a_segment_that_is_no_lesion_says_nothing(scene):
    run, node = a_run_with_lesion(scene)
    node.GetSegmentation().GetSegment(CSPCA).SetName("Prostate")
    assert meanAdcInLesions(run) == []


def test_what_an_earlier_run_marked_is_no_lesion_of_a_reader(scene):
    run, node = a_run_with_lesion(scene)
    node.SetAttribute("VFMTransfer.Task", "lesion-segmentation")
    assert meanAdcInLesions(run) == []


def test_a_lesion_of_another_study_says_nothing(scene):
    run, node = a_run_with_lesion(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Another"), node)
    assert meanAdcInLesions(run) == []


def test_the_table_shows_it_beside_the_measures(scene):
    run, _ = a_run_with_lesion(scene)
    row = numbersOf(run).rows[-1]
    assert (row.group, row.title) == ("Mean ADC, 10⁻⁶ mm²/s", "csPCa of Reader")
    assert [cell.text for cell in row.cells.values()] == ["700", "900"]
