"""One run of a study, from its settings and cases to its rows: a training, a baseline, or an encoder's pretraining.

All that a run leaves lies in the workspace and appears whole or not at all, so that it may be stopped at any moment, on
any machine, and resumes from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..bundles.bundle import read_bundle
from ..bundles.weights import bundle_encoder_weights
from ..core import __version__
from ..core.decoding import to_json
from ..core.errors import ConfigError, DatasetError, DivergedError
from ..core.files import write_file
from ..core.result import Result
from ..core.terms import OnProgress
from ..encoders import build_network, find_family
from ..encoders.base import ModelSpec
from ..encoders.pretext import pretext_task
from ..encoders.weights import load_encoder
from ..phantom import VERSION
from ..tasks import TASKS, Scores, score_results
from ..tasks.base import LabeledCase, Method
from ..tasks.training import Objective
from ..training.cases import Split
from ..training.config import PRETRAINING_RATE, TrainConfig
from ..training.finetune import (
    FinetuneConfig,
    Initialization,
    averaged_network,
    finetune,
    network_to_train,
    results_of,
    start_run,
)
from ..training.loop import CHECKPOINT, Run, checkpoint_folder, read_checkpoint
from ..training.pretrain import PretrainConfig, pretrain, write_pretrained
from .config import REAL, RunKey, StudyConfig, planned_runs, resized, split_arm
from .examples import write_examples
from .features import distance_rows, encoder_features, feature_cases
from .tables import CandidateRow, CurveRow, DistanceRow, MetricRow, RunResult, RunRow, read_result, write_result
from .workspace import Workspace, phantoms_of_pretraining, real_cases, run_cases, shared_test_cases, split_of_run

_STAMP = "config.sha256"
_CASES = "cases.sha256"  # beside it, where real cases train
_DIVERGED = "diverged.txt"
SCORE = "score"  # the primary measure in a training's history
# Stochastic depth draws from the process's own random state, so that a process trains one network at a time.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class TrainedStudy:
    """A study whose finished trainings another one measures on test cases of its own; nothing of it is changed."""

    config: StudyConfig
    workspace: Workspace

    def require(self, run: RunKey, config: StudyConfig) -> None:
        """Require the finished training of a run, made as a configuration states it.

        Raises:
            ConfigError: It states another training; test phantoms and real cases that only test may differ.
            DatasetError: It is not finished here, or its checkpoint is missing.
        """
        name = self.workspace.folder.name
        sha256 = run_sha256(run, self.config) if run in planned_runs(self.config) else None
        if sha256 is None or run_sha256(run, _with_tests_of(config, self.config)) != sha256:
            raise ConfigError(
                f"The training of '{run.title}' must be configured as in '{name}', but for test phantoms and real "
                f"cases, but is not. Start from {name}/config.yaml."
            )
        found = read_result(self.workspace, run)
        folders = [self.workspace.training(one) for one in _training_names(run, training_configs(run, self.config))]
        if found is None or found.config_sha256 != sha256 or not all(_is_finished(one, sha256) for one in folders):
            raise DatasetError(
                f"'{name}' must hold the finished training of '{run.title}' in its work folder, but does not. Finish "
                "it there with --resume, or leave it out with --only."
            )

    def training(self, run: RunKey, config: StudyConfig) -> Run:
        """The finished training of a run; errors as of `require`."""
        self.require(run, config)
        return trained_run(run, self.config, self.workspace)


def _is_finished(folder: Path, sha256: str) -> bool:
    """Whether a folder holds a training of some settings: its result is written when it has ended."""
    stamp = folder / _STAMP
    return (
        any((folder / name).is_file() for name in (CHECKPOINT, _DIVERGED))
        and stamp.is_file()
        and stamp.read_text(encoding="utf-8") == sha256
    )


def _with_tests_of(config: StudyConfig, other: StudyConfig) -> StudyConfig:
    """A configuration with the test phantoms of another one."""
    tasks = dict(config.tasks)
    for task, settings in tasks.items():
        theirs = other.tasks[task].phantoms if task in other.tasks else None
        if settings.phantoms is not None and theirs is not None:
            tasks[task] = replace(settings, phantoms=replace(settings.phantoms, test=theirs.test))
    return replace(config, phantoms=replace(config.phantoms, test=other.phantoms.test), tasks=tasks)


def run_one(
    run: RunKey,
    config: StudyConfig,
    workspace: Workspace,
    on_progress: OnProgress | None = None,
    networks: TrainedStudy | None = None,
) -> RunResult:
    """Do one run, or resume it where it was stopped, and write its result; the pretraining that it needs must be done.

    With `networks` their training is measured instead. What `on_progress` raises stops the run. BundleError if the
    pretraining is missing, DatasetError if a case lacks what its task needs, OutputError if the folder cannot be
    written, ConfigError and DatasetError of `TrainedStudy.require`.
    """
    report = on_progress or (lambda _line, _share: None)
    with _ONE_AT_A_TIME:
        torch.set_num_threads(1)
        if run.is_pretraining:
            result = _pretrain(run, config, workspace, report)
        else:
            result = _train_and_measure(run, config, workspace, report, networks)
        write_result(result, workspace)
        return result


def _train_and_measure(
    run: RunKey, config: StudyConfig, workspace: Workspace, report: OnProgress, networks: TrainedStudy | None
) -> RunResult:
    """A training or a baseline: its results on the test phantoms and, apart from them, on real cases."""
    task, is_measured_only = run.task, networks is not None and run.is_trained
    cases = run_cases(run, config, workspace, report, only_test=is_measured_only)
    real_sha256 = _real_sha256s(run, config, workspace, cases.split)  # before they are read: a later change is noticed
    test, real = cases.select(cases.split.test), [] if run.labelled_cases else real_cases(config, task, workspace)
    training: Run | None = None
    distances: list[DistanceRow] = []
    results: Callable[[Iterable[LabeledCase]], Iterator[tuple[Result, LabeledCase]]]
    if run.is_trained:
        spec = training_config(run, config).model
        training = trained_run(run, config, workspace, report) if networks is None else networks.training(run, config)
        network = averaged_network(training, spec)
        report("measuring", 1.0)
        results = partial(results_of, network, spec)
        if run.needs is not None and not run.labelled_cases:  # how far features moved on the same cases for all tasks
            shared = feature_cases(shared_test_cases(config, task, workspace), spec)
            before = build_network(spec)
            start = (workspace if networks is None else networks.workspace).pretrained(run.label)
            load_encoder(before, spec, bundle_encoder_weights(read_bundle(start)))
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
    if run.is_trained:
        row = replace(row, diverged=_diverged(run, config, workspace if networks is None else networks.workspace))
    return RunResult(
        run,
        row.config_sha256,
        tuple(case.case.id for _, case in on_real),
        config.real.masks if on_real and config.real is not None else "",
        row.device_seconds,
        row,
        tuple(found for each, data in measured for found in _metric_rows(run, each, data)),
        curve,
        tuple(distances),
        tuple(found for each, data in measured for found in _candidate_rows(run, each, data)),
        real_sha256,
    )


def _real_sha256s(run: RunKey, config: StudyConfig, workspace: Workspace, split: Split) -> dict[str, str]:
    """The checksum of each real case that trains or tests a run of a split."""
    if run.trained_on == REAL:
        names: Iterable[str] = (*split.train, *split.test)
    else:
        names = () if run.labelled_cases or workspace.real is None else config.real_of(run.task)
    return {name: workspace.real_sha256(name) for name in names}


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
        config_sha256=run_sha256(run, config),
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
    of equally good ones; rates that diverge are left out, and it is a DivergedError where all do. One that is finished
    is read as it is, since its settings and the library's version are stamped. A checkpoint of other settings, or of
    real cases whose files have changed since, is removed; one that is damaged is a CheckpointError and kept, since it
    may be the work of days. If another version of the library trained in this workspace, it is an OutputError.
    """
    workspace.require_library()
    settings = training_configs(run, config)
    if len(settings) == 1:
        return _trained(settings[0], run, config, workspace, run.name, on_progress)
    trainings: dict[str, Run] = {}
    diverged, trained_on = "", _training_cases(run, config, workspace)
    for number, (one, name) in enumerate(zip(settings, _training_names(run, settings), strict=True), start=1):
        report = None if on_progress is None else _part_of(on_progress, number, len(settings))
        mark = workspace.training(name) / _DIVERGED
        _require_stamp(mark.parent, run_sha256(run, config), trained_on)
        if not mark.is_file():
            try:
                trainings[name] = _trained(one, run, config, workspace, name, report)
            except DivergedError as error:
                write_file(mark, str(error))  # so that no resumed study trains it again
        if mark.is_file():
            diverged = mark.read_text(encoding="utf-8")
    if not trainings:
        raise DivergedError(f"{run.title} must be trained with rates of which one does not diverge. {diverged}")
    scores = {name: _validated(one, TASKS[run.task].higher_is_better) for name, one in trainings.items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] == -math.inf:
        raise DatasetError(
            f"The rates of {run.task} are chosen by the validation score, but none is defined: the validation phantoms "
            "must show what is scored, as a cancer, or both classes. Use more of them."
        )
    return trainings[best]


def _training_names(run: RunKey, settings: Sequence[FinetuneConfig]) -> list[str]:
    """The folders of a run's trainings, one for each of its rates."""
    return [run.name] if len(settings) == 1 else [f"{run.name}.rate-{i}" for i in range(1, len(settings) + 1)]


def _diverged(run: RunKey, config: StudyConfig, workspace: Workspace) -> int:
    """How many of a run's rates diverged in its training in a workspace."""
    names = _training_names(run, training_configs(run, config))
    return sum((workspace.training(name) / _DIVERGED).is_file() for name in names)


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
    name: str,
    on_progress: OnProgress | None,
) -> Run:
    """A run's training by some settings, in the workspace under a name."""
    folder = workspace.training(name)
    _require_stamp(folder, run_sha256(run, config), _training_cases(run, config, workspace))
    path = folder / CHECKPOINT
    document = read_checkpoint(path) if path.exists() else {}
    if document.get("finished", document.get("step") == settings.train.steps):
        training = start_run(settings, build_network(settings.model), Objective(settings.model))
        training.resume(path, document["identity"])
        return training
    init = None
    if run.needs is not None:
        init = Initialization.from_bundle(read_bundle(workspace.pretrained(run.label)))
    cases = run_cases(run, config, workspace, on_progress)
    return finetune(settings, cases, folder, init=init, prepared=workspace.prepared, on_progress=on_progress)


def _pretrain(run: RunKey, config: StudyConfig, workspace: Workspace, report: OnProgress) -> RunResult:
    settings, sha256 = config.encoders[run.encoder].named[run.pretraining], run_sha256(run, config)
    folder = workspace.pretrained(run.label)
    work = checkpoint_folder(folder)
    _require_stamp(work, sha256)
    pretext = pretext_task(settings.objective, pretraining_spec(run.encoder, config))
    train = TrainConfig(
        steps=settings.steps,
        seed=settings.seed,
        precision=settings.precision,
        learning_rate=settings.learning_rate or PRETRAINING_RATE,
    )
    how = PretrainConfig(pretext, train)
    phantoms = phantoms_of_pretraining(config, run, workspace, report, tissue_maps=pretext.needs_maps)
    training = pretrain(how, phantoms, work, prepared=workspace.prepared, on_progress=report)
    bundle = write_pretrained(
        how, training, folder, data=f"{len(phantoms)} phantoms", cases=phantoms, license="Apache-2.0"
    )
    return RunResult(run, sha256, seconds=bundle.training["seconds"])


def _training_cases(run: RunKey, config: StudyConfig, workspace: Workspace) -> str:
    """What identifies the files of the real cases that train a run; empty where none does, or they are not at hand, as
    of a finished training that another study measures.
    """
    if run.trained_on != REAL or workspace.real is None:
        return ""
    return "\n".join(f"{workspace.real_sha256(name)}  {name}" for name in split_of_run(run, config).train)


def _require_stamp(folder: Path, sha256: str, cases: str = "") -> None:
    """Empty a training's folder that is of other settings, or of other files of the real cases that train it."""
    stamp, of_cases = folder / _STAMP, folder / _CASES
    is_of_others = bool(cases) and of_cases.is_file() and of_cases.read_text(encoding="utf-8") != cases
    if is_of_others or not stamp.is_file() or stamp.read_text(encoding="utf-8") != sha256:
        shutil.rmtree(folder, ignore_errors=True)
        write_file(stamp, sha256)
    if cases and not of_cases.is_file():  # former trainings did not state them
        write_file(of_cases, cases)


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


def precision_of(run: RunKey, config: StudyConfig) -> str:
    """What a run trains in; empty of a baseline without training."""
    if run.is_pretraining:
        return config.encoders[run.encoder].named[run.pretraining].precision
    return config.tasks[run.task].fit[run.family].precision if run.is_trained else ""


def run_sha256(run: RunKey, config: StudyConfig) -> str:
    """Checksum of everything that decides what a run yields, but of no paths.

    That is every setting, whether or not it has its default, the cases, the pretraining, and the versions of library
    and phantoms.
    """
    document: dict[str, Any] = {"library": __version__, "phantom_version": VERSION}
    phantoms = to_json(config.phantoms)
    conditions = phantoms.pop("conditions")
    if conditions is not None:  # the checksums of studies of default phantoms stay
        document["conditions"] = conditions
    if run.is_pretraining:
        document["model"] = pretraining_spec(run.encoder, config)
        document["pretraining"] = config.encoders[run.encoder].named[run.pretraining]
        document["spacing_mm"] = config.phantoms.spacing_mm
    else:
        document |= {"run": run, "phantoms": phantoms, "around_gland_mm": config.around_gland_mm}
        document["own_phantoms"] = config.tasks[run.task].phantoms
        if run.trained_on == REAL and config.real is not None:
            document["masks"] = [config.real.gland, config.real.zones, config.real.lesion]
        if run.is_trained:
            first, *others = training_configs(run, config)
            document["training"] = [first, *others] if others else first
        if run.needs is not None:
            document["pretraining"] = run_sha256(run.needs, config)
    text = json.dumps(to_json(document), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
