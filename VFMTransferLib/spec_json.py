"""Dataclasses of the registry ↔ JSON, strict in both directions: every key known, every key there.

One decoder walks the type hints, so that a field added to `ModelSpec` needs no code here.
"""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from .errors import BundleError
from .registry import ConvNeXtSpec, ModelSpec, ViTSpec

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
