"""What was found about cases, kept by the content of their images: a second task on one case costs inference only.

In memory, and for cohorts on disk too, where every worker and the next run find it:

    <cache folder>/findings/<checksum>.npz    a value: its arrays, and all else as JSON

The checksum is of all that a value was made from, this library's own code included. The folder may be removed at any
time; it holds voxels of cases, and only its owner may read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ..core.decoding import from_json, to_json
from ..core.errors import OutputError
from ..core.files import atomic_file, cache_folder
from ..core.volume import Volume

Found = TypeVar("Found")

LIMIT_BYTES = 512 * 2**20
DISK_LIMIT_BYTES = 2 * 2**30
_LARGEST_SHARE = 16  # a value on disk takes at most this part of the limit
_REST, _ARRAY = "rest", "ndarray"


class Findings:
    """Values by a key that names all they were made from; those used longest ago go first.

    Args:
        limit_bytes: Of all arrays in the values together.
        folder: Where values are kept on disk too; None for memory alone.
        disk_limit_bytes: Of all files there.
    """

    def __init__(
        self,
        limit_bytes: int = LIMIT_BYTES,
        folder: Path | None = None,
        disk_limit_bytes: int = DISK_LIMIT_BYTES,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._folder = folder
        self._disk_limit_bytes = disk_limit_bytes
        self._values: dict[object, object] = {}  # the one used last at the end

    def recall(self, key: object, make: Callable[[], Found], kind: Any = None) -> Found:
        """The value of a key, made now if it is not there. Nobody may change it.

        Args:
            key: Its `repr` names all that the value is made from.
            make: Makes the value.
            kind: Its type, as `from_json` takes one, with arrays; without it the value is kept in memory only.
        """
        if key in self._values:
            value = self._values.pop(key)
        elif self._folder is None or kind is None:
            value = make()
        else:
            value = self._from_disk(self._folder, key, make, kind)
        self._values[key] = value
        while len(self._values) > 1 and _array_bytes(list(self._values.values())) > self._limit_bytes:
            del self._values[next(iter(self._values))]
        return cast(Found, value)

    def clear(self) -> None:
        """Forget all that is in memory."""
        self._values.clear()

    def _from_disk(self, folder: Path, key: object, make: Callable[[], Found], kind: Any) -> Found:
        path = folder / f"{hashlib.sha256(f'{_library_sha256()} {key!r}'.encode()).hexdigest()}.npz"
        try:
            kept = cast(Found, _read(path, kind))
        except Exception:  # not there, or damaged, for which zip, zlib, NumPy and JSON have many errors
            pass
        else:
            with suppress(OSError):  # where it cannot be marked as used it goes earlier
                os.utime(path)
            return kept
        value = make()
        if _array_bytes(value) <= self._disk_limit_bytes // _LARGEST_SHARE:
            with suppress(OSError, OutputError):  # without a place on disk it is made again next time
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(value, path)
                self._make_room(folder)
        return value

    def _make_room(self, folder: Path) -> None:
        """Remove files, those used longest ago first, until all together are no larger than they may be."""
        found = []
        for file in folder.glob("*.npz"):
            with suppress(FileNotFoundError):  # another worker makes room too
                about = file.stat()
                found.append((about.st_mtime, about.st_size, file))
        held = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if held <= self._disk_limit_bytes:
                break
            file.unlink(missing_ok=True)
            held -= size


def findings_folder() -> Path | None:
    """Where cohorts keep their findings; None without a cache folder."""
    folder = cache_folder()
    return None if folder is None else folder / "findings"


def _write(value: Any, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}

    def without_arrays(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            arrays[f"{len(arrays)}"] = part
            return {_ARRAY: len(arrays) - 1}
        if isinstance(part, dict):
            return {name: without_arrays(item) for name, item in part.items()}
        return [without_arrays(item) for item in part] if isinstance(part, list) else part

    rest = json.dumps(without_arrays(to_json(value)))
    # Masks are small then; what is measured in half a second is not packed for two.
    save = np.savez_compressed if all(array.dtype.kind in "biu" for array in arrays.values()) else np.savez
    with atomic_file(path) as part, part.open("wb") as stream:
        save(stream, **{_REST: np.array(rest)}, **arrays)  # type: ignore[arg-type]  # names of arrays, not options


def _read(path: Path, kind: Any) -> Any:
    with np.load(path, allow_pickle=False) as file:

        def with_arrays(part: Any) -> Any:
            if isinstance(part, dict):
                if part.keys() == {_ARRAY}:
                    return file[str(part[_ARRAY])]
                return {name: with_arrays(item) for name, item in part.items()}
            return [with_arrays(item) for item in part] if isinstance(part, list) else part

        return from_json(kind, with_arrays(json.loads(str(file[_REST]))), path.name)


@cache
def _library_sha256() -> str:
    """Checksum of this library's code and of the numbers beside it, any of which may change what is found."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for file in sorted([*root.rglob("*.py"), *root.rglob("*.json")]):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


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
