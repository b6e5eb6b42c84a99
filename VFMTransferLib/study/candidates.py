"""Which pretrainings a fine-tuning could start from, and every estimator on them: for advice, or on a finished study.

Advice estimates each candidate on a task's own training cases and weighs what the study lets expect. The same
estimators are tried on every encoder and task of a finished study, with nothing but what was known before it: its
configuration, its pretrainings, its training cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..bundles.bundle import Bundle, read_bundle
from ..bundles.catalog import find_bundle, list_bundles, shipped_folder
from ..bundles.metadata import METADATA
from ..bundles.weights import bundle_encoder_weights
from ..core.errors import DatasetError
from ..core.files import writing
from ..core.terms import OnProgress
from ..encoders.base import ModelSpec, family_of
from ..encoders.weights import pretrained_network
from ..tasks import TASKS, lesion_task
from ..tasks.base import LabeledCase
from ..training.cases import StudySet, pretraining_phantoms
from ..training.finetune import finetune_config
from .advice import Advice, CandidateEstimate, FinishedStudy, advice_of, gain_to_expect, hours_to_save
from .cases import phantoms_of_pretraining, training_cases
from .config import CONFIG, RunKey, read_config
from .estimators import MAX_TRIAL_PARAMETERS, Candidate, estimate, evenly_chosen
from .features import ENCODER, encoder_features, feature_cases
from .forecast import EstimateRow, ForecastRow, points_of, read_estimates, validate, write_forecast
from .run import training_config
from .summary import summarize
from .tables import RUNS, read_tables
from .workspace import Workspace

STEPS = 400  # of the fine-tuning that is asked about; only its learning rate and batch are used
PHANTOM_COUNT = 8  # of pretraining's phantoms, made again
_STUDY = "Study"


def _pretext_of(bundle: Bundle) -> str:
    """The pretext task of a bundle's pretraining; earlier versions recorded it as `objective`. Empty without one."""
    return str(bundle.training.get("pretext", bundle.training.get("objective", "")))


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """A pretraining that a fine-tuning could start from.

    Attributes:
        bundle: Its bundle, as `vfm-transfer pretrain` writes it.
        cases: Cases such as it was trained on, of all sequences and with the gland, as cases of lesion segmentation;
            empty where they are not at hand.
    """

    bundle: Bundle
    cases: tuple[LabeledCase, ...] = ()

    @property
    def objective(self) -> str:
        """How it was pretrained, as `mae`; empty where the bundle does not state it."""
        return _pretext_of(self.bundle)


def find_checkpoints(
    names: Iterable[str], study: Path, on_progress: OnProgress | None = None
) -> list[PretrainedCheckpoint]:
    """The pretrainings of some names or folders; by default those that are installed, and the study's own.

    Raises:
        DatasetError: There is none.
        BundleError: A name stands for no bundle.
    """
    bundles = [find_bundle(name) for name in names]
    if not bundles:  # those without a head that was trained: they name the pretext task of their pretraining
        own = sorted(folder for folder in study.glob("work/pretrained/*") if (folder / METADATA).is_file())
        bundles = [*(b for b in list_bundles() if b.arm is None and _pretext_of(b)), *map(read_bundle, own)]
    if not bundles:
        raise DatasetError(
            "Advice needs a pretraining, but none is installed. Make one with `vfm-transfer pretrain`, or "
            "name its folder with --pretrained."
        )
    made: tuple[LabeledCase, ...] = ()
    if any(_is_of_phantoms(bundle) for bundle in bundles):
        phantoms = pretraining_phantoms(PHANTOM_COUNT, on_progress)
        made = tuple(lesion_task().from_phantom(phantom) for phantom in phantoms)
    return [PretrainedCheckpoint(bundle, made if _is_of_phantoms(bundle) else ()) for bundle in bundles]


def shipped_study() -> Path:
    """The folder of the study that comes with the product; it may not be there."""
    bundles = shipped_folder()
    return Path(_STUDY) if bundles is None else bundles.parent / _STUDY


def _is_of_phantoms(bundle: Bundle) -> bool:
    return str(bundle.training.get("data", "")).endswith("phantoms")


def advise(
    task: str,
    studies: StudySet,
    checkpoints: Sequence[PretrainedCheckpoint],
    finished: FinishedStudy,
    *,
    data: str,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Advice:
    """Which pretraining suits a task on these cases.

    Args:
        studies: The cases; only those that train are used, and of many of them some.

    Raises:
        DatasetError: There is no pretraining, or there are no cases.
        BundleError, CheckpointError: A pretraining cannot be read, or has no encoder for the task.
    """
    if not checkpoints or not studies.split.train:
        raise DatasetError("Advice needs at least one pretraining and one training case.")
    cases = evenly_chosen(studies.of(studies.split.train))
    width_mm = finished.around_gland_mm
    if width_mm is not None:  # cut as the study's were, so that estimates compare
        cases = [case if case.gland is None else TASKS[case.task].around_gland(case, width_mm) for case in cases]
    found = []
    for number, checkpoint in enumerate(checkpoints):
        bundle, family = checkpoint.bundle, checkpoint.bundle.spec.family
        config = finetune_config(family, task, studies.split, steps=STEPS, seed=seed, encoder=bundle.spec)
        features = pretraining_features(checkpoint, config.model)
        candidate = Candidate(config, cases, bundle_encoder_weights(bundle), features)
        progress = None if on_progress is None else _part(on_progress, number, len(checkpoints))
        estimates = {row.estimator: row.value for row in estimate(candidate, family, progress)}
        measured = candidate.trial.seconds_per_step if math.isfinite(estimates["few-steps"]) else None
        found.append(
            CandidateEstimate(
                name=bundle.name,
                encoder=family,
                objective=checkpoint.objective,
                estimates=estimates,
                gain=gain_to_expect(finished, family, task, estimates),
                hours=hours_to_save(finished, family, task, measured),
                seen=finished.row(family, task),
                notes=tuple(_notes(candidate, estimates)),
            )
        )
    return advice_of(task, data, len(studies.split.train), found, finished)


def _notes(candidate: Candidate, estimates: Mapping[str, float]) -> Iterator[str]:
    if candidate.parameters > MAX_TRIAL_PARAMETERS:
        yield (
            f"few-steps was not tried: {candidate.parameters / 1e6:.0f} million parameters are too many to train on a "
            "processor. The study's encoders were far smaller, so that its results may not hold."
        )
    training = len(candidate.config.split.train)
    if len(candidate.cases) < training:
        yield f"{len(candidate.cases)} of {training} training cases were used, evenly from all of them."
    if candidate.pretraining is None:
        yield "nearness was not computed: the cases of this pretraining are not at hand."
    if any(math.isnan(value) for name, value in estimates.items() if name in ("probe", "logme")):
        yield "probe and logme need three or more cases."


def pretraining_features(checkpoint: PretrainedCheckpoint, spec: ModelSpec) -> np.ndarray | None:
    """The encoder's features (cases, channels) of pretraining's cases, of the sequences that a network takes.

    Args:
        spec: The network; one encoder with it is shared.
    """
    if not checkpoint.cases:
        return None
    own = checkpoint.bundle.spec
    if own.task is None:  # an encoder alone; the task decides whose grid its input lies on
        own = replace(own, task=lesion_task().id)
    network = pretrained_network(own, bundle_encoder_weights(checkpoint.bundle))
    features = encoder_features(network, own, feature_cases(checkpoint.cases, own))[ENCODER]
    return family_of(own).features_for(features, own, spec)


def _part(on_progress: OnProgress, number: int, count: int) -> OnProgress:
    return lambda line, share: on_progress(line, (number + share) / count)


@dataclass(frozen=True)
class TriedEstimators:
    """What was found.

    Attributes:
        estimates: Each estimator's value for each encoder and task.
        forecasts: How good they were on left-out tasks; empty where too few tasks are done.
    """

    estimates: tuple[EstimateRow, ...]
    forecasts: tuple[ForecastRow, ...]


def try_estimators(
    folder: Path, output: Path | None = None, *, resume: bool = False, on_progress: OnProgress | None = None
) -> TriedEstimators:
    """Estimate every encoder and task of a study, validate the estimators, and write both tables.

    A study that is still being run may be estimated before its runs are done: validation takes those that are.

    Args:
        folder: The study, with its `work` folder.
        output: Where `estimates.csv` and `forecast.csv` go; by default beside the study's tables.
        resume: Keep estimates that are in `output` already.

    Raises:
        ConfigError: The folder holds no study's configuration.
        DatasetError: A table cannot be understood.
        BundleError: A pretraining is missing.
        OutputError: The output cannot be written.
    """
    config, workspace = read_config(folder / CONFIG), Workspace(folder.absolute())
    target = output or folder
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    summary = summarize(read_tables(folder)) if (folder / RUNS).is_file() else ()
    estimates = list(read_estimates(target)) if resume else []
    kept = {(row.encoder, row.task) for row in estimates}
    pairs = [
        (encoder, task)
        for task, settings in config.tasks.items()
        for encoder in config.encoders
        if encoder in settings.fit and (encoder, task) not in kept
    ]
    for number, (encoder, task) in enumerate(pairs):
        phantoms = phantoms_of_pretraining(config, encoder, workspace, max_count=PHANTOM_COUNT)
        seen = tuple(lesion_task().from_phantom(phantom) for phantom in phantoms)
        bundle = read_bundle(workspace.pretrained(encoder))
        training = training_config(RunKey(encoder, task, "pretrained", config.seeds[0]), config)
        features = pretraining_features(PretrainedCheckpoint(bundle, seen), training.model)
        cases = evenly_chosen(training_cases(config, task, workspace))
        candidate = Candidate(training, cases, bundle_encoder_weights(bundle), features)
        progress = None if on_progress is None else _part(on_progress, number, len(pairs))
        estimates += estimate(candidate, encoder, progress)
        write_forecast(estimates, validate(points_of(estimates, summary)), target)
    forecasts = validate(points_of(estimates, summary))
    write_forecast(estimates, forecasts, target)
    return TriedEstimators(tuple(estimates), forecasts)
