"""From a model's specification to its network."""

from __future__ import annotations

from torch import nn

from .base import ModelSpec
from .profound.network import (
    ProFoundClassifier,
    ProFoundEncoder,
    ProFoundMatching,
    ProFoundRestoration,
    ProFoundUNETR,
    ProFoundUPerNet,
)
from .provicnet.network import ProViCNet, ProViCNetClassifier, ProViCNetFusion, ProViCNetMatching, ProViCNetRestoration

_BUILDERS = {
    ("profound", "none"): ProFoundEncoder,
    ("profound", "classifier"): ProFoundClassifier,
    ("profound", "upernet"): ProFoundUPerNet,
    ("profound", "unetr"): ProFoundUNETR,
    ("profound", "matching"): ProFoundMatching,
    ("profound", "restoration"): ProFoundRestoration,
    ("provicnet", "classifier"): ProViCNetClassifier,
    ("provicnet", "convolution"): ProViCNet,
    ("provicnet", "fusion"): ProViCNetFusion,
    ("provicnet", "matching"): ProViCNetMatching,
    ("provicnet", "restoration"): ProViCNetRestoration,
}


def build_network(spec: ModelSpec, drop_path: float = 0.0) -> nn.Module:
    """Build a network with fresh weights, in training mode.

    Args:
        spec: What the network is made of.
        drop_path: Stochastic depth of the encoder, in training; prediction does not know it.

    Raises:
        ValueError: No network has this encoder and this kind of head.
    """
    try:
        build = _BUILDERS[spec.family, spec.head.kind]
    except KeyError:
        known = ", ".join(f"{family} with {kind}" for family, kind in _BUILDERS)
        raise ValueError(f"A network must be one of {known}; got {spec.family} with {spec.head.kind}.") from None
    return build(spec, drop_path)
