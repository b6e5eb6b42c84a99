"""The pretrainings that a fine-tuning could start from, and such cases as they were trained on, where at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundles.bundle import Bundle, read_bundle
from ..bundles.catalog import find_bundle, list_bundles, shipped_folder
from ..bundles.metadata import METADATA
from ..core.errors import DatasetError
from ..core.terms import TaskId
from ..encoders.base import ConvNeXtSpec, ModelSpec
from ..encoders.weights import bundle_encoder_weights, pretrained_network
from ..tasks.truth import StudyCase, around_gland, from_phantom
from ..training.arms import study_config
from ..training.cases import StudySet, pretraining_phantoms
from ..training.encoders import spec_for_views
from .advice_words import Advice, Outlook, advice_of
from .estimators import ESTIMATORS, LARGEST_TRIAL, Prospect, looked_at
from .features import ENCODER, encoder_features, feature_cases
from .forecast import EstimateRow, Experience, gain_to_expect, hours_to_save

PHANTOM_COUNT = 8  # of pretraining's phantoms, made again
_STUDY = "Study"
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Start:
    """A pretraining.

    Attributes:
        bundle: Its bundle, as `vfm-transfer pretrain` writes it.
        cases: Cases such as it was trained on, of all sequences and with the gland, as cases of lesion segmentation;
            empty where they are not at hand.
    """

    bundle: Bundle
    cases: tuple[StudyCase, ...] = ()

    @property
    def objective(self) -> str:
        """How it was pretrained, as `mae`; empty where the bundle does not say."""
        return str(self.bundle.training.get("objective", ""))


def find_starts(names: Iterable[str], study: Path, on_progress: OnProgress | None = None) -> list[Start]:
    """The pretrainings of some names or folders; by default those that are installed, and the study's own.

    Raises:
        DatasetError: There is none.
        BundleError: A name stands for no bundle.
    """
    bundles = [find_bundle(name) for name in names] or _found(study)
    if not bundles:
        raise DatasetError(
            "Advice needs a pretraining to speak of, but none is installed. Make one with `vfm-transfer pretrain`, or "
            "name its folder with --pretrained."
        )
    made: tuple[StudyCase, ...] = ()
    if any(_is_of_phantoms(bundle) for bundle in bundles):
        phantoms = pretraining_phantoms(PHANTOM_COUNT, on_progress)
        made = tuple(from_phantom(phantom, TaskId.LESION_SEGMENTATION) for phantom in phantoms)
    return [Start(bundle, made if _is_of_phantoms(bundle) else ()) for bundle in bundles]


def shipped_study() -> Path:
    """The folder of the study that comes with the product; it may not be there."""
    bundles = shipped_folder()
    return Path(_STUDY) if bundles is None else bundles.parent / _STUDY


def _found(study: Path) -> list[Bundle]:
    """Bundles without a head that was trained: they name the objective of their pretraining."""
    installed = [b for b in list_bundles() if b.arm is None and "objective" in b.training]
    own = sorted(folder for folder in study.glob("work/pretrained/*") if (folder / METADATA).is_file())
    return [*installed, *map(read_bundle, own)]


def _is_of_phantoms(bundle: Bundle) -> bool:
    return str(bundle.training.get("data", "")).endswith("phantoms")


# Advice before any fine-tuning: what each pretraining may be worth on a task's own cases.

STEPS = 400  # of the fine-tuning that is asked about; only its learning rate and batch are looked at


def advise(
    task: TaskId,
    studies: StudySet,
    starts: Sequence[Start],
    experience: Experience,
    *,
    data: str,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Advice:
    """Which pretraining suits a task on these cases.

    Args:
        task: The task.
        studies: The cases; only those that train are looked at, and of many of them some.
        starts: The pretrainings to choose from.
        experience: A finished study.
        data: What the cases are, for the answer.
        seed: Of everything that is drawn.
        on_progress: Told what is done and which share of all.

    Raises:
        DatasetError: There is no pretraining, or there are no cases.
        BundleError, CheckpointError: A pretraining cannot be read, or has no encoder for the task.
    """
    if not starts or not studies.split.train:
        raise DatasetError("Advice needs at least one pretraining and one training case.")
    cases = [_as_in_study(study, experience) for study in looked_at(studies.of(studies.split.train))]
    outlooks = []
    for number, start in enumerate(starts):
        tell = None if on_progress is None else _part(on_progress, number, len(starts))
        outlooks.append(_outlook(start, task, studies, cases, experience, seed, tell))
    return advice_of(str(task), data, len(studies.split.train), outlooks, experience)


def estimate(prospect: Prospect, encoder: str, on_progress: OnProgress | None = None) -> tuple[EstimateRow, ...]:
    """What every estimator says, and what it took.

    Args:
        prospect: The pretraining and the cases.
        encoder: What to call the encoder.
        on_progress: Told which estimator is done and which share of all.
    """
    rows = []
    for number, (name, estimator) in enumerate(ESTIMATORS.items(), start=1):
        began = time.process_time()
        value = float(estimator(prospect))
        rows.append(EstimateRow(encoder, str(prospect.config.model.task), name, value, time.process_time() - began))
        if on_progress is not None:
            on_progress(f"{encoder}, {name}", number / len(ESTIMATORS))
    return tuple(rows)


def pretraining_features(start: Start, spec: ModelSpec) -> np.ndarray | None:
    """The encoder's features (cases, channels) of pretraining's cases, of the sequences that a network takes.

    Args:
        start: The pretraining.
        spec: The network; one encoder with it is shared.
    """
    if not start.cases:
        return None
    own = start.bundle.spec if start.bundle.spec.task is not None else spec_for_views(start.bundle.spec)
    network = pretrained_network(own, bundle_encoder_weights(start.bundle))
    features = encoder_features(network, own, feature_cases(start.cases, own))[ENCODER]
    if isinstance(own.encoder, ConvNeXtSpec):
        return features
    parts = dict(zip(own.preprocess.sequences, np.split(features, len(own.preprocess.sequences), axis=1), strict=True))
    return np.concatenate([parts[sequence] for sequence in spec.preprocess.sequences], axis=1)


def _as_in_study(study: StudyCase, experience: Experience) -> StudyCase:
    """The case cut as the study's were, so that estimates compare; whole where nobody knows its gland."""
    if experience.around_gland_mm is None or study.gland is None:
        return study
    return around_gland(study, experience.around_gland_mm)


def _outlook(
    start: Start,
    task: TaskId,
    studies: StudySet,
    cases: Sequence[StudyCase],
    experience: Experience,
    seed: int,
    tell: OnProgress | None,
) -> Outlook:
    bundle = start.bundle
    family = bundle.spec.family
    config = study_config(family, task, studies, steps=STEPS, seed=seed, encoder=bundle.spec)
    weights, features = bundle_encoder_weights(bundle), pretraining_features(start, config.model)
    prospect = Prospect(config, cases, weights, features)
    estimates = {row.estimator: row.value for row in estimate(prospect, family, tell)}
    measured = prospect.trial.seconds_per_step if math.isfinite(estimates["few-steps"]) else None
    return Outlook(
        name=bundle.name,
        encoder=family,
        objective=start.objective,
        estimates=estimates,
        gain=gain_to_expect(experience, family, str(task), estimates),
        hours=hours_to_save(experience, family, str(task), measured),
        seen=experience.cell(family, str(task)),
        notes=tuple(_notes(prospect, estimates)),
    )


def _notes(prospect: Prospect, estimates: Mapping[str, float]) -> Iterable[str]:
    if prospect.parameters > LARGEST_TRIAL:
        yield (
            f"few-steps was left out: {prospect.parameters / 1e6:.0f} million parameters are too many to train on a "
            "processor. The study's encoders were far smaller, so that its experience may not hold."
        )
    training = len(prospect.config.split.train)
    if len(prospect.studies) < training:
        yield f"{len(prospect.studies)} of {training} training cases were looked at, evenly from all of them."
    if prospect.pretraining is None:
        yield "nearness was left out: the cases of this pretraining are not at hand."
    if any(math.isnan(value) for name, value in estimates.items() if name in ("probe", "logme")):
        yield "probe and logme need three or more cases."


def _part(on_progress: OnProgress, number: int, count: int) -> OnProgress:
    return lambda line, share: on_progress(line, (number + share) / count)
