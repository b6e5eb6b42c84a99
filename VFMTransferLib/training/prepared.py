"""Prepared cases on disk: made once, kept between runs by checksum, mapped into memory and so shared by all processes.

A training then holds no voxels of its cases: a sample reads the pages that it shows, which the system caches once for
all processes of a machine. A case is read and prepared when a sample first asks for it, so that the first step does not
wait for all of them.

    <folder>/<checksum>/image.npy, labels.npy, ...     a field of `CropSamples`, `WindowSamples` or `SliceSamples` each
    <folder>/<checksum>/fresh/signals.npy, ...         what a case is made of that is made again at every sample
    <folder>/<checksum>/samples.json                   the other fields; it is written last

The checksum is of everything that decides the arrays: the case, the network's input and the library's version. Folders
of settings that are no longer used may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import numpy as np
import torch
from torch import Generator, Tensor

from ..core import __version__
from ..core.case import Case
from ..core.decoding import from_json, to_json
from ..core.errors import DatasetError
from ..core.files import part_of_folder, remove_leftovers, writing
from ..core.volume import Volume
from ..encoders.base import ModelSpec
from ..phantom import Phantom
from ..tasks import task_of
from ..tasks.base import LabeledCase
from ..tasks.training import Sample
from .augmentation import Augmentation
from .cases import LazyCases
from .samples import CaseSamples, CropSamples, SliceSamples, TissueSamples, WindowSamples, samples_of

_FORMAT = "prepared samples 2"
_META = "samples.json"
_FRESH = "fresh"
_KINDS: dict[str, type] = {kind.__name__: kind for kind in (CropSamples, WindowSamples, SliceSamples, TissueSamples)}
Samples = TypeVar("Samples", CropSamples | WindowSamples | SliceSamples, CropSamples | SliceSamples | TissueSamples)


@dataclass(frozen=True)
class PreparedSamples:
    """The samples of one case, by way of the disk; it may be given to other processes.

    Attributes:
        folder: Where all prepared cases lie.
        identity: What decides the case.
        read: Gives the case, where it has to be prepared.
        spec: The network.
    """

    folder: Path
    identity: str
    read: Callable[[], LabeledCase]
    spec: ModelSpec

    @property
    def path(self) -> Path:
        """The folder of this case and network."""
        return prepared_path(self.folder, self.identity, self.spec)

    def open(self) -> CaseSamples:
        """The samples, their arrays mapped; prepared and written before where that was never done.

        DatasetError, OutputError, and errors as of `samples_of`.
        """
        return stored(self.path, self.spec, lambda: samples_of(self.read(), self.spec))

    @property
    def category(self) -> int | None:
        """Number of its class, of a classification."""
        return self.open().category

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """As of `CaseSamples`."""
        return self.open().sample(generator, how)


def prepared_path(folder: Path, identity: str, spec: ModelSpec) -> Path:
    """The folder of a case's samples for a network; `identity` is of all that decides them but the network."""
    document = [_FORMAT, __version__, to_json(spec.preprocess), spec.task, spec.labels, identity]
    text = json.dumps([*document, spec.family, to_json(spec.encoder)], sort_keys=True)
    return folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def stored(path: Path, spec: ModelSpec, make: Callable[[], Samples]) -> Samples:
    """Samples in a folder, their arrays mapped; made and written before where that was never done."""
    if not (path / _META).is_file():
        _write(make(), path)
    return cast(Samples, _read(path, spec))


def prepared_samples(name: str, cases: Mapping[str, LabeledCase], spec: ModelSpec, folder: Path) -> PreparedSamples:
    """The samples of one of some cases; of cases in memory the identity is a checksum of all their voxels."""
    if isinstance(cases, LazyCases):
        return PreparedSamples(folder, cases.identity(name), lambda: cases[name], spec)
    return PreparedSamples(folder, case_identity(cases[name]), lambda: cases[name], spec)


def shown_identity(case: Case | LabeledCase | Phantom) -> str:
    """A checksum of what pretraining may show of a case in memory."""
    if isinstance(case, LabeledCase):
        return case_identity(case)
    volumes = case.volumes if isinstance(case, Case) else case.images
    digest = hashlib.sha256((case if isinstance(case, Case) else case.case).id.encode())
    for name, volume in sorted(volumes.items()):
        _add(digest, str(name), volume)
    return digest.hexdigest()


def case_identity(case: LabeledCase) -> str:
    """A checksum of a case's images, grids and truth."""
    digest = hashlib.sha256(f"{case.task} {case.case.id} {case.phase_axis} {case.category} {case.is_phantom}".encode())
    volumes = {f"image {name}": volume for name, volume in case.case.volumes.items()}
    volumes |= {f"mask {name}": volume for name, volume in case.masks.items()}
    volumes |= {f"truth {name}": volume for name, volume in case.images.items()}
    others: dict[str, Volume | None] = {"gland": case.gland, "own": case.case.gland, "moved": case.along_phase_mm}
    for name, volume in sorted({**volumes, **others}.items()):
        if volume is not None:
            _add(digest, name, volume)
    return digest.hexdigest()


def _add(digest: Any, name: str, volume: Volume) -> None:
    digest.update(f"{name} {volume.array.dtype} {to_json(volume.geometry)}".encode())
    digest.update(np.ascontiguousarray(volume.array).reshape(-1).data)


def _write(samples: CaseSamples | TissueSamples, path: Path) -> None:
    """Write all, or nothing; where another process was faster, what it wrote stays."""
    work = part_of_folder(path)
    with writing(path):
        remove_leftovers(path.parent, path.name)
        try:
            document: dict[str, Any] = {"kind": type(samples).__name__, "fields": _write_fields(samples, work)}
            fresh = getattr(samples, _FRESH, None)
            if fresh is not None:
                document[_FRESH] = _write_fields(fresh, work / _FRESH)
            (work / _META).write_text(json.dumps(document), encoding="utf-8")
            try:
                work.replace(path)
            except OSError:
                if not (path / _META).is_file():
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _write_fields(owner: Any, folder: Path) -> dict[str, Any]:
    """Write the tensors of a dataclass into a folder, a file each; its other fields, for JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    rest: dict[str, Any] = {}
    for own in fields(owner):
        value = getattr(owner, own.name)
        if isinstance(value, Tensor):
            np.save(folder / f"{own.name}.npy", value.numpy(), allow_pickle=False)
        elif own.name not in ("spec", _FRESH):  # a tensor may be None, as `labels` of a crop
            rest[own.name] = to_json(value)
    return rest


def _read(path: Path, spec: ModelSpec) -> Any:
    try:
        document = json.loads((path / _META).read_text(encoding="utf-8"))
        kind = _KINDS[document["kind"]]
        own = _read_fields(kind, document["fields"], path)
        if _FRESH in document:
            fresh = task_of(spec).training().on_the_fly_kind
            if fresh is None:
                raise KeyError(spec.task)
            own[_FRESH] = fresh(**_read_fields(fresh, document[_FRESH], path / _FRESH))
        return kind(**own, spec=spec.preprocess if kind is CropSamples else spec)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"Prepared case {path.name} must be whole, but cannot be read. Remove it.") from error


def _read_fields(kind: Any, rest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a dataclass: tensors that map their files, and those that JSON holds."""
    hints = get_type_hints(kind)
    values = {name: None if value is None else from_json(hints[name], value, name) for name, value in rest.items()}
    return values | {file.stem: _mapped(file) for file in folder.glob("*.npy")}


def _mapped(path: Path) -> Tensor:
    """An array in its file; copy-on-write, so that PyTorch takes it without a copy, though nothing writes to it."""
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, *_ = np.lib.format.read_array_header_1_0(stream)
    is_empty = 0 in shape  # which cannot be mapped
    return torch.from_numpy(np.load(path, mmap_mode=None if is_empty else "c", allow_pickle=False))
