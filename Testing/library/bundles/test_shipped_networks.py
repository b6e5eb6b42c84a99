"""What shipped pairs do, on a phantom that they never saw and on real studies where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from prediction_cases import predict

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.phantom import Phantom, make_phantom
from VFMTransferLib.tasks import TASKS, score_case
from VFMTransferLib.tasks.base import LabeledCase, MaskNames
from VFMTransferLib.training.cases import read_labeled
from VFMTransferLib.training.recipes import read_recipe

UNSEEN_SEED = 4321
UNSEEN_CANCER_SEED = 5016  # one cancer of grade group 2, 2.1 ml
IMAGE_TASKS = ("super-resolution", "distortion-correction", "adc-translation")
WIDTH_MM = 84.0  # around the gland: fewer windows


@pytest.fixture(scope="module")
def pair() -> tuple[Bundle, Bundle]:
    return default_pair("anatomy-segmentation")


@pytest.fixture(scope="module")
def unseen_phantom() -> Phantom:
    return make_phantom(UNSEEN_SEED, t2w_spacing_mm=(1.0, 1.0, 3.0), full_resolution=True, phase_axis=0)


def assert_better_than_naive_baseline(labeled: LabeledCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the task's primary measure, of the network itself: what a user gets may be withheld; see `Task.checked`."""
    task = TASKS[labeled.task]
    monkeypatch.setattr(type(task), "checked", lambda self, result, case, gland: result)
    baseline = TASKS[task.id].naive_baseline([labeled])
    naive = score_case(baseline(labeled), labeled).values[task.metric]
    for bundle in default_pair(task.id):
        found = score_case(predict(labeled.case, bundle, gland=labeled.gland), labeled).values[task.metric]
        assert found > naive if task.higher_is_better else found < naive, (bundle.name, found, naive)


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_images_of_an_unseen_phantom_are_better_than_by_no_network(unseen_phantom, task, monkeypatch):
    labeled = TASKS[task].around_gland(TASKS[task].from_phantom(unseen_phantom), WIDTH_MM)
    assert_better_than_naive_baseline(labeled, monkeypatch)


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_images_of_an_unseen_case_are_better_than_by_no_network(shared_data, task, monkeypatch):
    case = shared_data / "cases" / "ProstateX-0214"
    labeled = read_labeled(case, task, MaskNames(("gland_nc",)), seed=5)
    assert_better_than_naive_baseline(TASKS[task].around_gland(labeled, WIDTH_MM), monkeypatch)


def test_a_large_cancer_of_an_unseen_phantom_is_found():
    phantom = make_phantom(UNSEEN_CANCER_SEED, t2w_spacing_mm=(1.0, 1.0, 3.0), lesions=1, phase_axis=0)
    labeled = TASKS["lesion-segmentation"].from_phantom(phantom)
    for bundle in default_pair("lesion-segmentation"):
        found = score_case(predict(labeled.case, bundle, gland=labeled.gland), labeled).values
        assert found["lesions_missed"] == 0, bundle.name
        assert found["dice"] > 0.4, bundle.name


@pytest.mark.parametrize(
    ("name", "least_dice"), [("ProstateX-0000", 0.35), ("ProstateX-0001", None), ("ProstateX-0214", 0.6)]
)
def test_what_readers_marked_in_unseen_studies_is_found_and_nothing_else(shared_data, name, least_dice):
    """Three studies are no proof; that networks taught by phantoms alone come so far shall not be lost unnoticed."""
    masks = MaskNames(("gland_taps", "gland_nc"), lesion="lesion_nc")
    labeled = read_labeled(shared_data / "cases" / name, "lesion-segmentation", masks)
    for bundle in default_pair("lesion-segmentation"):
        found = score_case(predict(labeled.case, bundle, gland=labeled.gland), labeled).values
        assert found["lesions_missed"] == 0, bundle.name
        assert found["lesions_added"] == 0, bundle.name
        assert least_dice is None or found["dice"] > least_dice, bundle.name


def test_a_classification_claims_no_more_than_was_learned(unseen_phantom):
    """The pair, taught by phantoms alone, is calibrated: its probabilities are no certainty."""
    for bundle in default_pair("classification"):
        result = predict(unseen_phantom.case, bundle, gland=unseen_phantom.gland)
        assert sum(result.class_probabilities.values()) == pytest.approx(1)
        assert 0.25 < result.derived_probabilities["csPCa"] < 0.75, bundle.name
        assert bundle.calibration is not None


@pytest.mark.parametrize("task", TASKS)
def test_arms_of_pairs_are_one_training_but_for_the_start(task):
    pretrained, scratch = default_pair(task)
    assert (pretrained.arm, scratch.arm) == (Arm.PRETRAINED, Arm.SCRATCH)
    assert pretrained.spec == scratch.spec
    assert pretrained.training["config"] == scratch.training["config"]
    assert len(pretrained.training["start"]["sha256"]) == 64
    assert scratch.training["start"] == "scratch"
    assert pretrained.training["data"] == scratch.training["data"]


@pytest.mark.parametrize("task", TASKS)
def test_the_recipe_of_a_pair_states_its_networks(task):
    recipe = read_recipe(Path(__file__).parents[3] / "Resources" / "Training" / f"{task}.json")
    for bundle in default_pair(task):
        assert recipe.finetune_config(recipe.split, None).model == bundle.spec, bundle.name


def test_prostate_and_zones_of_an_unseen_phantom_are_found(pair):
    phantom = make_phantom(UNSEEN_SEED, sequences=["t2w"], t2w_spacing_mm=(1.0, 1.0, 3.0))
    labeled = TASKS["anatomy-segmentation"].from_phantom(phantom)
    for bundle in pair:
        found = score_case(predict(phantom.case, bundle), labeled).values
        assert found["dice"] > 0.85, bundle.name
        assert min(found["dice peripheral-zone"], found["dice transition-zone"]) > 0.65, bundle.name


def test_zones_of_an_unseen_case_are_found(pair, shared_data):
    names = MaskNames(("gland_nc",), "zones_nc")
    labeled = read_labeled(shared_data / "cases" / "ProstateX-0005", "anatomy-segmentation", names)
    for bundle in pair:
        found = score_case(predict(labeled.case, bundle, crop="center"), labeled).values
        assert min(found["dice peripheral-zone"], found["dice transition-zone"]) > 0.7, bundle.name


@pytest.mark.parametrize(("case", "reference"), [("Prostate3T-0004", "gland_taps"), ("ProstateX-0214", "gland_nc")])
def test_the_prostate_of_an_unseen_case_is_found(pair, shared_data, case, reference):
    labeled = read_labeled(shared_data / "cases" / case, "anatomy-segmentation", MaskNames((reference,)))
    for bundle in pair:
        # In the middle of the image, as in a clinic, though a mask that would center the crop is at hand.
        found = score_case(predict(labeled.case, bundle, crop="center"), labeled).values
        assert found["dice"] > 0.88, bundle.name
        assert found["hd95_mm"] < 5, bundle.name
