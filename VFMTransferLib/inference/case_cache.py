"""What was made of cases, kept by the content of their images: a second task on a case costs inference only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import numpy as np

from ..core.volume import Volume

Value = TypeVar("Value")

LIMIT_BYTES = 512 * 2**20


class CaseCache:
    """Values by a key that names all they were made from; those used longest ago go first.

    Args:
        limit_bytes: Of all arrays in the values together.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._values: dict[object, object] = {}  # the one used last at the end

    def recall(self, key: object, make: Callable[[], Value]) -> Value:
        """The value of a key, made now if it is not there. Nobody may change it."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value
        while len(self._values) > 1 and _array_bytes(list(self._values.values())) > self._limit_bytes:
            del self._values[next(iter(self._values))]
        return cast(Value, value)

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()


def content_sha256(volume: Volume | None) -> str:
    """Checksum of a volume's voxels, their type and their grid; empty without a volume."""
    if volume is None:
        return ""
    array = np.ascontiguousarray(volume.array)
    digest = hashlib.sha256(repr((volume.geometry, array.dtype.str, array.shape)).encode())
    digest.update(array.data)
    return digest.hexdigest()


def _array_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_array_bytes, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(_array_bytes, value))
    if is_dataclass(value):
        return sum(_array_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
