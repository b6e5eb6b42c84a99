"""Sessions: the runtime and device that were asked for, or a sentence why not."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import make_bundle
from networks import inputs
from prediction_cases import a_bundle as described_bundle
from specs import MODELS

from VFMTransferLib.bundles.bundle import Bundle, record_checksums
from VFMTransferLib.core.errors import BundleError, ChecksumError, OutOfMemoryError, RuntimeUnavailableError
from VFMTransferLib.inference import onnx_runtime, runtimes, torch_runtime
from VFMTransferLib.inference.runtimes import LoadedNetworks, Session, open_session

ROOT = Path(__file__).resolve().parents[3]
SIZE = (16, 32, 48)


@pytest.fixture(scope="module")
def a_bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "b", "profound-unetr-lesion", onnx=True)


@pytest.fixture(scope="module")
def no_graph(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "no-graph")


@pytest.fixture
def x(a_bundle):
    return inputs(a_bundle.spec, SIZE, batch=1)[0].numpy()


@pytest.fixture
def hide(monkeypatch):
    """Make packages look as if they were not installed."""

    def hide(*names: str) -> None:
        find = runtimes.importlib.util.find_spec
        monkeypatch.setattr(
            runtimes.importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
        )

    return hide


def test_both_runtimes_give_one_answer(a_bundle, x):
    by_onnx = open_session(a_bundle, "onnx", "cpu").run(x)
    by_torch = open_session(a_bundle, "torch", "cpu").run(x)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)
    assert by_onnx.dtype == by_torch.dtype == np.float32
    assert by_onnx.shape == (1, 1, *SIZE)


def test_auto_takes_onnx_and_notes_it(a_bundle):
    session = open_session(a_bundle)
    assert (session.runtime, session.device, session.precision) == ("onnx", "cpu", "fp32")
    assert "ONNX Runtime was chosen" in session.notes[0].text
    assert "Device cpu was chosen." in map(str, session.notes)
    assert session.versions["onnxruntime"]


def test_auto_takes_torch_where_there_is_no_graph_and_notes_why(no_graph):
    session = open_session(no_graph)
    assert session.runtime == "torch"
    assert "has no models/model.onnx" in session.notes[0].text


def test_auto_takes_torch_where_onnxruntime_is_missing(a_bundle, hide):
    hide("onnxruntime")
    session = open_session(a_bundle)
    assert session.runtime == "torch"
    assert "onnxruntime is not installed" in session.notes[0].text


def test_no_runtime_at_all_names_both_reasons(no_graph, hide):
    hide("torch")
    with pytest.raises(RuntimeUnavailableError, match=r"has no models/model\.onnx.*not installed: torch"):
        open_session(no_graph)


def test_a_named_runtime_is_never_replaced(no_graph, a_bundle, hide):
    with pytest.raises(RuntimeUnavailableError, match="export-onnx"):
        open_session(no_graph, "onnx")
    hide("torch")
    with pytest.raises(RuntimeUnavailableError, match="Runtime 'torch' cannot run here"):
        open_session(a_bundle, "torch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="This machine has CUDA.")
@pytest.mark.parametrize("runtime", ["auto", "onnx", "torch"])
def test_a_named_device_is_never_replaced(a_bundle, runtime):
    with pytest.raises(RuntimeUnavailableError, match="Device 'cuda' cannot be used"):
        open_session(a_bundle, runtime, "cuda")


@pytest.mark.parametrize(
    ("runtime", "device"),
    [("onnx", "gpu"), ("onnx", "cpu:1"), ("onnx", "cuda:x"), ("torch", "gpu"), ("torch", "cpu:1")],
)
def test_an_unknown_device_is_refused_with_the_known_ones(a_bundle, runtime, device):
    with pytest.raises(RuntimeUnavailableError, match="must be"):
        open_session(a_bundle, runtime, device)


def test_unknown_words_are_the_callers_mistake(a_bundle):
    with pytest.raises(ValueError, match="runtime must be one of"):
        open_session(a_bundle, "tensorflow")
    with pytest.raises(ValueError, match="precision one of"):
        open_session(a_bundle, precision="int8")


@pytest.mark.parametrize(("runtime", "precision"), [("onnx", "fp16"), ("onnx", "bf16"), ("torch", "fp16")])
def test_a_precision_that_the_device_lacks_is_refused(a_bundle, runtime, precision):
    with pytest.raises(RuntimeUnavailableError, match=f"Precision {precision} is not for device 'cpu'"):
        open_session(a_bundle, runtime, "cpu", precision)


def test_torch_computes_in_bf16_on_the_cpu_when_asked(tmp_path):
    bundle = make_bundle(tmp_path / "b", "provicnet-t2w")
    session = open_session(bundle, "torch", "cpu", "bf16")
    arrays = [array.numpy() for array in inputs(bundle.spec, SIZE, batch=1)]
    exact = open_session(bundle, "torch", "cpu").run(*arrays)
    difference = np.abs(session.run(*arrays) - exact).max()
    assert session.precision == "bf16"
    assert 0 < difference < 0.1


def test_a_provider_that_does_not_start_is_an_error_when_named(a_bundle, monkeypatch):
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(RuntimeUnavailableError, match="Device 'cuda' did not start"):
        open_session(a_bundle, "onnx", "cuda")


def test_a_provider_that_does_not_start_is_passed_over_by_auto_with_a_note(a_bundle, monkeypatch):
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    session = open_session(a_bundle, "onnx")
    assert session.device == "cpu"
    assert any("Device cuda was passed over" in note.text for note in session.notes)


def test_coreml_is_tried_for_networks_of_slices_only(a_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CoreMLExecutionProvider", "CPUExecutionProvider"]
    )
    slices = make_bundle(tmp_path / "slices", "provicnet-t2w")
    assert onnx_runtime.candidates(a_bundle) == ["cpu"]
    assert onnx_runtime.candidates(slices) == ["coreml", "cpu"]


def test_tampered_weights_are_never_loaded(tmp_path):
    bundle = make_bundle(tmp_path / "b", onnx=True)
    bundle.weights_path.write_bytes(bundle.weights_path.read_bytes()[:-1] + b"\x55")
    for runtime in ("onnx", "torch"):
        with pytest.raises(ChecksumError, match="was changed or damaged"):
            open_session(bundle, runtime)


def test_a_graph_that_is_none_is_refused(tmp_path):
    bundle = make_bundle(tmp_path / "b", onnx=True)
    bundle.cpu_onnx_path.write_bytes(b"no graph")
    name = f"models/{bundle.cpu_onnx_path.name}"
    with pytest.raises(BundleError, match="graph"):
        open_session(record_checksums(bundle, {name: bundle.cpu_onnx_path}), "onnx", "cpu")


def test_places_on_a_device_give_what_a_plain_run_gives(a_bundle, x):
    """As on a GPU, on the processor: windows of one size in turn, then of another, each output for itself."""
    session = onnx_runtime._create(a_bundle, "cpu", onnx_runtime.PROVIDERS["cpu"], "fp32")
    buffers, name = onnx_runtime.DeviceBuffers(session, "cpu"), session.get_inputs()[0].name
    windows = [x, 2 * x, x - 1, x[:, :, :16], x[:, :, :16] + 1, x]
    given = [window.copy() for window in windows]
    boxes = {node.name: np.array([(0, 0, 0), (8, 8, 8)]) for node in session.get_inputs() if node.name == "box"}
    found = [buffers.run({name: window, **boxes}) for window in windows]
    for window, before, output in zip(windows, given, found, strict=True):
        np.testing.assert_array_equal(window, before)
        np.testing.assert_array_equal(output, session.run(None, {name: window, **boxes})[0])


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_inputs_are_converted_and_left_alone(a_bundle, x, runtime):
    double = np.asfortranarray(x.astype(np.float64))
    before = double.copy()
    session = open_session(a_bundle, runtime, "cpu")
    np.testing.assert_array_equal(session.run(double), session.run(x))
    np.testing.assert_array_equal(double, before)


def test_a_wrong_number_of_inputs_names_the_right_ones(a_bundle, x):
    with pytest.raises(ValueError, match="must be given x, got 2 arrays"):
        open_session(a_bundle, "onnx", "cpu").run(x, x)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    ],
    ids=["numpy", "torch", "cuda", "onnx"],
)
def test_lack_of_memory_becomes_a_sentence(a_bundle, x, error):
    def forward(inputs, box):
        raise error

    session = Session(a_bundle, "torch", "cpu", "fp32", {}, (), forward)
    with pytest.raises(OutOfMemoryError, match="an input of 1 x 3 x 16 x 32 x 48, but ran out"):
        session.run(x)


def test_other_errors_go_on_as_they_are(a_bundle, x):
    def forward(inputs, box):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Session(a_bundle, "torch", "cpu", "fp32", {}, (), forward).run(x)


def test_torch_prefers_cuda_before_mps_before_cpu(monkeypatch):
    reasons = {"cuda": "", "mps": "", "cpu": ""}
    monkeypatch.setattr(torch_runtime, "unavailable_reason", reasons.__getitem__)
    assert torch_runtime.choose_device("auto").type == "cuda"
    reasons["cuda"] = "none here"
    assert torch_runtime.choose_device("auto").type == "mps"
    reasons["mps"] = "no Mac"
    assert torch_runtime.choose_device("auto").type == "cpu"


@pytest.fixture
def tf32_allowed():
    """Of convolutions, and of products too, as a training may set it."""

    def allowed() -> tuple[bool, str]:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = allowed()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    yield allowed
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


def test_fp32_of_torch_is_not_tf32_and_others_settings_stay(tmp_path, monkeypatch, tf32_allowed):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x):
            seen.append(tf32_allowed())
            if x.shape[0] > 1:
                raise ZeroDivisionError
            return x

    monkeypatch.setattr(torch_runtime, "load_network", lambda bundle: Network())
    bundle = described_bundle(MODELS["profound-upernet-lesion"])
    window = np.zeros((1, 3, 4, 4, 4), np.float32)
    torch_runtime.open_torch(bundle, "cpu", "fp32", ()).forward([window], None)
    assert seen == [(False, "highest")]
    with pytest.raises(ZeroDivisionError):
        torch_runtime.open_torch(bundle, "cpu", "auto", ()).forward([window.repeat(2, axis=0)], None)
    assert seen.pop() == (False, "highest")
    assert tf32_allowed() == (True, "medium")


def test_slices_and_their_positions_run_in_both_runtimes(tmp_path):
    bundle = make_bundle(tmp_path / "b", "provicnet-fusion", onnx=True)
    arrays = [array.numpy() for array in inputs(bundle.spec, SIZE)]
    by_onnx = open_session(bundle, "onnx", "cpu").run(*arrays)
    by_torch = open_session(bundle, "torch", "cpu").run(*arrays)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)


SPEC = MODELS["profound-upernet-anatomy"]
NETWORK_BYTES = 100


@dataclass
class Loaded:
    bundle: Bundle


def networks(limit: int) -> LoadedNetworks:
    """Networks of 100 bytes each, in a process that holds nothing else."""

    def held() -> int:
        return NETWORK_BYTES * len(kept.names)

    kept = LoadedNetworks(limit, held, lambda bundle, *options: Loaded(bundle))
    return kept


def test_a_network_is_loaded_once():
    kept = networks(1000)
    first = kept.open(described_bundle(SPEC, "a"))
    assert kept.open(described_bundle(SPEC, "a")) is first
    assert kept.loads == 1


def test_changed_weights_are_loaded_again():
    kept = networks(1000)
    bundle = described_bundle(SPEC, "a")
    kept.open(bundle)
    kept.open(replace(bundle, sha256={"models/model.safetensors": "1" * 64}))
    assert kept.loads == 2


def test_the_network_used_longest_ago_goes_first():
    kept = networks(250)
    for name in ("a", "b", "c"):
        kept.open(replace(described_bundle(SPEC, name), folder=described_bundle(SPEC).folder / name))
    kept.open(replace(described_bundle(SPEC, "a"), folder=described_bundle(SPEC).folder / "a"))
    assert kept.names == ("b", "c", "a")
    kept.make_room()
    assert kept.names == ("c", "a")


def test_networks_give_way_to_one_that_does_not_fit_beside_them():
    tries = []

    def load(bundle, *options):
        tries.append(bundle.name)
        if bundle.name == "large" and tries.count("large") == 1:
            raise OutOfMemoryError("The memory of device 'cuda' must hold loading the network, but ran out.")
        return Loaded(bundle)

    small, large = (replace(described_bundle(SPEC, name), folder=Path(name)) for name in ("small", "large"))
    kept = LoadedNetworks(1 << 40, lambda: 0, load)
    kept.open(small)
    kept.open(large)
    assert kept.names == ("large",)
    kept.clear()
    tries.clear()
    with pytest.raises(OutOfMemoryError):
        kept.open(large)  # alone


def test_a_graph_that_takes_too_long_is_stopped(a_bundle, monkeypatch):
    x = inputs(a_bundle.spec, (32, 64, 96), batch=1)[0].numpy()
    session = open_session(a_bundle, "onnx", "cpu")
    monkeypatch.setattr(onnx_runtime, "MAX_RUN_S", 0.001)
    with pytest.raises(BundleError, match="took more than"):
        session.run(x)
    monkeypatch.setattr(onnx_runtime, "MAX_RUN_S", 900.0)
    assert np.isfinite(session.run(x)).all()


def test_onnx_runtime_reports_nothing_and_keeps_no_identifier_of_the_machine(tmp_path):
    inside = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")}
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | inside
    code = "import VFMTransferLib, onnxruntime, os\nprint(os.environ['ORT_DISABLE_TELEMETRY'])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["1"], run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is counted in other units elsewhere")
def test_a_second_window_needs_no_more_memory_than_the_first():
    code = """
import resource
import numpy as np
from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.inference.runtimes import open_session
session = open_session(read_bundle("Resources/Bundles/profound-prostate-demo-scratch"), "onnx", "cpu")
window = np.random.default_rng(0).normal(size=(1, 3, 96, 192, 192)).astype(np.float32)
for _ in range(2):
    session.run(window)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    first_mib, second_mib = map(int, run.stdout.split())
    assert second_mib - first_mib < 20, run.stderr
