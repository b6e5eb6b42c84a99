"""The contract of a pretext task: what an encoder learns before fine-tuning. Cases, views and loop are `training`'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from .base import FAMILIES, ModelSpec, family_of

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class View:
    """What a pretext task is shown of a case.

    Attributes:
        image: A crop (C, D, H, W), or of networks of slices one slice (S, 3, P, P) with its neighbors.
        position: Index of the slice and number of slices (2,); None of a crop.
        tissues: Class of each pixel (H, W), where the pretext task needs them.
    """

    image: Tensor
    position: Tensor | None = None
    tissues: Tensor | None = None


@dataclass(frozen=True)
class PretextTask(ABC):
    """A pretext task of one network; further fields of a subclass are its settings, numbers that JSON can state.

    Attributes:
        spec: The network whose encoders are pretrained; a network of it is what pretraining writes.
        name: As `--pretext` names it.
        batch: Views a step, unless others are asked for.
        needs_tissues: Whether cases must come with masks of the prostate and of its lesions.
    """

    spec: ModelSpec
    name: ClassVar[str]
    batch: ClassVar[int]
    needs_tissues: ClassVar[bool] = False

    @abstractmethod
    def build(self) -> nn.Module:
        """The network that learns the pretext task, with fresh weights."""

    @abstractmethod
    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """What the loss takes of a view, without the batch's axis; what is random in it comes from the generator."""

    @abstractmethod
    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """The loss of what `build` gave on samples, each tensor with the batch's axis in front."""

    @abstractmethod
    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is kept: weights of a network of `spec`, from those of what `build` gave."""


def pretext_tasks() -> dict[str, str]:
    """Name → which family learns it, how, and from what cases."""
    return {
        name: f"{family.title}, {what}" for family in FAMILIES.values() for name, what in family.pretext_tasks.items()
    }


def pretext_task(name: str, spec: ModelSpec | None = None, **settings: float) -> PretextTask:
    """A pretext task by its name.

    Args:
        name: One of a family's `pretext_tasks`.
        spec: The network; the demonstration's of the first family that has such a task by default.
        **settings: Values of the task's own fields; the others are as in the study.

    Raises:
        ValueError: There is no such task, or it has no such setting.
    """
    families = FAMILIES.values() if spec is None else [family_of(spec)]
    family = next((family for family in families if name in family.pretext_tasks), None)
    if family is not None and spec is None:
        spec = family.pretraining_network()
    if family is None or spec is None:
        known = ", ".join(name for family in families for name in family.pretext_tasks)
        raise ValueError(f"A pretext task must be one of {known}, got '{name}'.")
    task = family.pretext_task(name, spec)
    defaults = {one.name: one.default for one in fields(task) if one.default is not MISSING}
    unknown = sorted(settings.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"Pretext task {name} has the settings {', '.join(defaults)}, but not {', '.join(unknown)}.")
    return replace(task, **{key: type(defaults[key])(value) for key, value in settings.items()})
