"""What an encoder is, and one folder for each family: sizes, network, heads, the authors' checkpoints, pretext tasks.

Imports `core`. `base.py` is the contract of a family; to add one, write its folder and
register it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import FAMILIES, EncoderFamily, ModelSpec, TaskInput, family_of, find_family, register
from .dynunet.spec import DynUNetFamily
from .profound.spec import ProFoundFamily
from .provicnet.spec import ProViCNetFamily

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FAMILIES",
    "EncoderFamily",
    "ModelSpec",
    "TaskInput",
    "build_network",
    "family_of",
    "find_family",
    "pretrained_families",
    "published_models",
    "register",
]

register(ProFoundFamily())
register(ProViCNetFamily())
register(DynUNetFamily())


def pretrained_families() -> tuple[str, ...]:
    """Names of the families that have a pretrained arm; the others are task-specific baselines."""
    return tuple(family.name for family in FAMILIES.values() if not family.baseline_of)


def published_models() -> dict[str, ModelSpec]:
    """The published networks of all families, by name."""
    return {spec.name: spec for family in FAMILIES.values() for spec in family.published()}


def build_network(spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
    """Build a network with fresh weights, in training mode; see `EncoderFamily.build`.

    Raises:
        ValueError: The encoder's family has no such head.
    """
    family = family_of(spec)
    if spec.head.kind not in family.head_kinds:
        known = ", ".join(family.head_kinds)
        raise ValueError(f"A network of {family.name} must have a head of {known}; got {spec.head.kind}.")
    return family.build(spec, drop_path, initial_output)
