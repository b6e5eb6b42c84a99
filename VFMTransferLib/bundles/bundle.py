"""Weights on disk with all that is known of them: one folder in MONAI's bundle layout.

configs/metadata.json   what it is, block `vfm_transfer` included
configs/inference.json  for MONAI's own tools
models/                 model.safetensors and, where exported, model.onnx, which shares its weights
docs/README.md          the model card
LICENSE                 of the weights
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ..core.decoding import Limits, from_json, parse_json
from ..core.errors import BundleError, ChecksumError, OutputError
from ..core.files import OF_FILE_BROWSERS, atomic_file, atomic_folder, file_sha256, open_regular, read_small
from ..core.notes import Note
from ..core.terms import RESEARCH_USE, Arm, Code, is_phantom_name
from ..encoders.base import ModelSpec
from ..metrics.calibration import Calibration
from ..metrics.operating_point import OperatingPoint
from ..tasks import TASKS
from .card import model_card
from .metadata import (
    METADATA,
    ONNX,
    ONNX_CPU,
    WEIGHTS,
    inference_config,
    label_table,
    metadata_of,
    spec_from_json,
    spec_to_json,
)

_NAME_WORDS = "a short name of lower-case letters, digits, '-', '_', '.'"
Name = Annotated[str, Limits(pattern=r"[a-z0-9][a-z0-9._-]{0,79}", words=_NAME_WORDS)]
Version = Annotated[str, Limits(pattern=r"[0-9]+\.[0-9]+\.[0-9]+.*", words="three numbers with dots, e.g. 1.0.0")]
Sha256 = Annotated[str, Limits(pattern=r"[0-9a-f]{64}", words="64 hex digits")]
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_MAX_WEIGHT = 1e6
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_BYTES_PER_ELEMENT = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
WeightsFile = Literal["models/model.safetensors", "models/model.onnx", "models/model-cpu.onnx"]


@dataclass(frozen=True)
class LabelRow:
    """One class of the output: its channel, name and, where its meaning is known, its code."""

    channel: Annotated[int, Limits(minimum=0)]
    name: str
    code: Code | None


@dataclass(frozen=True)
class Block:
    """The block `vfm_transfer` of `metadata.json`: what MONAI has no word for; see `Bundle`."""

    format: Literal[1]
    name: Name
    arm: Arm | None
    demonstration: bool
    license: str
    model: ModelSpec
    labels: tuple[LabelRow, ...]
    sha256: dict[WeightsFile, Sha256]
    training: dict[str, Any]
    metrics: dict[str, Any]
    calibration: Calibration | None = None
    operating_point: OperatingPoint | None = None
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        is_fitted = self.calibration is not None or self.operating_point is not None
        task = TASKS[self.model.task] if is_fitted and self.model.task is not None else None
        is_classifier = task is not None and bool(task.calibrated_measures) and self.model.activation == "softmax"
        calibration, point = self.calibration, self.operating_point
        rules = (
            (WEIGHTS in self.sha256, "sha256", f"does not list {WEIGHTS}"),
            (
                self.labels == from_json(tuple[LabelRow, ...], label_table(self.model), "labels"),
                "labels",
                "are not those of its model",
            ),
            (point is None or (task is not None and task.finds_lesions), "operating_point", "is of no lesion network"),
            (point is None or 0 <= point.min_confidence <= 1, "operating_point", "has a confidence outside 0 to 1"),
            (calibration is None or is_classifier, "calibration", "is of no classifier"),
            (calibration is None or calibration.temperature > 0, "calibration", "has a temperature of 0 or less"),
            (
                calibration is None or len(calibration.bias) == len(self.model.labels),
                "calibration",
                f"does not have {len(self.model.labels)} biases",
            ),
        )
        for holds, key, problem in rules:
            if not holds:
                raise ValueError(f"'vfm_transfer.{key}' {problem}.")


@dataclass(frozen=True)
class Bundle:
    """One network on disk; `training` and `metrics` are free JSON."""

    folder: Path
    name: str  # lower-case, unique in a catalog
    title: str  # on screen
    version: str  # of these weights
    spec: ModelSpec
    arm: Arm | None = None  # of a transfer study
    sha256: dict[str, str] = field(default_factory=dict)  # of each file in `models/`, by relative path with slashes
    training: dict[str, Any] = field(default_factory=dict)  # how it was trained: data, split, seed, schedule
    metrics: dict[str, Any] = field(default_factory=dict)  # what it reached
    license: str = "unknown"  # of the weights, an SPDX identifier where there is one
    demonstration: bool = False  # made by this project to show the product, not by the network's authors
    description: str = "A network for prostate MRI."
    calibration: Calibration | None = None  # of a classifier, where it was fitted
    operating_point: OperatingPoint | None = None  # of a network that finds lesions, where it was chosen
    caveats: tuple[str, ...] = ()  # sentences that each of its results has as notes

    @property
    def caveat_notes(self) -> tuple[Note, ...]:
        return tuple(Note("network-caveat", text, "caution") for text in self.caveats)

    @property
    def weights_path(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def onnx_path(self) -> Path:
        return self.folder / ONNX

    @property
    def cpu_onnx_path(self) -> Path:
        """The graph that is fastest on a processor: one of its own, where the bundle has one."""
        return self.folder / (ONNX_CPU if ONNX_CPU in self.sha256 else ONNX)

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights, as the metadata state it."""
        return self.sha256[WEIGHTS]

    @property
    def card_path(self) -> Path:
        return self.folder / "docs" / "README.md"

    @property
    def learned_from(self) -> frozenset[str]:
        """Names of the cases that trained or validated the network, or pretrained its encoders, as far as the metadata
        state; not of phantoms, of which each range has one of a name."""

        def within(*keys: str) -> list[Any]:
            found: object = self.training  # free JSON
            for key in keys:
                found = found.get(key) if isinstance(found, dict) else None
            return found if isinstance(found, list) else []

        parts = [("config", "split", "train"), ("config", "split", "validation"), ("cases",), ("start", "cases")]
        names = (name for part in parts for name in within(*part) if isinstance(name, str))
        return frozenset(name for name in names if not is_phantom_name(name))

    def was_trained_on(self, case_id: str) -> bool:
        """Whether a case of that name is among `learned_from`."""
        return case_id in self.learned_from


def read_bundle(folder: Path | str) -> Bundle:
    """Read what a bundle is, without its weights; BundleError where its metadata are missing or broken."""
    folder = Path(folder)
    document = _read_document(folder)
    block = document["vfm_transfer"]
    try:
        if isinstance(block, dict) and "model" in block:
            block = {**block, "model": spec_from_json(block["model"], "vfm_transfer.model")}
        checked = from_json(Block, block, "vfm_transfer")
        title = from_json(str, document.get("name"), "name")
        version = from_json(Version, document.get("version"), "version")  # type: ignore[arg-type]
        description = from_json(str, document.get("description"), "description")
    except (BundleError, ValueError) as error:
        raise BundleError(f"{METADATA}: {error} Get the bundle again, or correct that file.") from error
    fields = {key: value for key, value in vars(checked).items() if key not in ("format", "model", "labels")}
    fields["sha256"] = {str(name): digest for name, digest in checked.sha256.items()}
    return Bundle(folder, title=title, version=version, spec=checked.model, description=description, **fields)


def check_name(value: object) -> str:
    """The value, where it can be a bundle's name; else BundleError."""
    try:
        return from_json(Name, value, "name of a bundle")  # type: ignore[arg-type]
    except ValueError as error:
        raise BundleError(f"The {error}") from error


def verify(bundle: Bundle) -> None:
    """Check the files in `models/` against their checksums, before anything of them is used.

    BundleError where a file is missing or is not listed, ChecksumError where one differs. What a graph may do is not
    checked here: ONNX Runtime runs no code of it, and refuses data outside its folder.
    """
    models = bundle.weights_path.parent
    for path in sorted(models.iterdir()) if models.is_dir() else []:
        is_ignored = path.name.startswith(".") or path.name.lower() in OF_FILE_BROWSERS
        if f"models/{path.name}" not in bundle.sha256 and not is_ignored:
            raise BundleError(
                f"Bundle '{bundle.name}' states no checksum of 'models/{path.name:.60}'. Get the bundle again, export "
                "its graph again, or delete that file."
            )
    verify_weights(bundle)
    for name in (ONNX, ONNX_CPU):
        if name in bundle.sha256:
            _verify_checksum(bundle, name)


def verify_weights(bundle: Bundle) -> None:
    """Check the file of weights alone, as before graphs are made of it: its checksum, and that each weight is finite.

    NaN or huge weights would turn into plausible nonsense.
    """
    import numpy as np

    _verify_checksum(bundle, WEIGHTS)
    for name, tensor in read_index(bundle.weights_path).items():
        if tensor.length == 0 or tensor.dtype not in _FLOATS:
            continue
        stored = np.memmap(bundle.weights_path, _FLOATS[tensor.dtype], "r", tensor.offset, math.prod(tensor.shape))
        values = (stored.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else stored
        largest = float(np.abs(values).max())  # NaN where any is
        if not largest <= _MAX_WEIGHT:
            raise BundleError(
                f"Weights '{name:.80}' of bundle '{bundle.name}' are not finite or exceed {_MAX_WEIGHT:g}. "
                "Get the bundle again from its source."
            )


def _verify_checksum(bundle: Bundle, name: str) -> None:
    path, expected = bundle.folder / name, bundle.sha256[name]
    if not path.is_file():
        raise BundleError(f"Bundle '{bundle.name}' has no {name}. Get the bundle again.")
    if file_sha256(path) != expected:
        raise ChecksumError(
            f"{name} of bundle '{bundle.name}' was changed or damaged: its sha256 is not {expected[:12]}…. "
            "Get the bundle again from its source."
        )


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file: `length` bytes from the byte `offset`; `dtype` as `F16`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_index(path: Path) -> dict[str, StoredTensor]:
    """Name → place of every tensor in a safetensors file; BundleError where it is missing, truncated or damaged.

    Format: 8 bytes little-endian length of a JSON header, the header, then the tensors' bytes
    (https://github.com/huggingface/safetensors, Apache-2.0).
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            start = end = _LENGTH_BYTES + header_bytes
            if start > min(size, _MAX_HEADER_BYTES):
                raise ValueError("its header is damaged")
            header = dict(parse_json(file.read(header_bytes)))
        header.pop("__metadata__", None)
        index = {}
        for name, entry in header.items():
            begin, stop = entry["data_offsets"]
            tensor = StoredTensor(entry["dtype"], tuple(entry["shape"]), start + begin, stop - begin)
            if begin < 0 or tensor.length != math.prod(tensor.shape) * _BYTES_PER_ELEMENT[tensor.dtype]:
                raise ValueError(f"tensor '{name:.80}' is described wrongly")
            index[name] = tensor
            end = max(end, start + stop)
        if end != size:
            raise ValueError(f"it has {size} bytes, not {end}")
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}. Get the bundle again.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(
            f"{path.name} is not a whole safetensors file ({error!s:.120}). Get the bundle again."
        ) from error
    return index


def write_bundle(
    bundle: Bundle,
    weights: Mapping[str, Any],
    *,
    card: str | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle into `bundle.folder`, whole or not at all, and return it with the checksums of what was written.

    `onnx_export.export_onnx` adds the ONNX graph afterwards. BundleError where name or specification cannot be, or a
    weight is not finite; OutputError where the folder is taken (without `overwrite`) or cannot be written.

    Args:
        weights: State dict of the network: tensors (on any device) or arrays by name.
        card: The model card, instead of the one made from the metadata.
        half: Store floating-point weights as fp16; both runtimes compute in fp32 all the same.
    """
    from safetensors.numpy import save_file

    check_name(bundle.name)
    spec_from_json(spec_to_json(bundle.spec), "vfm_transfer.model")
    arrays = _stored_arrays(weights, half)
    with atomic_folder(bundle.folder, overwrite, require_replaceable) as work:
        for part in ("configs", "models", "docs"):
            (work / part).mkdir()
        save_file(arrays, work / WEIGHTS, {"format": "pt"})
        bundle = replace(bundle, sha256={WEIGHTS: file_sha256(work / WEIGHTS)})
        texts = {
            METADATA: dump(metadata_of(bundle)),
            "configs/inference.json": dump(inference_config()),
            "docs/README.md": card or model_card(bundle),
            "LICENSE": f"License of these weights: {bundle.license}.\n\n"
            f"The architecture is described at {bundle.spec.paper}; its authors' code is under {bundle.spec.license}.\n"
            f"{RESEARCH_USE}\n",
        }
        for name, text in texts.items():
            (work / name).write_text(text, encoding="utf-8")
        read_bundle(work)  # what cannot be read again is not put in place
    return bundle


def is_bundle_folder(path: Path) -> bool:
    return (path / METADATA).is_file()


def require_replaceable(folder: Path) -> None:
    """OutputError where a bundle would take the place of something else, such as the folder that holds all bundles."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not is_bundle_folder(folder):
        raise OutputError(f"'{folder.name}' holds something that is not a bundle. Choose another folder.")


def _stored_arrays(weights: Mapping[str, Any], half: bool) -> dict[str, Any]:
    """Contiguous numpy arrays of a state dict; floating point as fp32, or as fp16, all finite."""
    import numpy as np

    arrays = {}
    for name, tensor in weights.items():
        array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
        if np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):
                array = array.astype(np.float16 if half else np.float32)
            if not np.isfinite(array).all():
                raise BundleError(f"Weights '{name}' are not finite{' in half precision' if half else ''}.")
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)  # which alone would give a scalar an axis
    return arrays


def record_checksums(bundle: Bundle, files: Mapping[str, Path]) -> Bundle:
    """Write the checksums of files that lie in `models/`, or are about to, into the metadata: name there → file."""
    bundle = replace(bundle, sha256={**bundle.sha256, **{name: file_sha256(path) for name, path in files.items()}})
    change_block(bundle, "sha256", dict(bundle.sha256))
    return bundle


def dump(document: dict[str, Any]) -> str:
    """JSON as bundles hold it: indented, ending with a line break, no NaN."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _read_document(folder: Path) -> dict[str, Any]:
    """The content of `metadata.json`, with the block `vfm_transfer` in it."""
    try:
        document = parse_json(read_small(folder / METADATA))
    except FileNotFoundError as error:
        raise BundleError(
            f"'{folder.name}' is not a bundle: it lacks {METADATA}. Name the folder of configs/."
        ) from error
    except OSError as error:
        raise BundleError(f"{METADATA} cannot be read ({error.strerror}). Check its permissions.") from error
    except ValueError as error:
        raise BundleError(f"{METADATA} is not JSON ({error}). Get the bundle again.") from error
    if not isinstance(document, dict) or "vfm_transfer" not in document:
        raise BundleError(f"{METADATA} has no block vfm_transfer. Import the network instead.")
    return document


def change_block(bundle: Bundle, key: str, value: object) -> None:
    """Write another value of the block `vfm_transfer` into the metadata."""
    document = _read_document(bundle.folder)
    document["vfm_transfer"][key] = value
    with atomic_file(bundle.folder / METADATA) as part:
        part.write_text(dump(document), encoding="utf-8")
