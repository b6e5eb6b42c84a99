"""The authors' released files: read without running anything in them, as the tensors of this library's networks.

ProFound's files are a dict of `model`, `optimizer`, `epoch`, `scaler` and `args`; ProViCNet's are a bare dict of
tensors. Both are pickles, of which PyTorch's restricted reader takes tensors and plain containers only.
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
        own_streams: Keep the fusion file's own streams. By default each takes the first block of its sequence network's
            head, because the authors' program overwrites them so after loading.

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
            raise CheckpointError(f"{path.name} is of {stated} by its name, not of {sequence}. Choose no sequence.")
        return identify(state, sequence or stated), state
    if sequence is not None:
        raise CheckpointError("The names of several files state their sequences. Choose no sequence.")
    found = (family.join(states, own_streams) for family in FAMILIES.values())
    joined = next((state for state in found if state is not None), {})
    return identify(joined), joined


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, floating point as float32, on the CPU; nothing in the file is run."""
    if not path.is_file():
        raise CheckpointError(f"{path.name} is not a file. Check its path.")
    with path.open("rb") as file:
        if file.read(_FIRST_BYTES).lstrip().lower().startswith(_WEB_PAGE):
            raise CheckpointError(
                f"{path.name} is a web page: the link asked for a confirmation or has expired. Download the file in a "
                "browser."
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


def _load(path: Path) -> object:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's remarks on formats; what matters is raised
            # Mapping the file leaves the optimizer's state, twice the weights, on the disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):  # the object at which the restricted reader stopped
            raise CheckpointError(
                f"{path.name} holds other Python objects than tensors ({found[1]}), which could run a program. It was "
                "refused and nothing in it was run. Get the file from its authors."
            ) from error
        raise CheckpointError(f"{path.name} is no PyTorch checkpoint, or cut off. Download it again.") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path.name} is no PyTorch checkpoint, or cut off. Download it again.") from error


def _tensors(content: object, name: str) -> dict[str, Tensor]:
    """The table of tensors: ProFound's `model`, or the whole of a bare file."""
    table = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(table, Mapping) or not table:
        raise CheckpointError(f"{name} holds no table of tensors. Get the file from its authors.")
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{name} holds no table of tensors: '{key}' is a {type(value).__name__}.")
    return dict(table)


def identify(state: Mapping[str, Tensor], sequence: Sequence | None = None) -> ModelSpec:
    """Find the published network whose tensors a state dict holds; depths and widths follow from the shapes.

    CheckpointError where no network that is known here has them all.
    """
    found = (family.identify(state, sequence) for family in FAMILIES.values())
    spec = next((spec for spec in found if spec is not None), None)
    if spec is None:
        known = " or ".join(family.title for family in FAMILIES.values() if family.published())
        raise CheckpointError(f"The file must hold a network of {known}, but holds {contents(state)}.")
    difference = mismatch(empty_network(spec).state_dict(), state)
    if difference:
        raise CheckpointError(f"The tensors are not those of {spec.title}: {difference}. Get the file again.")
    return spec


# What the families' `identify` is made of.


def shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a tensor that a network must have; CheckpointError where it is not there."""
    if name not in state:
        raise CheckpointError(f"The file lacks the tensor {name}: it is no complete network. Get it again.")
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
