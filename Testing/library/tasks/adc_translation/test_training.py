"""Where the error of a synthetic ADC counts, and how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from study_examples import a_study, tiny_study_spec

from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.training import Batch
from VFMTransferLib.training.samples import prepare_labeled

TASK = "adc-translation"


@pytest.mark.parametrize("family", ["profound", "provicnet"])
def test_the_gland_counts_four_times_and_what_is_no_tissue_not_at_all(family):
    study, spec = a_study(TASK), tiny_study_spec(family, TASK)
    prepared = prepare_labeled(study, spec)
    truth = study.images["adc-synthetic"]
    tissue = truth.with_array((truth.array > 0).astype(np.float32)).resample_to(prepared.geometry).array > 0.999
    gland = study.gland.resample_to(prepared.geometry, "nearest").array > 0
    _, weight = TASKS[TASK].training().targets(study, prepared, spec)
    assert (weight[tissue & gland] == 4).all()
    assert (weight[tissue & ~gland] == 1).all()
    assert (weight[~tissue] == 0).all()
    assert all(part.any() for part in (tissue & gland, tissue & ~gland, ~tissue))


def test_an_error_costs_by_the_weight_of_its_place():
    truth, weight = torch.ones(1, 1, 1, 4, 4), torch.ones(1, 1, 1, 4, 4)
    weight[..., 0, 0] = 4  # the prostate
    weight[..., 3, 3] = 0
    spec = tiny_study_spec("profound", TASK)

    def cost(row: int, column: int) -> float:
        output = truth.clone()
        output[..., row, column] += 0.5
        batch = Batch((), torch.cat([truth, weight], dim=1), (0,))
        return float(TASKS[TASK].training().loss(output, batch, spec, ()))

    assert cost(0, 0) == pytest.approx(4 * cost(1, 1))
    assert cost(1, 1) == pytest.approx(0.5 / 18)  # the weights' sum is 14 + 4
    assert cost(3, 3) == 0
