"""What was measured on a machine: the fastest device, and whether less precision keeps what a network gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import make_bundle
from prediction_cases import a_bundle
from specs import MODELS

from VFMTransferLib.bundles.metadata import ONNX
from VFMTransferLib.core.errors import RuntimeUnavailableError
from VFMTransferLib.core.files import CACHE_VARIABLE
from VFMTransferLib.inference import measured, onnx_runtime
from VFMTransferLib.inference.findings import findings_folder
from VFMTransferLib.inference.runtimes import open_session

HOW = ("onnx", "onnxruntime 1", "openvino", "bf16")
LESIONS = a_bundle(MODELS["profound-upernet-lesion"])


@pytest.fixture(autouse=True)
def a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def a_window(monkeypatch):
    window = np.linspace(-3, 3, 4096, dtype=np.float32).reshape(1, 1, 16, 16, 16)
    monkeypatch.setattr(measured, "check_input", lambda bundle: (window,))
    return window


def off_by(shift: float):
    return lambda x: x + np.float32(shift)


def test_dice_decides_where_voxels_are_of_a_class():
    exact = np.where(np.arange(1000) < 100, 4.0, -4.0).reshape(1, 1, 10, 10, 10)
    found = np.where(np.arange(1000) < 90, 4.0, -4.0).reshape(1, 1, 10, 10, 10)
    assert measured.agreement(LESIONS, exact, found) == pytest.approx(2 * 90 / 190)


def test_the_worst_class_decides():
    spec = replace(LESIONS.spec, activation="softmax", labels=("background", "a", "b"))
    classes = np.arange(900) // 300
    exact = np.eye(3)[classes].T.reshape(1, 3, 9, 10, 10)
    moved = classes.copy()
    moved[290:300] = 1  # ten voxels of the background
    found = np.eye(3)[moved].T.reshape(1, 3, 9, 10, 10)
    assert measured.agreement(replace(LESIONS, spec=spec), exact, found) == pytest.approx(2 * 300 / 610)


def test_of_images_the_relative_error_decides():
    bundle = replace(LESIONS, spec=replace(LESIONS.spec, activation="none"))
    exact = np.full((1, 1, 2, 3, 4), 10.0)
    assert measured.agreement(bundle, exact, exact * 0.98) == pytest.approx(0.98)


def test_precision_that_keeps_the_labels_is_measured_once(a_window):
    runs = []

    def run(x):
        runs.append(1)
        return off_by(0.001)(x)

    first = measured.require_precision(LESIONS, *HOW, run, lambda x: x)
    assert "agrees with fp32 to 0.999" in first
    assert measured.require_precision(LESIONS, *HOW, run, pytest.fail) == first
    assert len(runs) == 1


def test_without_a_home_nothing_is_kept_and_it_is_measured_again(a_window, no_home):
    for shift, agreement in ((0.0, "1.0000"), (0.001, "0.999")):
        assert agreement in measured.require_precision(LESIONS, *HOW, off_by(shift), lambda x: x)
    assert findings_folder() is None


def test_precision_is_measured_again_with_another_graph_or_gpu(a_window, monkeypatch):
    assert "1.0000" in measured.require_precision(LESIONS, *HOW, lambda x: x, lambda x: x)
    exported = replace(LESIONS, sha256={**LESIONS.sha256, ONNX: "1" * 64})
    assert "0.999" in measured.require_precision(exported, *HOW, off_by(0.001), lambda x: x)
    monkeypatch.setattr(measured, "nvidia_gpus", lambda: ["NVIDIA H100 80GB HBM3, 570.133.20, 81559 MiB"])
    assert "0.999" in measured.require_precision(LESIONS, *HOW, off_by(0.001), lambda x: x)


def test_precision_that_changes_the_labels_is_refused_with_the_number(a_window):
    for _ in range(2):  # also from what was kept
        with pytest.raises(RuntimeUnavailableError, match=r"must agree with fp32 to 0.99 .* to 0.9[0-9]+ only"):
            measured.require_precision(LESIONS, *HOW, off_by(0.2), lambda x: x)


def test_a_damaged_file_is_measured_again(a_window, a_cache):
    a_cache.mkdir()
    (a_cache / "measured.json").write_text('{"agreement": 3')
    assert "1.0000" in measured.require_precision(LESIONS, *HOW, lambda x: x, lambda x: x)
    assert "1.0000" in measured.require_precision(LESIONS, *HOW, pytest.fail, pytest.fail)


def test_auto_takes_the_device_that_was_measured_fastest(a_window, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider", onnx_runtime._CPU]
    )
    version = f"onnxruntime {onnxruntime.__version__}"
    assert onnx_runtime.candidates(LESIONS) == ["openvino", "cpu"]

    def open_on(device):
        if device == "cuda":
            raise RuntimeUnavailableError("none here")
        if device == "openvino":
            return lambda x: [sum(range(200_000)), x][1]
        return lambda x: x

    found = measured.measure_devices(LESIONS, ("cuda", "openvino", "cpu"), open_on, version)
    assert list(found) == ["openvino", "cpu"]
    assert onnx_runtime.candidates(LESIONS) == ["cpu", "openvino"]
    other = replace(LESIONS, sha256={"models/model.safetensors": "1" * 64})
    assert onnx_runtime.candidates(other) == ["openvino", "cpu"]


def test_the_check_input_is_one_window_of_the_phantom(tmp_path):
    bundle = make_bundle(tmp_path / "b", onnx=True)
    (first,), (again,) = measured.check_input(bundle), measured.check_input(bundle)
    assert first.shape == (1, 3, *bundle.spec.preprocess.patch)
    assert first.std() > 0.1
    np.testing.assert_array_equal(first, again)


def test_a_session_in_less_precision_is_checked_when_it_opens(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "b", onnx=True)
    session = open_session(bundle, "torch", "cpu", "bf16")
    assert any("In bf16 the network agrees with fp32 to" in note.text for note in session.notes)
    monkeypatch.setattr(measured, "MIN_AGREEMENT", 1.01)
    with pytest.raises(RuntimeUnavailableError, match="Choose fp32"):
        open_session(bundle, "torch", "cpu", "bf16")
