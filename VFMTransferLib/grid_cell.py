"""One cell of a study, from its cases to its rows: a training, a baseline, or a pretraining.

All that it leaves lies in the study's folder and appears whole or not at all, so that a cell may be stopped at any
moment, on any machine, and goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from torch import nn

from .atomic import atomic_file, writing
from .bundle import Bundle, read_bundle
from .encoders import bundle_encoder_weights, load_encoder
from .errors import CheckpointError
from .examination import Examination
from .features import distance_rows, encoder_features, feature_cases
from .finetune import FinetuneConfig, averaged_network
from .grid_cases import Place, common_studies, pretraining_set, real_studies, study_set
from .grid_rows import Course, curve_rows, metric_rows, run_row
from .grid_settings import cell_config, cell_sha256, pretraining_spec
from .models.network import build_network
from .objectives import Objective
from .optimization import CHECKPOINT, Run
from .registration import registered
from .result import Result
from .specialised import specialised_network
from .study.example_slices import write_examples
from .study.grid_cells import PRETRAINING, REGISTRATION, Cell
from .study.grid_config import StudyConfig
from .study.grid_results import CellResult, write_result
from .study.grid_tables import DistanceRow
from .study_cases import StudyCase, from_phantom
from .study_pretraining import Pretraining, pretrain_by_contrast, pretrain_masked
from .study_scores import score_results
from .study_training import finetune_study
from .terms import TaskId
from .training_record import checkpoints
from .trivial import trivial_baseline

OnProgress = Callable[[str, float], None]
Answers = Callable[[Iterable[StudyCase]], Iterable[tuple[Result, StudyCase]]]
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

    One that is finished is taken as it is, whatever version of the library trained it, since its settings are stamped.
    A checkpoint of other settings, or one that is damaged, is removed.
    """
    settings = cell_config(cell, config)
    folder, start = work_folder(cell, place), _start(cell, place)
    _require_stamp(folder, cell_sha256(cell, config))
    done = _finished(settings, folder / CHECKPOINT)
    if done is not None:
        return done
    studies = study_set(config, TaskId(cell.task), place, on_progress)
    return _or_anew(folder, lambda: finetune_study(settings, studies, folder, init=start, on_progress=on_progress))


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
    work = checkpoints(folder)
    _require_stamp(work, sha256)
    spec = pretraining_spec(cell.encoder, config)
    how = Pretraining(settings.steps, f"{len(phantoms)} phantoms", settings.seed, spec)
    if settings.objective == "mae":
        images = [phantom.case for phantom in phantoms]
        bundle = _or_anew(work, lambda: pretrain_masked(images, folder, how, on_progress=tell))
    else:
        studies = [from_phantom(phantom, TaskId.LESION_SEGMENTATION) for phantom in phantoms]
        bundle = _or_anew(work, lambda: pretrain_by_contrast(studies, folder, how, on_progress=tell))
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
        lambda studies: Examination(settings.model, studies).results(network),
        Course(run.step, run.seconds, run.history),
    )
    return replace(result, distances=_distances(cell, config, place, network))


def _baseline(cell: Cell, config: StudyConfig, place: Place, tell: OnProgress) -> CellResult:
    task = TaskId(cell.task)
    studies = study_set(config, task, place, tell)
    answer = registered if cell.encoder == REGISTRATION else trivial_baseline(task, studies.of(studies.split.train))
    return _measured(cell, config, place, lambda studies: ((answer(study), study) for study in studies), Course())


def _measured(cell: Cell, config: StudyConfig, place: Place, answers: Answers, course: Course) -> CellResult:
    """The rows of what a cell says of the test phantoms and, apart from them, of real cases."""
    task = TaskId(cell.task)
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
    task, spec = TaskId(cell.task), cell_config(cell, config).model
    cases = feature_cases(common_studies(config, task, place), spec)
    before = build_network(spec)
    load_encoder(before, spec, bundle_encoder_weights(start))
    features = [encoder_features(each, spec, cases) for each in (before.eval(), network)]
    return tuple(distance_rows(*features, cell.encoder, task, cell.seed))


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
