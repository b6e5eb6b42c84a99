"""Reports give the same numbers as training's validation and the transfer study, for the same result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from study_examples import a_study

from VFMTransferLib.core.result import Result
from VFMTransferLib.core.terms import Label
from VFMTransferLib.evaluation.comparison import Comparison, compare
from VFMTransferLib.tasks import TASKS, score_results
from VFMTransferLib.tasks.base import LabeledCase

ONLY_SCORED = {
    "brier",
    "auroc",
    "ece",
    "quadratic_weighted_kappa",
    "average_precision",
    "displacement_mm",
    "gland_overlap",
}
"""Statistics of cases, and measures of a truth that a comparison is not given."""


def compared(labeled: LabeledCase, result: Result, reference) -> Comparison:
    """A result beside itself and the truth, in a case whose gland is known."""
    return compare(replace(labeled.case, gland=labeled.gland), result, result, reference)


def a_pair(task: str) -> tuple[Result, LabeledCase, Any]:
    """A result with errors, its case, and the truth as a user gives it."""
    labeled = a_study(task)
    result = TASKS[task].naive_baseline([a_study(task, 1)])(labeled)
    if TASKS[task].output.gives_images:
        return result, labeled, dict(labeled.images)
    if not TASKS[task].output.has_voxels:
        return result, labeled, labeled.category
    if TASKS[task].finds_lesions:
        truth = labeled.masks[Label.CSPCA]
        shifted = truth.with_array(np.roll(truth.array, 1, axis=2))
        shifted.array[0, :2, :2] = 1  # a false positive
        return replace(result, labels=shifted, probabilities={str(Label.CSPCA): shifted}), labeled, truth
    zones = [labeled.masks[zone] for zone in (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)]
    result = replace(result, volumes_ml={str(Label.PROSTATE): 1.0})
    return result, labeled, zones[0].with_array(np.uint8(zones[0].array + 2 * zones[1].array))


def expected_place(task: str, name: str, outputs: list[str]) -> tuple[str, str]:
    """Kind and subject of a comparison's measure that must be the score of a name."""
    kind, *parts = name.split(" ")
    kind = {"hd95_mm": "hausdorff95_mm", "volume_error_ml": "volume_difference_ml"}.get(kind, kind)
    if not TASKS[task].output.has_voxels:
        return kind, "all classes"
    if TASKS[task].marks_voxels:
        return kind, parts[0] if parts else str(Label.CSPCA if TASKS[task].finds_lesions else Label.PROSTATE)
    output = next((part for part in parts if part != "gland"), outputs[0])
    return kind, f"{output}, gland" if "gland" in parts else output


@pytest.mark.parametrize("task", TASKS)
def test_a_comparisons_numbers_against_a_reference_are_those_of_the_scorer(task):
    result, labeled, truth = a_pair(task)
    scores = score_results(task, [(result, labeled)]).cohort
    comparison = compared(labeled, result, truth)
    # `unscaled`: of the field alone, which a comparison of images has not.
    possible = [name for name in scores if name.split(" ")[0] not in ONLY_SCORED and "unscaled" not in name]
    names = [name for name in possible if np.isfinite(scores[name])]
    # The primary measure of lesions and of classes is one of all cases together.
    assert {"lesion-segmentation": "dice"}.get(task, TASKS[task].metric) in {*names, "auroc"}
    assert names
    for name in names:
        for between in ("a-reference", "b-reference"):
            found = comparison.value(*expected_place(task, name, list(labeled.images)), between)
            found = abs(found) if name.startswith("volume_error") else found
            assert found == pytest.approx(scores[name], rel=1e-6), (name, between)


def test_the_error_of_an_adc_leaves_out_what_shows_no_tissue():
    labeled = a_study("adc-translation")
    result = TASKS[labeled.task].naive_baseline([labeled])(labeled)
    (name, truth), (image,) = next(iter(labeled.images.items())), result.images.values()
    everywhere = np.where(truth.resample_to(image.geometry).array > 0, image.array, image.array + 5000)
    wrong_in_air = replace(result, images={name: image.with_array(everywhere)})
    plain, other = (compared(labeled, one, dict(labeled.images)) for one in (result, wrong_in_air))
    assert other.value("mae", name, "a-reference") < plain.value("mae", name, "a-reference") + 100
    assert any("nothing that could be measured" in note.text for note in plain.notes)
