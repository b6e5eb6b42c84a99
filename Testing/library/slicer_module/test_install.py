"""Setting up the worker's Python: what doctor and pip say in sentences, plans as data, and real installs."""

import json
import os
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import pytest
from doctor_reports import A4000, NO_CUDA, NOTHING, REPORT, a_report, with_devices
from qt_stand_ins import AnEventLoop
from slicer_scenes import slicer  # noqa: F401  (brings the module's folder)
from wheels import make_wheel

from VFMTransferLib.inference.doctor import describe
from VFMTransferSlicer.setup import installer as installer_file
from VFMTransferSlicer.setup.install import (
    bestBuild,
    buildUnavailableReason,
    consent,
    constraints,
    downloaded,
    installUnavailableReason,
    needsRestart,
    outcomeOf,
    pipVersion,
    planInstall,
    planRepair,
    planTorchCompanions,
    whyPipFailed,
)
from VFMTransferSlicer.setup.installer import Inspection, Installer, parseReport
from VFMTransferSlicer.setup.machine_report import (
    devices,
    gpuUnavailableReason,
    isReady,
    needsRepair,
    plain,
    reportText,
    statusLines,
)
from VFMTransferSlicer.workers.process import NOT_STARTED, LibraryProcess

# ---- what doctor says


def test_without_a_gpu_it_is_said_once_and_plainly():
    assert gpuUnavailableReason(a_report(["onnxruntime"])) == (
        "Networks run on the CPU: no NVIDIA GPU with a working driver was found."
    )


def test_a_gpu_that_works_needs_no_word():
    assert gpuUnavailableReason(a_report(["onnxruntime-gpu"], [A4000], with_devices(cuda=""))) == ""


def test_a_gpu_without_its_build_names_the_build_to_install():
    sentence = gpuUnavailableReason(a_report(["onnxruntime"], [A4000]))
    assert sentence.startswith("NVIDIA RTX A4000 is not used: ONNX Runtime is a build without GPU. Install")
    assert "pip" not in sentence
    assert "is not installed" in gpuUnavailableReason(a_report([], [A4000]))


def test_a_gpu_build_that_does_not_start_says_why():
    onnx = with_devices(cuda="CUDAExecutionProvider did not start: no libcudnn.so.9.")
    assert gpuUnavailableReason(a_report(["onnxruntime-gpu"], [A4000], onnx)).endswith(
        "did not start: no libcudnn.so.9."
    )


def test_devices_that_work_are_offered_by_name_and_several_gpus_by_number():
    both = a_report(["onnxruntime-gpu"], [A4000, "NVIDIA T4, 580.65, 15360 MiB"], with_devices(cuda=""))
    assert devices(both) == {"cuda:0": "0: NVIDIA RTX A4000", "cuda:1": "1: NVIDIA T4", "cpu": "CPU"}
    one = a_report(["onnxruntime-gpu"], [A4000], with_devices(cuda=""))
    assert devices(one, "onnx") == {"cuda": "NVIDIA RTX A4000", "cpu": "CPU"}
    assert devices(one, "torch") == {}


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (a_report(["onnxruntime", "onnxruntime-gpu"]), "onnxruntime, onnxruntime-gpu overlap"),
        (a_report([], half_installed=["onnxruntime"]), "half there"),
        (
            a_report(["onnxruntime"], onnx={"error": "DLL load failed."}),
            "does not work: DLL load failed. Press Repair.",
        ),
        (a_report(["onnxruntime"], onnx=with_devices(cpu="It computes wrongly.")), "computes nothing"),
    ],
)
def test_what_is_broken_is_said_with_the_way_to_mend_it(report, words):
    assert words in needsRepair(report)
    assert needsRepair(report) in statusLines(report)


def test_what_is_whole_or_not_there_needs_no_repair():
    assert needsRepair(a_report(["onnxruntime"])) == ""
    assert needsRepair(a_report([])) == ""


def test_the_status_begins_with_whether_networks_can_run():
    assert statusLines(a_report(["onnxruntime"]))[0] == "Ready: ONNX Runtime 1.32.0 on CPU."
    assert statusLines(a_report([]))[0] == "Nothing that runs networks is installed yet. Press Install."
    assert isReady(a_report(["onnxruntime"]))
    assert not isReady(a_report([]))


def test_torch_without_what_goes_with_it_is_said():
    report = a_report(["onnxruntime"])
    report["runtimes"]["torch"] = {"version": "2.12.0", "devices": {"cpu": ""}}
    assert any("PyTorch 2.12.0, without safetensors, onnx" in line for line in statusLines(report))
    assert planTorchCompanions(report).requirements == ("safetensors", "onnx")


def test_commands_for_a_terminal_are_left_out():
    assert plain(NO_CUDA) == "onnxruntime 1.32.0 is built without CUDAExecutionProvider."
    assert plain(NOTHING["error"]) == "not installed."


def test_a_report_for_others_holds_no_folder():
    text = reportText(a_report(["onnxruntime"]), describe, {"Slicer": "5.12.3"})
    assert "Slicer 5.12.3" in text
    assert "path of 40 characters" in text
    assert not {"doe", "~", "site-packages"} & set(text.replace("/", " ").split())


def test_what_is_no_report_is_refused():
    for code, text in ((1, json.dumps(REPORT)), (0, "no JSON"), (0, "[]")):
        with pytest.raises(ValueError, match=r"doctor must|Expecting value"):
            parseReport(code, text)


# ---- plans


def test_the_other_builds_go_before_one_comes():
    plan = planInstall(a_report(["onnxruntime", "onnxruntime-directml"]), "onnxruntime-openvino")
    assert plan.removed == ("onnxruntime", "onnxruntime-directml")
    tried, removed, installed = plan.steps(Path("c.txt"), (26, 1))
    assert tried[-2:] == ["--dry-run", "onnxruntime-openvino>=1.22"]
    assert removed[-3:] == ["--yes", "onnxruntime", "onnxruntime-directml"]
    assert installed[-1:] == ["onnxruntime-openvino>=1.22"]
    assert installed[-3:-1] == ["-c", "c.txt"]


def test_what_another_python_lacks_is_said_and_comes_with_the_build():
    report = a_report(["onnxruntime"])
    report["packages"] |= {"scipy": None, "SimpleITK": None}
    assert not isReady(report)
    assert statusLines(report)[0] == "This Python lacks scipy, SimpleITK. Press Install."
    plan = planInstall(report, "onnxruntime")
    assert plan.requirements == ("onnxruntime>=1.22", "scipy", "SimpleITK")
    assert plan.downloadMb == 130


def test_what_is_only_recommended_comes_with_the_build_and_holds_up_nothing():
    report = a_report(["onnxruntime"])
    report["packages"] |= {"psutil": None}
    assert isReady(report)
    assert statusLines(report)[0].startswith("Ready")
    assert planInstall(report, "onnxruntime").requirements == ("onnxruntime>=1.22", "psutil")


def test_where_nothing_goes_there_is_one_step():
    (step,) = planInstall(a_report([]), "onnxruntime").steps(Path("c.txt"), ())
    assert step[0] == "install"
    assert "--only-binary=:all:" in step
    assert "--progress-bar=off" in step  # an old pip cannot tell how far it is


def test_a_repair_writes_the_packages_own_files_anew_and_no_others():
    plan = planRepair(a_report(["onnxruntime", "onnxruntime-gpu"]), "onnxruntime")
    _, removed, forced, rest = plan.steps(Path("c.txt"), (26, 1))
    assert removed[-2:] == ["onnxruntime", "onnxruntime-gpu"]
    assert {"--ignore-installed", "--no-deps"} <= set(forced)
    assert {"--ignore-installed", "--no-deps"}.isdisjoint(rest)


@pytest.mark.parametrize(("driver", "ending"), [("580.65", ">=1.22"), ("551.23", ">=1.22,<1.27")])
def test_the_gpu_build_fits_the_driver(driver, ending):
    report = a_report([], [f"A GPU, {driver}, 8 GiB"])
    assert planInstall(report, "onnxruntime-gpu").requirements == (f"onnxruntime-gpu[cuda,cudnn]{ending}",)
    assert bestBuild(report) == "onnxruntime-gpu"


@pytest.mark.parametrize(
    ("package", "machine", "words"),
    [
        ("onnxruntime", {}, ""),
        ("onnxruntime-gpu", {}, "none was found"),
        ("onnxruntime-gpu", {"nvidia_gpus": ["A GPU, 470.1, 8 GiB"]}, "driver 525 or newer, but 470"),
        ("onnxruntime-gpu", {"system": "Darwin 25"}, "in Macs"),
        ("onnxruntime-openvino", {}, ""),
        ("onnxruntime-openvino", {"architecture": "arm64"}, "only"),
        ("onnxruntime-openvino", {"system": "Windows 11"}, "only"),
    ],
)
def test_a_build_that_cannot_work_here_says_why(package, machine, words):
    report = a_report([])
    report["machine"] |= machine
    why = buildUnavailableReason(report, package)
    assert words in why if words else why == ""


def test_what_is_there_is_offered_again_and_else_what_fits():
    assert bestBuild(a_report(["onnxruntime-openvino"])) == "onnxruntime-openvino"
    assert bestBuild(a_report(["onnxruntime", "onnxruntime-gpu"])) == "onnxruntime"
    assert bestBuild(a_report([])) == "onnxruntime-openvino"
    report = a_report([])
    report["machine"]["system"] = "Windows 11"
    assert bestBuild(report) == "onnxruntime"


def test_what_is_bound_to_fail_is_said_before():
    report = a_report([])
    plan = planInstall(report, "onnxruntime-gpu")
    assert installUnavailableReason(report, plan) == ""
    report["site_packages"]["free_disk_gb"] = 1.5
    assert "about 3.0 GB, but only 1.5 GB" in installUnavailableReason(report, plan)
    report["site_packages"]["writable"] = False
    assert "cannot be written" in installUnavailableReason(report, plan)


def test_the_question_names_packages_sizes_and_the_folder():
    text = consent(planInstall(a_report(["onnxruntime"]), "onnxruntime-gpu"), "~/Slicer/site-packages")
    for words in ("onnxruntime-gpu[cuda,cudnn]", "removed first: onnxruntime.", "1.6 GB", "~/Slicer/site-packages"):
        assert words in text


def test_all_that_is_installed_is_pinned_but_for_what_it_is_about():
    plan = planInstall(a_report(["onnxruntime"]), "onnxruntime-gpu")
    listing = "numpy==2.4.6\nSimpleITK==2.5.5\nonnxruntime==1.32.0\nOnnxruntime_GPU==1.1\nodd==a.b\npip==26.1\n"
    assert constraints(listing, plan) == "numpy==2.4.6\nSimpleITK==2.5.5\npip==26.1\n"
    assert pipVersion(listing) == (26, 1)
    assert pipVersion("numpy==1") == ()


def test_slicer_starts_again_only_where_it_has_the_former_one_in_use():
    plan = planInstall(a_report(["onnxruntime"]), "onnxruntime-gpu")
    assert not needsRestart(plan, ["numpy"])
    assert needsRestart(plan, ["numpy", "onnxruntime"])


def test_what_was_installed_is_told_as_it_was_found():
    for_gpu = planInstall(a_report([]), "onnxruntime-gpu")
    assert outcomeOf(for_gpu, a_report(["onnxruntime-gpu"], [A4000], with_devices(cuda="")), []) == (
        "Installed, and it works."
    )
    assert "GPU is not used" in outcomeOf(for_gpu, a_report(["onnxruntime-gpu"], [A4000], with_devices()), [])
    assert "Press Repair" in outcomeOf(for_gpu, a_report(["onnxruntime", "onnxruntime-gpu"]), [])
    cpu = planInstall(a_report([]), "onnxruntime")
    assert "start Slicer again" in outcomeOf(cpu, a_report(["onnxruntime"]), ["onnxruntime"])


# ---- what pip says


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("WARNING: Retrying: NewConnectionError('Failed to establish a new connection')\nERROR: No matching", "PyPI"),
        ("ERROR: ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))", "proxy"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "PIP_CERT"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'x'", "cannot be written"),
        ("ERROR: [WinError 206] The filename or extension is too long: 'C:\\x'", "too long a path"),
        ("ERROR: [WinError 5] Access is denied: 'onnxruntime.dll'", "in use"),
        ("ERROR: ResolutionImpossible: for help visit", "not touched"),
        ("/usr/bin/python: No module named pip", "has no pip"),
        ("ERROR: No matching distribution found for onnxruntime>=1.22", "no ready-made package"),
        ("error: uninstall-no-record-file\n\n× Cannot uninstall onnxruntime None", "record is missing"),
        ("ERROR: Something new.", "Its message: Something new."),
    ],
)
def test_each_failure_of_pip_says_what_to_do(line, words):
    assert words in whyPipFailed(1, line.splitlines())


def test_a_python_that_does_not_start_is_no_failure_of_pip():
    assert whyPipFailed(NOT_STARTED, []).startswith("Python could not be started.")


def test_how_far_a_download_is_can_be_read():
    assert downloaded("Progress 25 of 100") == 0.25
    assert downloaded("Downloading x.whl") is None


# ---- for real


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def make_child(loop):
    return partial(LibraryProcess, makeProcess=loop.make_process, python=sys.executable)


class Heard:
    """What an inspection told."""

    def __init__(self) -> None:
        self.report, self.failure = None, None

    def fail(self, sentence: str, details: str) -> None:
        self.failure = sentence

    def receive(self, report: dict) -> None:
        self.report = report


@pytest.fixture
def received():
    return Heard()


def inspect(loop, received, make_child) -> None:
    inspection = Inspection(received.receive, received.fail, loop.callLater, make_child)
    inspection.start()
    assert inspection.isRunning
    loop.turn_until(lambda: received.report or received.failure)
    assert not inspection.isRunning


def test_a_child_process_looks_at_this_python(loop, received, make_child):
    inspect(loop, received, make_child)
    assert isReady(received.report)
    assert statusLines(received.report)[0].startswith("Ready: ONNX Runtime")


def test_an_examination_that_takes_too_long_is_stopped(loop, received, make_child, monkeypatch):
    monkeypatch.setattr(installer_file, "EXAMINATION_MS", 1)
    inspect(loop, received, make_child)
    assert "was stopped" in received.failure


def test_a_python_that_is_none_is_said(loop, received, make_child, tmp_path):
    inspect(loop, received, partial(make_child, python=str(tmp_path / "none")))
    assert received.failure.startswith("Python could not be started.")


def test_a_new_examination_takes_the_place_of_the_former(loop, received, make_child):
    reports = []
    inspection = Inspection(reports.append, received.fail, loop.callLater, make_child)
    inspection.start()
    inspection.start()
    loop.turn_until(lambda: reports)
    loop.processEvents(0.2)
    assert len(reports) == 1


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Wheels instead of PyPI: one build goes with the numpy that is installed, the other with a newer one only."""
    folder = tmp_path_factory.mktemp("shelf with spaces, ü")
    for version in ("1.0", "2.0"):
        make_wheel(folder, "numpy", version)
    make_wheel(folder, "flatbuffers", "3.0")
    make_wheel(folder, "onnxruntime", "1.30", requires=("numpy>=1.0", "flatbuffers"))
    make_wheel(folder, "onnxruntime-openvino", "1.24", "onnxruntime", ("numpy>=2.0",))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory, shelf) -> str:
    """A Python of its own that has a numpy."""
    home = tmp_path_factory.mktemp("Python of Ünal") / "env"
    venv.create(home, with_pip=True, symlinks=True)
    python = str(home / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-index", f"--find-links={shelf.as_uri()}", "numpy==1.0"], check=True
    )
    return python


@pytest.fixture
def worker_python(python, monkeypatch) -> None:
    """It is the worker's."""
    monkeypatch.setattr(installer_file, "workerPython", lambda: python)


@pytest.fixture
def install(loop, make_child, worker_python, shelf, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", shelf.as_uri())

    def install(plan) -> tuple[str, list[str]]:
        lines, ends = [], []
        installer = Installer(lines.append, lambda share: None, ends.append, make_child)
        installer.start(plan)
        loop.turn_until(lambda: ends)
        assert not installer.isRunning
        return ends[0], lines

    return install


def installed(python: str) -> dict[str, str]:
    listing = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    return {row["name"]: row["version"] for row in json.loads(listing.stdout)}


def imported(python: str) -> str:
    code = "import onnxruntime; print(onnxruntime.package)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def test_an_install_leaves_numpy_as_it_is_and_brings_what_lacks(install, python):
    outcome, lines = install(planInstall(a_report([]), "onnxruntime"))
    assert outcome == ""
    assert {"numpy": "1.0", "onnxruntime": "1.30", "flatbuffers": "3.0"}.items() <= installed(python).items()
    assert any("Successfully installed" in line for line in lines)


def test_a_build_that_needs_another_numpy_is_refused_and_the_former_stays(install, python):
    install(planInstall(a_report([]), "onnxruntime"))
    outcome, _ = install(planInstall(a_report(["onnxruntime"]), "onnxruntime-openvino"))
    assert "not touched" in outcome
    assert {"numpy": "1.0", "onnxruntime": "1.30"}.items() <= installed(python).items()


def test_builds_over_each_other_are_repaired(install, python, shelf):
    command = [python, "-m", "pip", "install", "-q", "--no-index", f"--find-links={shelf.as_uri()}", "--no-deps"]
    subprocess.run([*command, "onnxruntime", "onnxruntime-openvino"], check=True)
    outcome, _ = install(planRepair(a_report(["onnxruntime", "onnxruntime-openvino"]), "onnxruntime"))
    assert outcome == ""
    assert "onnxruntime-openvino" not in installed(python)
    assert imported(python) == "onnxruntime"


def test_a_package_that_lost_its_record_is_repaired(install, python):
    install(planInstall(a_report([]), "onnxruntime"))
    (record,) = Path(python).parents[1].rglob("onnxruntime-*.dist-info/RECORD")
    record.unlink()
    next(Path(python).parents[1].rglob("onnxruntime/__init__.py")).unlink()
    outcome, _ = install(planRepair(a_report(["onnxruntime"]), "onnxruntime"))
    assert outcome == ""
    assert imported(python) == "onnxruntime"


def test_what_is_not_to_be_had_is_said_and_one_install_waits_for_the_other(
    loop, make_child, worker_python, monkeypatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    ends = []
    installer = Installer(lambda line: None, lambda share: None, ends.append, make_child)
    installer.start(planInstall(a_report([]), "onnxruntime-gpu"))
    with pytest.raises(ValueError, match="must be done before"):
        installer.start(planInstall(a_report([]), "onnxruntime"))
    loop.turn_until(lambda: ends)
    assert ends == [whyPipFailed(1, ["No matching distribution"])]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PIP_INDEX_URL": "https://127.0.0.1:9/simple"}, "PyPI cannot be reached."),
        ({"PIP_INDEX_URL": "https://pypi.invalid/simple", "HTTPS_PROXY": "http://127.0.0.1:9"}, "The proxy refused"),
    ],
)
def test_without_a_network_the_former_build_stays(install, python, monkeypatch, variables, words):
    install(planInstall(a_report([]), "onnxruntime"))
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    outcome, _ = install(planInstall(a_report(["onnxruntime"]), "onnxruntime-openvino"))
    assert outcome.startswith(words)
    assert installed(python)["onnxruntime"] == "1.30"
