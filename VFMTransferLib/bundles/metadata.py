"""A bundle's two configuration files, in MONAI's words: `metadata.json` and `inference.json`.

MONAI's own tools read both (`monai.bundle`, `ConfigParser`); what they have no word for stands in the block
`vfm_transfer`, the network's `ModelSpec` among it. `inference.json` is written for them: nothing here evaluates it.
`bundle.read_bundle` reads the metadata back.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from ..core import __version__
from ..core.decoding import from_json, to_json
from ..core.errors import BundleError
from ..core.terms import LABEL_TERMS, RESEARCH_USE, Label
from ..encoders.base import ACTIVATIONS, FAMILIES, NEIGHBORS, NORMALIZATIONS, ModelSpec, family_of
from ..tasks import TASKS

if TYPE_CHECKING:
    from .bundle import Bundle

METADATA = "configs/metadata.json"
WEIGHTS = "models/model.safetensors"
ONNX = "models/model.onnx"


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """The JSON object of a `ModelSpec`; the encoder gains `kind`, which names its class."""
    document = to_json(spec)
    document["encoder"] = {"kind": family_of(spec).json_kind, **document["encoder"]}
    return document


def spec_from_json(document: Any, where: str = "model") -> ModelSpec:
    """The `ModelSpec` of a JSON object.

    Args:
        document: What `spec_to_json` gave.
        where: Path of keys that led here, for messages.

    Raises:
        BundleError: A key is missing, unknown, of the wrong type, or has a value that cannot be; the
            message names it.
    """
    try:
        if isinstance(document, dict) and "encoder" in document:
            document = {**document, "encoder": _encoder_from_json(document["encoder"], f"{where}.encoder")}
        spec = from_json(ModelSpec, document, where, every_key=True)
    except ValueError as error:
        raise BundleError(str(error)) from error
    _check_values(spec, where)
    return spec


def _encoder_from_json(document: Any, where: str) -> Any:
    """The sizes that an object states, of the family that its `kind` names."""
    document = from_json(dict[str, Any], document, where)
    kinds = {family.json_kind: family.spec_type for family in FAMILIES.values()}
    kind = document.get("kind")
    if kind not in kinds:
        raise ValueError(f"'{where}.kind' must be one of {', '.join(kinds)}, got {kind!r:.60}.")
    return from_json(kinds[kind], {k: v for k, v in document.items() if k != "kind"}, where, every_key=True)


def _check_values(spec: ModelSpec, where: str) -> None:
    """Raise where a value has the right type but cannot be."""
    family = family_of(spec)
    rules = (
        (spec.head.kind in family.head_kinds, "head.kind", f"one of {', '.join(family.head_kinds)}", spec.head.kind),
        (spec.task is None or spec.task in TASKS, "task", f"one of {', '.join(TASKS)}, or null", spec.task),
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
        *(
            (False, f"encoder.{field}", must_be, getattr(spec.encoder, field))
            for field, must_be in family.problems(spec.encoder)
        ),
    )
    for holds, key, must_be, found in rules:
        if not holds:
            raise BundleError(f"'{where}.{key}' must be {must_be}, got {to_json(found)!r:.60}.")


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
        "network_def": {"_target_": "VFMTransferLib.encoders.build_network", "spec": "$@bundle.spec"},
        "network": {"_target_": "VFMTransferLib.bundles.weights.load_network", "bundle": "@bundle"},
        "result": "$VFMTransferLib.inference.predict(VFMTransferLib.read_case(@case), @bundle)",
        "run": ["$VFMTransferLib.save_result(@result, @output_dir)"],
    }


def _inputs(spec: ModelSpec) -> dict[str, Any]:
    names = ["zeros" if sequence is None else _CHANNEL_TITLES[sequence.value] for sequence in spec.preprocess.sequences]
    if spec.is_slice_based:
        return _slice_inputs(spec, names)
    channels = {str(i): name for i, name in enumerate(names)}
    return {"image": _image(len(names), spec.preprocess.patch, channels)}


def _slice_inputs(spec: ModelSpec, streams: list[str]) -> dict[str, Any]:
    """Each stream is three neighboring slices of one sequence; then (slice index, number of slices)."""
    pixels = family_of(spec).image_px(spec)
    slices = ("slice before", "slice", "slice after")
    keys = ["image"] if len(streams) == 1 else list(spec.preprocess.sequences)
    images = {
        str(key): _image(NEIGHBORS, (pixels, pixels), {str(i): f"{name}, {place}" for i, place in enumerate(slices)})
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
    if spec.head.is_vector:
        shape = ()
    elif spec.is_slice_based:
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
