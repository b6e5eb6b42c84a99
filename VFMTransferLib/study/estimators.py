"""What a pretraining may be worth for a task, estimated before any fine-tuning: one function each, larger is better.

probe        A linear probe on frozen features, pretrained minus random encoder (Alain and Bengio, arXiv 1610.01644)
logme        LogME of frozen features, pretrained minus random encoder (You et al., ICML 2021, arXiv 2102.11005)
few-steps    Percent by which the loss is lower after a few steps from the pretrained encoder than from scratch, on the
             same samples; short trainings as predictors of long ones: Domhan, Springenberg, Hutter, IJCAI 2015
nearness     Minus the squared maximum mean discrepancy (Gretton et al., JMLR 13, 2012) between pretraining's cases and
             the task's in the pretrained encoder, as domain distance bounds transfer: Ben-David et al., Mach. Learn. 79

That random encoders are subtracted is ours: what counts here is the gain over training from scratch, and some tasks are
easy for any features.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from ..core.terms import Arm
from ..encoders.weights import pretrained_network
from ..tasks.truth import StudyCase
from ..training.finetune import FinetuneConfig, finetune
from ..training.samples import lesson_of
from .distance import MIN_CASES, unpaired_mmd2
from .features import ENCODER, encoder_features, feature_cases
from .linear import explained_share, log_maximum_evidence
from .patches import PatchTable, patch_tables

TRIAL_STEPS = 20
MOST_CASES = 24  # that are looked at; more make an answer slow, and it changes little
RANDOM_ENCODERS = 3
LARGEST_TRIAL = 20e6  # parameters of a network that takes trial steps on a CPU
_RANDOM_SEED = 1_000
NOT_KNOWN = float("nan")


def looked_at(studies: Sequence[StudyCase], most: int = MOST_CASES) -> list[StudyCase]:
    """At most so many of the cases, evenly from all of them."""
    if len(studies) <= most:
        return list(studies)
    return [studies[place * len(studies) // most] for place in range(most)]


@dataclass(frozen=True)
class Trial:
    """A few steps of both arms on the same samples.

    Attributes:
        pretrained, scratch: Mean loss over the second half of the steps.
        seconds_per_step: Of both arms, on this machine.
    """

    pretrained: float
    scratch: float
    seconds_per_step: float


@dataclass(frozen=True)
class Prospect:
    """A pretraining and a task's training cases, before any fine-tuning; nothing is computed before it is asked for.

    Attributes:
        config: What would be trained.
        studies: The cases that would train.
        weights: The pretrained encoders, from `encoders.encoder_weights`.
        pretraining: The same encoder's features (cases, channels) of cases that it was pretrained on, of the sequences
            that the task has; None where these cases are not at hand.
    """

    config: FinetuneConfig
    studies: Sequence[StudyCase]
    weights: Mapping[str, Tensor]
    pretraining: np.ndarray | None = None

    @property
    def pretrained_patches(self) -> PatchTable:
        """What the pretrained encoder makes of the cases."""
        return self._patches[0]

    @property
    def random_patches(self) -> list[PatchTable]:
        """What random encoders make of them."""
        return self._patches[1:]

    @cached_property
    def _patches(self) -> list[PatchTable]:
        spec = self.config.model
        random = [pretrained_network(spec, None, _RANDOM_SEED + i) for i in range(RANDOM_ENCODERS)]
        networks = [pretrained_network(spec, self.weights, self.config.seed), *random]
        return patch_tables(networks, spec, self.studies, self.config.seed)

    @cached_property
    def trial(self) -> Trial:
        """A few steps of both arms."""
        lessons = {study.case.id: lesson_of(study, self.config.model) for study in self.studies}
        split = replace(self.config.split, train=tuple(lessons), validation=(), test=())
        schedule = replace(self.config.schedule, steps=TRIAL_STEPS, checkpoint_every=TRIAL_STEPS)
        config = replace(self.config, split=split, schedule=schedule, measure_every=1)
        losses, seconds = {}, 0.0
        for arm in Arm:
            encoder = self.weights if arm is Arm.PRETRAINED else None
            with tempfile.TemporaryDirectory() as folder:
                run = finetune(config, arm, lessons, Path(folder), encoder=encoder)
            losses[arm] = float(np.mean([entry["loss"] for entry in run.history[TRIAL_STEPS // 2 :]]))
            seconds += run.seconds
        return Trial(losses[Arm.PRETRAINED], losses[Arm.SCRATCH], seconds / (len(Arm) * TRIAL_STEPS))

    @cached_property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(p.numel() for p in pretrained_network(self.config.model, None).parameters())


def probe(prospect: Prospect) -> float:
    """Share of the target's variance that a linear probe explains, pretrained minus random."""
    return _over_random(prospect, lambda table: explained_share(table.features, table.target, table.cases))


def logme(prospect: Prospect) -> float:
    """Log evidence per sample, pretrained minus random."""
    return _over_random(prospect, lambda table: log_maximum_evidence(table.features, table.target))


def few_steps(prospect: Prospect) -> float:
    """Percent by which the loss of a few steps is lower; `nan` of a network that is too large to try on a CPU."""
    if prospect.parameters > LARGEST_TRIAL:
        return NOT_KNOWN
    trial = prospect.trial
    return 100 * (trial.scratch - trial.pretrained) / abs(trial.scratch) if trial.scratch else NOT_KNOWN


def nearness(prospect: Prospect) -> float:
    """Minus the distance of the task's cases from pretraining's; `nan` where pretraining's are not at hand."""
    if prospect.pretraining is None or min(len(prospect.pretraining), len(prospect.studies)) < MIN_CASES:
        return NOT_KNOWN
    spec = prospect.config.model
    network = pretrained_network(spec, prospect.weights)
    cases = (case for study in prospect.studies for case in feature_cases([study], spec))  # one at a time in memory
    own = encoder_features(network, spec, cases)[ENCODER]
    return -unpaired_mmd2(own, prospect.pretraining)


Estimator = Callable[[Prospect], float]
ESTIMATORS: dict[str, Estimator] = {"probe": probe, "logme": logme, "few-steps": few_steps, "nearness": nearness}


def _over_random(prospect: Prospect, measure: Callable[[PatchTable], float]) -> float:
    if len(prospect.studies) < MIN_CASES:
        return NOT_KNOWN
    random = float(np.mean([measure(table) for table in prospect.random_patches]))
    found = measure(prospect.pretrained_patches) - random
    return found if math.isfinite(found) else NOT_KNOWN
