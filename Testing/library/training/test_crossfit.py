"""Soft labels come from networks that did not see the case, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_cases import tiny_case, tiny_cases, tiny_config, tiny_spec, tiny_training_case

from VFMTransferLib.core.placement import cut
from VFMTransferLib.encoders.preparation import prepare
from VFMTransferLib.training import crossfit as module
from VFMTransferLib.training.crossfit import CrossFit, blend, cross_fit, gland_probability
from VFMTransferLib.training.dataset import Split
from VFMTransferLib.training.optimization import Schedule


def a_cross_fit(folds: int = 2, weight: float = 0.5, least_agreement: float = 0.0) -> CrossFit:
    return CrossFit(folds, weight, least_agreement, Schedule(2, checkpoint_every=2))


def test_each_case_is_judged_by_a_network_that_did_not_see_it(monkeypatch, tmp_path):
    trained, judged = {}, {}
    plain = module.finetune

    def record(config, arm, cases, folder, **rest):
        run = plain(config, arm, cases, folder, **rest)
        trained[folder.name] = set(config.split.train)
        return run

    def judge(network, case, spec):
        judged[case.id] = list(trained)[-1]
        return case.labels.float()

    monkeypatch.setattr(module, "finetune", record)
    monkeypatch.setattr(module, "gland_probability", judge)
    cross_fit(a_cross_fit(), tiny_config(), tiny_cases(), tmp_path)
    assert set(judged) == {"case-0", "case-1"}  # not the test case
    assert all(case not in trained[fold] for case, fold in judged.items())


def test_test_cases_take_no_part_and_keep_their_labels(tmp_path):
    cases = tiny_cases()
    softened = cross_fit(a_cross_fit(), tiny_config(), cases, tmp_path)
    assert softened["case-2"] is cases["case-2"]
    assert not torch.equal(softened["case-0"].labels, cases["case-0"].labels)


def test_no_folds_leave_all_labels(tmp_path):
    cases = tiny_cases()
    assert cross_fit(a_cross_fit(folds=0), tiny_config(), cases, tmp_path) == cases


def test_a_soft_label_is_the_weighted_mean():
    case = tiny_training_case(0)
    predicted = torch.full(case.labels.shape, 0.8)
    soft = blend(case, predicted, a_cross_fit(weight=0.25)).labels.float()
    torch.testing.assert_close(soft, 0.75 * case.labels.float() + 0.2, rtol=0, atol=1e-3)


def test_the_label_stays_where_the_network_failed():
    case = tiny_training_case(0)
    assert blend(case, torch.zeros(case.labels.shape), a_cross_fit(least_agreement=0.7)) is case


def test_a_prediction_lands_where_the_network_saw_it():
    spec = tiny_spec()
    image, _ = tiny_case(0)
    case = tiny_training_case(0)

    class Brightness(torch.nn.Module):
        def forward(self, x):
            return torch.stack([-x[:, 0], x[:, 0]], dim=1)

    found = gland_probability(Brightness(), case, spec.preprocess)
    assert found.shape == case.labels.shape
    # A second way: the sigmoid of twice the normalized image, where the crop reaches.
    prepared = prepare(image, spec)
    seen = np.zeros(prepared.geometry.shape, bool)
    z, y, x = prepared.starts[0]
    seen[max(z, 0) :, max(y, 0) : y + 32, max(x, 0) : x + 48] = True
    expected = torch.sigmoid(2 * case.image[0].float())
    middle = (slice(2, 7), slice(18, 32), slice(20, 40))
    assert (found[0][middle] - expected[middle]).abs().mean() < 0.08
    assert cut(prepared.array, prepared.starts[0], prepared.patch).any()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        a_cross_fit(weight=1.5)
    with pytest.raises(ValueError, match="fold must lie in"):
        cross_fit(a_cross_fit(folds=2), tiny_config(split=Split(("case-0",))), tiny_cases(), None)
