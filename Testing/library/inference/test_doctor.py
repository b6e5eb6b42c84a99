"""What doctor reports of this machine, and of machines with a fault."""

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest
from bundles import make_bundle

from VFMTransferLib.bundles import catalog
from VFMTransferLib.bundles.metadata import METADATA
from VFMTransferLib.core import machine
from VFMTransferLib.core.machine import (
    describe_machine,
    describe_site_packages,
    is_half_installed,
    without_folders,
)
from VFMTransferLib.inference import doctor
from VFMTransferLib.inference.doctor import clash, describe, inspect
from VFMTransferLib.inference.doctor import probe as ask


@pytest.fixture
def a_catalog(tmp_path, monkeypatch):
    """One shipped bundle, one of the user's and a broken one, in a home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    own = tmp_path / "somebody" / "models"
    monkeypatch.setattr(catalog, "_SHIPPED", (tmp_path / "shipped",))
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(own))
    make_bundle(tmp_path / "shipped" / "gland")
    make_bundle(own / "mine")
    (make_bundle(own / "bad").folder / METADATA).write_text("{", encoding="utf-8")


@pytest.fixture
def runtimes(monkeypatch):
    """Set what the child processes answer."""
    answers = {
        "onnx": {"version": "1.2", "providers": [], "devices": {"cuda": "No GPU.", "openvino": "", "cpu": ""}},
        "torch": {"error": "loading it took more than 60 s."},
    }
    monkeypatch.setattr(doctor, "probe", answers.__getitem__)
    return answers


def test_this_machine_is_examined_for_real():
    report = json.loads(json.dumps(inspect()))
    assert report["runtimes"]["onnx"]["devices"]["cpu"] == ""
    assert report["runtimes"]["torch"]["devices"]["cpu"] == ""
    assert report["default"]["runtime"] == "onnx"
    assert report["packages"]["numpy"]
    assert report["machine"]["memory_gb"] > 0
    assert "ONNX Runtime" in describe(report)


def test_bundles_are_named_and_the_users_name_is_not(a_catalog, runtimes):
    report = inspect()
    assert report["models"]["shipped"] == ["gland"]
    assert report["models"]["own"] == ["mine"]
    assert report["models"]["folder"] == str(Path("~") / "models")
    assert "somebody" not in json.dumps(report) + describe(report)


def test_without_a_home_the_report_has_no_folder_of_the_users(a_catalog, runtimes, no_home):
    report = inspect()
    assert report["models"]["shipped"] == ["gland"]
    assert (report["models"]["folder"], report["models"]["own"]) == ("", [])
    assert "Networks\n  shipped: gland" in describe(report)
    assert without_folders("cannot open /opt/doe/a.so") == "cannot open a.so"


def test_a_broken_bundle_is_a_problem(a_catalog, runtimes):
    problems = inspect()["problems"]
    assert any(problem.startswith("Bundle 'bad' cannot be used") for problem in problems)


def test_each_device_is_usable_or_has_a_reason(a_catalog, runtimes):
    report = inspect()
    text = describe(report)
    assert "cuda      no: No GPU." in text
    assert "openvino  yes" in text
    assert "PyTorch: loading it took more than 60 s." in text
    assert report["default"] == {"runtime": "onnx", "device": "openvino"}


def test_no_runtime_at_all_is_a_problem(a_catalog, runtimes):
    runtimes["onnx"] = {"error": "broken."}
    report = inspect()
    assert report["default"] is None
    assert any(problem.startswith("No runtime works") for problem in report["problems"])


def test_a_gpu_that_nothing_uses_is_a_problem(a_catalog, runtimes, monkeypatch):
    monkeypatch.setattr(doctor, "describe_machine", lambda: {**describe_machine(), "nvidia_gpus": ["A GPU"]})
    assert any(problem.startswith("There is an NVIDIA GPU") for problem in inspect()["problems"])
    runtimes["onnx"]["devices"]["cuda"] = ""
    assert not any(problem.startswith("There is an NVIDIA GPU") for problem in inspect()["problems"])


def test_two_builds_of_onnxruntime_clash_with_the_commands_that_mend_it():
    sentence = clash({"numpy": "2", "onnxruntime": "1.2", "onnxruntime-gpu": "1.2", "onnxruntime-openvino": None})
    assert sentence.startswith("onnxruntime, onnxruntime-gpu exclude each other")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && python -m pip install onnxruntime-gpu" in sentence
    assert clash({"onnxruntime": "1.2", "onnxruntime-gpu": None}) == ""


def test_a_runtime_that_ends_its_process_is_an_error_not_an_end(monkeypatch):
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert "the process ended with 1" in ask("onnx")["error"]


def test_a_runtime_that_hangs_is_given_up(monkeypatch):
    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    assert "more than" in ask("torch")["error"]


def test_a_half_installed_runtime_is_a_problem_and_is_not_tried(a_catalog, runtimes, monkeypatch):
    monkeypatch.setattr(doctor, "is_half_installed", lambda module, packages: module == "onnxruntime")
    report = inspect()
    assert report["half_installed"] == ["onnxruntime"]
    assert report["runtimes"]["onnx"]["error"].startswith("half installed")
    assert any(problem.startswith("onnxruntime is half installed") for problem in report["problems"])


def test_a_folder_without_a_record_and_a_record_without_a_module_are_half_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leftover").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    assert is_half_installed("leftover", {"leftover": None})
    assert is_half_installed("leftover", {"leftover": "1.0"})
    assert is_half_installed("gone", {"gone-gpu": "1.0"})
    assert is_half_installed("whole", {"whole": None})
    assert not is_half_installed("whole", {"whole-gpu": "1.0"})
    assert not is_half_installed("gone", {"gone": None})


def test_where_packages_go_is_told_without_the_users_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    assert describe_site_packages()["folder"] == str(Path("~") / "lib")
    assert describe_site_packages()["path_length"] == len(str(tmp_path / "lib"))
    assert not describe_site_packages()["writable"]
    (tmp_path / "lib").mkdir()
    assert describe_site_packages()["writable"]


def test_where_nothing_is_installed_doctor_still_speaks(tmp_path):
    """A bare Python has no numpy either: the report is all that can say so."""
    venv.create(tmp_path / "bare", symlinks=True)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    library = str(Path(doctor.__file__).parents[2])
    command = [python, "-m", "VFMTransferLib", "doctor", "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": library}, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["packages"]["numpy"] is None
    assert report["default"] is None
    assert report["half_installed"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ImportError: {home}/lib/a.so: file too short", "ImportError: a.so: file too short"),
        ("ImportError: {home}/Slicer 5/a.so: file too short", "ImportError: a.so: file too short"),
        ("OSError: /mnt/pacs/Schmidt Anna/t2.nii is missing", "OSError: t2.nii is missing"),
        ("cannot open D:\\Schmidt, Anna M\\T2 1\\c.dll", "cannot open c.dll"),
        ("/opt/a.so needs /opt/Anna Schmidt/b.so, or 1 / 2", "a.so needs b.so, or 1 / 2"),
        ("OSError: '/opt/doe/b.so' is missing", "OSError: 'b.so' is missing"),
        ("OSError: '/opt/O'Brien M/b.so' is missing", "OSError: 'b.so' is missing"),
        ("cannot open C:\\Users\\O'Brien\\c.dll", "cannot open c.dll"),
        ("'/opt/a.so' or '/opt/doe/b.so' is missing", "'a.so' or 'b.so' is missing"),
        ("DLL load failed: C:\\Users\\Doe\\c.dll", "DLL load failed: c.dll"),
        ("see https://onnxruntime.ai/docs/x and 1/2", "see https://onnxruntime.ai/docs/x and 1/2"),
    ],
)
def test_an_error_names_files_without_their_folders(text, said, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "Max Muster"))
    assert without_folders(text.format(home=tmp_path / "Max Muster")) == said
