"""The shipped pair finds the prostate, on a phantom that it never saw and on real studies where they are at hand."""

from __future__ import annotations

import pytest

from VFMTransferLib.bundle import Bundle
from VFMTransferLib.catalog import default_pair
from VFMTransferLib.evaluation import agreement, evaluate_gland
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.predict import predict
from VFMTransferLib.terms import Arm, TaskId

UNSEEN_SEED = 4321


@pytest.fixture(scope="module")
def pair() -> tuple[Bundle, Bundle]:
    return default_pair(TaskId.ANATOMY_SEGMENTATION)


def test_the_arms_are_one_training_but_for_the_start(pair):
    pretrained, scratch = pair
    assert (pretrained.arm, scratch.arm) == (Arm.PRETRAINED, Arm.SCRATCH)
    assert pretrained.spec == scratch.spec
    assert pretrained.training["recipe"] == scratch.training["recipe"]
    assert pretrained.training["steps"] == scratch.training["steps"]


def test_the_prostate_of_an_unseen_phantom_is_found(pair):
    phantom = make_phantom(UNSEEN_SEED, sequences=["t2w"], t2w_spacing_mm=(1.0, 1.0, 3.0))
    for bundle in pair:
        labels = predict(phantom.case, bundle).labels
        assert agreement(labels, phantom.gland)["dice"] > 0.85, bundle.name


@pytest.mark.parametrize(("case", "reference"), [("Prostate3T-0004", "gland_taps"), ("ProstateX-0214", "gland_nc")])
def test_the_prostate_of_an_unseen_study_is_found(pair, shared_data, case, reference):
    for bundle in pair:
        found = evaluate_gland(bundle, shared_data / "cases", [case], [reference])[case][reference]
        assert found["dice"] > 0.88, bundle.name
        assert found["hd95_mm"] < 5, bundle.name
