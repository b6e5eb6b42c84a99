"""From a bundle's weights to its network, and back to a file. Nothing here reads a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import BundleError
from ..core.files import atomic_file
from ..encoders.base import ModelSpec
from ..encoders.network import build_network
from .bundle import Bundle, stored_arrays, verify
from .catalog import as_bundle
from .tensors import read_index

_LISTED = 3


def load_network(bundle: Bundle | str | Path) -> nn.Module:
    """Build a bundle's network and give it the bundle's weights, in evaluation mode, float32, on the CPU.

    Args:
        bundle: A bundle, its folder, or the name of an installed one.

    Raises:
        BundleError: The weights are missing, damaged, or not those of the network in the metadata.
        ChecksumError: The weights differ from the bundle's checksum.
    """
    bundle = as_bundle(bundle)
    verify(bundle)
    state = read_weights(bundle.weights_path)
    network = empty_network(bundle.spec)
    difference = describe_mismatch(network, state)
    if difference:
        raise BundleError(
            f"The weights of bundle '{bundle.name}' must be those of {bundle.spec.name}, but {difference}. "
            "Get the bundle again."
        )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def empty_network(spec: ModelSpec) -> nn.Module:
    """Build a network whose tensors have shapes but no memory, to be filled or compared."""
    with torch.device("meta"):
        return build_network(spec)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; floating-point tensors come as float32, whatever is stored.

    Raises:
        BundleError: The file is missing, truncated, or no safetensors file.
    """
    from safetensors.torch import load_file

    read_index(path)  # says in a sentence what is wrong with the file
    return {name: _as_float32(tensor) for name, tensor in load_file(path).items()}


def save_weights(network: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a network's tensors to a safetensors file, whole or not at all.

    Args:
        network: On any device.
        path: Replaced where it exists.
        dtype: How floating-point tensors are stored: float32 or float16.

    Raises:
        BundleError: A weight is not finite, or too large for float16.
        OutputError: The file cannot be written.
        ValueError: `dtype` is another one.
    """
    from safetensors.numpy import save_file

    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"Weights must be stored as float32 or float16, got {dtype}.")
    arrays = stored_arrays(network.state_dict(), half=dtype == torch.float16)
    with atomic_file(path) as part:
        save_file(arrays, part, {"format": "pt"})


def describe_mismatch(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Say in a clause how a state dict differs from a network's tensors; empty where it does not."""
    return mismatch(network.state_dict(), state)


def mismatch(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say in a clause how given tensors differ from the wanted ones, by name and shape; empty where they do not."""
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    reshaped = [
        f"{name} ({tuple(given[name].shape)} for {tuple(wanted[name].shape)})"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    parts = [("lack", missing), ("also hold", extra), ("have another shape in", reshaped)]
    return "; ".join(f"they {verb} {_listed(names)}" for verb, names in parts if names)


def _listed(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
