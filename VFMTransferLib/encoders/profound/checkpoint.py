"""From the sparse-convolution layout of ProFound's pre-training to the dense one of its networks.

ProFound is pre-trained with MinkowskiEngine, which stores a convolution as one matrix for each place
in its kernel, places counted with x slowest, and wraps norms and linear layers in modules of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_KERNEL = ".kernel"
_PREFIX = "encoder."
_WRAPPERS = (".ln.", ".linear.")
_LAST_ENTRY_BIAS = "downsample_layers.3.1.bias"


def is_sparse(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the sparse layout."""
    return any(name.endswith(_KERNEL) for name in state)


def to_dense(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoder out of a pre-training checkpoint, as the tensors of `ConvNeXtV2`.

    The mask token, the projection, the decoder and the prediction served pre-training and are left
    out. Pre-training has no final norm; it starts as the identity, as it does for the authors.

    Args:
        state: Sparse layout, names starting with `encoder.`.

    Returns:
        Dense layout, without a prefix.
    """
    dense = {}
    for name, tensor in state.items():
        if name.startswith(_PREFIX):
            dense[_dense_name(name)] = _dense_tensor(name, tensor)
    if _LAST_ENTRY_BIAS in dense:
        channels = dense[_LAST_ENTRY_BIAS].shape[0]
        dense["norm.weight"] = torch.ones(channels)
        dense["norm.bias"] = torch.zeros(channels)
    return dense


def _dense_name(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, ".")
    return name.removesuffix(_KERNEL) + ".weight" if name.endswith(_KERNEL) else name


def _dense_tensor(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(_KERNEL):
        return _dense_depthwise(tensor) if ".dwconv." in name else _dense_convolution(tensor)
    if ".grn." in name:
        return tensor.reshape(1, 1, 1, 1, -1)
    return tensor.flatten() if name.endswith(".bias") else tensor


def _dense_depthwise(kernel: Tensor) -> Tensor:
    """(k³, C) to (C, 1, k, k, k)."""
    places, channels = kernel.shape
    return _as_cube(kernel.T.reshape(channels, 1, places))


def _dense_convolution(kernel: Tensor) -> Tensor:
    """(k³, in, out), or (in, out) where k is 1, to (out, in, k, k, k)."""
    if kernel.ndim == 2:
        kernel = kernel[None]
    return _as_cube(kernel.permute(2, 1, 0))


def _as_cube(kernel: Tensor) -> Tensor:
    """(out, in, k³) to (out, in, k, k, k): places run with the last axis slowest."""
    edge = round(kernel.shape[2] ** (1 / 3))
    return kernel.reshape(*kernel.shape[:2], edge, edge, edge).permute(0, 1, 4, 3, 2).contiguous()
