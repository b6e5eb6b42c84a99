"""Specifications of networks for tests, without torch; and their inputs, of the task that a specification states."""

from __future__ import annotations

from typing import Any

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.placement import NetworkInput
from VFMTransferLib.core.volume import Geometry
from VFMTransferLib.encoders import ModelSpec, find_family, inputs, published_models
from VFMTransferLib.encoders.profound.spec import PROFOUND_ENCODER, ConvNeXtSpec
from VFMTransferLib.encoders.provicnet.spec import ViTSpec
from VFMTransferLib.tasks import TASKS, find_task, task_of

__all__ = [
    "MODELS",
    "PROFOUND_ENCODER",
    "ConvNeXtSpec",
    "ViTSpec",
    "demonstration",
    "demonstration_encoder",
    "network_grid",
    "place_on_grid",
    "prepare",
    "published",
]


def demonstration(family: str, task: str) -> ModelSpec:
    """A family's network for a task at demonstration size."""
    return find_family(family).network_for(find_task(task))


def published(family: str, task: str) -> ModelSpec:
    """The same at published size."""
    return find_family(family).network_for(find_task(task), "published")


def demonstration_encoder() -> ModelSpec:
    """ProFound's encoder as pretraining writes it."""
    return find_family("profound").pretraining_network()


def prepare(case: Case, spec: ModelSpec, **options: Any) -> NetworkInput:
    return inputs.prepare(case, spec, task_of(spec), **options)


def network_grid(case: Case, spec: ModelSpec) -> Geometry:
    return inputs.network_grid(case, spec, task_of(spec))


def place_on_grid(case: Case, spec: ModelSpec) -> Case:
    return inputs.place_on_grid(case, spec, task_of(spec))


# The published networks, and those of the tasks that nobody has published any for.
MODELS = {
    **{
        spec.name: spec
        for family in ("profound", "provicnet")
        for task in TASKS
        if (spec := published(family, task)).name not in published_models()
    },
    **published_models(),
}
