"""The task-specific baselines: as many parameters, the same samples, schedule and scores as ProFound's network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from specs import demonstration, published
from study_examples import a_study, tiny_study_config, tiny_study_spec

from VFMTransferLib.encoders import build_network, find_family
from VFMTransferLib.encoders.weights import parameter_count
from VFMTransferLib.tasks import TASKS, score_case
from VFMTransferLib.training.cases import LabeledDataset
from VFMTransferLib.training.finetune import (
    Initialization,
    averaged_network,
    finetune,
    initial_network,
    results_of,
)


@pytest.mark.parametrize("task", list(TASKS))
def test_it_has_about_as_many_parameters_as_the_network_it_stands_beside(task):
    spec = demonstration("profound", task)
    beside = find_family("dynunet").matched_baseline(spec)
    wanted = parameter_count(build_network(spec))
    assert parameter_count(build_network(beside)) == pytest.approx(wanted, rel=0.1)
    assert beside == demonstration("dynunet", task)
    assert find_family("dynunet").matched_baseline(published("profound", task)) == published("dynunet", task)


@pytest.mark.parametrize("task", list(TASKS))
def test_it_is_trained_and_validated_by_the_same_engine(tmp_path, task):
    config = tiny_study_config("profound", task, steps=2)
    config = replace(config, model=find_family("dynunet").matched_baseline(config.model))
    cases = {study.case.id: study for study in (a_study(task, 0), a_study(task, 1))}
    run = finetune(config, LabeledDataset(config.split, cases), tmp_path)
    network = averaged_network(run, config.model)
    ((result, labeled),) = results_of(network, config.model, [a_study(task)])
    assert score_case(result, labeled).values


def test_it_has_no_pretrained_arm_and_no_twin_of_slices():
    config = tiny_study_config("profound", "adc-translation")
    config = replace(config, model=find_family("dynunet").matched_baseline(config.model))
    with pytest.raises(ValueError, match="from scratch"):
        initial_network(config, Initialization({"norm.weight": torch.ones(10)}))
    with pytest.raises(ValueError, match="must stand beside a task of ProFound"):
        find_family("dynunet").matched_baseline(tiny_study_spec("provicnet", "adc-translation"))


def test_a_baseline_has_no_features_and_no_pretext_task_and_names_the_families_that_have():
    family, spec = find_family("dynunet"), demonstration("dynunet", "adc-translation")
    for ask in (lambda: family.features(None, spec, ()), lambda: family.pretext_task("mae", spec)):
        with pytest.raises(ValueError, match=r"is pretrained \(profound, provicnet\), got the baseline dynunet\."):
            ask()
