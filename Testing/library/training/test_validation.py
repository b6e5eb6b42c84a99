"""Networks in training are validated as a user predicts."""

from __future__ import annotations

import pytest
from study_examples import CELLS, a_study, tiny_study_config

from VFMTransferLib.training.finetune import initial_network
from VFMTransferLib.training.validation import ValidationCases


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_a_network_is_examined_as_a_user_predicts(family, task):
    config = tiny_study_config(family, task)
    network = initial_network(config, None).eval()
    scores = ValidationCases(config.model, [a_study(task)]).scores(network)
    assert scores.task == task
    assert scores.cases[0].values
