"""One run of a study, from its settings and cases to its rows: a training, a baseline, or an encoder's pretraining.

All that a run leaves lies in the workspace and appears whole or not at all, so that it may be stopped at any moment, on
any machine, and resumes from its last checkpoint.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..bundles.bundle import read_bundle
from ..bundles.weights import bundle_encoder_weights
from ..core.errors import DatasetError, DivergedError
from ..core.files import write_file
from ..core.result import Result
from ..core.terms import OnProgress
from ..encoders import build_network, find_family
from ..encoders.base import ModelSpec
from ..encoders.pretext import pretext_task
from ..encoders.weights import load_encoder
from ..tasks import TASKS, Scores, score_results
from ..tasks.base import LabeledCase, Method
from ..training.config import PRETRAINING_RATE, TrainConfig
from ..training.finetune import (
    FinetuneConfig,
    Initialization,
    averaged_network,
    finetune,
    network_to_train,
    results_of,
)
from ..training.loop import Run, checkpoint_folder
from ..training.pretrain import PretrainConfig, pretrain, write_pretrained
from .config import REAL, RunKey, StudyConfig, resized, split_arm
from .examples import write_examples
from .features import distance_rows, encoder_features, feature_cases
from .tables import CandidateRow, CurveRow, DistanceRow, MetricRow, RunResult, RunRow, write_result
from .workspace import Workspace, phantoms_of_pretraining, real_cases, run_cases, shared_test_cases, split_of_run

_DIVERGED = "diverged.txt"
SCORE = "score"  # the primary measure in a training's history
# Stochastic depth draws from the process's own random state, so that a process trains one network at a time.
_ONE_AT_A_TIME = threading.Lock()


def run_one(
    run: RunKey, config: StudyConfig, workspace: Workspace, on_progress: OnProgress | None = None
) -> RunResult | None:
    """Do one run, or resume it where it was stopped, and write its result; the pretraining that it needs must be done.

    A pretraining has no result but its bundle. What `on_progress` raises stops the run.

    Raises:
        BundleError: The pretraining is missing.
        DatasetError: A case lacks what its task needs.
        OutputError: The folder cannot be written.
    """
    report = on_progress or (lambda _line, _share: None)
    with _ONE_AT_A_TIME:
        torch.set_num_threads(1)
        if run.is_pretraining:
            _pretrain(run, config, workspace, report)
            return None
        result = _train_and_measure(run, config, workspace, report)
        write_result(result, workspace)
        return result


def _train_and_measure(run: RunKey, config: StudyConfig, workspace: Workspace, report: OnProgress) -> RunResult:
    """A training or a baseline: its results on the test phantoms and, apart from them, on real cases."""
    task = run.task
    cases = run_cases(run, config, workspace, report)
    test, real = cases.select(cases.split.test), [] if run.labelled_cases else real_cases(config, task, workspace)
    training: Run | None = None
    distances: list[DistanceRow] = []
    results: Callable[[Iterable[LabeledCase]], Iterator[tuple[Result, LabeledCase]]]
    if run.is_trained:
        spec = training_config(run, config).model
        training = trained_run(run, config, workspace, report)
        network = averaged_network(training, spec)
        report("measuring", 1.0)
        results = partial(results_of, network, spec)
        if run.needs is not None and not run.labelled_cases:  # how far features moved on the same cases for all tasks
            shared = feature_cases(shared_test_cases(config, task, workspace), spec)
            before = build_network(spec)
            load_encoder(before, spec, bundle_encoder_weights(read_bundle(workspace.pretrained(run.label))))
            first, last = (encoder_features(each, spec, shared) for each in (before.eval(), network))
            distances = distance_rows(first, last, run.label, task, run.seed)
    else:
        method = TASKS[task].methods().get(run.encoder)
        baseline = method or TASKS[task].naive_baseline(cases.select(cases.split.train))
        results = partial(_results_by, baseline)
    on_test: Iterable[tuple[Result, LabeledCase]] = results(test)  # one by one, so that no memory is taken by many
    on_real = list(results(real))
    if run.seed == config.seeds[0] and not run.labelled_cases:
        on_test = list(on_test)
        shown = [(result, case) for result, case in on_real if case.case.id in config.shown]
        write_examples(workspace.folder, run.label, split_arm(run.arm)[0], [*on_test, *shown])
    scores = score_results(task, on_test)
    measured = [(scores, "real" if run.trained_on == REAL else "phantom")]
    if on_real:
        measured.append((score_results(task, on_real), "real"))
    row, curve = _row_and_curve(run, config, scores, training)
    return RunResult(
        run,
        replace(row, diverged=len(list(workspace.training(run.name).glob(f"*/{_DIVERGED}")))),
        tuple(case.case.id for _, case in on_real),
        tuple(found for each, data in measured for found in _metric_rows(run, each, data)),
        curve,
        tuple(distances),
        tuple(found for each, data in measured for found in _candidate_rows(run, each, data)),
    )


def _results_by(method: Method, cases: Iterable[LabeledCase]) -> Iterator[tuple[Result, LabeledCase]]:
    return ((method(case), case) for case in cases)


def _row_and_curve(
    run: RunKey, config: StudyConfig, scores: Scores, training: Run | None
) -> tuple[RunRow, tuple[CurveRow, ...]]:
    task, steps, seconds = TASKS[run.task], 0, 0.0
    curve: list[tuple[int, float]] = []
    rate = encoder_rate = 0.0
    if training is not None:
        if config.tasks[run.task].fit[run.family].rates:
            rate = training.config.learning_rate
            encoder_rate = training.config.encoder_learning_rate or rate
        steps, seconds = training.step, round(training.seconds, 3)
        curve = [(int(point["step"]), float(point[SCORE])) for point in training.history if SCORE in point]
    sign = -1 if task.higher_is_better else 1
    row = RunRow(
        *run.columns,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        value=float(scores.primary),
        steps=steps,
        # The first of equally good ones; all steps where no validation value is defined.
        steps_to_best=min(((sign * value, step) for step, value in curve), default=(0.0, steps))[1],
        device_seconds=seconds,
        n_test_cases=sum(task.metric in case.values for case in scores.cases) or len(scores.cases),
        ended="" if training is None else training.ended,
        **run.size,
        learning_rate=rate,
        encoder_learning_rate=encoder_rate,
    )
    return row, tuple(CurveRow(*run.columns, step, value, **run.size) for step, value in curve)


def _metric_rows(run: RunKey, scores: Scores, data: str) -> tuple[MetricRow, ...]:
    """Every finite number of every case, then those statistics of all cases together that no case has."""
    numbers: list[tuple[str, str, float]] = []
    for case in scores.cases:
        values = (*case.values.items(), *TASKS[scores.task].tabled(case).items())
        numbers += [(case.case_id, name, value) for name, value in values]
    in_cases = {name for case in scores.cases for name in case.values}
    numbers += [("", name, value) for name, value in scores.cohort.items() if name not in in_cases]
    return tuple(
        MetricRow(*run.columns, data, case, name, float(value), **run.size)
        for case, name, value in numbers
        if math.isfinite(value)
    )


def trained_run(run: RunKey, config: StudyConfig, workspace: Workspace, on_progress: OnProgress | None = None) -> Run:
    """The training of a run: from its checkpoint, if there is one, to its end.

    Of several rates all are trained, and the training whose validation score is best at its end is returned, the first
    of equally good ones; rates that diverge are left out. CheckpointError where a checkpoint is damaged, or of other
    settings; DivergedError where all rates diverge.
    """
    settings = training_configs(run, config)
    folder = workspace.training(run.name)
    if len(settings) == 1:
        return _trained(settings[0], run, config, workspace, folder, on_progress)
    trainings: list[Run] = []
    for number, one in enumerate(settings, start=1):
        mark = folder / f"rate-{number}" / _DIVERGED
        if mark.is_file():
            continue
        report = None if on_progress is None else _part_of(on_progress, number, len(settings))
        try:
            trainings.append(_trained(one, run, config, workspace, mark.parent, report))
        except DivergedError as error:
            write_file(mark, str(error))  # so that no resumed study trains it again
    if not trainings:
        raise DivergedError(f"{run.title} diverged at each of its rates. State lower ones.")
    best = max(trainings, key=lambda one: _validated(one, TASKS[run.task].higher_is_better))
    if _validated(best, TASKS[run.task].higher_is_better) == -math.inf:
        raise DatasetError(
            f"The rates of {run.task} are chosen by the validation score, but none is defined: the validation phantoms "
            "must show what is scored, as a cancer, or both classes. Use more of them."
        )
    return best


def _candidate_rows(run: RunKey, scores: Scores, data: str) -> tuple[CandidateRow, ...]:
    return tuple(
        CandidateRow(*run.columns, data, case.case_id, found.confidence, found.is_hit, **run.size)
        for case in scores.cases
        for found in case.candidates
    )


def _part_of(on_progress: OnProgress, number: int, count: int) -> OnProgress:
    """The progress of one of several trainings as a part of all."""
    return lambda line, share: on_progress(f"rate {number} of {count}, {line}", (number - 1 + share) / count)


def _validated(training: Run, higher_is_better: bool) -> float:
    """The validation score at the end of a training, larger is better; the least there is where it has none."""
    value = float(training.history[-1].get(SCORE, math.nan)) if training.history else math.nan
    return -math.inf if math.isnan(value) else value if higher_is_better else -value


def _trained(
    settings: FinetuneConfig,
    run: RunKey,
    config: StudyConfig,
    workspace: Workspace,
    folder: Path,
    on_progress: OnProgress | None,
) -> Run:
    """A run's training by some settings, in a folder."""
    init = None if run.needs is None else Initialization.from_bundle(read_bundle(workspace.pretrained(run.label)))
    cases = run_cases(run, config, workspace, on_progress)
    return finetune(settings, cases, folder, init=init, prepared=workspace.prepared, on_progress=on_progress)


def _pretrain(run: RunKey, config: StudyConfig, workspace: Workspace, report: OnProgress) -> None:
    settings, folder = config.encoders[run.encoder].named[run.pretraining], workspace.pretrained(run.label)
    pretext = pretext_task(settings.objective, pretraining_spec(run.encoder, config))
    train = TrainConfig(
        steps=settings.steps,
        seed=settings.seed,
        precision=settings.precision,
        learning_rate=settings.learning_rate or PRETRAINING_RATE,
    )
    how = PretrainConfig(pretext, train)
    phantoms = phantoms_of_pretraining(config, run, workspace, report, tissue_maps=pretext.needs_maps)
    training = pretrain(how, phantoms, checkpoint_folder(folder), prepared=workspace.prepared, on_progress=report)
    write_pretrained(how, training, folder, data=f"{len(phantoms)} phantoms", cases=phantoms, license="Apache-2.0")


def training_configs(run: RunKey, config: StudyConfig) -> tuple[FinetuneConfig, ...]:
    """How a run's network is trained, at each of its rates; the same for both arms of an encoder, task, seed and number
    of cases.
    """
    task, family = run.task, run.family
    fit = config.tasks[task].fit.get(family)
    if fit is None:
        raise ValueError(f"The study must train {family} on {task}, but does not.")
    split, every = split_of_run(run, config), max(fit.steps // config.measurements, 1)
    found = []
    model, baseline = resized(network_to_train(family, task), config.encoders[family].size), run.baseline
    model = model if baseline is None else baseline.matched_baseline(model)
    for rates in fit.tried:
        train = TrainConfig(
            steps=fit.steps,
            seed=run.seed,
            batch=fit.batch,
            precision=fit.precision,
            patience=fit.patience,
            encoder_learning_rate=rates.encoder_learning_rate,
            measure_every=every,
            checkpoint_every=every,  # so much may be lost where a worker dies
        )
        train = train if rates.learning_rate is None else replace(train, learning_rate=rates.learning_rate)
        found.append(FinetuneConfig(model, split, train))
    return tuple(found)


def training_config(run: RunKey, config: StudyConfig) -> FinetuneConfig:
    """How a run's network is trained, at the first of its rates."""
    return training_configs(run, config)[0]


def pretraining_spec(encoder: str, config: StudyConfig) -> ModelSpec:
    """The network that an encoder's pretraining trains."""
    spec = find_family(encoder).pretraining_network()
    if spec is None:
        raise ValueError(f"{encoder} must be an encoder that is pretrained, but is a baseline.")
    return resized(spec, config.encoders[encoder].size)
