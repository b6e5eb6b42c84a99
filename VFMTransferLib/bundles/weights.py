"""From a bundle's weights to its network. Nothing here reads a pickle."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..core.errors import BundleError
from ..encoders.weights import empty_network, encoder_weights, mismatch
from .bundle import Bundle, read_index, verify, verify_weights
from .catalog import as_bundle


def load_network(bundle: Bundle | str | Path, *, for_export: bool = False) -> nn.Module:
    """The network of a bundle (or its folder or name), in evaluation mode, float32, on the CPU.

    BundleError where its weights are damaged or not those of the metadata, ChecksumError where they were changed.

    Args:
        for_export: Accept graphs that are missing or damaged, since they are about to be replaced.
    """
    bundle = as_bundle(bundle)
    verify_weights(bundle) if for_export else verify(bundle)
    state = read_weights(bundle.weights_path)
    network = empty_network(bundle.spec)
    difference = mismatch(network.state_dict(), state)
    if difference:
        raise BundleError(
            f"The weights of bundle '{bundle.name}' are not those of {bundle.spec.name}: {difference}. "
            "Get the bundle again."
        )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def bundle_encoder_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The encoders' tensors of a bundle, float32, by their own names; errors as of `load_network`."""
    verify(bundle)
    return encoder_weights(read_weights(bundle.weights_path), bundle.spec)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors, floating-point ones as float32; BundleError where it is missing or damaged."""
    from safetensors.torch import load_file

    read_index(path)  # raises a sentence on what is wrong with the file
    return {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
