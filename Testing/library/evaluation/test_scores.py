"""Reports give the same numbers as training's validation and the transfer study, for the same result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from study_examples import a_study

from VFMTransferLib.core.result import Result
from VFMTransferLib.core.terms import Label
from VFMTransferLib.evaluation.comparison import Comparison, compare
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.scores import score_case


def compared(labeled: LabeledCase, result: Result, reference) -> Comparison:
    """A result beside itself and the truth, in a case whose gland is known."""
    return compare(replace(labeled.case, gland=labeled.gland), result, result, reference)


@pytest.mark.parametrize("task", ["super-resolution", "distortion-correction", "adc-translation"])
def test_an_images_errors_are_those_of_its_score(task):
    labeled = a_study(task)
    result = TASKS[task].naive_baseline([a_study(task, 1)])(labeled)
    comparison, scores = compared(labeled, result, dict(labeled.images)), score_case(result, labeled).values
    first = next(iter(labeled.images))
    for output in labeled.images:
        suffix = "" if output == first else f" {output}"
        for kind in ("mae", "psnr_db", "ssim"):
            for region in ("", "gland"):
                subject = f"{output}, {region}" if region else output
                expected = scores[" ".join(filter(None, (f"{kind}{suffix}", region)))]
                assert comparison.value(kind, subject, "a-reference") == pytest.approx(expected, rel=1e-6)


def test_the_error_of_an_adc_leaves_out_what_shows_no_tissue():
    labeled = a_study("adc-translation")
    result = TASKS[labeled.task].naive_baseline([labeled])(labeled)
    (name, truth), (image,) = next(iter(labeled.images.items())), result.images.values()
    everywhere = np.where(truth.resample_to(image.geometry).array > 0, image.array, image.array + 5000)
    wrong_in_air = replace(result, images={name: image.with_array(everywhere)})
    plain, other = (compared(labeled, one, dict(labeled.images)) for one in (result, wrong_in_air))
    assert other.value("mae", name, "a-reference") < plain.value("mae", name, "a-reference") + 100
    assert any("nothing that could be measured" in note for note in plain.notes)


def test_overlap_and_log_loss_are_those_of_the_score():
    anatomy = a_study("anatomy-segmentation")
    result = TASKS[anatomy.task].naive_baseline([a_study(anatomy.task, 1)])(anatomy)
    result = replace(result, volumes_ml={str(Label.PROSTATE): 1.0})
    zones = [anatomy.masks[zone] for zone in (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)]
    truth = zones[0].with_array(np.uint8(zones[0].array + 2 * zones[1].array))
    scores = score_case(result, anatomy).values
    comparison = compared(anatomy, result, truth)
    assert comparison.value("dice", "prostate", "a-reference") == pytest.approx(scores["dice"])
    assert comparison.value("hausdorff95_mm", "prostate", "a-reference") == pytest.approx(scores["hd95_mm"])
    assert comparison.value("dice", "peripheral-zone", "a-reference") == pytest.approx(scores["dice peripheral-zone"])
    classes = a_study("classification")
    result = TASKS[classes.task].naive_baseline([a_study(classes.task, 1)])(classes)
    expected = score_case(result, classes).values["log_loss"]
    found = compared(classes, result, classes.category).value("log_loss", "all classes", "a-reference")
    assert found == pytest.approx(expected)
