"""The authors' released files: read without running anything in them, as the tensors of our networks.

ProFound's files are a dict of `model`, `optimizer`, `epoch`, `scaler` and `args`, an argparse
Namespace; ProViCNet's are a bare dict of tensors. Both are pickles. PyTorch's restricted reader
rebuilds tensors, plain containers and that one class, and refuses all else before it is called.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from ..core.terms import Sequence
from .base import ModelSpec
from .identify import identify, is_fusion_head, is_sequence_network
from .profound.checkpoint import is_sparse, to_dense

__all__ = ["identify", "read_checkpoint", "read_network", "sequence_of_name"]

# ProViCNet's contrastive head: half of each file, and of no use after training.
_TRAINING_ONLY = "CL_Head."
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")
_FIRST_BYTES = 64
_SEQUENCE_WORDS = {
    "t2": Sequence.T2W,
    "t2w": Sequence.T2W,
    "adc": Sequence.ADC,
    "dwi": Sequence.HBV,
    "hbv": Sequence.HBV,
}
# The fused network's part, and upstream's name of its stream, for each sequence.
_STREAMS = {
    Sequence.T2W: ("t2w", "Stream_T2W"),
    Sequence.ADC: ("adc", "Stream_ADC"),
    Sequence.HBV: ("dwi", "Stream_DWI"),
}
_HEAD_START = "head.segmentation_conv."
_STREAM_LAYERS = ("1.", "2.")
# What PyTorch's reader raises on a file that is cut off or of another kind.
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


def read_network(
    paths: Iterable[Path], sequence: Sequence | None = None, *, own_streams: bool = False
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read the file or files of one network and find which it is.

    Args:
        paths: One file; or ProViCNet's three sequence files and the fusion file, in any order.
        sequence: Sequence of a single ProViCNet file; by default its name tells.
        own_streams: Keep the fusion file's own streams. By default each takes the first block of its
            sequence network's head, because the authors' program overwrites them so after loading.

    Returns:
        The specification, and the tensors that a network built from it loads strictly.

    Raises:
        CheckpointError: A file cannot be read safely, or the files are no network that is known here.
    """
    states = {Path(path): read_checkpoint(Path(path)) for path in paths}
    if len(states) == 1:
        ((path, state),) = states.items()
        return identify(state, sequence or sequence_of_name(path)), state
    state = _fuse(_sort_by_part(states), own_streams)
    return identify(state), state


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint; nothing in the file is run.

    Pre-training's sparse layout becomes the dense one, and what serves training only is left out.

    Args:
        path: A file as the authors release it.

    Returns:
        Tensors by name, floating point as float32, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, a web page, or holds more than tensors.
    """
    _check_kind(path)
    state = _tensors(_load(path), path.name)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(_TRAINING_ONLY)}
    if is_sparse(state):
        state = to_dense(state)
    return {name: _plain(tensor) for name, tensor in state.items()}


def sequence_of_name(path: Path) -> Sequence | None:
    """The sequence that a file's name states, as `T2_best.pth` does; None where it states none or two."""
    words = re.split(r"[^a-z0-9]+", path.name.lower())
    found = {_SEQUENCE_WORDS[word] for word in words if word in _SEQUENCE_WORDS}
    return found.pop() if len(found) == 1 else None


def _check_kind(path: Path) -> None:
    """Raise where the first bytes already tell that the file is no checkpoint."""
    start = _first_bytes(path)
    if not start:
        raise CheckpointError(f"{path.name} must be a checkpoint file, but is empty. Download it again.")
    if start.lstrip().lower().startswith(_WEB_PAGE):
        raise CheckpointError(
            f"{path.name} must be a checkpoint file, but is a web page: the link asked for a confirmation or has "
            "expired. Download the file in a browser."
        )


def _first_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path.name} must be a checkpoint file, but there is no such file. Check its path.")
    try:
        with path.open("rb") as file:
            return file.read(_FIRST_BYTES)
    except PermissionError as error:
        raise CheckpointError(f"{path.name} must be readable, but permission is denied. Change its rights.") from error


def _load(path: Path) -> object:
    is_zip = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # PyTorch's remarks on formats are for its developers; what matters is raised.
            warnings.simplefilter("ignore")
            # Mapping the file leaves the optimizer's state, twice the weights, on the disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        is_pickle = is_zip or _first_bytes(path).startswith(pickle.PROTO)
        is_noise = "Unsupported operand" in str(error) and not is_pickle
        raise CheckpointError(_damaged(path.name) if is_noise else _refusal(path.name, str(error))) from error
    except _DAMAGE as error:
        raise CheckpointError(_damaged(path.name)) from error


def _refusal(name: str, reason: str) -> str:
    """Name the object at which PyTorch's restricted reader stopped, where it says so."""
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f" ({found[1]})" if found else ""
    return (
        f"{name} must hold tensors only, but also holds other Python objects{what}, which could run a program. "
        "It was refused and nothing in it was run. Get the file from its authors."
    )


def _damaged(name: str) -> str:
    return f"{name} must be a PyTorch checkpoint, but is cut off or of another kind. Download it again."


def _tensors(content: object, name: str) -> dict[str, Tensor]:
    """The table of tensors: ProFound's `model`, or the whole of a bare file."""
    table = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(table, Mapping) or not table:
        found = "an empty one" if isinstance(table, Mapping) else f"a {type(table).__name__}"
        raise CheckpointError(f"{name} must hold a table of tensors, but holds {found}.")
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(
                f"{name} must hold a table of tensors, alone or under 'model', but '{key}' is a {type(value).__name__}."
            )
    return dict(table)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor of its own memory: the file may be mapped, and views may share."""
    kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(kind, copy=True).contiguous()


def _sort_by_part(states: Mapping[Path, dict[str, Tensor]]) -> dict[Sequence | None, dict[str, Tensor]]:
    """Sort ProViCNet's four files: the sequence networks by sequence, the fusion head under None."""
    parts: dict[Sequence | None, dict[str, Tensor]] = {}
    for path, state in states.items():
        if is_fusion_head(state):
            parts[None] = state
        elif is_sequence_network(state) and (sequence := sequence_of_name(path)):
            parts[sequence] = state
    if len(states) != 4 or set(parts) != {None, *Sequence}:
        names = ", ".join(path.name for path in states) or "no file"
        raise CheckpointError(
            "Several files must be ProViCNet's fusion file and one file each for T2, ADC and DWI, with the sequence "
            f"in its name; got {names}."
        )
    return parts


def _fuse(parts: Mapping[Sequence | None, dict[str, Tensor]], own_streams: bool) -> dict[str, Tensor]:
    """The fused network's tensors from the four files'."""
    fused = {f"fusion.{name}": tensor for name, tensor in parts[None].items()}
    for sequence, (network, stream) in _STREAMS.items():
        state = parts[sequence]
        fused.update({f"{network}.{name}": tensor for name, tensor in state.items()})
        if not own_streams:
            fused.update(_stream_of_head(state, f"fusion.{stream}.UpsampleModule."))
    return fused


def _stream_of_head(state: Mapping[str, Tensor], stream: str) -> dict[str, Tensor]:
    """The first convolution and norm of a sequence network's head, under a stream's names."""
    starts = tuple(_HEAD_START + layer for layer in _STREAM_LAYERS)
    return {stream + name.removeprefix(_HEAD_START): state[name].clone() for name in state if name.startswith(starts)}
