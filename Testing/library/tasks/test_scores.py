"""Scores of results on study cases, and the naive baselines, against values by hand and plain second ways."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from study_examples import a_study

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.metrics.agreement import mae
from VFMTransferLib.metrics.classification import auroc, quadratic_weighted_kappa
from VFMTransferLib.tasks import TASKS, score_case, score_results
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.distortion_correction.task import HBV_CORRECTED
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED

GRID = Geometry((8, 6, 4), (1.0, 2.0, 3.0))
T2W = Volume(np.ones(GRID.shape, np.float32), GRID, "t2w")
SOURCE = Provenance("b", "B", "", "", "none", "cpu")
CLASSES = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")


def mask(*places: tuple[int, int, int]) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    for place in places:
        array[place] = 1
    return Volume(array, GRID)


def lesion_study(truth: Volume) -> LabeledCase:
    return LabeledCase("lesion-segmentation", Case("c", {Sequence.T2W: T2W}), masks={Label.CSPCA: truth})


def lesion_result(marked: Volume, probability: float = 0.7) -> Result:
    shown = {str(Label.CSPCA): marked.with_array(np.float32(probability) * marked.array)}
    return Result("c", "lesion-segmentation", SOURCE, {str(Label.CSPCA): 1}, marked, shown)


def class_pair(case: str, truth: str, probabilities: tuple[float, ...]) -> tuple[Result, LabeledCase]:
    study = LabeledCase("classification", Case(case, {Sequence.T2W: T2W}), category=truth)
    found = dict(zip(CLASSES, probabilities, strict=True))
    return Result(case, "classification", SOURCE, class_probabilities=found), study


def test_a_lesion_is_found_and_another_added():
    truth = mask((1, 1, 1), (1, 1, 2))
    found = score_case(lesion_result(mask((1, 1, 1), (3, 5, 7))), lesion_study(truth))
    assert found.values == {"dice": pytest.approx(2 / 4), "lesions_missed": 0, "lesions_added": 1}
    assert found.lesions == 1


def test_a_measure_of_all_cases_is_the_mean_of_those_that_have_it():
    truth = mask((1, 1, 1), (1, 1, 2))
    cases = {"hit": truth, "half": mask((1, 1, 1), (3, 5, 7)), "none": mask()}
    pairs = []
    for name, marked in cases.items():
        study = lesion_study(mask() if name == "none" else truth)
        result = replace(lesion_result(marked), case_id=name)
        pairs.append((result, replace(study, case=replace(study.case, id=name))))
    scores = score_results("lesion-segmentation", pairs)
    assert scores.cohort["dice"] == pytest.approx((1 + 2 / 4) / 2)
    assert scores.primary == scores.cohort["average_precision"]
    assert scores.cohort["volume_in_vain_ml"] == 0


def test_candidates_of_lesions_come_from_the_probabilities_below_the_threshold_too():
    """Nothing is marked, but a lesion and a place beside it are each somewhat probable."""
    lesion, elsewhere = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    lesion[:3, :2, :2], elsewhere[:3, 4:, 6:] = 1, 1
    result = replace(
        lesion_result(mask()), probabilities={str(Label.CSPCA): mask().with_array(0.3 * lesion + 0.2 * elsewhere)}
    )
    scores = score_results("lesion-segmentation", [(result, lesion_study(mask().with_array(lesion)))])
    assert [candidate.is_hit for candidate in scores.cases[0].candidates] == [True, False]
    assert scores.cases[0].values["lesions_missed"] == 1
    assert scores.cohort["average_precision"] == 1


def test_without_a_lesion_there_is_no_dice_but_a_volume_in_vain():
    found = score_case(lesion_result(mask((0, 0, 0), (0, 0, 1))), lesion_study(mask()))
    assert found.values == {"volume_in_vain_ml": pytest.approx(2 * 6e-3), "lesions_missed": 0, "lesions_added": 1}
    scores = score_results("lesion-segmentation", [(lesion_result(mask()), lesion_study(mask()))])
    assert math.isnan(scores.primary)


def test_classes_are_scored_one_by_one_and_together():
    pairs = [
        class_pair("a", "PI-RADS 2", (0.7, 0.1, 0.1, 0.1)),
        class_pair("b", "PI-RADS 5", (0.1, 0.1, 0.2, 0.6)),
        class_pair("c", "PI-RADS 4", (0.2, 0.7, 0.1, 0.0)),
    ]
    scores = score_results("classification", pairs)
    assert scores.cases[0].values == {"log_loss": pytest.approx(-math.log(0.7)), "brier": pytest.approx(0.2**2)}
    assert scores.primary == scores.cohort["auroc"] == auroc([0.2, 0.8, 0.1], [False, True, True])
    assert scores.cohort["quadratic_weighted_kappa"] == quadratic_weighted_kappa([0, 3, 2], [0, 3, 1], 4)


def test_where_lesions_alone_are_known_cancer_is_scored_and_the_class_is_not():
    study = replace(a_study("lesion-segmentation", seed=1), task="classification")
    empty = study.masks[Label.CSPCA].with_array(np.zeros_like(study.masks[Label.CSPCA].array))
    without = replace(study, masks={Label.CSPCA: empty}, case=replace(study.case, id="without"))
    shares = dict(zip(CLASSES, (0.1, 0.3, 0.4, 0.2), strict=True))
    results = [(Result(s.case.id, s.task, SOURCE, class_probabilities=shares), s) for s in (study, without)]
    scores = score_results("classification", results)
    assert (study.is_significant, without.is_significant) == (True, False)
    assert [case.values for case in scores.cases] == [{"brier": pytest.approx(0.16)}, {"brier": pytest.approx(0.36)}]
    assert scores.cohort["auroc"] == 0.5
    assert math.isnan(scores.cohort["quadratic_weighted_kappa"])


def test_the_truth_itself_is_scored_as_perfect():
    study = a_study("distortion-correction")
    axis = {"left-right": 0, "anterior-posterior": 1}[study.phase_axis]
    direction = np.reshape(study.along_phase_mm.geometry.direction, (3, 3))[:, axis]
    field = study.along_phase_mm.array[..., None] * direction
    result = Result(study.case.id, study.task, SOURCE, images=dict(study.images), displacement_mm=field)
    found = score_case(result, study).values
    assert found["displacement_mm"] == pytest.approx(0, abs=1e-5)
    assert found["mae"] == found["mae adc-corrected gland"] == 0
    assert found["ssim"] == pytest.approx(1)


def test_anatomy_is_scored_by_prostate_and_zones():
    study = a_study("anatomy-segmentation")
    labels = study.masks[Label.PERIPHERAL_ZONE].array + 2 * study.masks[Label.TRANSITION_ZONE].array
    values = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}
    result = Result(study.case.id, study.task, SOURCE, values, study.gland.with_array(labels))
    found = score_case(result, study).values
    assert (found["dice"], found["dice peripheral-zone"], found["hd95_mm"]) == (1, 1, 0)
    nameless = replace(result, label_values={"structure-1": 1, "structure-2": 2})
    with pytest.raises(
        ValueError, match="must mark the prostate or its zones alone, but marks structure-1, structure-2"
    ):
        score_case(nameless, study)
    swapped = replace(result, label_values={str(Label.PERIPHERAL_ZONE): 2, str(Label.TRANSITION_ZONE): 1})
    assert score_case(swapped, study).values["dice peripheral-zone"] == 0


def test_an_adc_is_measured_where_the_truth_is_of_tissue_alone():
    study = a_study("adc-translation")
    grid = study.case[Sequence.T2W].geometry
    flat = Volume(np.full(grid.shape, 1000, np.float32), grid, ADC_SYNTHETIC)
    found = score_case(Result(study.case.id, study.task, SOURCE, images={ADC_SYNTHETIC: flat}), study).values
    truth = study.images[ADC_SYNTHETIC]
    shown = truth.with_array((truth.array > 0).astype(np.float32)).resample_to(grid).array > 0.999
    assert found["mae"] == pytest.approx(mae(flat.array, truth.resample_to(grid).array, shown))


def test_a_result_of_another_case_or_task_is_refused():
    result, study = class_pair("a", "PI-RADS 2", (1.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="must be of classification on 'a', got classification on 'b'"):
        score_case(replace(result, case_id="b"), study)
    with pytest.raises(ValueError, match="scored once"):
        score_results("classification", [(result, study), (result, study)])


@pytest.mark.parametrize("task", list(TASKS))
def test_each_task_has_a_baseline_that_is_scored_like_a_network(task):
    studies = [a_study(task, seed) for seed in (0, 1)]
    baseline = TASKS[task].naive_baseline(studies[:1])
    assert baseline(studies[0]).provenance.bundle == TASKS[task].baseline
    scores = score_results(task, ((baseline(study), study) for study in studies))
    assert all(case.values for case in scores.cases)
    assert scores.cases[0].case_id == studies[0].case.id


def test_baselines_give_what_they_are_named_for():
    adc = [a_study("adc-translation", seed) for seed in (0, 1)]
    image = TASKS["adc-translation"].naive_baseline([])(adc[0]).images[ADC_SYNTHETIC]
    assert len(np.unique(image.array)) == 3  # two zones, and what lies outside
    distortion = a_study("distortion-correction")
    uncorrected = TASKS["distortion-correction"].naive_baseline([])(distortion)
    assert uncorrected.images[HBV_CORRECTED] is distortion.case[Sequence.HBV]
    assert not uncorrected.displacement_mm.any()
    fine = TASKS["super-resolution"].naive_baseline([])(a_study("super-resolution")).images[SUPER_RESOLVED]
    assert fine.geometry.equals(a_study("super-resolution").images[SUPER_RESOLVED].geometry)
    classes = [replace(a_study("classification"), category=name) for name in ("PI-RADS 2", "PI-RADS 2", "PI-RADS 5")]
    without = [replace(study, gland=None) for study in classes]
    prior = TASKS["classification"].naive_baseline(without)(without[0]).class_probabilities
    assert list(prior.values()) == pytest.approx([2 / 3, 0, 0, 1 / 3])


def test_a_baseline_that_learns_needs_cases():
    with pytest.raises(DatasetError, match="needs training cases"):
        TASKS["classification"].naive_baseline([])
