"""The task-specific baselines as tables: what a user would train instead of a foundation model. No torch here.

They take the same input and give the same output as ProFound's network of the task, at about its number of parameters,
so that one engine trains them by the same schedule and one function scores them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from ..base import EncoderFamily, HeadSpec, ModelSpec, Size, TaskInput
from ..profound.spec import ProFoundFamily

if TYPE_CHECKING:
    from torch import nn

# By the head that a task asks for: the widths with which the networks have about as many parameters as ProFound's, at
# published size at most 128.
_WIDTHS: dict[str, dict[str, int]] = {
    "demonstration": {"dense": 12, "classes": 12, "restoration": 14, "matching": 10},
    "published": {"dense": 128, "classes": 92, "restoration": 76, "matching": 73},
}


@dataclass(frozen=True)
class DynUNetSpec:
    """MONAI's DynUNet (nnU-Net's network), or a ResNet for classes; `width` channels at the first of four levels."""

    width: int
    in_channels: int = 3


class DynUNetFamily(EncoderFamily):
    """DynUNet for maps and a ResNet for classes, without pretraining."""

    name = "dynunet"
    title = "DynUNet"
    paper = "https://arxiv.org/abs/1809.10486"
    spec_type = DynUNetSpec
    json_kind = "dynunet"
    head_kinds = ("unet", "classifier")
    baseline_of = "profound"

    def row_name(self, task: TaskInput) -> str:
        return "resnet" if task.head == "classes" else self.name

    def row_title(self, task: TaskInput) -> str:
        return "ResNet" if task.head == "classes" else self.title

    def network_for(self, task: TaskInput, size: Size = "demonstration") -> ModelSpec:
        return _beside(ProFoundFamily().network_for(task, size), _WIDTHS[size][task.head])

    def new_network(self, task: TaskInput) -> ModelSpec:
        return self.network_for(task, "published")

    def demonstration(self, spec: ModelSpec, task: TaskInput | None) -> ModelSpec:
        if task is None:
            raise ValueError("A task-specific baseline must be of a task.")
        return self.network_for(task)

    def matched_baseline(self, spec: ModelSpec) -> ModelSpec:
        if spec.family != self.baseline_of or spec.task is None:
            raise ValueError(f"A task-specific baseline must stand beside a task of ProFound, got {spec.name}.")
        return _matched(spec)

    def problems(self, encoder: DynUNetSpec) -> Iterable[tuple[str, str]]:
        if encoder.width <= 0:
            yield "width", "positive"

    def batch_size(self, spec: ModelSpec) -> int:
        return 4 if spec.head.is_vector else 1

    def build(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
        from .network import build

        return build(spec)


@cache
def _matched(spec: ModelSpec) -> ModelSpec:
    from .network import matched_width

    return matched_width(spec, lambda width: _beside(spec, width))


def _beside(spec: ModelSpec, width: int) -> ModelSpec:
    """The baseline of a width that takes what a network of ProFound takes, and gives what it gives."""
    kind, title = ("classifier", "ResNet") if spec.head.is_vector else ("unet", "DynUNet")
    return replace(
        spec,
        name=f"{title.lower()}-{spec.task}",
        title=f"{title}, {spec.title.split(', ')[-1]}",
        encoder=DynUNetSpec(width, len(spec.preprocess.sequences)),
        head=HeadSpec(kind, spec.head.out_channels, width),
        paper=DynUNetFamily.paper,
    )
