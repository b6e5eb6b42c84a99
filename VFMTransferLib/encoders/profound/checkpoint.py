"""ProFound's released files: which network one holds, and from pre-training's sparse layout to the dense one.

ProFound is pre-trained with MinkowskiEngine, which stores a convolution as one matrix for each place
in its kernel, places counted with x slowest, and wraps norms and linear layers in modules of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...core.errors import CheckpointError
from ..base import HeadSpec, ModelSpec
from ..checkpoint import contents, count_of, shape_of, with_sizes
from .spec import PROFOUND_ENCODER, ConvNeXtSpec, ProFoundFamily

_KERNEL = ".kernel"
_PREFIX = "encoder."
_WRAPPERS = (".ln.", ".linear.")
_LAST_ENTRY_BIAS = "downsample_layers.3.1.bias"


def is_sparse(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the sparse layout."""
    return any(name.endswith(_KERNEL) for name in state)


def to_dense(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoder out of a pre-training checkpoint, as the tensors of `ConvNeXtV2`.

    What served pre-training is left out. It has no final norm; that starts as the identity, as it does for the authors.
    """
    dense = {}
    for name, tensor in state.items():
        if name.startswith(_PREFIX):
            own = name.removeprefix(_PREFIX)
            for wrapper in _WRAPPERS:
                own = own.replace(wrapper, ".")
            own = own.removesuffix(_KERNEL) + ".weight" if own.endswith(_KERNEL) else own
            dense[own] = _dense_tensor(name, tensor)
    if _LAST_ENTRY_BIAS in dense:
        channels = dense[_LAST_ENTRY_BIAS].shape[0]
        dense["norm.weight"] = torch.ones(channels)
        dense["norm.bias"] = torch.zeros(channels)
    return dense


def _dense_tensor(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(_KERNEL):
        depthwise = tensor[:, None] if ".dwconv." in name else tensor  # (k³, C) to (k³, 1, C)
        kernel = depthwise.reshape(-1, *depthwise.shape[-2:]).permute(2, 1, 0)  # (k³, in, out) to (out, in, k³)
        edge = round(kernel.shape[2] ** (1 / 3))
        # Places run with the last axis slowest: (out, in, k, k, k).
        return kernel.reshape(*kernel.shape[:2], edge, edge, edge).permute(0, 1, 4, 3, 2).contiguous()
    if ".grn." in name:
        return tensor.reshape(1, 1, 1, 1, -1)
    return tensor.flatten() if name.endswith(".bias") else tensor


_CLASSIFIER = "head.0.weight"
_UPERNET = "decode_head.classifier.weight"
_UNETR = "decoder.encoder1.layer.conv1.conv.weight"
_STEM = "downsample_layers.0.0.weight"


def identify(state: Mapping[str, Tensor]) -> ModelSpec | None:
    """See `EncoderFamily.identify`."""
    if f"encoder.{_STEM}" not in state:
        if _STEM not in state:
            return None
        encoder = _sizes(state, "")
        channels = encoder.dims[-1]
        return replace(PROFOUND_ENCODER, encoder=encoder, head=HeadSpec("none", channels, channels))
    encoder = _sizes(state, "encoder.")
    if _CLASSIFIER in state:
        head = HeadSpec("classifier", shape_of(state, "head.3.weight")[0], shape_of(state, _CLASSIFIER)[0])
    elif _UPERNET in state:
        auxiliary = shape_of(state, "auxiliary_head.classifier.weight")[1]
        out_channels, width, *_ = shape_of(state, _UPERNET)
        head = HeadSpec("upernet", out_channels, width, auxiliary)
    elif _UNETR in state:
        head = HeadSpec("unetr", shape_of(state, "decoder.out.conv.conv.weight")[0], shape_of(state, _UNETR)[0])
    else:
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
        raise CheckpointError(f"ProFound's head is no classifier, UPerNet or UNETR: {contents(rest)}.")
    # One output channel is lesions, more are anatomy.
    rows = [spec for spec in ProFoundFamily().published() if spec.head.kind == head.kind]
    row = next((spec for spec in rows if spec.head.out_channels == head.out_channels), rows[-1])
    return with_sizes(row, encoder, head)


def _sizes(state: Mapping[str, Tensor], prefix: str) -> ConvNeXtSpec:
    stem = shape_of(state, prefix + _STEM)
    entries = [shape_of(state, f"{prefix}downsample_layers.{stage}.1.weight") for stage in (1, 2, 3)]
    depths = tuple(count_of(state, rf"{prefix}stages\.{stage}\.(\d+)\.") for stage in range(4))
    return ConvNeXtSpec(depths=depths, dims=(stem[0], *(shape[0] for shape in entries)), in_channels=stem[1])
