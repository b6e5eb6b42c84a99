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
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from ..core.terms import Label, Sequence
from .base import FAMILIES, HeadSpec, ModelSpec
from .weights import empty_network, mismatch

_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")
_FIRST_BYTES = 64
_MAX_LISTED = 8
_SEQUENCE_WORDS = {"t2": Sequence.T2W, "dwi": Sequence.HBV, **{str(sequence): sequence for sequence in Sequence}}
# What PyTorch's reader raises on a file that is cut off or of another kind.
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


def read_network(
    paths: Iterable[Path], sequence: Sequence | None = None, *, own_streams: bool = False
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read the file or files of one network and find which it is.

    Args:
        paths: One file; or several of one network (ProViCNet's three sequence files and its fusion file), in any order.
        sequence: Sequence of a network of one; by default as the file's name states.
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
        stated = sequence_of_name(path)
        if sequence is not None and stated not in (None, sequence):
            raise CheckpointError(
                f"{path.name} must be of {sequence}, as was chosen, but is of {stated} by its name. Leave the choice "
                "out, or give the file a name without a sequence."
            )
        return identify(state, sequence or stated), state
    if sequence is not None:
        raise CheckpointError(
            f"A sequence is chosen of one file, but there are {len(states)}, whose names state theirs. Leave it out."
        )
    found = (family.join(states, own_streams) for family in FAMILIES.values())
    joined = next((state for state in found if state is not None), {})
    return identify(joined), joined


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, floating point as float32, on the CPU; nothing in the file is run.

    Pre-training's sparse layout becomes the dense one, and what serves training only is left out.

    Raises:
        CheckpointError: The file is missing, damaged, a web page, or holds more than tensors.
    """
    start = _first_bytes(path)
    if not start:
        raise CheckpointError(f"{path.name} must be a checkpoint file, but is empty. Download it again.")
    if start.lstrip().lower().startswith(_WEB_PAGE):
        raise CheckpointError(
            f"{path.name} must be a checkpoint file, but is a web page: the link asked for a confirmation or has "
            "expired. Download the file in a browser."
        )
    state: Mapping[str, Tensor] = _tensors(_load(path), path.name)
    for family in FAMILIES.values():
        state = family.convert(state)
    # Each of its own memory: the file may be mapped, and views may share.
    return {
        name: t.detach().to(torch.float32 if t.is_floating_point() else t.dtype, copy=True).contiguous()
        for name, t in state.items()
    }


def sequence_of_name(path: Path) -> Sequence | None:
    """The sequence that a file's name states, as `T2_best.pth` does; None where it states none or two."""
    words = re.split(r"[^a-z0-9]+", path.name.lower())
    found = {_SEQUENCE_WORDS[word] for word in words if word in _SEQUENCE_WORDS}
    return found.pop() if len(found) == 1 else None


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
    damaged = f"{path.name} must be a PyTorch checkpoint, but is cut off or of another kind. Download it again."
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # PyTorch's remarks on formats are for its developers; what matters is raised.
            warnings.simplefilter("ignore")
            # Mapping the file leaves the optimizer's state, twice the weights, on the disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        is_pickle = is_zip or _first_bytes(path).startswith(pickle.PROTO)
        if "Unsupported operand" in str(error) and not is_pickle:
            raise CheckpointError(damaged) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))  # the object at which the restricted reader stopped
        what = f" ({found[1]})" if found else ""
        raise CheckpointError(
            f"{path.name} must hold tensors only, but also holds other Python objects{what}, which could run a "
            "program. It was refused and nothing in it was run. Get the file from its authors."
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(damaged) from error


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


def identify(state: Mapping[str, Tensor], sequence: Sequence | None = None) -> ModelSpec:
    """Find the published network whose tensors a state dict holds; depths and widths follow from the shapes.

    Output channels whose meaning is not known get neutral labels.

    Args:
        state: From `read_checkpoint`, or of several files together.
        sequence: Of a network of one sequence whose tensors do not show which.

    Raises:
        CheckpointError: No network that is known here, or its tensors are not complete.
    """
    found = (family.identify(state, sequence) for family in FAMILIES.values())
    spec = next((spec for spec in found if spec is not None), None)
    if spec is None:
        known = " or ".join(family.title for family in FAMILIES.values() if family.published())
        raise CheckpointError(f"The file must hold a network of {known}, but holds {contents(state)}.")
    difference = mismatch(empty_network(spec).state_dict(), state)
    if difference:
        raise CheckpointError(
            f"The tensors must be those of {spec.title}, but {difference}. Get the file again from its source."
        )
    return spec


# What the families' `identify` is made of.


def shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a tensor that a network must have.

    Raises:
        CheckpointError: It is not there.
    """
    if name not in state:
        raise CheckpointError(
            f"The file must hold the tensor {name}, but lacks it: it is no complete network. Get it again."
        )
    return tuple(state[name].shape)


def count_of(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the pattern's group takes among the names."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})


def contents(state: Mapping[str, Tensor]) -> str:
    """What a state dict holds, in few words, for messages."""
    parts = sorted({name.split(".")[0] for name in state})
    listed = ", ".join(parts[:_MAX_LISTED]) + (", ..." if len(parts) > _MAX_LISTED else "")
    return f"{len(state)} tensors named {listed}" if parts else "no tensors"


def with_sizes(row: ModelSpec, encoder: object, head: HeadSpec) -> ModelSpec:
    """A published network with other sizes, and neutral labels where it has another number of output channels."""
    spec = replace(row, encoder=encoder, head=head)
    count = head.out_channels
    if count == row.head.out_channels:
        return spec
    if head.is_vector:
        return replace(spec, labels=tuple(f"class-{i}" for i in range(1, count + 1)))
    return replace(spec, labels=(Label.BACKGROUND, *(f"structure-{i}" for i in range(1, count))))
