"""The tensors of networks by name: compared, and those of the encoders taken from one network into another.

Within its encoder a tensor has a name of its own, whatever the head (`stages.0.0.norm.weight`); ProViCNet's begin with
the sequence of the encoder (`t2w.backbone.norm.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError
from . import build_network
from .base import ModelSpec, family_of

_MAX_LISTED = 3


def empty_network(spec: ModelSpec) -> nn.Module:
    """Build a network whose tensors have shapes but no memory, to be filled or compared."""
    with torch.device("meta"):
        return build_network(spec)


def parameter_count(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def encoder_weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The encoders' tensors of a network's state dict, by their own names."""
    family = family_of(spec)
    owned = ((family.own_name(name, spec), tensor) for name, tensor in state.items())
    return {name: tensor for name, tensor in owned if name is not None}


def encoder_parameters(network: nn.Module, spec: ModelSpec) -> set[str]:
    """Names of the network's parameters that belong to its encoders."""
    family = family_of(spec)
    return {name for name, _ in network.named_parameters() if family.own_name(name, spec) is not None}


def load_encoder(network: nn.Module, spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
    """Copy encoders' weights into a network, in place; its head stays as it is.

    Encoders of sequences that the network does not take are left out. CheckpointError where an encoder is lacking or
    differs.
    """
    encoder_of = family_of(spec).encoder_of
    wanted = encoder_weights(network.state_dict(), spec)
    encoders = {encoder_of(name) for name in wanted}
    lacking = sorted(encoders - {encoder_of(name) for name in weights} - {""})
    if lacking:
        raise CheckpointError(
            f"The starting weights must have an encoder of {', '.join(lacking)} for {spec.title}, but have none. "
            "Choose a network that was pretrained on all sequences of the task."
        )
    given = {name: tensor for name, tensor in weights.items() if encoder_of(name) in encoders}
    difference = mismatch(wanted, given)
    if difference:
        raise CheckpointError(
            f"The starting weights must have the network's encoder, but {difference}. "
            "Choose weights of an encoder with the same depths and widths."
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


def pretrained_network(spec: ModelSpec, weights: Mapping[str, Tensor] | None, seed: int = 0) -> nn.Module:
    """A network with pretrained encoders, or with random ones, in evaluation mode; `seed` is of all that is random."""
    torch.manual_seed(seed)
    network = build_network(spec)
    if weights is not None:
        load_encoder(network, spec, weights)
    return network.eval()


def mismatch(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """State in a clause how given tensors differ from the wanted ones, by name and shape; empty where they do not."""
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    reshaped = [
        f"{name} ({tuple(given[name].shape)} for {tuple(wanted[name].shape)})"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    parts = []
    for verb, names in (("lack", missing), ("also hold", extra), ("have another shape in", reshaped)):
        rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        parts += [f"they {verb} {', '.join(names[:_MAX_LISTED])}{rest}"] if names else []
    return "; ".join(parts)
