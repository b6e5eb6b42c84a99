"""The fields of a bundle's `metadata.json`, each read strictly: what is wrong is said by the name of its key."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from .class_calibration import Calibration
from .errors import BundleError
from .metadata import FORMAT
from .registry import ModelSpec
from .spec_json import describe, from_json
from .terms import Arm, TaskId

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
