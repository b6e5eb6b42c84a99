"""The study's third row: as many parameters, the same samples, schedule and scores as ProFound's network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from study_examples import a_study, tiny_study_config, tiny_study_spec

from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.encoders.demonstration import demonstration
from VFMTransferLib.encoders.dynunet.network import parameter_count, specialised_network
from VFMTransferLib.encoders.network import build_network
from VFMTransferLib.training.cases import StudySet
from VFMTransferLib.training.finetune import Initialization, averaged_network, finetune, initial_network
from VFMTransferLib.training.validation import ValidationCases


@pytest.mark.parametrize("task", list(TaskId))
def test_it_has_about_as_many_parameters_as_the_network_it_stands_beside(task):
    spec = demonstration("profound", task)
    wanted = parameter_count(build_network(spec))
    assert parameter_count(specialised_network(spec)) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("task", list(TaskId))
def test_it_is_trained_and_validated_by_the_same_engine(tmp_path, task):
    config = replace(tiny_study_config("profound", task, steps=2), specialised=True)
    cases = {study.case.id: study for study in (a_study(task, 0), a_study(task, 1))}
    run = finetune(config, StudySet(config.split, cases), tmp_path)
    network = averaged_network(run, config.model, specialised=True)
    assert ValidationCases(config.model, [a_study(task)]).scores(network).cases[0].values


def test_it_has_no_pretrained_arm_and_no_twin_of_slices():
    config = replace(tiny_study_config("profound", TaskId.ADC_TRANSLATION), specialised=True)
    with pytest.raises(ValueError, match="must start from scratch"):
        initial_network(config, Initialization({"norm.weight": torch.ones(10)}))
    with pytest.raises(ValueError, match="must stand beside a task of ProFound"):
        specialised_network(tiny_study_spec("provicnet", TaskId.ADC_TRANSLATION))
