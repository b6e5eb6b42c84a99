"""Small trainings whose loss is a mean over samples, so that dividing their batch changes nothing but rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from study_examples import a_study, tiny_study_config, tiny_study_spec, unvaried
from training_cases import tiny_spec

from VFMTransferLib.core.terms import Arm, TaskId
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.distributed import Division
from VFMTransferLib.training.finetune import finetune
from VFMTransferLib.training.optimization import Run, Schedule
from VFMTransferLib.training.pretrain import PretrainConfig
from VFMTransferLib.training.samples import lesson_of

TASK = TaskId.DISTORTION_CORRECTION


def a_pretraining(**changes) -> PretrainConfig:
    """Four steps of four views."""
    config = PretrainConfig(
        model=tiny_spec(),
        cases=("case-0", "case-1", "case-2"),
        schedule=Schedule(4, checkpoint_every=2),
        augmentation=Augmentation(),
        seed=2,
        hidden=0.6,
        decoder_width=8,
        phantom_share=0.0,
        batch=4,
        draws="sample",
    )
    return replace(config, **changes)


def tuned(folder: Path, division: Division, draws: str = "step") -> Run:
    """Four steps of two windows."""
    config = replace(unvaried(tiny_study_config("profound", TASK)), augmentation=Augmentation(), draws=draws)
    spec = tiny_study_spec("profound", TASK)
    lessons = {study.case.id: lesson_of(study, spec) for study in (a_study(TASK, 0), a_study(TASK, 1))}
    return finetune(config, Arm.SCRATCH, lessons, folder, division=division)
