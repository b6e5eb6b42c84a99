"""The two configuration files of a bundle, in MONAI's words: `metadata.json` and `inference.json`.

MONAI's own tools read both (`monai.bundle`, `ConfigParser`); what they have no word for stands in the
block `vfm_transfer`. `inference.json` is written for them: nothing here ever evaluates it.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from .registry import ModelSpec, ViTSpec
from .spec_json import spec_to_json, to_json
from .tasks import TASKS
from .terms import LABEL_TERMS, RESEARCH_USE, Label
from .version import __version__

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
        "imports": ["$from VFMTransferLib.bundle import read_bundle", "$import VFMTransferLib"],
        "bundle_root": ".",
        "case": "",
        "output_dir": "$@bundle_root + '/eval'",
        "bundle": "$read_bundle(@bundle_root)",
        "network_def": {"_target_": "VFMTransferLib.models.network.build_network", "spec": "$@bundle.spec"},
        "network": {"_target_": "VFMTransferLib.weights.load_network", "bundle": "@bundle"},
        "result": "$VFMTransferLib.predict(VFMTransferLib.read_case(@case), @bundle)",
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
