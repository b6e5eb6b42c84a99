"""A bundle's network as an ONNX graph that shares the bundle's one file of weights.

Each initializer keeps its state-dict name and points into `model.safetensors`. Weights stored as fp16 get a Cast to
fp32 behind them, so that both runtimes compute the same.
"""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import BundleError
from ..core.files import atomic_file
from ..encoders.base import BOX, NEIGHBORS, ModelSpec, family_of
from ..layers.convolutions import convolve_by_slices, is_convolved_by_slices
from .bundle import Bundle, StoredTensor, read_index, record_checksums
from .metadata import ONNX, ONNX_CPU, WEIGHTS
from .weights import load_network

if TYPE_CHECKING:
    import onnx

OPSET = 18
TOLERANCE = 1e-3
# Two sizes (D, H, W) that share no axis; every encoder's total stride, 16, divides them.
_TRIAL_SIZES = ((32, 48, 64), (48, 96, 32))
_ONNX_TYPES = {"F16": "FLOAT16", "F32": "FLOAT"}


def export_onnx(bundle: Bundle) -> Bundle:
    """Add the ONNX graphs to a bundle, or replace them, after checking that they give what PyTorch gives.

    The one for processors, where it differs, is the same function by kernels that are faster there.

    BundleError where one differs from the network, or does not take every weight from the file.
    """
    network = load_network(bundle, for_export=True)
    index = read_index(bundle.weights_path)
    constants = {name for name, _ in network.named_buffers() if name not in index}
    graphs: dict[str, bytes] = {}
    for file in (ONNX, ONNX_CPU) if is_convolved_by_slices(network) else (ONNX,):
        model = _traced(network, bundle.spec, for_processors=file == ONNX_CPU)
        _compact(model.graph)
        _share_weights(model, index, constants)
        graphs[file] = model.SerializeToString()
    with ExitStack() as stack:
        parts = {file: stack.enter_context(atomic_file(bundle.folder / file)) for file in graphs}
        for file, part in parts.items():
            part.write_bytes(graphs[file])
            difference = largest_difference(part, bundle.spec, network)
            if not difference <= TOLERANCE:
                raise BundleError(
                    f"The ONNX graph of bundle '{bundle.name}' must agree with PyTorch to {TOLERANCE:g}, but differs "
                    f"by {difference:.3g}, and is not kept."
                )
        # The graphs take their places when the block ends; where that fails, exporting again is the remedy.
        bundle = record_checksums(bundle, parts)
    return bundle


def example_inputs(spec: ModelSpec, size: Sequence[int], batch: int = 1, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of a network; `size` (D, H, W) does not matter to networks of slices."""
    generator = torch.Generator().manual_seed(seed)
    family, channels = family_of(spec), len(spec.preprocess.sequences)
    if not spec.is_slice_based:
        return (torch.randn(batch, channels, *size, generator=generator),)
    pixels = family.image_px(spec)
    images = (torch.randn(batch, NEIGHBORS, pixels, pixels, generator=generator) for _ in range(channels))
    positions = torch.tensor([[float(4 + i), 20.0] for i in range(batch)])
    return (*images, positions)


def largest_difference(graph: Path, spec: ModelSpec, network: nn.Module) -> float:
    """Largest difference between ONNX Runtime and PyTorch, relative where the logits are larger than 1.

    The ONNX file must lie beside its weights; the network is in evaluation mode.
    """
    import onnx
    import onnxruntime

    onnx.checker.check_model(os.fspath(graph), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(os.fspath(graph), options, providers=["CPUExecutionProvider"])
    names = family_of(spec).input_names(spec)
    differences = []
    for batch, size in enumerate(_TRIAL_SIZES, start=1):
        inputs = example_inputs(spec, size, batch, seed=batch)
        with torch.inference_mode():
            expected = network(*inputs).numpy()
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        boxes = [((0, 0, 0), size), ([n // 5 for n in size], [n - n // 7 for n in size])]
        if not family_of(spec).decodes_boxes(spec):
            pairs = [(session.run(None, feed)[0], expected)]
        else:
            pairs = [
                (
                    session.run(None, {**feed, BOX: np.array([start, stop], np.int64)})[0],
                    expected[:, :, *map(slice, start, stop)],
                )
                for start, stop in boxes
            ]
        scale = max(1.0, np.abs(expected).max())
        differences += [float(np.abs(found - wanted).max() / scale) for found, wanted in pairs]
    return float(np.max(differences))


def _traced(network: nn.Module, spec: ModelSpec, for_processors: bool) -> onnx.ModelProto:
    """The graph, its initializers under their state-dict names; any batch, and for 3D networks any size, goes in.

    Constant folding would rename transposed weights, and `PRESERVE` keeps BatchNorm from being fused into
    convolutions under new names.
    """
    import onnx

    names, inputs = family_of(spec).input_names(spec), list[Any](example_inputs(spec, _TRIAL_SIZES[0], batch=2))
    axes: dict[str, dict[int, str]] = {name: {0: "batch"} for name in (*names, "logits")}
    if not spec.is_slice_based:
        for name in names if spec.head.is_vector else axes:
            axes[name] |= {2: "depth", 3: "height", 4: "width"}
    if family_of(spec).decodes_boxes(spec):
        names = (*names, BOX)
        inputs.append({BOX: torch.tensor([(0, 0, 0), _TRIAL_SIZES[0]])})
    # The exporter merges initializers of equal value into one, so all weights of a copy differ. Buffers that are no
    # weights keep their values, since the graph carries them.
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for i, tensor in enumerate(twin.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(1 + torch.rand(tensor.shape, generator=torch.Generator().manual_seed(i)))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on sizes, which the check at two sizes answers
        torch.onnx.export(
            convolve_by_slices(twin) if for_processors else twin,
            tuple(inputs),
            stream,  # type: ignore[arg-type]
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
        )
    return onnx.load_model_from_string(stream.getvalue())


def _compact(graph: Any) -> None:
    """Compute equal things once, and give values short names: a graph holds some thousand nodes, most of shapes."""
    kept = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    renamed: dict[str, str] = {}
    known: dict[tuple[object, ...], list[str]] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        key = (node.op_type, *node.input, *attributes)
        outputs = list(node.output)
        if key in known and kept.isdisjoint(outputs):
            renamed |= dict(zip(outputs, known[key], strict=True))
            continue
        for i, name in enumerate(outputs):
            if name and name not in kept:
                renamed[name] = node.output[i] = f"v{len(renamed)}"
        known.setdefault(key, list(node.output))
        node.name = ""
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _share_weights(model: onnx.ModelProto, index: dict[str, StoredTensor], constants: set[str]) -> None:
    """Point each initializer that is a weight into the file of weights; cast those stored as fp16.

    `constants`, buffers that are no weights, such as an interpolation matrix, stay in the graph.
    """
    import onnx

    halves = {}
    for initializer in model.graph.initializer:
        name = initializer.name
        if name in constants:
            continue
        if name not in index or tuple(initializer.dims) != index[name].shape:
            raise BundleError(f"The exporter must keep weights as they are, but changed '{name}'. Report this network.")
        stored = index[name]
        for field in ("raw_data", "float_data", "int64_data", "int32_data"):
            initializer.ClearField(field)
        initializer.data_type = getattr(onnx.TensorProto, _ONNX_TYPES[stored.dtype])
        initializer.data_location = onnx.TensorProto.EXTERNAL
        del initializer.external_data[:]
        for key, value in (("location", Path(WEIGHTS).name), ("offset", stored.offset), ("length", stored.length)):
            initializer.external_data.add(key=key, value=str(value))
        if stored.dtype == "F16":
            halves[name] = f"{name}.fp32"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in halves:
                node.input[i] = halves[name]
    casts = [
        onnx.helper.make_node("Cast", [name], [cast], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        for name, cast in halves.items()
    ]
    ordered = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
