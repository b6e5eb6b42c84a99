"""Both shipped networks on a phantom in Slicer's real MRML: the same voxels at the same place as without Slicer."""

import os

import numpy as np
import pytest
from slicer_scenes import a_scene, add_transform, add_volume, in_the_world, slicer, voxels_of

from VFMTransferLib.bundles.catalog import find_bundle
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.inference.predict import predict
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferSlicer.logic import TransferLogic

SHIPPED = ("profound-prostate-demo-pretrained", "profound-prostate-demo-scratch")


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(1, sequences=(Sequence.T2W,))


@pytest.fixture(scope="module")
def t2w(phantom):
    """The phantom's oblique T2w, under a transform that turns and moves it, in a study."""
    scene = a_scene()
    node = add_volume(scene, phantom.case.volumes[Sequence.T2W], "T2")
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study"), node)
    return node


@pytest.fixture(scope="module")
def arms(t2w):
    with WorkerClient(environment={**os.environ, "OMP_NUM_THREADS": "1"}) as client:
        return TransferLogic(client).run(task="anatomy-segmentation", t2w=t2w)


def test_the_default_pair_runs_and_is_named_by_its_arms(arms):
    assert [arm.bundle for arm in arms] == list(SHIPPED)
    names = [arm.segmentation.GetName() for arm in arms]
    assert names == ["T2 segmentation (pretrained)", "T2 segmentation (from scratch)"]


def test_the_segments_are_where_prediction_without_slicer_puts_them(arms, phantom, t2w):
    case = Case("study", {Sequence.T2W: in_the_world(phantom.case.volumes[Sequence.T2W])})
    for arm in arms:
        expected = predict(case, find_bundle(arm.bundle))
        assert arm.numbers["volumes_ml"] == pytest.approx(expected.volumes_ml)
        for name, value in expected.label_values.items():
            np.testing.assert_array_equal(voxels_of(arm.segmentation, name, t2w), expected.labels.array == value)


def test_the_prostate_is_where_the_phantom_has_it(arms, phantom, t2w):
    truth = phantom.gland.array > 0
    found = voxels_of(arms[0].segmentation, str(Label.PROSTATE), t2w)
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.8


def test_the_results_lie_in_the_study_of_their_input(arms, t2w):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(t2w.GetScene())
    study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(t2w))
    for arm in arms:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(arm.segmentation)) == study


def test_the_results_say_where_they_came_from(arms, t2w):
    for arm in arms:
        assert arm.segmentation.GetAttribute("VFMTransfer.Bundle") == arm.bundle
        assert arm.segmentation.GetAttribute("VFMTransfer.Sha256") == arm.numbers["model"]["sha256"]
        assert "onnxruntime" in arm.segmentation.GetAttribute("VFMTransfer.Versions")
        assert arm.segmentation.GetNodeReference("VFMTransfer.t2w") is t2w
