"""Setting up the worker's Python: what doctor found in sentences and choices, plans, and what Slicer's pip is given."""

import subprocess

import pytest
from doctor_reports import A4000, NO_CUDA, a_report, with_devices
from slicer_scenes import slicer

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.inference.doctor import describe
from VFMTransferSlicer.setup.install import (
    Plan,
    bestBuild,
    buildUnavailableReason,
    consent,
    install,
    installUnavailableReason,
    planInstall,
    planTorch,
)
from VFMTransferSlicer.setup.machine_report import (
    devices,
    gpuUnavailableReason,
    isReady,
    needsRepair,
    plain,
    reportText,
    statusLines,
)

OLD_DRIVER = "NVIDIA T4, 550.54.14, 15360 MiB"
NO_RUNTIME, READY = a_report([]), a_report(["onnxruntime"])
BOTH = a_report(["onnxruntime", "onnxruntime-gpu"])
BROKEN = a_report(["onnxruntime"], onnx={"error": "DLL load failed."})


def test_the_reason_why_no_gpu_is_used_is_stated():
    works = with_devices(cuda="")
    fails = with_devices(cuda="CUDAExecutionProvider did not start: no libcudnn.so.9.")
    assert gpuUnavailableReason(a_report(["onnxruntime-gpu"], [A4000], works)) == ""
    assert "no NVIDIA GPU" in gpuUnavailableReason(READY)
    assert "install" in gpuUnavailableReason(a_report(["onnxruntime"], [A4000]))
    assert "libcudnn" in gpuUnavailableReason(a_report(["onnxruntime-gpu"], [A4000], fails))


def test_devices_that_work_are_offered_by_name_and_several_gpus_by_number():
    both = a_report(["onnxruntime-gpu"], [A4000, "NVIDIA T4, 580.65, 15360 MiB"], with_devices(cuda=""))
    assert devices(both) == {"cuda:0": "0: NVIDIA RTX A4000", "cuda:1": "1: NVIDIA T4", "cpu": "CPU"}
    one = a_report(["onnxruntime-gpu"], [A4000], with_devices(cuda=""))
    assert devices(one, "onnx") == {"cuda": "NVIDIA RTX A4000", "cpu": "CPU"}
    assert devices(one, "torch") == {}


@pytest.mark.parametrize(("report", "word"), [(BOTH, "overlap"), (BROKEN, "DLL")])
def test_a_broken_runtime_is_shown_and_installed_anew(report, word):
    assert word in needsRepair(report)
    assert needsRepair(report) in statusLines(report)
    assert "onnxruntime" in planInstall(report, "onnxruntime").removed


def test_the_status_begins_with_whether_networks_can_run():
    assert statusLines(READY)[0].startswith("Ready: ONNX Runtime 1.32.0")
    assert "Install" in statusLines(NO_RUNTIME)[0]
    assert isReady(READY)
    assert not isReady(NO_RUNTIME)
    without = a_report(["onnxruntime"])
    without["packages"]["jinja2"] = None
    assert not isReady(without)
    assert "jinja2" in planInstall(without, "onnxruntime").requirements


def test_commands_for_a_terminal_and_folders_are_left_out():
    assert plain(NO_CUDA) == "onnxruntime 1.32.0 is built without CUDAExecutionProvider."
    text = reportText(READY, describe, {"Slicer": "5.12.3"})
    assert "Slicer 5.12.3" in text
    assert not {"doe", "~", "site-packages"} & set(text.replace("/", " ").split())


@pytest.mark.parametrize(
    ("report", "build"),
    [
        (NO_RUNTIME, "onnxruntime-openvino"),
        (READY, "onnxruntime"),
        (a_report([], [A4000]), "onnxruntime-gpu"),
        (a_report([], ["NVIDIA K80, 470.1, 1 MiB"]), "onnxruntime-openvino"),
    ],
)
def test_the_installed_build_is_offered_else_the_fastest_that_works(report, build):
    assert bestBuild(report) == build
    assert buildUnavailableReason(report, build) == ""


def test_a_gpu_build_takes_cuda_12_with_an_older_driver():
    assert planInstall(a_report([], [OLD_DRIVER]), "onnxruntime-gpu").requirements[0].endswith(",<1.27")
    assert planInstall(a_report([], [A4000]), "onnxruntime-gpu").requirements[0].endswith(">=1.22")
    assert "NVIDIA" in buildUnavailableReason(NO_RUNTIME, "onnxruntime-gpu")


def test_pytorch_is_installed_as_it_fits_the_gpu_and_not_twice():
    assert planTorch(READY).requirements[-1].endswith("/cpu")
    assert planTorch(a_report([], [A4000])).requirements[-1].endswith("/cu128")
    there = a_report(["onnxruntime"])
    there["runtimes"]["torch"] = {"version": "2.12.0", "devices": {"cpu": ""}}
    assert planTorch(there).requirements == ("safetensors", "onnx")


@pytest.mark.parametrize(("place", "word"), [({"writable": False}, "written"), ({"free_disk_gb": 0.01}, "space")])
def test_what_prevents_an_install_is_stated_before_it(place, word):
    report = a_report([])
    report["site_packages"] |= place
    assert word in installUnavailableReason(report, planInstall(report, "onnxruntime"))


def test_the_user_is_asked_about_all_that_changes():
    question = consent(planInstall(BOTH, "onnxruntime-gpu"), "/folder")
    for word in ("onnxruntime-gpu[cuda,cudnn]", "removed first: onnxruntime", "1.6 GB", "/folder"):
        assert word in question


def test_slicers_pip_removes_then_installs(monkeypatch):
    calls = []
    monkeypatch.setattr(slicer.util, "pip_uninstall", lambda names: calls.append(("uninstall", names)))
    monkeypatch.setattr(slicer.util, "pip_install", lambda arguments: calls.append(("install", arguments)))
    install(Plan(("onnxruntime",), ("onnxruntime-gpu",)))
    assert calls == [("uninstall", ["onnxruntime-gpu"]), ("install", ["--only-binary=:all:", "onnxruntime"])]


def test_a_failure_of_pip_is_an_error_for_the_user(monkeypatch):
    def fail(arguments):
        raise subprocess.CalledProcessError(1, arguments)

    monkeypatch.setattr(slicer.util, "pip_install", fail)
    with pytest.raises(OutputError, match="onnxruntime"):
        install(Plan(("onnxruntime",)))
