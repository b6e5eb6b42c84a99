"""Bundles that were made to do harm: graphs that loop or read other files, weights that are no numbers, deep JSON."""

import copy
import json
import os
import re
import shutil
import struct
from contextlib import suppress

import numpy as np
import pytest
from networks import SMALL_SPECS

from VFMTransferLib.bundles import fetching
from VFMTransferLib.bundles.bundle import read_bundle, read_index, require_finite_weights, verify
from VFMTransferLib.bundles.catalog import broken_bundles
from VFMTransferLib.bundles.graphs import require_plain_graph
from VFMTransferLib.bundles.importing import import_files
from VFMTransferLib.bundles.metadata import spec_from_json, spec_to_json
from VFMTransferLib.core.errors import BundleError, CheckpointError
from VFMTransferLib.core.files import file_sha256

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402


def a_graph(nodes, initializers=(), opsets=(("", 18),), functions=()) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(list(nodes), "g", [value], [value], list(initializers))
    sets = [helper.make_opsetid(*one) for one in opsets]
    return helper.make_model(graph, opset_imports=sets, functions=list(functions)).SerializeToString()


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def inner() -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [])


HARMFUL = {
    "loop": a_graph([helper.make_node("Loop", ["x"], ["y"], body=inner())]),
    "branch": a_graph([helper.make_node("Relu", ["x"], ["y"], then_branch=inner())]),
    "domain": a_graph([helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft")]),
    "random": a_graph([helper.make_node("RandomNormal", [], ["y"], shape=[1])]),
    "passwords": a_graph([helper.make_node("Relu", ["x"], ["y"])], [outside("/etc/passwd")]),
    "other weights": a_graph([helper.make_node("Relu", ["x"], ["y"])], [outside("other.bin")]),
    "above": a_graph([helper.make_node("Constant", [], ["y"], value=outside("../model.safetensors"))]),
    "function": a_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        functions=[helper.make_function("f", "F", [], [], [], [helper.make_opsetid("", 18)])],
    ),
    "nothing": b"",
    "bytes": b"\xff" * 200,
    "cut": a_graph([helper.make_node("Relu", ["x"], ["y"])])[:-3],
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_graph_that_is_not_plain_is_refused(tmp_path, kind):
    (tmp_path / "model.onnx").write_bytes(HARMFUL[kind])
    with pytest.raises(BundleError, match="'net' must hold plain operators and no data of other files, but") as caught:
        require_plain_graph(tmp_path / "model.onnx", "net")
    assert str(tmp_path) not in str(caught.value)


def test_a_plain_graph_with_its_weights_beside_it_is_taken(tmp_path):
    content = a_graph([helper.make_node("Relu", ["x"], ["y"])], [outside("model.safetensors")])
    (tmp_path / "model.onnx").write_bytes(content)
    require_plain_graph(tmp_path / "model.onnx", "net")


def test_random_changes_of_a_graph_raise_nothing_else(tmp_path, tiny_models):
    whole = (tiny_models / "tiny-scratch" / "models" / "model.onnx").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(whole)
        for at in random.integers(0, len(whole), 4):
            changed[at] = int(random.integers(256))
        (tmp_path / "model.onnx").write_bytes(changed)
        try:
            require_plain_graph(tmp_path / "model.onnx", "net")
        except BundleError:
            continue


@pytest.fixture
def bundle(tiny_models, tmp_path):
    shutil.copytree(tiny_models / "tiny-scratch", tmp_path / "net")
    return tmp_path / "net"


def with_checksum(folder, file: str) -> None:
    path = folder / "configs" / "metadata.json"
    document = json.loads(path.read_text())
    document["vfm_transfer"]["sha256"][file] = file_sha256(folder / file)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_weights_that_are_not_finite_or_huge_are_refused(bundle, value):
    path = bundle / "models" / "model.safetensors"
    tensor = next(t for t in read_index(path).values() if t.dtype in ("F32", "F16"))
    content = bytearray(path.read_bytes())
    kind = "<f4" if tensor.dtype == "F32" else "<f2"
    with np.errstate(over="ignore"):
        content[tensor.offset : tensor.offset + np.dtype(kind).itemsize] = np.array(value, kind).tobytes()
    path.write_bytes(content)
    with_checksum(bundle, "models/model.safetensors")
    with pytest.raises(BundleError, match="must be finite and at most 1e\\+06, but in"):
        verify(read_bundle(bundle))


def test_good_weights_are_taken(bundle):
    require_finite_weights(read_bundle(bundle))


def test_a_file_that_the_metadata_do_not_list_is_refused(bundle):
    (bundle / "models" / "more.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"also holds 'more.bin'"):
        verify(read_bundle(bundle))


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store"])
def test_what_a_file_browser_leaves_beside_the_weights_is_no_part_of_the_bundle(bundle, name):
    (bundle / "models" / name).write_bytes(b"icons")
    verify(read_bundle(bundle))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"null",
        b"7",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}',
        b'{"a": ' * 5000,
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_safetensors_header_that_cannot_be(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(BundleError, match=r"(Get it again|Get the bundle again)"):
        read_index(path)


def test_metadata_that_are_nested_too_deeply(bundle):
    (bundle / "configs" / "metadata.json").write_text('{"vfm_transfer": ' + "[" * 100_000)
    with pytest.raises(BundleError, match="must be JSON, but is not"):
        read_bundle(bundle)


def places(value, *above):
    """The way to each value in a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*above, key)
        yield from places(item, *above, key)


ODD_VALUES = ([], [[]], {}, None, "", "\ud800", True, 0, -1, 1.5, 1e308, 10**400)


@pytest.mark.parametrize("name", ["profound-upernet-anatomy", "provicnet-fusion"])
def test_any_other_value_in_the_description_of_a_network_raises_nothing_else(name):
    whole = spec_to_json(SMALL_SPECS[name])
    for *above, key in places(whole):
        for value in ODD_VALUES:
            document = part = copy.deepcopy(whole)
            for step in above:
                part = part[step]
            part[key] = value
            with suppress(BundleError):
                spec_from_json(document)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("kind", [], r"encoder.kind' must be one of .*, got \[\]"),
        ("patch_px", 0, r"encoder.patch_px' must be positive, got 0"),
    ],
)
def test_a_description_that_no_network_can_have_leaves_the_catalog_whole(bundle, monkeypatch, field, value, sentence):
    path = bundle / "configs" / "metadata.json"
    document = json.loads(path.read_text())
    document["vfm_transfer"]["model"]["encoder"][field] = value
    path.write_text(json.dumps(document))
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(bundle.parent))
    assert re.search(sentence, broken_bundles()[bundle])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files.")
def test_pipes_are_refused_at_once(tmp_path, bundle):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="must be a file or a bundle's folder"):
        import_files([tmp_path / "weights.pth"], tmp_path / "out")
    (bundle / "models" / "model.safetensors").unlink()
    os.mkfifo(bundle / "models" / "model.safetensors")
    with pytest.raises(BundleError, match="must be readable, but is not"):
        read_index(bundle / "models" / "model.safetensors")


def test_what_onnx_runtime_reports_names_no_folder(bundle, tmp_path):
    from VFMTransferLib.inference.onnx_runtime import _first_line

    error = RuntimeError(f"Load model from {bundle}/models/model.onnx failed: {bundle.resolve()}/models/x not found")
    assert str(tmp_path) not in _first_line(error, read_bundle(bundle))


def test_a_download_that_trickles_is_given_up(tmp_path, monkeypatch):
    """One byte at a time, without end."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread
    from time import sleep

    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x")
                    sleep(0.02)
            except OSError:
                return

        def log_message(self, *args):
            return

    server = HTTPServer(("127.0.0.1", 0), Trickle)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "SLOW_AFTER_S", 0.2)
    monkeypatch.setattr(fetching, "_WAIT_S", 0.0)
    source = fetching.Source(f"http://127.0.0.1:{server.server_port}/net.zip", "0" * 64, allow_loopback=True)
    with pytest.raises(fetching.DownloadError, match="fewer than 4096 bytes a second come"):
        fetching.download(source, tmp_path / "net.zip", lambda stage, fraction: None)
    server.shutdown()
