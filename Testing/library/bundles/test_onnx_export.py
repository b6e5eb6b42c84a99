"""ONNX graphs: equal to PyTorch at any size, and without weights of their own."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundles import make_bundle
from networks import SMALL_SPECS, inputs

from VFMTransferLib.bundles import onnx_export as export
from VFMTransferLib.bundles.bundle import Bundle, read_bundle, read_index, verify, write_bundle
from VFMTransferLib.bundles.metadata import ONNX_CPU
from VFMTransferLib.bundles.onnx_export import export_onnx
from VFMTransferLib.bundles.weights import load_network
from VFMTransferLib.core.errors import BundleError
from VFMTransferLib.encoders import build_network
from VFMTransferLib.inference.runtimes import open_session

OTHER_SIZE = (16, 48, 80)
UNEVEN_SIZE = (19, 50, 67)
ROWS = [name for name in SMALL_SPECS if name != "profound-encoder"]
SLICE_ROWS = [name for name in ROWS if name.startswith("provicnet-")]


@pytest.mark.parametrize("name", ROWS)
def test_every_network_exports_and_agrees_with_torch(tmp_path, name):
    bundle = make_bundle(tmp_path / "b", name, half=True, onnx=True)
    assert (ONNX_CPU in bundle.sha256) == (name not in SLICE_ROWS)
    arrays = inputs(bundle.spec, OTHER_SIZE, batch=3)
    with torch.inference_mode():
        expected = load_network(bundle)(*arrays).numpy()
    found = open_session(bundle, "onnx", "cpu").run(*(array.numpy() for array in arrays))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["profound-classifier", "profound-upernet-lesion", "profound-restoration-adc-translation"]
)
def test_sizes_that_are_no_multiple_of_the_stride_agree_too(tmp_path, name):
    bundle = make_bundle(tmp_path / "b", name, onnx=True)
    arrays = inputs(bundle.spec, UNEVEN_SIZE, batch=1)
    with torch.inference_mode():
        expected = load_network(bundle)(*arrays).numpy()
    found = open_session(bundle, "onnx", "cpu").run(*(array.numpy() for array in arrays))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_the_initializers_live_in_the_file_of_weights(tmp_path, half):
    bundle = make_bundle(tmp_path / "b", "profound-upernet-lesion", half=half, onnx=True)
    index = read_index(bundle.weights_path)
    graph = onnx.load(bundle.onnx_path, load_external_data=False).graph
    assert len(graph.initializer) > 50
    for initializer in graph.initializer:
        place = {entry.key: entry.value for entry in initializer.external_data}
        stored = index[initializer.name]
        assert place == {"location": "model.safetensors", "offset": str(stored.offset), "length": str(stored.length)}
        assert not initializer.raw_data
    assert bundle.onnx_path.stat().st_size < bundle.weights_path.stat().st_size + 300_000


def test_a_weight_changed_in_the_file_changes_what_the_graph_gives(tmp_path):
    bundle = make_bundle(tmp_path / "b", "profound-classifier", half=True, onnx=True)
    x = inputs(bundle.spec, OTHER_SIZE, batch=1)[0].numpy()
    before = run_graph(bundle, x)
    bias = read_index(bundle.weights_path)["head.3.bias"]
    content = bytearray(bundle.weights_path.read_bytes())
    values = np.frombuffer(content, np.float16, 4, bias.offset) + np.float16(1)
    content[bias.offset : bias.offset + bias.length] = values.tobytes()
    bundle.weights_path.write_bytes(content)
    np.testing.assert_allclose(run_graph(bundle, x), before + 1, atol=2e-3)


def run_graph(bundle, x):
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_equal_weights_stay_apart(tmp_path, monkeypatch, trace):
    """Fresh networks have many equal tensors, which the exporter would merge into one."""
    monkeypatch.setattr(export, "_traced", trace)
    spec = SMALL_SPECS["profound-classifier"]
    bundle = write_bundle(Bundle(tmp_path / "b", "b", "B", "1.0.0", spec), build_network(spec).state_dict())
    names = {i.name for i in onnx.load(export_onnx(bundle).onnx_path, load_external_data=False).graph.initializer}
    assert names == {name for name in read_index(bundle.weights_path) if not name.endswith("num_batches_tracked")}


def test_a_graph_that_differs_is_not_kept(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "b")
    monkeypatch.setattr(export, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(BundleError, match="PyTorch"):
        export_onnx(bundle)
    assert [path.name for path in (bundle.folder / "models").iterdir()] == ["model.safetensors"]
    assert read_bundle(bundle.folder) == bundle


def test_exporting_again_gives_the_same_graph(tmp_path, monkeypatch, trace):
    bundle = make_bundle(tmp_path / "b", onnx=True)
    monkeypatch.setattr(export, "_traced", trace)
    assert export_onnx(bundle) == bundle


def test_exporting_again_repairs_a_graph(tmp_path):
    bundle = make_bundle(tmp_path / "b", onnx=True)
    bundle.onnx_path.write_bytes(b"")
    with pytest.raises(BundleError):
        verify(bundle)
    assert export_onnx(bundle) == bundle
    verify(read_bundle(bundle.folder))


def test_openvino_has_fast_kernels_for_the_graph_of_a_window_that_is_decoded_in_part(tmp_path):
    """It leaves operators that round down to another provider, and runs 1x1x1 kernels of rearranged weights slowly."""
    bundle = make_bundle(tmp_path / "b", "profound-upernet-lesion", half=True, onnx=True)
    graph = onnx.load(bundle.onnx_path, load_external_data=False).graph
    assert {"Xor", "Loop", "If"}.isdisjoint(node.op_type for node in graph.node)
    stored = {initializer.name for initializer in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    for node in graph.node:
        kernels = [list(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"]
        if node.op_type == "Conv" and kernels == [[1, 1, 1]]:
            assert casts.get(node.input[1], node.input[1]) in stored
