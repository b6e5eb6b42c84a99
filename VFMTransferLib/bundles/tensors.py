"""The safetensors file of a bundle: where each tensor lies in it, without reading the tensors.

Format: 8 bytes little-endian length of a JSON header, the header, then the tensors' bytes
(https://github.com/huggingface/safetensors, Apache-2.0). The offsets serve the ONNX graph, whose
initializers point into the same file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import BundleError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
BYTES_PER_ELEMENT = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        dtype: safetensors' name of the element type, as `F16`.
        shape: Its shape.
        offset: First byte, from the start of the file.
        length: Bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_index(path: Path) -> dict[str, StoredTensor]:
    """Name → place of every tensor in a safetensors file.

    Raises:
        BundleError: The file is missing, truncated, or no safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 2 <= header_bytes <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise BundleError(f"{path.name} must be a safetensors file, but its header is damaged. Get it again.")
            header = json.loads(file.read(header_bytes))
    except FileNotFoundError as error:
        raise BundleError(
            f"The bundle must contain models/{path.name}, but it is missing. Get the bundle again."
        ) from error
    except ValueError as error:
        raise BundleError(
            f"{path.name} must be a safetensors file, but its header is no JSON. Get it again."
        ) from error
    start = _LENGTH_BYTES + header_bytes
    index = {name: _stored(name, entry, start) for name, entry in header.items() if name != "__metadata__"}
    end = max((tensor.offset + tensor.length for tensor in index.values()), default=start)
    if end != size:
        raise BundleError(f"{path.name} must be {end} bytes by its header, but is {size}. Get it again.")
    return index


def _stored(name: str, entry: dict, start: int) -> StoredTensor:
    try:
        begin, end = entry["data_offsets"]
        tensor = StoredTensor(entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)
        elements = 1
        for n in tensor.shape:
            elements *= n
        if tensor.length != elements * BYTES_PER_ELEMENT[tensor.dtype]:
            raise ValueError(f"{tensor.length} bytes for {tensor.shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"Tensor '{name}' is described wrongly in the weights file ({error}). Get it again."
        ) from error
    return tensor
