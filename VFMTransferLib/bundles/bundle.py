"""Weights on disk with all that is known of them: one folder in MONAI's bundle layout.

configs/metadata.json   what it is, block `vfm_transfer` included
configs/inference.json  for MONAI's own tools
models/                 model.safetensors and, where exported, model.onnx, which shares its weights
docs/README.md          the model card
LICENSE                 of the weights
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import BundleError, ChecksumError
from ..core.files import atomic_file, atomic_folder
from ..core.terms import Arm
from ..encoders.base import ModelSpec
from ..metrics.calibration import Calibration
from .metadata import (
    METADATA,
    ONNX,
    WEIGHTS,
    arm_field,
    calibration_field,
    check_name,
    checksums_field,
    expect,
    flag_field,
    inference_config,
    label_table,
    metadata_of,
    object_field,
    read_metadata,
    spec_from_json,
    spec_to_json,
    text_field,
    version_field,
)
from .model_card import license_text, model_card


@dataclass(frozen=True)
class Bundle:
    """One network on disk.

    Attributes:
        folder: Where it lies.
        name: Short lower-case name, unique in a catalog.
        title: What to call it on screen.
        version: Of these weights.
        spec: The network.
        arm: Which arm of a transfer study it is; None where it is none.
        sha256: File (relative, with slashes) → checksum, for each file in `models/`.
        training: How it was trained: data, split, seed, schedule. Free JSON.
        metrics: What it reached. Free JSON.
        license: Of the weights, an SPDX identifier where there is one.
        demonstration: Made by this project to show the product, not by the network's authors.
        description: What it is, in sentences.
        calibration: Of a classifier, how its probabilities are made true; None where nobody fitted it.
    """

    folder: Path
    name: str
    title: str
    version: str
    spec: ModelSpec
    arm: Arm | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    license: str = "unknown"
    demonstration: bool = False
    description: str = "A network for prostate MRI."
    calibration: Calibration | None = None

    @property
    def weights_path(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def onnx_path(self) -> Path:
        return self.folder / ONNX

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights, as the metadata state it."""
        return self.sha256[WEIGHTS]

    @property
    def license_path(self) -> Path:
        return self.folder / "LICENSE"

    @property
    def card_path(self) -> Path:
        return self.folder / "docs" / "README.md"


def read_bundle(folder: Path | str) -> Bundle:
    """Read what a bundle is, without reading its weights.

    Raises:
        BundleError: The folder holds no bundle, or its metadata are broken; the message names the key.
    """
    folder = Path(folder)
    document = read_metadata(folder)
    block = document["vfm_transfer"]
    spec = spec_from_json(block["model"], "vfm_transfer.model")
    expect(block["labels"] == label_table(spec), "vfm_transfer.labels", "the labels of vfm_transfer.model", "others")
    return Bundle(
        folder=folder,
        name=check_name(block["name"]),
        title=text_field(document, "name"),
        version=version_field(document),
        spec=spec,
        arm=arm_field(block["arm"]),
        sha256=checksums_field(block["sha256"]),
        training=object_field(block["training"], "vfm_transfer.training"),
        metrics=object_field(block["metrics"], "vfm_transfer.metrics"),
        license=text_field(block, "license", "vfm_transfer."),
        demonstration=flag_field(block["demonstration"], "vfm_transfer.demonstration"),
        description=text_field(document, "description"),
        calibration=calibration_field(block.get("calibration"), spec),
    )


def verify(bundle: Bundle) -> None:
    """Check the files in `models/` against their checksums, before anything of them is used.

    Raises:
        BundleError: A file is missing, or one is there that the metadata do not list.
        ChecksumError: A file differs from its checksum.
    """
    if bundle.onnx_path.exists() and ONNX not in bundle.sha256:
        raise BundleError(
            f"Bundle '{bundle.name}' must state the checksum of {ONNX}, but does not. Export it again, or delete it."
        )
    for name, expected in bundle.sha256.items():
        path = bundle.folder / name
        if not path.is_file():
            raise BundleError(f"Bundle '{bundle.name}' must contain {name}, but it is missing. Get the bundle again.")
        found = file_sha256(path)
        if found != expected:
            raise ChecksumError(
                f"{name} of bundle '{bundle.name}' must have sha256 {expected[:12]}…, but has {found[:12]}…: it was "
                "changed or damaged, and is not used. Get the bundle again from its source."
            )


def write_bundle(
    bundle: Bundle,
    weights: Mapping[str, Any],
    *,
    license_body: str | None = None,
    card: str | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle into `bundle.folder`, whole or not at all.

    `export.export_onnx` adds the ONNX graph afterwards.

    Args:
        bundle: What to write; its `sha256` is not looked at.
        weights: State dict of the network: tensors (on any device) or arrays by name.
        license_body: The text of `LICENSE`; by default a sentence that names `bundle.license`.
        card: The model card, instead of the one made from the metadata.
        half: Store floating-point weights as fp16; both runtimes compute in fp32 all the same.
        overwrite: Replace what is in the folder.

    Returns:
        The bundle with the checksums of what was written.

    Raises:
        BundleError: The name or the specification cannot be, or a weight is not finite.
        OutputError: The folder is taken or cannot be written.
    """
    check_name(bundle.name)
    spec_from_json(spec_to_json(bundle.spec), "vfm_transfer.model")
    arrays = stored_arrays(weights, half)
    with atomic_folder(bundle.folder, overwrite) as work:
        return _write_files(bundle, arrays, work, license_body or license_text(bundle), card)


def stored_arrays(weights: Mapping[str, Any], half: bool) -> dict[str, Any]:
    """Contiguous numpy arrays of a state dict; floating point as fp32, or as fp16.

    Raises:
        BundleError: A weight is not finite, or too large for fp16.
    """
    import numpy as np

    arrays = {}
    for name, tensor in weights.items():
        array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
        if np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):
                array = array.astype(np.float16 if half else np.float32)
            if not np.isfinite(array).all():
                raise BundleError(
                    f"Weights '{name}' must be finite{' in half precision' if half else ''}, but are not."
                )
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)  # which alone would give a scalar an axis
    return arrays


def record_checksum(bundle: Bundle, file: str) -> Bundle:
    """Write the checksum of a file that was put into `models/` into the metadata.

    Raises:
        OutputError: They cannot be written.
    """
    bundle = replace(bundle, sha256={**bundle.sha256, file: file_sha256(bundle.folder / file)})
    _change_block(bundle, "sha256", dict(bundle.sha256))
    return bundle


def rename(bundle: Bundle, name: str) -> Bundle:
    """Give a bundle another name, in its metadata; the folder stays.

    Raises:
        BundleError: The name cannot be.
        OutputError: The metadata cannot be written.
    """
    _change_block(bundle, "name", check_name(name))
    return replace(bundle, name=name)


def file_sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dump(document: dict[str, Any]) -> str:
    """JSON as bundles hold it: indented, ending with a line break, no NaN."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_files(bundle: Bundle, arrays: dict[str, Any], work: Path, license_body: str, card: str | None) -> Bundle:
    from safetensors.numpy import save_file

    for part in ("configs", "models", "docs"):
        (work / part).mkdir()
    save_file(arrays, work / WEIGHTS, {"format": "pt"})
    bundle = replace(bundle, sha256={WEIGHTS: file_sha256(work / WEIGHTS)})
    texts = {
        METADATA: dump(metadata_of(bundle)),
        "configs/inference.json": dump(inference_config()),
        "docs/README.md": card or model_card(bundle),
        "LICENSE": license_body,
    }
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8")
    read_bundle(work)  # what cannot be read again is not put in place
    return bundle


def _change_block(bundle: Bundle, key: str, value: object) -> None:
    document = read_metadata(bundle.folder)
    document["vfm_transfer"][key] = value
    with atomic_file(bundle.folder / METADATA) as part:
        part.write_text(dump(document), encoding="utf-8")
