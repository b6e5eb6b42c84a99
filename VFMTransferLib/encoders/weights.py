"""The encoders inside a network, by names of their own: what pretraining hands to fine-tuning, whatever the head.

ProFound has one encoder, whose tensors bear its own names (`stages.0.0.norm.weight`). ProViCNet has one for each
sequence, and its tensors bear the sequence before their names (`t2w.backbone.norm.weight`), so that the network of one
task finds its streams in the network of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..bundles.bundle import Bundle, verify
from ..bundles.weights import mismatch, read_weights
from ..core.errors import CheckpointError
from ..core.terms import Sequence
from .base import ConvNeXtSpec, ModelSpec
from .network import build_network

# Of a ProViCNet network of slices, what is no head.
_SLICE_ENCODER = re.compile(r"(backbone|axis_pos|axis_max)\.")
_FUSION_STREAMS = {Sequence.T2W: "t2w.", Sequence.ADC: "adc.", Sequence.HBV: "dwi."}


def encoder_weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The encoders' tensors of a network, by their own names.

    Args:
        state: The network's state dict.
        spec: The network.
    """
    found = {}
    for name, tensor in state.items():
        own = _own_name(name, spec)
        if own is not None:
            found[own] = tensor
    return found


def bundle_encoder_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The encoders' tensors of a bundle, float32, by their own names.

    Raises:
        BundleError: The bundle's weights cannot be read.
        ChecksumError: The weights differ from the bundle's checksum.
    """
    verify(bundle)
    return encoder_weights(read_weights(bundle.weights_path), bundle.spec)


def load_encoder(network: nn.Module, spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
    """Copy encoders' weights into a network, in place; its head stays as it is.

    Encoders of sequences that the network does not take are left out.

    Args:
        network: What is to be fine-tuned.
        spec: What it is.
        weights: From `encoder_weights`.

    Raises:
        CheckpointError: An encoder is lacking or differs; the message names sequences or tensors.
    """
    wanted = encoder_weights(network.state_dict(), spec)
    given = weights
    if not isinstance(spec.encoder, ConvNeXtSpec):
        streams = _streams(wanted)
        lacking = sorted(streams - _streams(weights))
        if lacking:
            raise CheckpointError(
                f"The starting weights must have an encoder of {', '.join(lacking)} for {spec.title}, but have none. "
                "Choose a network that was pretrained on all sequences of the task."
            )
        given = {name: tensor for name, tensor in weights.items() if name.split(".")[0] in streams}
    difference = mismatch(wanted, given)
    if difference:
        raise CheckpointError(
            f"The starting weights must have the network's encoder, but {difference}. "
            "Choose weights of an encoder with the same depths and widths."
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


def slice_encoders(network: nn.Module, spec: ModelSpec) -> dict[Sequence, nn.Module]:
    """The encoder of each sequence that a ProViCNet network takes, in the order in which it takes them."""
    return {s: network.get_submodule(prefix.rstrip(".")) for s, prefix in _slice_prefixes(spec).items()}


def pretrained_network(spec: ModelSpec, weights: Mapping[str, Tensor] | None, seed: int = 0) -> nn.Module:
    """A network with pretrained encoders, or with random ones, in evaluation mode.

    Args:
        spec: The network.
        weights: From `encoder_weights`; None leaves the encoders as they were drawn.
        seed: Of everything that is not pretrained.

    Raises:
        CheckpointError: The weights do not fit.
    """
    torch.manual_seed(seed)
    network = build_network(spec)
    if weights is not None:
        load_encoder(network, spec, weights)
    return network.eval()


def _own_name(name: str, spec: ModelSpec) -> str | None:
    """An encoder's own name of a network's tensor; None for a tensor of the head."""
    if isinstance(spec.encoder, ConvNeXtSpec):
        prefix = "" if spec.head.kind == "none" else "encoder."
        return name.removeprefix(prefix) if name.startswith(prefix) else None
    for sequence, prefix in _slice_prefixes(spec).items():
        rest = name.removeprefix(prefix)
        if name.startswith(prefix) and _SLICE_ENCODER.match(rest):
            return f"{sequence}.{rest}"
    return None


def _slice_prefixes(spec: ModelSpec) -> dict[Sequence, str]:
    """Where a network of slices holds the encoder of each sequence."""
    sequences = [sequence for sequence in spec.preprocess.sequences if sequence is not None]
    if spec.head.kind == "convolution":
        return {sequences[0]: ""}
    if spec.head.kind == "fusion":
        return {sequence: _FUSION_STREAMS[sequence] for sequence in sequences}
    return {sequence: f"encoders.{sequence}." for sequence in sequences}


def _streams(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}
