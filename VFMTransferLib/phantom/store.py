"""Which phantoms train, validate and test, and phantoms on disk: each made once, and one of them serving every task.

A file holds all voxels as they are and the rest as JSON (no pickle), so that a phantom that is read is the one that was
made. Workers that find none make those that are missing, each in an order of its own, so that few are made twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.files import atomic_file, writing
from ..core.terms import Label, OnProgress
from ..core.terms import Sequence as MRSequence
from ..core.volume import Geometry, Triple, Volume
from .diffusion import DiffusionStudy
from .gland import Lesion
from .phantom import VERSION, Phantom, make_phantom

_RECORD = "record"
_LEFT_RIGHT = 0  # a network cannot detect the axis; see `training.cases`
_SHOWN_DIGITS = 8


@dataclass(frozen=True)
class Phantoms:
    """Phantoms of consecutive seeds."""

    first_seed: int
    count: int

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)


@dataclass(frozen=True)
class PhantomGroups:
    """Which phantoms train, choose the best step, and are measured; a phantom is a patient.

    Attributes:
        full_resolution: Whether they have the twin of full resolution that super-resolution needs; it is most of their
            cost.
    """

    train: Phantoms
    validation: Phantoms
    test: Phantoms
    full_resolution: bool = False


@dataclass(frozen=True)
class PhantomSplit:
    """The phantoms of all tasks that have none of their own.

    Attributes:
        spacing_mm: Voxel of every phantom's T2w (x, y, z).
    """

    spacing_mm: Triple
    train: Phantoms
    validation: Phantoms
    test: Phantoms
    full_resolution: bool = True

    @property
    def groups(self) -> PhantomGroups:
        """The same without the voxel."""
        return PhantomGroups(self.train, self.validation, self.test, self.full_resolution)


@dataclass(frozen=True)
class PhantomStore:
    """Phantoms on disk.

    Attributes:
        folder: May be shared by many processes.
        spacing_mm: Voxel of their T2w (x, y, z).
        for_tasks: Whether phase encoding runs from left to right, as the tasks need; those to pretrain on do without.
        full_resolution: Whether they have the twin that super-resolution needs; makes most of their cost.
    """

    folder: Path
    spacing_mm: Triple
    for_tasks: bool = True
    full_resolution: bool = True

    def phantoms(self, seeds: Iterable[int], on_progress: OnProgress | None = None) -> list[Phantom]:
        """The phantoms of some seeds; what is missing is made.

        Raises:
            DatasetError: A file is damaged.
            OutputError: The folder cannot be written.
        """
        wanted = list(seeds)
        self.make_missing(wanted, on_progress)
        return [read_phantom(self._path(seed)) for seed in wanted]

    def make_missing(self, seeds: Sequence[int], on_progress: OnProgress | None = None) -> None:
        """Make and write those phantoms that are not on disk yet."""
        missing = [seed for seed in seeds if not self._path(seed).is_file()]
        random.Random(os.getpid()).shuffle(missing)
        for done, seed in enumerate(missing):
            if not self._path(seed).is_file():  # another worker may have made it meanwhile
                store_phantom(make_phantom(seed, **self._options), self._path(seed))
            if on_progress is not None:
                on_progress(f"phantoms, {done + 1} of {len(missing)} made", 0.0)

    @property
    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"t2w_spacing_mm": self.spacing_mm}
        if self.full_resolution:
            options["full_resolution"] = True
        return {**options, "phase_axis": _LEFT_RIGHT} if self.for_tasks else options

    def _path(self, seed: int) -> Path:
        options = json.dumps({**self._options, "version": VERSION}, sort_keys=True, separators=(",", ":"))
        short = hashlib.sha256(options.encode()).hexdigest()[:_SHOWN_DIGITS]
        return self.folder / f"phantom-{seed:06d}-{short}.npz"


def store_phantom(phantom: Phantom, path: Path) -> None:
    """Write all of a phantom into one file, whole or not at all; OutputError if the folder cannot be written."""
    volumes = {str(sequence): volume for sequence, volume in phantom.case.volumes.items()} | phantom.truths
    record = {
        "id": phantom.case.id,
        "seed": phantom.seed,
        "acquisition": phantom.acquisition,
        "lesions": [asdict(lesion) for lesion in phantom.lesions],
        "volumes": {name: {"name": volume.name, **asdict(volume.geometry)} for name, volume in volumes.items()},
    }
    arrays = {name: volume.array for name, volume in volumes.items()}
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part, part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{**arrays, _RECORD: text})


def read_phantom(path: Path) -> Phantom:
    """Read a phantom that `store_phantom` wrote; DatasetError if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            record = json.loads(stored[_RECORD].tobytes())
            volumes = {}
            for name, own in record["volumes"].items():
                title = own.pop("name")
                grid = Geometry(**{key: tuple(value) for key, value in own.items()})
                volumes[name] = Volume(stored[name], grid, title)
            sequences = {sequence: volumes[sequence] for sequence in MRSequence if sequence in volumes}
            diffusion = None
            if "adc_true" in volumes:
                diffusion = DiffusionStudy(**{name: volumes[name] for name in DiffusionStudy.__dataclass_fields__})
            return Phantom(
                case=Case(record["id"], sequences),
                gland=volumes["gland"],
                zones=volumes["zones"],
                lesion=volumes["lesion"],
                lesions=tuple(Lesion(**{**lesion, "zone": Label(lesion["zone"])}) for lesion in record["lesions"]),
                seed=record["seed"],
                acquisition=record["acquisition"],
                diffusion=diffusion,
                t2w_full_resolution=volumes.get("t2w_full_resolution"),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"Phantom {path.name} must be whole, but cannot be read. Remove it.") from error
