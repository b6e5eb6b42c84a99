"""Dataclasses of the registry ↔ JSON, strict in both directions: every key known, every key there.

One decoder walks the type hints, so that a field added to `ModelSpec` needs no code here.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.errors import BundleError
from ..core.terms import LABEL_TERMS, RESEARCH_USE, Arm, Label, TaskId
from ..core.version import __version__
from ..encoders.base import ConvNeXtSpec, ModelSpec, ViTSpec
from ..metrics.calibration import Calibration
from ..tasks.base import TASKS

ENCODER_KINDS: dict[str, type] = {"convnextv2": ConvNeXtSpec, "vit": ViTSpec}
HEAD_KINDS = ("none", "classifier", "upernet", "unetr", "convolution", "fusion", "restoration", "matching")
ACTIVATIONS = ("softmax", "sigmoid", "none")
NORMALIZATIONS = ("zscore-nonzero", "zscore-tissue", "zscore-gland")
_JSON_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}

T = TypeVar("T")


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """The JSON object of a `ModelSpec`; the encoder gains `kind`, which tells its class."""
    document = to_json(spec)
    kind = next(kind for kind, cls in ENCODER_KINDS.items() if isinstance(spec.encoder, cls))
    document["encoder"] = {"kind": kind, **document["encoder"]}
    return document


def spec_from_json(document: object, where: str = "model") -> ModelSpec:
    """The `ModelSpec` of a JSON object.

    Args:
        document: What `spec_to_json` gave.
        where: Path of keys that led here, for messages.

    Raises:
        BundleError: A key is missing, unknown, of the wrong type, or has a value that cannot be; the
            message names it.
    """
    if not isinstance(document, dict):
        raise BundleError(f"{where} must be an object, got {describe(document)}.")
    encoder = document.get("encoder")
    if not isinstance(encoder, dict) or encoder.get("kind") not in ENCODER_KINDS:
        raise BundleError(f"{where}.encoder.kind must be one of {', '.join(ENCODER_KINDS)}.")
    parts = {key: value for key, value in encoder.items() if key != "kind"}
    built: Any = from_json(ENCODER_KINDS[encoder["kind"]], parts, f"{where}.encoder")
    spec = from_json(ModelSpec, {**document, "encoder": built}, where)
    _check_values(spec, where)
    return spec


def to_json(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists, enumerations as their values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], document: object, where: str) -> T:
    """The value of type `kind`, a dataclass or what one is made of, that a JSON document states.

    Raises:
        BundleError: The document does not fit; the message names the key.
    """
    if is_dataclass(kind):
        return document if type(document) is kind else _dataclass_from_json(kind, document, where)  # type: ignore[return-value]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _union_from_json(arguments, document, where)
    if origin is tuple:
        return _tuple_from_json(arguments, document, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_from_json(kind, document, where)
    return _scalar_from_json(kind, document, where)


def describe(value: object) -> str:
    """A JSON value in few words, for messages."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _dataclass_from_json(kind: type[T], document: object, where: str) -> T:
    if not isinstance(document, dict):
        raise BundleError(f"{where} must be an object, got {describe(document)}.")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in names:
        if name not in document:
            raise BundleError(f"{where}.{name} must be given, but is missing.")
    for key in document:
        if key not in names:
            raise BundleError(f"{where}.{key} must not be there: no such key is known. Remove it.")
    return kind(**{name: from_json(hints[name], document[name], f"{where}.{name}") for name in names})


def _union_from_json(kinds: tuple[Any, ...], document: object, where: str) -> Any:
    if document is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds:
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(document, kind):
            return document
    if len(kinds) != 1:
        raise BundleError(f"{where} must be one of {', '.join(k.__name__ for k in kinds)}, got {describe(document)}.")
    return from_json(kinds[0], document, where)


def _tuple_from_json(kinds: tuple[Any, ...], document: object, where: str) -> Any:
    if not isinstance(document, list):
        raise BundleError(f"{where} must be a list, got {describe(document)}.")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(document)
    if len(kinds) != len(document):
        raise BundleError(f"{where} must have {len(kinds)} entries, got {len(document)}.")
    return tuple(
        from_json(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, document, strict=True))
    )


def _enum_from_json(kind: type[Enum], document: object, where: str) -> Any:
    values = [member.value for member in kind]
    if document not in values:
        raise BundleError(f"{where} must be one of {', '.join(map(str, values))}, got {describe(document)}.")
    return kind(document)


def _scalar_from_json(kind: Any, document: object, where: str) -> Any:
    accepted = (int, float) if kind is float else (kind,)
    is_flag = isinstance(document, bool) and kind is not bool
    if is_flag or not isinstance(document, accepted):
        raise BundleError(f"{where} must be {_JSON_NAMES[kind]}, got {describe(document)}.")
    return kind(document)


def _check_values(spec: ModelSpec, where: str) -> None:
    """Raise where a value has the right type but cannot be."""
    rules = (
        (spec.head.kind in HEAD_KINDS, "head.kind", f"one of {', '.join(HEAD_KINDS)}", spec.head.kind),
        (spec.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}", spec.activation),
        (
            spec.preprocess.normalization in NORMALIZATIONS,
            "preprocess.normalization",
            f"one of {', '.join(NORMALIZATIONS)}",
            spec.preprocess.normalization,
        ),
        (spec.head.out_channels > 0, "head.out_channels", "positive", spec.head.out_channels),
        (spec.head.width >= 0, "head.width", "0 or more", spec.head.width),
        (min(spec.preprocess.spacing_mm) > 0, "preprocess.spacing_mm", "positive", spec.preprocess.spacing_mm),
        (min(spec.preprocess.patch) > 0, "preprocess.patch", "positive", spec.preprocess.patch),
        (0 <= spec.preprocess.overlap < 1, "preprocess.overlap", "in 0 <= overlap < 1", spec.preprocess.overlap),
        (spec.preprocess.shift_voxels >= 0, "preprocess.shift_voxels", "0 or more", spec.preprocess.shift_voxels),
        (0 < spec.threshold < 1, "threshold", "between 0 and 1", spec.threshold),
        (any(spec.preprocess.sequences), "preprocess.sequences", "at least one sequence", spec.preprocess.sequences),
        (
            len(spec.labels) in (0, spec.head.out_channels),
            "labels",
            f"one for each of {spec.head.out_channels} output channels, or none",
            spec.labels,
        ),
        *_encoder_rules(spec),
    )
    for holds, key, must_be, found in rules:
        if not holds:
            raise BundleError(f"{where}.{key} must be {must_be}, got {describe(to_json(found))}.")


def _encoder_rules(spec: ModelSpec) -> tuple[tuple[bool, str, str, object], ...]:
    encoder = spec.encoder
    if isinstance(encoder, ConvNeXtSpec):
        return (
            (len(encoder.depths) == 4 and min(encoder.depths) > 0, "encoder.depths", "four positive", encoder.depths),
            (len(encoder.dims) == 4 and min(encoder.dims) > 0, "encoder.dims", "four positive", encoder.dims),
        )
    return (
        (encoder.depth > 0, "encoder.depth", "positive", encoder.depth),
        (encoder.heads > 0 and encoder.dim % encoder.heads == 0, "encoder.dim", "a multiple of heads", encoder.dim),
        (encoder.image_px % encoder.patch_px == 0, "encoder.image_px", "a multiple of patch_px", encoder.image_px),
    )


# The fields of a bundle's `metadata.json`, each read strictly: what is wrong is said by the name of its key.

METADATA = "configs/metadata.json"
WEIGHTS = "models/model.safetensors"
ONNX = "models/model.onnx"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+.*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_KEYS = ("format", "name", "arm", "demonstration", "license", "model", "labels", "sha256", "training", "metrics")
_OPTIONAL_KEYS = ("calibration",)


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read the metadata of a bundle's folder.

    Returns:
        The document; its block `vfm_transfer` has every key of this format, perhaps optional ones, and no other.

    Raises:
        BundleError: There are none, or they are not of this format.
    """
    path = folder / METADATA
    if not path.is_file():
        raise BundleError(f"{folder} must be a bundle, but has no {METADATA}. Name the folder that contains configs/.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise BundleError(f"{METADATA} must be JSON, but is not ({error}). Get the bundle again.") from error
    document = object_field(document, METADATA)
    expect("vfm_transfer" in document, METADATA, "made by VFM Transfer, with a block vfm_transfer", "no such block")
    block = object_field(document["vfm_transfer"], "vfm_transfer")
    for key in _BLOCK_KEYS:
        expect(key in block, f"vfm_transfer.{key}", "given", "nothing")
    for key in block:
        expect(key in (*_BLOCK_KEYS, *_OPTIONAL_KEYS), f"vfm_transfer.{key}", "absent", "a key that is not known")
    expect(block["format"] == FORMAT, "vfm_transfer.format", f"{FORMAT}", describe(block["format"]))
    return document


def _refuse_constant(word: str) -> None:
    """Python's reader takes NaN and Infinity for numbers; JSON knows none, and no field could be one.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"it holds {word}")


def expect(holds: bool, key: str, must_be: str, found: str) -> None:
    """Raise a sentence about a key unless what is expected of it holds.

    Raises:
        BundleError: It does not.
    """
    if not holds:
        raise BundleError(f"{key} must be {must_be}, got {found}. Get the bundle again, or mend its metadata.json.")


def check_name(value: object) -> str:
    """The value, where it can be a bundle's name.

    Raises:
        BundleError: It cannot.
    """
    holds = isinstance(value, str) and _NAME.fullmatch(value) is not None
    expect(holds, "The name of a bundle", "lower-case letters, digits, '-', '_', '.'", describe(value))
    return str(value)


def text_field(document: dict[str, Any], key: str, prefix: str = "") -> str:
    """A string of an object."""
    expect(isinstance(document.get(key), str), prefix + key, "a string", describe(document.get(key)))
    return str(document[key])


def version_field(document: dict[str, Any]) -> str:
    """The version of the weights, as 1.0.0; MONAI's schema wants it so too."""
    version = text_field(document, "version")
    expect(_VERSION.fullmatch(version) is not None, "version", "three numbers with dots, as 1.0.0", describe(version))
    return version


def flag_field(value: object, key: str) -> bool:
    """A value that must be true or false."""
    expect(isinstance(value, bool), key, "true or false", describe(value))
    return bool(value)


def object_field(value: object, key: str) -> dict[str, Any]:
    """A value that must be an object."""
    expect(isinstance(value, dict), key, "an object", describe(value))
    return value  # type: ignore[return-value]


def arm_field(value: object) -> Arm | None:
    """The arm, or None where the network is none of a study."""
    expect(value is None or value in list(Arm), "vfm_transfer.arm", "pretrained, scratch or null", describe(value))
    return None if value is None else Arm(str(value))


def calibration_field(value: object, spec: ModelSpec) -> Calibration | None:
    """How a classifier's probabilities are made true, or None where nothing is stated."""
    if value is None:
        return None
    key = "vfm_transfer.calibration"
    found = from_json(Calibration, value, key)
    expect(spec.task is TaskId.CLASSIFICATION and spec.activation == "softmax", key, "absent", "one of no classifier")
    is_possible = found.temperature > 0 and math.isfinite(found.temperature) and all(map(math.isfinite, found.bias))
    expect(is_possible, key, "a temperature above 0 and finite biases", describe(value))
    expect(len(found.bias) == len(spec.labels), f"{key}.bias", f"{len(spec.labels)} numbers", f"{len(found.bias)}")
    return found


def checksums_field(value: object) -> dict[str, str]:
    """File → checksum, of the files in `models/` alone."""
    table = object_field(value, "vfm_transfer.sha256")
    expect(WEIGHTS in table, "vfm_transfer.sha256", f"a table that lists {WEIGHTS}", describe(list(table)))
    for name, digest in table.items():
        key = f"vfm_transfer.sha256['{name}']"
        expect(name in (WEIGHTS, ONNX), key, f"for {WEIGHTS} or {ONNX}", "another file")
        expect(isinstance(digest, str) and bool(_SHA256.fullmatch(digest)), key, "64 hex digits", describe(digest))
    return table


# The two configuration files of a bundle, in MONAI's words: `metadata.json` and `inference.json`.
#
# MONAI's own tools read both (`monai.bundle`, `ConfigParser`); what they have no word for stands in the
# block `vfm_transfer`. `inference.json` is written for them: nothing here ever evaluates it.

if TYPE_CHECKING:
    from .bundle import Bundle

FORMAT = 1
MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
# What the field says where the package is not installed: the oldest version that serves.
_OLDEST_VERSIONS = {"monai": "1.5.0", "torch": "2.6.0", "numpy": "2.0.0", "onnxruntime": "1.20.0", "SimpleITK": "2.4.0"}
_CHANNEL_TITLES = {"t2w": "T2w", "hbv": "high-b DWI", "adc": "ADC"}


def metadata_of(bundle: Bundle) -> dict[str, Any]:
    """The content of `configs/metadata.json`."""
    return {
        "schema": MONAI_SCHEMA,
        "version": bundle.version,
        "changelog": {bundle.version: "Written by VFM Transfer."},
        "monai_version": _package_version("monai"),
        "pytorch_version": _package_version("torch"),
        "numpy_version": _package_version("numpy"),
        "required_packages_version": {
            "vfm-transfer": __version__,
            **{name: _package_version(name) for name in ("onnxruntime", "SimpleITK")},
        },
        "name": bundle.title,
        "task": task_title(bundle.spec),
        "description": bundle.description,
        "authors": "The users and authors of VFM Transfer",
        "copyright": f"License of the weights: {bundle.license}",
        "intended_use": RESEARCH_USE,
        "references": [bundle.spec.paper],
        "network_data_format": {"inputs": _inputs(bundle.spec), "outputs": _outputs(bundle.spec)},
        "vfm_transfer": vfm_transfer_block(bundle),
    }


def vfm_transfer_block(bundle: Bundle) -> dict[str, Any]:
    """What MONAI has no word for: the network whole, where its weights came from, their checksums."""
    calibration = {} if bundle.calibration is None else {"calibration": to_json(bundle.calibration)}
    return {
        "format": FORMAT,
        "name": bundle.name,
        "arm": None if bundle.arm is None else bundle.arm.value,
        "demonstration": bundle.demonstration,
        "license": bundle.license,
        "model": spec_to_json(bundle.spec),
        "labels": label_table(bundle.spec),
        "sha256": dict(bundle.sha256),
        "training": bundle.training,
        "metrics": bundle.metrics,
        **calibration,
    }


def label_table(spec: ModelSpec) -> list[dict[str, Any]]:
    """Each class of the output, its channel and, where its meaning is known, its SNOMED CT code."""
    rows: list[dict[str, Any]] = []
    for channel, name in enumerate(spec.labels):
        row: dict[str, Any] = {"channel": channel, "name": str(name), "code": None}
        if name in list(Label) and Label(name) in LABEL_TERMS:
            code = LABEL_TERMS[Label(name)].type
            row["code"] = {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}
        rows.append(row)
    return rows


def task_title(spec: ModelSpec) -> str:
    """What the network does, in a few words."""
    return "Features for fine-tuning" if spec.task is None else TASKS[spec.task].title


def inference_config() -> dict[str, Any]:
    """The content of `configs/inference.json`, for `python -m monai.bundle run`.

    `network_def` is the network with fresh weights, `network` the same with the bundle's.
    """
    return {
        "imports": ["$from VFMTransferLib.bundles.bundle import read_bundle", "$import VFMTransferLib"],
        "bundle_root": ".",
        "case": "",
        "output_dir": "$@bundle_root + '/eval'",
        "bundle": "$read_bundle(@bundle_root)",
        "network_def": {"_target_": "VFMTransferLib.encoders.network.build_network", "spec": "$@bundle.spec"},
        "network": {"_target_": "VFMTransferLib.bundles.weights.load_network", "bundle": "@bundle"},
        "result": "$VFMTransferLib.inference.predict(VFMTransferLib.read_case(@case), @bundle)",
        "run": ["$VFMTransferLib.save_result(@result, @output_dir)"],
    }


def _inputs(spec: ModelSpec) -> dict[str, Any]:
    names = ["zeros" if sequence is None else _CHANNEL_TITLES[sequence.value] for sequence in spec.preprocess.sequences]
    if isinstance(spec.encoder, ViTSpec):
        return _slice_inputs(spec, names)
    channels = {str(i): name for i, name in enumerate(names)}
    return {"image": _image(len(names), spec.preprocess.patch, channels)}


def _slice_inputs(spec: ModelSpec, streams: list[str]) -> dict[str, Any]:
    """ProViCNet: each stream is three neighboring slices of one sequence; then (slice index, number of slices)."""
    pixels = spec.encoder.image_px  # type: ignore[union-attr]
    slices = ("slice before", "slice", "slice after")
    keys = ["image"] if len(streams) == 1 else list(spec.preprocess.sequences)
    images = {
        str(key): _image(3, (pixels, pixels), {str(i): f"{name}, {place}" for i, place in enumerate(slices)})
        for key, name in zip(keys, streams, strict=True)
    }
    positions = {
        "type": "tuples",
        "format": "coefficients",
        "num_channels": 2,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "slice index", "1": "number of slices"},
    }
    return {**images, "positions": positions}


def _outputs(spec: ModelSpec) -> dict[str, Any]:
    channels = {str(i): str(name) for i, name in enumerate(spec.labels)}
    shape: tuple[int, ...] = spec.preprocess.patch
    if spec.head.kind in ("classifier", "none"):
        shape = ()
    elif isinstance(spec.encoder, ViTSpec):
        shape = shape[1:]
    output = _image(
        spec.head.out_channels, shape, channels or {str(i): f"channel {i}" for i in range(spec.head.out_channels)}
    )
    return {"pred": {**output, "type": "image" if shape else "probabilities", "format": "coefficients"}}


def _image(channels: int, shape: tuple[int, ...], channel_def: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": channels,
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": channel_def,
    }


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return _OLDEST_VERSIONS[name]
