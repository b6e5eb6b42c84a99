"""The contract of a pretext task: what an encoder learns before fine-tuning. Cases, views and loop are `training`'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from .base import ModelSpec

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

# Name → what its encoder is.
PRETEXT_TASKS = {
    "mae": "ProFound, a masked autoencoder: from images alone",
    "contrastive": "ProViCNet, contrast of tissues: from images with masks gland and lesion",
}


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
        in_epochs: Whether each case is shown once in an epoch; else cases are drawn with replacement.
    """

    spec: ModelSpec
    name: ClassVar[str]
    batch: ClassVar[int]
    needs_tissues: ClassVar[bool] = False
    in_epochs: ClassVar[bool] = True

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


def pretext_task(name: str, spec: ModelSpec | None = None, **settings: float) -> PretextTask:
    """A pretext task by its name.

    Args:
        name: A key of `PRETEXT_TASKS`.
        spec: The network; the demonstration's by default.
        **settings: Values of the task's own fields; the others are as in the study.

    Raises:
        ValueError: There is no such task, or it has no such setting.
    """
    from . import demonstration
    from .profound.pretraining import MaskedAutoencoding
    from .provicnet.pretraining import TissueContrast

    task: PretextTask
    if name == MaskedAutoencoding.name:
        task = MaskedAutoencoding(spec or demonstration.demonstration_encoder())
    elif name == TissueContrast.name:
        task = TissueContrast(spec or demonstration.demonstration_fusion())
    else:
        raise ValueError(f"A pretext task must be one of {', '.join(PRETEXT_TASKS)}, got '{name}'.")
    defaults = {one.name: one.default for one in fields(task) if one.default is not MISSING}
    unknown = sorted(settings.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"Pretext task {name} has the settings {', '.join(defaults)}, but not {', '.join(unknown)}.")
    return replace(task, **{key: type(defaults[key])(value) for key, value in settings.items()})
