"""How each cell of a study is trained, as its configuration says, and the checksum of all that decides it."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import nn

from ..bundles.bundle import Bundle, read_bundle
from ..core.errors import CheckpointError
from ..core.files import atomic_file, writing
from ..core.result import Result
from ..core.version import __version__
from ..encoders.base import ModelSpec
from ..encoders.demonstration import demonstration_encoder, demonstration_fusion
from ..encoders.dynunet.network import specialised_network
from ..encoders.network import build_network
from ..encoders.pretext import pretext_task
from ..encoders.weights import bundle_encoder_weights, load_encoder
from ..phantom import VERSION
from ..tasks import TASKS, lesion_task
from ..tasks.base import CaseScore, LabeledCase, Task
from ..tasks.scores import Scores, score_results
from ..tasks.training import Objective
from ..training.finetune import FinetuneConfig, Initialization, averaged_network, finetune, finetune_config
from ..training.loop import CHECKPOINT, Run, checkpoint_folder
from ..training.pretrain import pretrain, pretrain_config, write_pretrained
from ..training.validation import ValidationCases
from .cases import Place, common_studies, pretraining_set, real_studies, require_library, split_of, study_set
from .config import StudyConfig, resized
from .examples import write_examples
from .features import distance_rows, encoder_features, feature_cases
from .tables import (
    PRETRAINING,
    Cell,
    CellResult,
    CurveRow,
    DistanceRow,
    MetricRow,
    RunRow,
    pretraining,
    sha256_of,
    write_result,
)


def cell_config(cell: Cell, config: StudyConfig) -> FinetuneConfig:
    """How a cell's network is trained; the same for both arms of an encoder, task and seed.

    Args:
        cell: A cell in which a network is trained on a task.
        config: The study.
    """
    task, family = cell.task, cell.family
    fit = config.tasks[task].fit(family)
    if fit is None:
        raise ValueError(f"The study must train {family} on {task}, but does not.")
    split = split_of(config.groups_of(task))
    plain = finetune_config(family, task, split, steps=fit.steps, seed=cell.seed)
    rate = plain.schedule.learning_rate if fit.learning_rate is None else fit.learning_rate
    every = max(fit.steps // config.measurements, 1)  # so much may be lost where a worker dies
    return replace(
        plain,
        model=resized(plain.model, config.encoders[family].size),
        schedule=replace(plain.schedule, learning_rate=rate, precision=fit.precision, checkpoint_every=every),
        batch=plain.batch if fit.batch is None else fit.batch,
        measure_every=every,
        specialised=cell.arm == "specialised",
    )


def pretraining_spec(encoder: str, config: StudyConfig) -> ModelSpec:
    """The network that an encoder's pretraining trains."""
    is_masked = config.encoders[encoder].pretraining.objective == "mae"
    spec = demonstration_encoder() if is_masked else demonstration_fusion()
    return resized(spec, config.encoders[encoder].size)


def cell_sha256(cell: Cell, config: StudyConfig) -> str:
    """Checksum of everything that decides what a cell's training yields.

    That is every setting, whether or not it has its default, the cases, the pretraining, and the versions of library
    and phantoms; but no paths.
    """
    document: dict[str, Any] = {"library": __version__, "phantom_version": VERSION}
    if cell.arm == PRETRAINING:
        document["model"] = pretraining_spec(cell.encoder, config)
        document["pretraining"] = config.encoders[cell.encoder].pretraining
        document["spacing_mm"] = config.phantoms.spacing_mm
        return sha256_of(_as_json(document))
    document |= {"cell": cell, "phantoms": config.phantoms, "around_gland_mm": config.around_gland_mm}
    document["own_phantoms"] = config.tasks[cell.task].phantoms
    if cell.is_trained:
        document["training"] = cell_config(cell, config)
    if cell.arm == "pretrained":
        document["start"] = cell_sha256(pretraining(cell.encoder), config)
    return sha256_of(_as_json(document))


def _as_json(value: Any) -> Any:
    """Settings as JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value.value if isinstance(value, Enum) else value


# The rows of a study's tables that one cell gives: its scores, its learning curve, its distance to pretraining.

SCORE = "score"  # the primary measure in a run's history


@dataclass(frozen=True)
class Course:
    """How a cell's training went; of a baseline nothing.

    Attributes:
        steps: Steps trained.
        seconds: They took so long.
        history: What was measured on the way.
    """

    steps: int = 0
    seconds: float = 0.0
    history: Sequence[Mapping[str, float]] = ()


def run_row(cell: Cell, scores: Scores, course: Course, sha256: str) -> RunRow:
    """The cell's row in `runs.csv`."""
    task = TASKS[cell.task]
    counted = [case for case in scores.cases if task.metric in case.values]
    return RunRow(
        *(cell.encoder, cell.task, cell.arm, cell.seed),
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        value=float(scores.primary),
        steps=course.steps,
        steps_to_best=steps_to_best(course, task.higher_is_better),
        device_seconds=round(course.seconds, 3),
        n_test_cases=len(counted) or len(scores.cases),
        config_sha256=sha256,
    )


def steps_to_best(course: Course, higher_is_better: bool) -> int:
    """Step of the best validation value, the first of equal ones; all steps where no value could be told."""
    points = [(point[SCORE], int(point["step"])) for point in course.history if SCORE in point]
    if not points:
        return course.steps
    sign = -1 if higher_is_better else 1
    return min(points, key=lambda point: (sign * point[0], point[1]))[1]


def curve_rows(cell: Cell, course: Course) -> tuple[CurveRow, ...]:
    """The learning curve."""
    key = (cell.encoder, cell.task, cell.arm, cell.seed)
    return tuple(CurveRow(*key, int(point["step"]), float(point[SCORE])) for point in course.history if SCORE in point)


def metric_rows(cell: Cell, scores: Scores, data: str) -> tuple[MetricRow, ...]:
    """Every number of every case, then the statistics that belong to all cases together.

    Args:
        cell: The cell.
        scores: On phantoms or on real cases.
        data: `phantom` or `real`.
    """
    key = (cell.encoder, cell.task, cell.arm, cell.seed, data)
    task = TASKS[scores.task]
    of_cases = [(case.case_id, name, value) for case in scores.cases for name, value in _numbers(case, task)]
    in_cases = {name for case in scores.cases for name in case.values}
    together = [("", name, value) for name, value in scores.cohort.items() if name not in in_cases]
    rows: Iterable[tuple[str, str, float]] = of_cases + together
    return tuple(MetricRow(*key, case, name, float(value)) for case, name, value in rows if math.isfinite(value))


def _numbers(case: CaseScore, task: Task) -> Iterable[tuple[str, float]]:
    """A case's measures; of a classification also the answer and the truth, from which statistics can be made anew."""
    yield from case.values.items()
    yield from task.tabled(case).items()


# One cell of a study, from its cases to its rows: a training, a baseline, or a pretraining.
#
# All that it leaves lies in the study's folder and appears whole or not at all, so that a cell may be stopped at any
# moment, on any machine, and goes on from its last checkpoint.

OnProgress = Callable[[str, float], None]
Answers = Callable[[Iterable[LabeledCase]], Iterable[tuple[Result, LabeledCase]]]
Trained = TypeVar("Trained")
_STAMP = "config.sha256"
# Stochastic depth draws from the process's own source of chance, so that a process trains one network at a time.
_ONE_AT_A_TIME = threading.Lock()


def run_cell(cell: Cell, config: StudyConfig, place: Place, on_progress: OnProgress | None = None) -> CellResult:
    """Run one cell, or go on where it was stopped, and write its result.

    Args:
        cell: The cell; the pretraining that it needs must be done.
        config: The study.
        place: Where the study lies.
        on_progress: Told what is done and which part of the cell; what it raises stops the cell.

    Raises:
        BundleError: The pretraining is missing.
        DatasetError: A case lacks what its task needs.
        OutputError: The folder cannot be written.
    """
    with _ONE_AT_A_TIME:
        torch.set_num_threads(1)
        tell = on_progress or (lambda _line, _part: None)
        if cell.arm == PRETRAINING:
            result = _pretrained(cell, config, place, tell)
        elif cell.is_trained:
            result = _trained(cell, config, place, tell)
        else:
            result = _baseline(cell, config, place, tell)
        write_result(result, place.folder)
        return result


def work_folder(cell: Cell, place: Place) -> Path:
    """Where a cell keeps its checkpoint, and after the last step its weights."""
    return place.work / "cells" / cell.name


def bundle_folder(encoder: str, place: Place) -> Path:
    """The bundle of an encoder's pretraining."""
    return place.work / "pretrained" / encoder


def trained_run(cell: Cell, config: StudyConfig, place: Place, on_progress: OnProgress | None = None) -> Run:
    """The training of a cell: from its checkpoint, if it is there, on to its end.

    One that is finished is taken as it is, since its settings and the library's version are stamped. A checkpoint of
    other settings, or one that is damaged, is removed.

    Raises:
        OutputError: Another version of the library trained in this folder.
    """
    require_library(place)
    settings = cell_config(cell, config)
    folder, bundle = work_folder(cell, place), _start(cell, place)
    _require_stamp(folder, cell_sha256(cell, config))
    done = _finished(settings, folder / CHECKPOINT)
    if done is not None:
        return done
    studies = study_set(config, cell.task, place, on_progress)
    init = None if bundle is None else Initialization.from_bundle(bundle)
    return _or_anew(folder, lambda: finetune(settings, studies, folder, init=init, on_progress=on_progress))


def _finished(settings: FinetuneConfig, path: Path) -> Run | None:
    """The run of a checkpoint after the last step; None of any other, and of one that is damaged."""
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        if document["step"] != settings.schedule.steps:
            return None
        network = specialised_network(settings.model) if settings.specialised else build_network(settings.model)
        run = Run.start(network, settings.schedule, Objective(settings.model).loss)
        run.resume(path, document["identity"])
    except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, OSError, CheckpointError):
        return None
    return run


def _or_anew(folder: Path, train: Callable[[], Trained]) -> Trained:
    """Train on from a checkpoint; where it is damaged, or of another version of the library, from the beginning."""
    try:
        return train()
    except CheckpointError:
        if not (folder / CHECKPOINT).is_file():
            raise
        (folder / CHECKPOINT).unlink()
        return train()


def _pretrained(cell: Cell, config: StudyConfig, place: Place, tell: OnProgress) -> CellResult:
    settings = config.encoders[cell.encoder].pretraining
    phantoms = pretraining_set(settings, config.phantoms.spacing_mm, place, tell)
    folder, sha256 = bundle_folder(cell.encoder, place), cell_sha256(cell, config)
    work = checkpoint_folder(folder)
    _require_stamp(work, sha256)
    name = "contrastive" if settings.objective == "contrast" else settings.objective
    pretext = pretext_task(name, pretraining_spec(cell.encoder, config))
    how = pretrain_config(pretext, steps=settings.steps, seed=settings.seed)
    cases = [lesion_task().from_phantom(phantom) for phantom in phantoms]
    run = _or_anew(work, lambda: pretrain(how, cases, work, on_progress=tell))
    bundle = write_pretrained(how, run, folder, data=f"{len(phantoms)} phantoms", cases=cases)
    return CellResult(cell, sha256, seconds=bundle.training["seconds"])


def _trained(cell: Cell, config: StudyConfig, place: Place, tell: OnProgress) -> CellResult:
    settings = cell_config(cell, config)
    run = trained_run(cell, config, place, tell)
    network = averaged_network(run, settings.model, settings.specialised)
    tell("measuring", 1.0)
    result = _measured(
        cell,
        config,
        place,
        lambda studies: ValidationCases(settings.model, studies).results(network),
        Course(run.step, run.seconds, run.history),
    )
    return replace(result, distances=_distances(cell, config, place, network))


def _baseline(cell: Cell, config: StudyConfig, place: Place, tell: OnProgress) -> CellResult:
    task = cell.task
    studies = study_set(config, task, place, tell)
    method = TASKS[task].methods().get(cell.encoder)
    answer = method or TASKS[task].naive_baseline(studies.of(studies.split.train))
    return _measured(cell, config, place, lambda studies: ((answer(study), study) for study in studies), Course())


def _measured(cell: Cell, config: StudyConfig, place: Place, answers: Answers, course: Course) -> CellResult:
    """The rows of what a cell says of the test phantoms and, apart from them, of real cases."""
    task = cell.task
    studies = study_set(config, task, place)
    phantoms = list(answers(studies.of(studies.split.test)))
    real = list(answers(real_studies(config, task, place)))
    scores, sha256 = score_results(task, phantoms), cell_sha256(cell, config)
    if cell.seed == config.seeds[0]:
        shown = [(result, study) for result, study in real if study.case.id in config.shown]
        write_examples(place.folder, cell.encoder, cell.arm, [*phantoms, *shown])
    metrics = metric_rows(cell, scores, "phantom")
    return CellResult(
        cell,
        sha256,
        real_cases=tuple(study.case.id for _, study in real),
        seconds=round(course.seconds, 3),
        run=run_row(cell, scores, course, sha256),
        metrics=metrics + metric_rows(cell, score_results(task, real), "real") if real else metrics,
        curves=curve_rows(cell, course),
    )


def _distances(cell: Cell, config: StudyConfig, place: Place, network: nn.Module) -> tuple[DistanceRow, ...]:
    """How far a pretrained arm's features moved on the study's own test phantoms."""
    start = _start(cell, place)
    if start is None:
        return ()
    task, spec = cell.task, cell_config(cell, config).model
    cases = feature_cases(common_studies(config, task, place), spec)
    before = build_network(spec)
    load_encoder(before, spec, bundle_encoder_weights(start))
    first, last = (encoder_features(each, spec, cases) for each in (before.eval(), network))
    return tuple(distance_rows(first, last, cell.encoder, task, cell.seed))


def _start(cell: Cell, place: Place) -> Bundle | None:
    return read_bundle(bundle_folder(cell.encoder, place)) if cell.needs is not None else None


def _require_stamp(folder: Path, sha256: str) -> None:
    """Empty a work folder that is of other settings."""
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == sha256:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(stamp) as part:
        part.write_text(sha256, encoding="utf-8")
