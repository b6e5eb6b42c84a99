"""Small trainings whose loss is a mean over samples: distributing their batch changes nothing but rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slice_cases import SPEC
from study_examples import a_study, tiny_study_config, unvaried
from training_cases import tiny_case, tiny_spec

from VFMTransferLib.encoders.pretext import pretext_task
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.cases import LabeledDataset
from VFMTransferLib.training.distributed import DistributedContext
from VFMTransferLib.training.finetune import finetune
from VFMTransferLib.training.loop import Run, Schedule
from VFMTransferLib.training.pretrain import PretrainConfig

TASK = "distortion-correction"


IMAGES = [tiny_case(seed)[0] for seed in range(3)]


def a_pretraining(**changes) -> PretrainConfig:
    """Four steps of four views."""
    config = PretrainConfig(
        pretext_task("mae", tiny_spec(), decoder_width=8),
        schedule=Schedule(4, checkpoint_every=2),
        augmentation=Augmentation(),
        seed=2,
        batch=4,
    )
    return replace(config, **changes)


def a_pretext_config(name: str, steps: int = 4, **settings) -> PretrainConfig:
    """A few steps of a pretext task."""
    if name == "mae":
        pretext = pretext_task(name, tiny_spec(), **{"decoder_width": 8, **settings})
        return PretrainConfig(pretext, Schedule(steps, checkpoint_every=2), Augmentation(), seed=2, batch=1)
    pretext = pretext_task(name, SPEC, **{"pairs": 8, **settings})
    schedule = Schedule(steps, learning_rate=5e-3, checkpoint_every=2)
    return PretrainConfig(pretext, schedule, Augmentation(), seed=3, batch=2)


def tuned(folder: Path, context: DistributedContext) -> Run:
    """Four steps of two windows."""
    config = replace(unvaried(tiny_study_config("profound", TASK)), augmentation=Augmentation())
    cases = {study.case.id: study for study in (a_study(TASK, 0), a_study(TASK, 1))}
    return finetune(config, LabeledDataset(config.split, cases), folder, context=context)
