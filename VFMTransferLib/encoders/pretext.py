"""The contract of a pretext task: what an encoder learns before fine-tuning. Cases, views and loop are `training`'s."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from ..core.terms import Label
from .base import FAMILIES, ModelSpec, family_of

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


TISSUE_MAPS = ("pd", "t1_ms", "t2_ms", "adc", "capsule_mm", "peripheral", "transition")
"""What a pretext task with `needs_maps` is shown: the phantom's `TissueMaps`, and the share of each zone."""
TISSUES = (Label.BACKGROUND, Label.PROSTATE, Label.INDOLENT_CANCER, Label.CSPCA)
"""The classes of a pretext task with `needs_tissues`, by their number."""
HIDDEN = (0.05, 0.95)
"""Part of the cubes or patches that a masked autoencoder may hide, at least and at most."""
MOST_DROPPED = 0.9
"""The most that stochastic depth may be."""
SYNTHETIC_TASKS = {
    "synthetic": "tissue maps, zones and distance to the capsule: from phantoms in random appearances",
    "synthetic-contrastive": "equal features of two appearances of one anatomy: from phantoms",
}
"""Of `synthetic.py`, for a family's `pretext_tasks`."""


@dataclass(frozen=True)
class View:
    """What a pretext task is shown of a case.

    Attributes:
        image: A crop (C, D, H, W), or of networks of slices one slice (S, 3, P, P) with its neighbors; with
            `needs_maps` the `TISSUE_MAPS` there, (7, ...).
        position: Index of the slice and number of slices (2,); None of a crop.
        tissues: Class of each pixel (H, W) or, at half the size, each voxel, where the pretext task needs them.
    """

    image: Tensor
    position: Tensor | None = None
    tissues: Tensor | None = None


@dataclass(frozen=True)
class PretextTask(ABC):
    """A pretext task of one network; further fields of a subclass are its settings, numbers that JSON can state.

    Attributes:
        spec: The network whose encoders are pretrained; a network of it is what pretraining writes.
        version: Of what it learns; raised where samples or loss change, so that no checkpoint goes on with others.
        batch: Views a step, unless others are asked for.
        needs_tissues: Whether cases must come with masks of the prostate and of its lesions.
        needs_maps: Whether it is shown tissue maps instead of images, which only phantoms have.
        limits: Setting → its minimum and maximum; ValueError outside of them.
    """

    spec: ModelSpec
    name: ClassVar[str]
    version: ClassVar[int] = 1
    batch: ClassVar[int]
    needs_tissues: ClassVar[bool] = False
    needs_maps: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})

    def __post_init__(self) -> None:
        for name, (least, most) in self.limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                upper = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
                raise ValueError(f"{name} of the pretext task {self.name} must be {upper}, got {value:g}.")

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
    found: dict[str, str] = {}
    for family in FAMILIES.values():
        for name, what in family.pretext_tasks.items():
            found[name] = "; ".join(filter(None, (found.get(name), f"{family.title}, {what}")))
    return found


def pretext_task(name: str, spec: ModelSpec | None = None, **settings: float) -> PretextTask:
    """A pretext task by its name.

    Args:
        spec: The network; by default the demonstration's of the family whose default this task is, else of the first
            one that has it.
        **settings: Values of the task's own fields.

    Raises:
        ValueError: There is no such task or setting, or one is outside of its limits or not whole.
    """
    families = FAMILIES.values() if spec is None else [family_of(spec)]
    able = [family for family in families if name in family.pretext_tasks]
    family = next((family for family in able if next(iter(family.pretext_tasks)) == name), able[0] if able else None)
    if family is not None and spec is None:
        spec = family.pretraining_network()
    if family is None or spec is None:
        known = ", ".join(dict.fromkeys(name for family in families for name in family.pretext_tasks))
        raise ValueError(f"A pretext task must be one of {known}, got '{name}'.")
    task = family.pretext_task(name, spec)
    defaults = {one.name: one.default for one in fields(task) if one.default is not MISSING}
    unknown = sorted(settings.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"Pretext task {name} has the settings {', '.join(defaults)}, but not {', '.join(unknown)}.")
    for key, value in settings.items():
        if type(defaults[key]) is int and not float(value).is_integer():
            raise ValueError(f"{key} of the pretext task {name} must be a whole number, got {value:g}.")
    return replace(task, **{key: type(defaults[key])(value) for key, value in settings.items()})
