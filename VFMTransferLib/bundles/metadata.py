"""A bundle's `metadata.json` and `inference.json`, both for MONAI's own tools.

What MONAI has no word for stands in the block `vfm_transfer`, the network's `ModelSpec` among it.
"""

from __future__ import annotations

import importlib.metadata
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..core import __version__
from ..core.decoding import from_json, to_json
from ..core.errors import BundleError
from ..core.terms import LABEL_TERMS, RESEARCH_USE
from ..encoders.base import ACTIVATIONS, FAMILIES, NORMALIZATIONS, ModelSpec, family_of
from ..tasks import TASKS

if TYPE_CHECKING:
    from .bundle import Bundle

METADATA = "configs/metadata.json"
WEIGHTS = "models/model.safetensors"
ONNX = "models/model.onnx"
ONNX_CPU = "models/model-cpu.onnx"  # the same function, for ONNX Runtime's own kernels on processors
FORMAT = 1
MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
# What the field states where the package is not installed: the oldest version that serves.
_OLDEST_VERSIONS = {"monai": "1.5.0", "torch": "2.6.0", "numpy": "2.0.0", "onnxruntime": "1.22.0", "SimpleITK": "2.4.0"}
_CHANNEL_TITLES = {"t2w": "T2w", "hbv": "high-b DWI", "adc": "ADC"}


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """The JSON object of a `ModelSpec`; the encoder gains `kind`, which names its class."""
    document = to_json(spec)
    document["encoder"] = {"kind": family_of(spec).json_kind, **document["encoder"]}
    return document


def spec_from_json(document: Any, where: str = "model") -> ModelSpec:
    """The `ModelSpec` of what `spec_to_json` gave; BundleError names the key (`where` leads to it) that is wrong."""
    try:
        if isinstance(document, dict) and "encoder" in document:
            key = f"{where}.encoder"
            sizes = dict(from_json(dict[str, Any], document["encoder"], key))
            kinds = {family.json_kind: family.spec_type for family in FAMILIES.values()}
            kind = sizes.pop("kind", None)
            if not isinstance(kind, str) or kind not in kinds:
                raise ValueError(f"'{key}.kind' must be one of {', '.join(kinds)}, got {kind!r:.60}.")
            document = {**document, "encoder": from_json(kinds[kind], sizes, key, every_key=True)}
        spec = from_json(ModelSpec, document, where, every_key=True)
    except ValueError as error:
        raise BundleError(str(error)) from error
    family, head, grid = family_of(spec), spec.head, spec.preprocess
    rules = (
        (head.kind in family.head_kinds, "head.kind", f"one of {', '.join(family.head_kinds)}"),
        (spec.task is None or spec.task in TASKS, "task", f"one of {', '.join(TASKS)}, or null"),
        (spec.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}"),
        (grid.normalization in NORMALIZATIONS, "preprocess.normalization", f"one of {', '.join(NORMALIZATIONS)}"),
        (head.out_channels > 0, "head.out_channels", "positive"),
        (min(head.width, head.auxiliary_width) >= 0, "head", "of widths of 0 or more"),
        (min(grid.spacing_mm) > 0, "preprocess.spacing_mm", "positive"),
        (min(grid.patch) > 0, "preprocess.patch", "positive"),
        (0 <= grid.overlap < 1, "preprocess.overlap", "in 0 <= overlap < 1"),
        (grid.shift_voxels >= 0, "preprocess.shift_voxels", "0 or more"),
        (0 < spec.threshold < 1, "threshold", "between 0 and 1"),
        (any(grid.sequences), "preprocess.sequences", "at least one sequence"),
        (len(spec.labels) in (0, head.out_channels), "labels", "empty, or one for each of the output channels"),
        *((False, f"encoder.{field}", must_be) for field, must_be in family.problems(spec.encoder)),
    )
    for holds, key, must_be in rules:
        if not holds:
            found = to_json(attrgetter(key)(spec))
            raise BundleError(f"'{where}.{key}' must be {must_be}, got {found!r:.60}.")
    return spec


def metadata_of(bundle: Bundle) -> dict[str, Any]:
    """The content of `configs/metadata.json`."""
    spec = bundle.spec
    channels = [str(name) for name in spec.labels] or [f"channel {i}" for i in range(spec.head.out_channels)]
    shape = () if spec.head.is_vector else spec.preprocess.patch[1 if spec.is_slice_based else 0 :]
    output = _tensor(channels, shape, type="image" if shape else "probabilities", format="coefficients")
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
        "task": task_title(spec),
        "description": bundle.description,
        "authors": "The users and authors of VFM Transfer",
        "copyright": f"License of the weights: {bundle.license}",
        "intended_use": RESEARCH_USE,
        "references": [spec.paper],
        "network_data_format": {"inputs": _inputs(spec), "outputs": {"pred": output}},
        "vfm_transfer": vfm_transfer_block(bundle),
    }


def vfm_transfer_block(bundle: Bundle) -> dict[str, Any]:
    """What MONAI has no word for: the network whole, where its weights came from, their checksums."""
    fitted = {"calibration": bundle.calibration, "operating_point": bundle.operating_point}
    optional: dict[str, Any] = {key: to_json(found) for key, found in fitted.items() if found is not None}
    if bundle.caveats:
        optional["caveats"] = list(bundle.caveats)
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
        **optional,
    }


def label_table(spec: ModelSpec) -> list[dict[str, Any]]:
    """Each class of the output, its channel and, where its meaning is known, its SNOMED CT code."""
    codes = {name: to_json(term.type) for name, term in LABEL_TERMS.items()}
    return [{"channel": i, "name": str(name), "code": codes.get(name)} for i, name in enumerate(spec.labels)]


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
        "result": "$VFMTransferLib.predict(VFMTransferLib.read_case(@case), @bundle)",
        "run": ["$VFMTransferLib.save_result(@result, @output_dir)"],
    }


def _inputs(spec: ModelSpec) -> dict[str, Any]:
    names = ["zeros" if sequence is None else _CHANNEL_TITLES[sequence.value] for sequence in spec.preprocess.sequences]
    if not spec.is_slice_based:
        return {"image": _tensor(names, spec.preprocess.patch)}
    # Each stream is three neighboring slices of one sequence; then (slice index, number of slices).
    pixels = family_of(spec).image_px(spec)
    keys = ["image"] if len(names) == 1 else list(spec.preprocess.sequences)
    images = {
        str(key): _tensor([f"{name}, {place}" for place in ("slice before", "slice", "slice after")], (pixels, pixels))
        for key, name in zip(keys, names, strict=True)
    }
    counts = _tensor(["slice index", "number of slices"], (), type="tuples", format="coefficients", is_patch_data=False)
    return {**images, "positions": {key: value for key, value in counts.items() if key != "modality"}}


def _tensor(channels: list[str], shape: tuple[int, ...], **others: Any) -> dict[str, Any]:
    """An input or output in MONAI's words: names of the channels, size of the others' axes."""
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": len(channels),
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(channels)},
        **others,
    }


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return _OLDEST_VERSIONS[name]
