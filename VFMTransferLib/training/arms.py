"""From study cases to a bundle: one arm of one task of the study.

A work folder keeps checkpoints; started again with the same settings, a training goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..bundles.bundle import Bundle, write_bundle
from ..bundles.onnx_export import export_onnx
from ..core.errors import DatasetError
from ..core.terms import Arm, TaskId
from ..encoders.base import ModelSpec
from ..encoders.demonstration import demonstration
from ..encoders.weights import bundle_encoder_weights
from ..metrics.calibration import Calibration
from ..tasks.base import TASKS
from ..tasks.baselines import TITLES, trivial_baseline
from ..tasks.scores import OF_PROBABILITIES, Scores, calibration_of, score_results
from ..tasks.truth import StudyCase
from .augmentation import Augmentation
from .cases import StudySet
from .distributed import Division
from .finetune import FinetuneConfig, averaged_network, finetune
from .optimization import Progress, Run, Schedule
from .record import VERSION, course, draws_of, recorded
from .samples import lesson_of
from .validation import Examination

SCORE = "score"  # the task's primary measure in a run's history
_RATE = 2e-3  # at 1e-3 two hundred steps taught ProViCNet no displacement; 3e-3 fitted one case in a hundred
_ARM_TITLES = {Arm.PRETRAINED: "pretrained", Arm.SCRATCH: "from scratch"}
# Of images, what they look like is what is asked for.
_IMAGE_AUGMENTATION = Augmentation(thick=0.0, coarse=0.0, noise=0.0, level=0.1)


def study_config(
    family: str,
    task: TaskId,
    studies: StudySet,
    *,
    steps: int,
    seed: int = 0,
    encoder: ModelSpec | None = None,
    batch: int | None = None,
    precision: str = "float32",
) -> FinetuneConfig:
    """How a cell of the study is trained, the same for both arms.

    Args:
        family: `profound` or `provicnet`.
        task: The task.
        studies: Say the split.
        steps: Optimizer steps.
        seed: Of head, order and samples.
        encoder: A network whose encoder's size to take, instead of the demonstration's.
        batch: Samples a step, each of which then draws for itself; the study's own number by default.
        precision: As `Schedule`.
    """
    spec = demonstration(family, task)
    if encoder is not None:
        spec = replace(spec, encoder=encoder.encoder)
    is_image = TASKS[task].output == "image"
    return FinetuneConfig(
        model=spec,
        split=studies.split,
        schedule=Schedule(steps, learning_rate=_RATE, precision=precision, checkpoint_every=min(steps, 50)),
        augmentation=_IMAGE_AUGMENTATION if is_image else Augmentation(),
        seed=seed,
        drop_path=0.0 if is_image else 0.1,
        phantom_share=0.0,
        measure_every=max(steps // 10, 1),
        batch=batch or _batch(family, task),
        draws=draws_of(batch),
    )


def _batch(family: str, task: TaskId) -> int:
    """Samples a step: a volume, several slices, or as many studies as batch normalization needs."""
    if task is TaskId.CLASSIFICATION:
        return 4 if family == "profound" else 2
    if task is TaskId.DISTORTION_CORRECTION and family == "profound":
        return 2  # one window's mean displacement says little of the next one's
    return 1 if family == "profound" else 8


def finetune_study(
    config: FinetuneConfig,
    studies: StudySet,
    work: Path,
    *,
    init: Bundle | None = None,
    phantoms: Iterable[StudyCase] = (),
    division: Division | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Fine-tune one arm on study cases, or go on where it was stopped.

    Args:
        config: From `study_config`, the same for both arms.
        studies: The cases.
        work: Where the checkpoint goes.
        init: The pretrained arm's start; the scratch arm has none.
        phantoms: Further cases, shown in `config.phantom_share` of the samples.
        division: This process's share of each batch; all of it by default.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The finished run, whose history holds the validation cases' scores, the primary one as `score`.

    Raises:
        DatasetError: A case lacks what its task needs.
        CheckpointError: The start has another encoder, or `work` a checkpoint of another configuration.
    """
    lessons = {name: lesson_of(studies.cases[name], config.model) for name in config.split.train}
    is_first = division is None or division.is_first
    examination = Examination(config.model, studies.of(config.split.validation) if is_first else [])
    return finetune(
        config,
        Arm.SCRATCH if init is None else Arm.PRETRAINED,
        lessons,
        work,
        encoder=None if init is None else bundle_encoder_weights(init),
        phantoms=[lesson_of(study, config.model) for study in phantoms],
        examine=_curve_of(examination) if examination.cases else None,
        division=division,
        on_progress=on_progress,
    )


def _curve_of(examination: Examination) -> Callable[[nn.Module], Mapping[str, float]]:
    def examine(network: nn.Module) -> dict[str, float]:
        scores = examination.scores(network)
        return finite({SCORE: scores.primary, **scores.cohort})

    return examine


def write_study_arm(
    config: FinetuneConfig,
    run: Run,
    studies: StudySet,
    folder: Path,
    *,
    data: str,
    init: Bundle | None,
    license: str,
    title: str | None = None,
    card: Callable[[Bundle], str] | None = None,
) -> Bundle:
    """Write a finished arm as a bundle with its ONNX graph, its record and its scores on validation and test cases.

    Args:
        config: The configuration.
        run: The finished training; its averaged weights are written, as fp16.
        studies: The cases.
        folder: The bundle's folder; its name is the bundle's.
        data: What the cases are, for the record.
        init: The start; None of the scratch arm.
        license: Of the weights, an SPDX identifier where there is one.
        title: Title of the bundle, before the arm; the network's by default.
        card: Writes its model card; the card of any bundle by default.
    """
    arm = Arm.SCRATCH if init is None else Arm.PRETRAINED
    spec, network = config.model, averaged_network(run, config.model)
    training = studies.of(config.split.train)
    validation = Examination(spec, studies.of(config.split.validation))
    calibration = calibration_of(validation.scores(network)) if spec.task is TaskId.CLASSIFICATION else None
    parts = _parts(config, studies)
    scores = {part: _measured(network, spec, cases, training, calibration) for part, cases in parts.items()}
    start = "scratch" if init is None else {"bundle": init.name, "sha256": init.weights_sha256}
    bundle = Bundle(
        folder=folder,
        name=folder.name,
        title=f"{title or spec.title}, {_ARM_TITLES[arm]}",
        version=VERSION,
        spec=spec,
        arm=arm,
        training=_training(config, run, data) | {"start": start},
        metrics=scores,
        license=license,
        demonstration=True,
        description=f"{spec.prediction_task.title}. The study's arms differ in the encoder's initial weights only.",
        calibration=calibration,
    )
    text = None if card is None else card(bundle)
    return export_onnx(write_bundle(bundle, run.average, half=True, overwrite=True, card=text))


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """What has a value; JSON knows no other numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _training(config: FinetuneConfig, run: Run, data: str) -> dict[str, Any]:
    return {"config": recorded(config), "data": data, **course(run)}


def _parts(config: FinetuneConfig, studies: StudySet) -> dict[str, list[StudyCase]]:
    """The cases that are measured, by what they are for; phantoms apart from real ones where there are both."""
    parts = {}
    for name, cases in (("validation", config.split.validation), ("test", config.split.test)):
        phantoms = [study for study in studies.of(cases) if study.is_phantom]
        real = [study for study in studies.of(cases) if not study.is_phantom]
        if phantoms and real:
            parts |= {f"{name}, phantoms": phantoms, f"{name}, real cases": real}
        elif phantoms or real:
            parts[name] = phantoms or real
    return parts


def _measured(
    network: nn.Module,
    spec: ModelSpec,
    cases: list[StudyCase],
    training: list[StudyCase],
    calibration: Calibration | None,
) -> dict[str, Any]:
    """Scores of a network, of its probabilities also before calibration, and of the task's trivial baseline."""
    examination = Examination(spec, cases)
    found = _record(examination.scores(network, calibration))
    if calibration is not None:
        plain = examination.scores(network).cohort
        found["uncalibrated"] = finite({name: plain[name] for name in OF_PROBABILITIES if name in plain})
    task = spec.prediction_task.id
    try:
        baseline = trivial_baseline(task, training)
        trivial = _record(score_results(task, ((baseline(study), study) for study in cases)))
    except DatasetError as error:
        return {**found, "trivial": {"what": f"none: {error}"}}
    return {**found, "trivial": {"what": TITLES[task], **trivial}}


def _record(scores: Scores) -> dict[str, Any]:
    return {
        "cohort": finite(scores.cohort),
        "cases": {case.case_id: finite(case.values) for case in scores.cases},
    }
