"""Loss of the gland and of its zones where they are known, and their targets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_examples import FAMILIES, a_study, tiny_study_spec
from torch import Generator
from training_cases import decode_logits, tiny_case, tiny_spec

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import Label
from VFMTransferLib.encoders import build_network
from VFMTransferLib.tasks import TASKS, score_case
from VFMTransferLib.tasks.anatomy_segmentation.training import anatomy_loss
from VFMTransferLib.tasks.training import Objective, collate
from VFMTransferLib.training.config import NO_AUGMENTATION
from VFMTransferLib.training.samples import crop_samples, prepare_labeled, samples_of


def test_the_glands_loss_by_hand():
    logits = torch.tensor([0.0, math.log(3)]).reshape(2, 1, 1, 1)  # probability 3/4
    target = torch.ones(1, 1, 1, 1)
    dice = 1 - (2 * 0.75 + 1) / (0.75**2 + 1 + 1)
    assert float(anatomy_loss(logits, target)) == pytest.approx(-math.log(0.75) + dice, rel=1e-5)


def test_without_zone_labels_only_the_sum_of_the_zones_counts():
    target = torch.ones(1, 1, 1, 1)
    one = torch.tensor([0.0, math.log(2), math.log(1)]).reshape(3, 1, 1, 1)
    other = torch.tensor([0.0, math.log(1), math.log(2)]).reshape(3, 1, 1, 1)
    assert float(anatomy_loss(one, target)) == pytest.approx(float(anatomy_loss(other, target)))


def test_with_zone_labels_the_right_zone_costs_less():
    target = torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1, 1)
    right = torch.tensor([0.0, 2.0, 0.0]).reshape(3, 1, 1, 1)
    wrong = torch.tensor([0.0, 0.0, 2.0]).reshape(3, 1, 1, 1)
    assert anatomy_loss(right, target) < anatomy_loss(wrong, target)


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="2 or 3 output channels, got 9"):
        anatomy_loss(torch.zeros(9, 1, 1, 1), torch.zeros(1, 1, 1, 1))


def test_zones_and_gland_come_as_three_targets():
    spec = tiny_spec(out_channels=3)
    case, mask = tiny_case(0)
    outer = mask.array.copy()
    outer[:, 24:] = 0
    masks = {
        Label.TRANSITION_ZONE: mask.with_array(mask.array - outer),
        Label.PERIPHERAL_ZONE: mask.with_array(outer),
        Label.PROSTATE: mask,
    }
    found = samples_of(TASKS[spec.task].labeled(case, masks=masks), spec)
    assert found.labels.shape[0] == 3
    torch.testing.assert_close(found.labels[0], found.labels[1:].sum(0), atol=1e-3, rtol=0)
    assert torch.equal(found.labels[1:], crop_samples(case, spec, list(masks.values())[1::-1]).labels)


def test_one_zone_alone_is_refused():
    case, mask = tiny_case(0)
    masks = {Label.PROSTATE: mask, Label.PERIPHERAL_ZONE: mask}
    with pytest.raises(DatasetError, match="must be the prostate, or it and both of its zones"):
        samples_of(TASKS[tiny_spec().task].labeled(case, masks=masks), tiny_spec())


@pytest.mark.parametrize("family", FAMILIES)
def test_anatomys_target_marks_the_gland_and_its_zones(family):
    study, spec = a_study("anatomy-segmentation"), tiny_study_spec(family, "anatomy-segmentation")
    prostate, peripheral, transition = TASKS[study.task].training().targets(study, prepare_labeled(study, spec), spec)
    logits = 20 * np.stack([1 - prostate, peripheral, transition])
    found = score_case(decode_logits(study, replace(spec, threshold=0.5), logits), study).values
    assert found["dice"] > 0.9
    assert found["dice transition-zone"] > 0.85


def test_zones_that_nobody_knows_are_unknown_and_only_the_gland_counts():
    study, spec = a_study("anatomy-segmentation"), tiny_study_spec("provicnet", "anatomy-segmentation")
    gland_alone = replace(study, masks={Label.PROSTATE: study.masks[Label.PROSTATE]})
    maps = TASKS[gland_alone.task].training().targets(gland_alone, prepare_labeled(study, spec), spec)
    assert (maps[1:] == -1).all()
    both, alone = samples_of(study, spec), samples_of(gland_alone, spec)
    samples = [one.sample(Generator().manual_seed(3), NO_AUGMENTATION) for one in (both, alone)]
    network = build_network(spec).eval()
    both = Objective(spec).loss(network, collate(samples))
    apart = [Objective(spec).loss(network, collate([sample])) for sample in samples]
    torch.testing.assert_close(both, (apart[0] + apart[1]) / 2)
