"""How each cell of a study is trained, as its configuration says, and the checksum of all that decides it."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass, replace
from enum import Enum
from typing import Any

from .demonstration import demonstration, demonstration_encoder
from .finetune import FinetuneConfig
from .grid_cases import split_of
from .phantom import VERSION
from .registry import ModelSpec
from .study.grid_cells import PRETRAINING, Cell, pretraining
from .study.grid_config import StudyConfig
from .study.grid_results import sha256_of
from .study.network_size import resized
from .study_source import StudySet
from .study_training import study_config
from .terms import TaskId

_FIRST_VERSION = "0.1.0"
# Settings that came after the first studies, and the value with which trainings are as they were before.
_AS_BEFORE = {"draws": "step"}
_NO_VALUE = object()


def cell_config(cell: Cell, config: StudyConfig) -> FinetuneConfig:
    """How a cell's network is trained; the same for both arms of an encoder, task and seed.

    Args:
        cell: A cell in which a network is trained on a task.
        config: The study.
    """
    task, family = TaskId(cell.task), cell.family
    fit = config.tasks[task].fit(family)
    if fit is None:
        raise ValueError(f"The study must train {family} on {task}, but does not.")
    split = split_of(config.groups_of(task))
    plain = study_config(family, task, StudySet(split, {}), steps=fit.steps, seed=cell.seed)
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
    spec = demonstration_encoder() if is_masked else demonstration(encoder, TaskId.LESION_SEGMENTATION)
    return resized(spec, config.encoders[encoder].size)


def cell_sha256(cell: Cell, config: StudyConfig) -> str:
    """Checksum of everything that decides what a cell's training yields: settings, cases and start, but no paths."""
    if cell.arm == PRETRAINING:
        settings = config.encoders[cell.encoder].pretraining
        document = {"model": pretraining_spec(cell.encoder, config), "pretraining": settings}
        return sha256_of(_stated({**document, "spacing_mm": config.phantoms.spacing_mm, **_phantom_version()}))
    document = {"cell": cell, "phantoms": config.phantoms, "around_gland_mm": config.around_gland_mm}
    document |= _phantom_version()
    own = config.tasks[TaskId(cell.task)].phantoms
    if own is not None:
        document["own_phantoms"] = own
    if cell.is_trained:
        document["training"] = cell_config(cell, config)
    if cell.arm == "pretrained":
        document["start"] = cell_sha256(pretraining(cell.encoder), config)
    return sha256_of(_stated(document))


def _phantom_version() -> dict[str, str]:
    """The version of the phantoms, but for the first, of which nothing was said."""
    return {} if VERSION == _FIRST_VERSION else {"phantom_version": VERSION}


def _stated(value: Any) -> Any:
    """Settings as JSON.

    A field whose default is nothing at all (0, 1, false, none, empty) is left out where it stands there, so that a
    setting that the library gains later does not make trainings from before look like others; so are those named above.
    """
    if is_dataclass(value) and not isinstance(value, type):
        stated = {
            f.name: getattr(value, f.name) for f in fields(value) if not _is_off(f.default, getattr(value, f.name))
        }
        return {name: _stated(item) for name, item in stated.items() if _AS_BEFORE.get(name, _NO_VALUE) != item}
    if isinstance(value, dict):
        return {str(key): _stated(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_stated(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _is_off(default: Any, value: Any) -> bool:
    return default is not MISSING and value == default and value in (None, 0, 1, False, (), "")
