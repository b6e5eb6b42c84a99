"""Scores of results on study cases, and the trivial baselines, against values by hand and plain second ways."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from study_examples import a_study

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Label, Sequence, TaskId
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.metrics.arrays import mae
from VFMTransferLib.tasks.baselines import trivial_baseline
from VFMTransferLib.tasks.images import ADC_SYNTHETIC, HBV_CORRECTED, SUPER_RESOLVED
from VFMTransferLib.tasks.scores import (
    Candidate,
    auroc,
    average_precision,
    quadratic_weighted_kappa,
    score_case,
    score_results,
)
from VFMTransferLib.tasks.truth import StudyCase

SOURCE = Provenance("b", "B", "", "", "none", "cpu")
GRID = Geometry((8, 6, 4), (1.0, 2.0, 3.0))
T2W = Volume(np.ones(GRID.shape, np.float32), GRID, "t2w")
CLASSES = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")


def mask(*places: tuple[int, int, int]) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    for place in places:
        array[place] = 1
    return Volume(array, GRID)


def lesion_study(truth: Volume) -> StudyCase:
    return StudyCase(TaskId.LESION_SEGMENTATION, Case("c", {Sequence.T2W: T2W}), masks={Label.CSPCA: truth})


def lesion_result(marked: Volume, probability: float = 0.7) -> Result:
    shown = {str(Label.CSPCA): marked.with_array(np.float32(probability) * marked.array)}
    return Result("c", TaskId.LESION_SEGMENTATION, SOURCE, {str(Label.CSPCA): 1}, marked, shown)


def class_pair(case: str, truth: str, probabilities: tuple[float, ...]) -> tuple[Result, StudyCase]:
    study = StudyCase(TaskId.CLASSIFICATION, Case(case, {Sequence.T2W: T2W}), category=truth)
    found = dict(zip(CLASSES, probabilities, strict=True))
    return Result(case, TaskId.CLASSIFICATION, SOURCE, class_probabilities=found), study


def test_auroc_counts_pairs():
    scores, positives = [0.9, 0.4, 0.4, 0.1, 0.6], [True, True, False, False, False]
    pairs = [(a > b) + 0.5 * (a == b) for a in (0.9, 0.4) for b in (0.4, 0.1, 0.6)]
    assert auroc(scores, positives) == pytest.approx(sum(pairs) / 6)
    assert math.isnan(auroc([0.1, 0.2], [True, True]))


def test_kappa_by_hand():
    """Two classes: weights are those of plain kappa, (p_o - p_e) / (1 - p_e) with p_o .7 and p_e .5."""
    truth, found = [0] * 5 + [1] * 5, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert quadratic_weighted_kappa(truth, found, 2) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert quadratic_weighted_kappa([0, 1, 2, 3], [0, 1, 2, 3], 4) == 1
    assert quadratic_weighted_kappa([0, 3], [3, 0], 4) == pytest.approx(-1)
    assert math.isnan(quadratic_weighted_kappa([1, 1], [1, 1], 4))


def test_average_precision_by_hand():
    candidates = [Candidate(0.9, True), Candidate(0.8, False), Candidate(0.7, True), Candidate(0.2, False)]
    assert average_precision(candidates, 4) == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3)
    tied = [Candidate(0.9, True), Candidate(0.9, False)]
    assert average_precision(tied, 1) == average_precision(tied[::-1], 1) == 0.5
    assert average_precision([], 2) == 0
    assert math.isnan(average_precision([], 0))


def test_a_lesion_is_found_and_another_added():
    truth = mask((1, 1, 1), (1, 1, 2))
    found = score_case(lesion_result(mask((1, 1, 1), (3, 5, 7))), lesion_study(truth))
    assert found.values == {"dice": pytest.approx(2 / 4), "lesions_missed": 0, "lesions_added": 1}
    assert sorted(candidate.is_hit for candidate in found.candidates) == [False, True]
    assert found.candidates[0].confidence == pytest.approx(0.7)
    assert found.lesions == 1


def test_without_a_lesion_there_is_no_dice_but_a_volume_in_vain():
    found = score_case(lesion_result(mask((0, 0, 0), (0, 0, 1))), lesion_study(mask()))
    assert found.values == {"volume_in_vain_ml": pytest.approx(2 * 6e-3), "lesions_missed": 0, "lesions_added": 1}
    scores = score_results(TaskId.LESION_SEGMENTATION, [(lesion_result(mask()), lesion_study(mask()))])
    assert math.isnan(scores.primary)


def test_classes_are_scored_one_by_one_and_together():
    pairs = [
        class_pair("a", "PI-RADS 2", (0.7, 0.1, 0.1, 0.1)),
        class_pair("b", "PI-RADS 5", (0.1, 0.1, 0.2, 0.6)),
        class_pair("c", "PI-RADS 4", (0.2, 0.7, 0.1, 0.0)),
    ]
    scores = score_results(TaskId.CLASSIFICATION, pairs)
    assert scores.cases[0].values == {"log_loss": pytest.approx(-math.log(0.7)), "brier": pytest.approx(0.2**2)}
    assert scores.primary == scores.cohort["auroc"] == auroc([0.2, 0.8, 0.1], [False, True, True])
    assert scores.cohort["quadratic_weighted_kappa"] == quadratic_weighted_kappa([0, 3, 2], [0, 3, 1], 4)


def test_where_lesions_alone_are_known_cancer_is_scored_and_the_class_is_not():
    study = replace(a_study(TaskId.LESION_SEGMENTATION, seed=1), task=TaskId.CLASSIFICATION)
    empty = study.masks[Label.CSPCA].with_array(np.zeros_like(study.masks[Label.CSPCA].array))
    without = replace(study, masks={Label.CSPCA: empty}, case=replace(study.case, id="without"))
    shares = dict(zip(CLASSES, (0.1, 0.3, 0.4, 0.2), strict=True))
    results = [(Result(s.case.id, s.task, SOURCE, class_probabilities=shares), s) for s in (study, without)]
    scores = score_results(TaskId.CLASSIFICATION, results)
    assert (study.is_significant, without.is_significant) == (True, False)
    assert [case.values for case in scores.cases] == [{"brier": pytest.approx(0.16)}, {"brier": pytest.approx(0.36)}]
    assert scores.cohort["auroc"] == 0.5
    assert math.isnan(scores.cohort["quadratic_weighted_kappa"])


def test_the_truth_itself_is_scored_as_perfect():
    study = a_study(TaskId.DISTORTION_CORRECTION)
    axis = {"left-right": 0, "anterior-posterior": 1}[study.phase_axis]
    direction = np.reshape(study.along_phase_mm.geometry.direction, (3, 3))[:, axis]
    field = study.along_phase_mm.array[..., None] * direction
    result = Result(study.case.id, study.task, SOURCE, images=dict(study.images), displacement_mm=field)
    found = score_case(result, study).values
    assert found["displacement_mm"] == pytest.approx(0, abs=1e-5)
    assert found["mae"] == found["mae adc-corrected gland"] == 0
    assert found["ssim"] == pytest.approx(1)


def test_anatomy_knows_prostate_and_zones():
    study = a_study(TaskId.ANATOMY_SEGMENTATION)
    labels = study.masks[Label.PERIPHERAL_ZONE].array + 2 * study.masks[Label.TRANSITION_ZONE].array
    values = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}
    result = Result(study.case.id, study.task, SOURCE, values, study.gland.with_array(labels))
    found = score_case(result, study).values
    assert (found["dice"], found["dice peripheral-zone"], found["hd95_mm"]) == (1, 1, 0)
    swapped = replace(result, label_values={str(Label.PERIPHERAL_ZONE): 2, str(Label.TRANSITION_ZONE): 1})
    assert score_case(swapped, study).values["dice peripheral-zone"] == 0


def test_an_adc_is_measured_where_the_truth_shows_tissue():
    study = a_study(TaskId.ADC_TRANSLATION)
    grid = study.case[Sequence.T2W].geometry
    flat = Volume(np.full(grid.shape, 1000, np.float32), grid, ADC_SYNTHETIC)
    found = score_case(Result(study.case.id, study.task, SOURCE, images={ADC_SYNTHETIC: flat}), study).values
    truth = study.images[ADC_SYNTHETIC]
    shown = truth.with_array((truth.array > 0).astype(np.uint8)).resample_to(grid, "nearest").array > 0
    assert found["mae"] == pytest.approx(mae(flat.array, truth.resample_to(grid).array, shown))


def test_a_result_of_another_case_or_task_is_refused():
    result, study = class_pair("a", "PI-RADS 2", (1.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="must be of classification on 'a', got classification on 'b'"):
        score_case(replace(result, case_id="b"), study)
    with pytest.raises(ValueError, match="scored once"):
        score_results(TaskId.CLASSIFICATION, [(result, study), (result, study)])


@pytest.mark.parametrize("task", list(TaskId))
def test_each_task_has_a_baseline_that_is_scored_like_a_network(task):
    studies = [a_study(task, seed) for seed in (0, 1)]
    baseline = trivial_baseline(task, studies[:1])
    scores = score_results(task, ((baseline(study), study) for study in studies))
    assert all(case.values for case in scores.cases)
    assert scores.cases[0].case_id == studies[0].case.id


def test_baselines_say_what_they_are_named_for():
    adc = [a_study(TaskId.ADC_TRANSLATION, seed) for seed in (0, 1)]
    image = trivial_baseline(TaskId.ADC_TRANSLATION, adc[:1])(adc[0]).images[ADC_SYNTHETIC]
    assert len(np.unique(image.array)) == 2
    distortion = a_study(TaskId.DISTORTION_CORRECTION)
    uncorrected = trivial_baseline(TaskId.DISTORTION_CORRECTION, [])(distortion)
    assert uncorrected.images[HBV_CORRECTED] is distortion.case[Sequence.HBV]
    assert not uncorrected.displacement_mm.any()
    fine = trivial_baseline(TaskId.SUPER_RESOLUTION, [])(a_study(TaskId.SUPER_RESOLUTION)).images[SUPER_RESOLVED]
    assert fine.geometry.equals(a_study(TaskId.SUPER_RESOLUTION).images[SUPER_RESOLVED].geometry)
    classes = [
        replace(a_study(TaskId.CLASSIFICATION), category=name) for name in ("PI-RADS 2", "PI-RADS 2", "PI-RADS 5")
    ]
    prior = trivial_baseline(TaskId.CLASSIFICATION, classes)(classes[0]).class_probabilities
    assert list(prior.values()) == pytest.approx([2 / 3, 0, 0, 1 / 3])


def test_a_baseline_that_learns_needs_cases():
    with pytest.raises(DatasetError, match="needs training cases"):
        trivial_baseline(TaskId.CLASSIFICATION, [])
