"""What a pretraining may be worth for a task, estimated before any fine-tuning: one function each, larger is better.

probe        A linear probe on frozen features, pretrained minus random encoder (Alain and Bengio, arXiv 1610.01644)
logme        LogME of frozen features, pretrained minus random encoder (You, Liu, Wang, Long, "LogME: Practical
             Assessment of Pre-trained Models for Transfer Learning", ICML 2021, arXiv 2102.11005)
gbc          Gaussian Bhattacharyya coefficient of frozen features, pretrained minus random encoder (Pandy et al.,
             "Transferability Estimation using Bhattacharyya Class Separability", CVPR 2022, arXiv 2111.12780)
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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy import optimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..bundles.bundle import Bundle, read_bundle
from ..bundles.weights import bundle_encoder_weights
from ..core.errors import ConfigError
from ..core.files import writing
from ..core.terms import Arm, OnProgress
from ..encoders.base import family_of
from ..encoders.weights import pretrained_network
from ..tasks import lesion_task
from ..tasks.base import LabeledCase
from ..training.cases import LabeledDataset
from ..training.finetune import FinetuneConfig, Initialization, finetune
from .config import CONFIG, planned_runs, read_config
from .features import (
    ENCODER,
    MIN_CASES,
    PatchTable,
    encoder_features,
    feature_cases,
    patch_tables,
    unpaired_mmd2,
)
from .forecast import ESTIMATES, EstimateRow, ForecastRow, judge, points_of, write_forecast
from .run import training_config
from .summary import summarize
from .tables import RUNS, read_rows_if_any, read_tables
from .workspace import Workspace, phantoms_of_pretraining, training_cases

TRIAL_STEPS = 20
MAX_CASES = 24  # that are used; more make an answer slow, and it changes little
RANDOM_ENCODERS = 3
MAX_TRIAL_PARAMETERS = 20e6  # parameters of a network that takes trial steps on a CPU
FOLDS = 5
PHANTOM_COUNT = 8  # of pretraining's phantoms, made again
_RANDOM_SEED = 1_000
_PENALTIES = np.logspace(-3, 5, 25)  # of standardized features, for a sum over samples
_RATIOS = np.linspace(-10.0, 10.0, 81)  # decimal logarithms of α/β; standardized features have a scale of 1
_TINY = 1e-12
_COMPONENTS, _QUARTERS = 64, 4


def evenly_chosen(cases: Sequence[LabeledCase], max_count: int = MAX_CASES) -> list[LabeledCase]:
    """At most so many of the cases, evenly from all of them."""
    count = min(len(cases), max_count)
    return [cases[i * len(cases) // count] for i in range(count)]


@dataclass(frozen=True)
class Trial:
    """A few steps of both arms on the same samples: mean loss over their second half."""

    pretrained: float
    scratch: float


@dataclass(frozen=True)
class Candidate:
    """A pretraining and a task's training cases, before any fine-tuning; nothing is computed before it is asked for.

    Attributes:
        weights: The pretrained encoders, from `encoders.encoder_weights`.
        pretraining: The same encoder's features (cases, channels) of cases that it was pretrained on, of the sequences
            that the task has; None where these cases are not at hand.
    """

    config: FinetuneConfig
    cases: Sequence[LabeledCase]
    weights: Mapping[str, Tensor]
    pretraining: np.ndarray | None = None

    @cached_property
    def patches(self) -> list[PatchTable]:
        """What the pretrained encoder makes of the cases, then what random encoders make of them."""
        spec = self.config.model
        random = [pretrained_network(spec, None, _RANDOM_SEED + i) for i in range(RANDOM_ENCODERS)]
        networks = [pretrained_network(spec, self.weights, self.config.seed), *random]
        return patch_tables(networks, spec, self.cases, self.config.seed)

    @cached_property
    def trial(self) -> Trial:
        cases = {case.case.id: case for case in self.cases}
        split = replace(self.config.split, train=tuple(cases), validation=(), test=())
        schedule = replace(self.config.schedule, steps=TRIAL_STEPS, checkpoint_every=TRIAL_STEPS, patience=None)
        config = replace(self.config, split=split, schedule=schedule, measure_every=1)
        losses = {}
        for arm in Arm:
            init = Initialization(self.weights) if arm is Arm.PRETRAINED else None
            with tempfile.TemporaryDirectory() as folder:
                run = finetune(config, LabeledDataset(split, cases), Path(folder), init=init)
            losses[arm] = float(np.mean([entry["loss"] for entry in run.history[TRIAL_STEPS // 2 :]]))
        return Trial(losses[Arm.PRETRAINED], losses[Arm.SCRATCH])

    @cached_property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(p.numel() for p in pretrained_network(self.config.model, None).parameters())


def probe(candidate: Candidate) -> float:
    """Share of the target's variance that a linear probe explains, pretrained minus random."""
    return _over_random(candidate, lambda table: explained_share(table.features, table.target, table.cases))


def logme(candidate: Candidate) -> float:
    """Log evidence per sample, pretrained minus random."""
    return _over_random(candidate, lambda table: log_maximum_evidence(table.features, table.target))


def gbc(candidate: Candidate) -> float:
    """How far the features of classes lie apart, pretrained minus random."""
    return _over_random(candidate, lambda table: bhattacharyya_separation(table.features, quartiles(table.target)))


def _over_random(candidate: Candidate, measure: Callable[[PatchTable], float]) -> float:
    if len(candidate.cases) < MIN_CASES:
        return math.nan
    pretrained, *random = (measure(table) for table in candidate.patches)
    # A mean of differences is 0 where all are equal; a mean of equal numbers is not always that number.
    found = float(np.mean([pretrained - other for other in random]))
    return found if math.isfinite(found) else math.nan


def few_steps(candidate: Candidate) -> float:
    """Percent by which the loss of a few steps is lower; `nan` of a network that is too large to try on a CPU."""
    if candidate.parameters > MAX_TRIAL_PARAMETERS:
        return math.nan
    trial = candidate.trial
    return 100 * (trial.scratch - trial.pretrained) / abs(trial.scratch) if trial.scratch else math.nan


def nearness(candidate: Candidate) -> float:
    """Minus the distance of the task's cases from pretraining's; `nan` where pretraining's are not at hand."""
    if candidate.pretraining is None or min(len(candidate.pretraining), len(candidate.cases)) < MIN_CASES:
        return math.nan
    spec = candidate.config.model
    network = pretrained_network(spec, candidate.weights)
    cases = (seen for case in candidate.cases for seen in feature_cases([case], spec))  # one at a time in memory
    return -unpaired_mmd2(encoder_features(network, spec, cases)[ENCODER], candidate.pretraining)


Estimator = Callable[[Candidate], float]
ESTIMATORS: dict[str, Estimator] = {
    "probe": probe,
    "logme": logme,
    "gbc": gbc,
    "few-steps": few_steps,
    "nearness": nearness,
}


def estimate(candidate: Candidate, encoder: str) -> tuple[EstimateRow, ...]:
    """The value of every estimator, and the time that it took."""
    rows = []
    for name, estimator in ESTIMATORS.items():
        began = time.process_time()
        value = float(estimator(candidate))
        rows.append(EstimateRow(encoder, str(candidate.config.model.task), name, value, time.process_time() - began))
    return tuple(rows)


class _GcvRidge(RegressorMixin, BaseEstimator):
    """Ridge regression whose penalty is chosen by generalized cross-validation.

    scikit-learn's `RidgeCV` chooses it by leave-one-out errors, which would give other numbers than those published
    with the study.
    """

    def fit(self, features: np.ndarray, target: np.ndarray) -> _GcvRidge:
        left, singular, _ = np.linalg.svd(features, full_matrices=False)
        centered = target - target.mean()
        projected = left.T @ centered
        rest = max(float(centered @ centered - projected @ projected), 0.0)

        def criterion(penalty: float) -> float:
            """The residual over the squared share of freedom that is left; the mean takes one."""
            shrunk = penalty / (singular**2 + penalty)
            residual = float(((shrunk * projected) ** 2).sum()) + rest
            return residual / max(len(target) - float((1 - shrunk).sum()) - 1, _TINY) ** 2

        self.ridge_ = Ridge(min(_PENALTIES, key=criterion), solver="svd").fit(features, target)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self.ridge_.predict(features))


def explained_share(features: np.ndarray, target: np.ndarray, groups: np.ndarray, folds: int = FOLDS) -> float:
    """Share of a target's variance that a linear probe predicts in groups it was not fitted on; below 0 it misleads.

    Ridge regression: Hoerl and Kennard, Technometrics 12 (1970); its penalty by generalized cross-validation: Golub,
    Heath and Wahba, Technometrics 21 (1979). Features are (samples, channels); `groups` is the case of each sample, of
    which there are two or more; a case is never on both sides of the at most `folds` parts.
    """
    cases, number = np.unique(groups, return_inverse=True)
    if len(cases) < 2:
        raise ValueError("A probe must see two or more cases, so that it can be tried on one it has not seen.")
    y = np.asarray(target, np.float64)
    if float(((y - y.mean()) ** 2).sum()) <= _TINY * max(float((y**2).sum()), 1.0):
        return 0.0  # there is nothing to explain
    split = PredefinedSplit(number % min(folds, len(cases)))
    ridge = make_pipeline(StandardScaler(), _GcvRidge())
    return float(r2_score(y, cross_val_predict(ridge, np.asarray(features, np.float64), y, cv=split)))


def log_maximum_evidence(features: np.ndarray, targets: np.ndarray) -> float:
    """LogME: the largest log evidence per sample of a Bayesian linear model, mean over the targets.

    The model is y = F w + noise, w ~ N(0, 1/α), noise ~ N(0, 1/β); the evidence p(y | F, α, β) is maximized over both.
    For each ratio α/β the best β is known, so that one number is left to search, over a range that holds the paper's
    fixed point. Features and targets are standardized first, so that the number does not depend on their units, and the
    mean that this takes is counted as one sample less. That is ours; the paper takes them as they are.
    """
    x, y = _standardized(features), _standardized(targets)
    if len(x) != len(y) or len(x) < MIN_CASES:
        raise ValueError(f"Features and targets must be of the same three or more samples, got {len(x)} and {len(y)}.")
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    there = singular > _TINY * max(len(x), x.shape[1]) * max(float(singular.max()), 1.0)
    spectrum, basis = singular[there] ** 2, left[:, there]
    return float(np.mean([_evidence(spectrum, basis.T @ column, column) for column in y.T]))


def bhattacharyya_separation(features: np.ndarray, classes: np.ndarray) -> float:
    """GBC: minus the sum of the Bhattacharyya coefficients of each two classes, 0 at best; `nan` of fewer than two.

    Each class is a spherical Gaussian in the first 64 principal components, as in the paper; features are standardized
    first, which is ours. A class of a single sample has no spread and is left out.
    """
    x = _standardized(features)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    reduced = (left * singular)[:, :_COMPONENTS]
    parts = [reduced[classes == one] for one in np.unique(classes)]
    known = [(part.mean(axis=0), max(float(part.var(axis=0).mean()), _TINY)) for part in parts if len(part) > 1]
    if len(known) < 2:
        return math.nan
    total = 0.0
    for (first, spread), (second, other) in permutations(known, 2):
        shared = (spread + other) / 2
        distance = float(((first - second) ** 2).sum()) / (8 * shared)
        distance += 0.5 * reduced.shape[1] * math.log(shared / math.sqrt(spread * other))
        total += math.exp(-distance)
    return -total


def quartiles(target: np.ndarray) -> np.ndarray:
    """Classes of a target, which GBC needs: its values where they are four or fewer, else its quarters; ours."""
    values = np.unique(target)
    if len(values) <= _QUARTERS:
        return np.searchsorted(values, target)
    edges = np.unique(np.quantile(target, np.linspace(0, 1, _QUARTERS + 1)[1:-1]))
    found = np.searchsorted(edges, target)
    # Where most have the highest value, those are a class of their own.
    return found if len(np.unique(found)) > 1 else np.searchsorted(edges, target, side="right")


def _standardized(values: np.ndarray) -> np.ndarray:
    """Columns (samples, k) with mean 0 and deviation 1; a constant column becomes 0."""
    array = np.asarray(values, np.float64)
    return np.asarray(StandardScaler().fit_transform(array[:, None] if array.ndim == 1 else array))


def _evidence(spectrum: np.ndarray, projected: np.ndarray, target: np.ndarray) -> float:
    """Of squared singular values of the features, and the target in the basis of the left singular vectors."""
    freedom = len(target) - 1
    length2 = max(float(target @ target), _TINY)

    def negative(log_ratio: float) -> float:
        """The paper's equation 2 at α/β, with the best β: freedom / (y' (F F' β/α + 1)^-1 y)."""
        shrunk = spectrum / (spectrum + 10.0**log_ratio)
        unexplained = max(length2 - float(shrunk @ projected**2), _TINY * length2)
        log_determinant = -float(np.log1p(-shrunk).sum())
        return 0.5 * (freedom * math.log(2 * math.pi * math.e * unexplained / freedom) + log_determinant)

    best = _RATIOS[int(np.argmin([negative(ratio) for ratio in _RATIOS]))]
    step = _RATIOS[1] - _RATIOS[0]
    found = optimize.minimize_scalar(negative, bounds=(best - step, best + step), method="bounded")
    return -min(float(found.fun), negative(best)) / freedom


def _candidate(
    bundle: Bundle, seen: Sequence[LabeledCase], config: FinetuneConfig, cases: Sequence[LabeledCase]
) -> Candidate:
    """A pretraining before a fine-tuning, with features of cases that it has seen in the sequences of the network."""
    weights, own = bundle_encoder_weights(bundle), bundle.spec
    if own.task is None:  # an encoder alone; the task decides whose grid its input lies on
        own = replace(own, task=lesion_task().id)
    network = pretrained_network(own, weights)
    features = encoder_features(network, own, feature_cases(seen, own))[ENCODER]
    # One encoder with the network is shared.
    return Candidate(config, cases, weights, family_of(own).features_for(features, own, config.model))


def try_estimators(
    folder: Path, output: Path | None = None, *, resume: bool = False, on_progress: OnProgress | None = None
) -> tuple[ForecastRow, ...]:
    """Estimate every encoder and task of a study, judge the estimators, and write both tables.

    A study that is still being run may be estimated before its runs are done: the judgment takes those that are.

    Args:
        folder: The study, with its `work` folder.
        output: Where `estimates.csv` and `forecast.csv` go; by default beside the study's tables.
        resume: Keep estimates that are in `output` already.

    Returns:
        How well the estimators order its gains; empty where too few tasks are done.

    Raises:
        ConfigError: The folder holds no study's configuration.
        DatasetError: A table cannot be understood.
        BundleError: A pretraining is missing.
        OutputError: The output cannot be written.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"A study's folder must hold {CONFIG}, but '{folder.name}' does not. Run the study first.")
    config, workspace = read_config(folder / CONFIG), Workspace(folder.absolute())
    target = output or folder
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    summary = summarize(read_tables(folder)) if (folder / RUNS).is_file() else ()
    estimates = list(read_rows_if_any(target / ESTIMATES, EstimateRow)) if resume else []
    kept = {(row.encoder, row.task) for row in estimates}
    pairs = [
        (run, task)
        for task in config.tasks
        for run in planned_runs(config)
        if (run.task, run.seed, run.labelled_cases) == (task, config.seeds[0], 0)
        and run.needs is not None
        and (run.label, task) not in kept
    ]
    for number, (run, task) in enumerate(pairs):
        phantoms = phantoms_of_pretraining(config, run, workspace, max_count=PHANTOM_COUNT)
        seen = tuple(lesion_task().from_phantom(phantom.read()) for phantom in phantoms)
        cases = evenly_chosen(training_cases(config, task, workspace))
        candidate = _candidate(read_bundle(workspace.pretrained(run.label)), seen, training_config(run, config), cases)
        estimates += estimate(candidate, run.label)
        if on_progress is not None:
            on_progress(f"{run.label}, {task}", (number + 1) / len(pairs))
        write_forecast(estimates, judge(points_of(estimates, summary)), target)
    forecasts = judge(points_of(estimates, summary))
    write_forecast(estimates, forecasts, target)
    return forecasts
