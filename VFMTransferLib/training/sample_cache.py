"""Training samples cached on disk: made once, kept between runs by checksum, mapped into memory and so shared.

A training then holds no voxels of its cases: a sample reads the pages that it shows, which the system caches once for
all processes of a machine. A case is read and prepared when a sample first asks for it.

    <folder>/<checksum>/image.npy, labels.npy, ...     a field of `CropSamples`, `WindowSamples` or `SliceSamples` each
    <folder>/<checksum>/fresh/signals.npy, ...         what a case is made of that is made again at every sample
    <folder>/<checksum>/samples.json                   the other fields

The checksum is of everything that decides the arrays: the case, the network's input and the library's version.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
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
from ..core.files import writing
from ..core.volume import Volume
from ..encoders.base import ModelSpec
from ..phantom import Phantom
from ..tasks import task_of
from ..tasks.base import LabeledCase
from ..tasks.training import Sample
from .cases import LazyCase
from .config import Augmentation
from .samples import CaseSamples, CropSamples, SliceSamples, TissueSamples, WindowSamples, samples_of

_FORMAT = "prepared samples 2"
_META = "samples.json"
_FRESH = "fresh"
_KINDS: dict[str, type] = {kind.__name__: kind for kind in (CropSamples, WindowSamples, SliceSamples, TissueSamples)}
Samples = TypeVar("Samples", CropSamples | WindowSamples | SliceSamples, CropSamples | SliceSamples | TissueSamples)


@dataclass(frozen=True)
class CachedSamples:
    """The samples of one case for a network, by way of the disk."""

    folder: Path  # of all cached cases
    case: LazyCase[LabeledCase]
    spec: ModelSpec

    def open(self) -> CaseSamples:
        """The samples, their arrays mapped; prepared and written before where that was never done."""
        path = cache_path(self.folder, self.case.identity, self.spec)
        return stored(path, self.spec, lambda: samples_of(self.case.read(), self.spec))

    @property
    def category(self) -> int | None:
        """Number of its class, of a classification."""
        return self.open().category

    def sample(self, generator: Generator, how: Augmentation) -> Sample:
        """As of `CaseSamples`."""
        return self.open().sample(generator, how)


def case_samples(
    case: LabeledCase | LazyCase[LabeledCase], spec: ModelSpec, cache: Path | None
) -> CaseSamples | CachedSamples:
    """The samples of a case for a network: in memory or, with a folder for them, on disk."""
    if cache is None:
        return samples_of(case.read() if isinstance(case, LazyCase) else case, spec)
    if isinstance(case, LabeledCase) or not case.identity:
        labeled = case if isinstance(case, LabeledCase) else case.read()
        case = LazyCase(labeled.case.id, case_identity(labeled), lambda: labeled)
    return CachedSamples(cache, case, spec)


def cache_path(folder: Path, identity: str, spec: ModelSpec) -> Path:
    """The folder of a case's samples for a network; `identity` is of all that decides them but the network."""
    document = [_FORMAT, __version__, to_json(spec.preprocess), spec.task, spec.labels, identity]
    text = json.dumps([*document, spec.family, to_json(spec.encoder)], sort_keys=True)
    return folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def stored(path: Path, spec: ModelSpec, make: Callable[[], Samples]) -> Samples:
    """Samples in a folder, their arrays mapped; made and written before where that was never done."""
    if not path.is_dir():
        _write(make(), path)
    try:
        document = json.loads((path / _META).read_text(encoding="utf-8"))
        kind = _KINDS[document["kind"]]
        own = _read_fields(kind, document["fields"], path)
        if _FRESH in document:
            fresh = cast(Any, task_of(spec).training().on_the_fly_kind)
            own[_FRESH] = fresh(**_read_fields(fresh, document[_FRESH], path / _FRESH))
        return kind(**own, spec=spec.preprocess if kind is CropSamples else spec)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"Prepared case {path.name} cannot be read. Remove it.") from error


def shown_identity(case: Case | LabeledCase | Phantom) -> str:
    """A checksum of what pretraining may show of a case in memory."""
    if isinstance(case, LabeledCase):
        return case_identity(case)
    volumes = case.volumes if isinstance(case, Case) else case.images
    return _checksum((case if isinstance(case, Case) else case.case).id, volumes)


def case_identity(case: LabeledCase) -> str:
    """A checksum of a case's images, grids and truth."""
    volumes: dict[str, Volume | None] = {f"image {name}": volume for name, volume in case.case.volumes.items()}
    volumes |= {f"mask {name}": volume for name, volume in case.masks.items()}
    volumes |= {f"truth {name}": volume for name, volume in case.images.items()}
    volumes |= {"gland": case.gland, "own": case.case.gland, "moved": case.along_phase_mm}
    return _checksum(f"{case.task} {case.case.id} {case.phase_axis} {case.category} {case.is_phantom}", volumes)


def _checksum(title: str, volumes: Mapping[Any, Volume | None]) -> str:
    digest = hashlib.sha256(title.encode())
    for name, volume in sorted(volumes.items()):
        if volume is not None:
            digest.update(f"{name} {volume.array.dtype} {to_json(volume.geometry)}".encode())
            digest.update(np.ascontiguousarray(volume.array).reshape(-1).data)
    return digest.hexdigest()


def _write(samples: CaseSamples | TissueSamples, path: Path) -> None:
    """Write all, or nothing; where another process was faster, what it wrote stays."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            document: dict[str, Any] = {"kind": type(samples).__name__, "fields": _write_fields(samples, work)}
            fresh = getattr(samples, _FRESH, None)
            if fresh is not None:
                document[_FRESH] = _write_fields(fresh, work / _FRESH)
            (work / _META).write_text(json.dumps(document), encoding="utf-8")
            try:
                work.replace(path)
            except OSError:
                if not path.is_dir():
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


def _read_fields(kind: Any, rest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a dataclass: tensors that map their files, and those that JSON holds.

    The maps are copy-on-write, so that PyTorch takes them without a copy, though nothing writes to them.
    """
    hints = get_type_hints(kind)
    found = {name: None if value is None else from_json(hints[name], value, name) for name, value in rest.items()}
    for file in folder.glob("*.npy"):
        array = np.load(file, allow_pickle=False) if file.stat().st_size <= 128 else np.load(file, mmap_mode="c")
        found[file.stem] = torch.from_numpy(array)  # the header alone, 128 bytes, is an empty array: it maps not
    return found
