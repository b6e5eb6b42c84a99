"""Small trainings whose loss is a mean over samples: distributing their batch changes nothing but rounding."""

from __future__ import annotations

from pathlib import Path

from slice_cases import SPEC
from study_examples import a_study, tiny_study_config, unvaried
from training_cases import changed, tiny_case, tiny_spec

from VFMTransferLib.encoders.pretext import pretext_task
from VFMTransferLib.training.cases import LabeledDataset
from VFMTransferLib.training.config import Augmentation, TrainConfig
from VFMTransferLib.training.distributed import DistributedContext
from VFMTransferLib.training.finetune import finetune
from VFMTransferLib.training.loop import Run
from VFMTransferLib.training.pretrain import PretrainConfig

TASK = "distortion-correction"


IMAGES = [tiny_case(seed)[0] for seed in range(3)]


def a_pretraining(**changes) -> PretrainConfig:
    """Four steps of four views."""
    train = TrainConfig(steps=4, seed=2, batch=4, checkpoint_every=2)
    return changed(PretrainConfig(pretext_task("mae", tiny_spec(), decoder_width=8), train), **changes)


def a_pretext_config(name: str, steps: int = 4, **settings) -> PretrainConfig:
    """A few steps of a pretext task."""
    if name == "mae":
        pretext = pretext_task(name, tiny_spec(), **{"decoder_width": 8, **settings})
        return PretrainConfig(pretext, TrainConfig(steps=steps, checkpoint_every=2, seed=2, batch=1))
    pretext = pretext_task(name, SPEC, **{"pairs": 8, **settings})
    train = TrainConfig(steps=steps, learning_rate=5e-3, checkpoint_every=2, seed=3, batch=2)
    return PretrainConfig(pretext, train)


def tuned(folder: Path, context: DistributedContext) -> Run:
    """Four steps of two windows."""
    config = changed(unvaried(tiny_study_config("profound", TASK)), augmentation=Augmentation())
    cases = {study.case.id: study for study in (a_study(TASK, 0), a_study(TASK, 1))}
    return finetune(config, LabeledDataset(config.split, cases), folder, context=context)
