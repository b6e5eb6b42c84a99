"""What is installed where nothing runs networks yet, by Slicer's own pip. Nothing of it is imported into Slicer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import slicer

from VFMTransferLib.core.errors import OutputError

from ..workers.process import chosenPython
from .machine_report import Report, builds, lacking, needsRepair, nvidiaDriver

# CUDA 13 needs driver 580, CUDA 12 driver 525
# (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
_CUDA_13_DRIVER, _CUDA_12_DRIVER = 580, 525
# The last release whose extras bring CUDA 12 is 1.26; from 1.27 on they bring CUDA 13 (the packages' own metadata).
_CUDA_12_RELEASES = "<1.27"
_X86 = {"x86_64", "AMD64", "amd64"}
_RECOMMENDED = ("psutil",)  # free memory, and the children of a worker that is ended
_TORCH_COMPANIONS = ("safetensors", "onnx")  # what reads checkpoints
_TORCH_INDEX = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Build:
    """One build of ONNX Runtime.

    Attributes:
        title: What to call it on screen.
        requirement: The package for pip. The extras bring CUDA and cuDNN
            (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).
        downloadMb, diskMb: About how much it takes, with all that it needs (measured for release 1.31 and 1.32).
    """

    title: str
    requirement: str
    downloadMb: int
    diskMb: int


BUILDS = {
    "onnxruntime": Build("CPU", "onnxruntime>=1.22", 30, 90),
    "onnxruntime-gpu": Build("NVIDIA GPU", "onnxruntime-gpu[cuda,cudnn]>=1.22", 1600, 3000),
    "onnxruntime-openvino": Build("Intel and AMD CPU, faster", "onnxruntime-openvino>=1.22", 90, 270),
}


@dataclass(frozen=True)
class Plan:
    """What shall be done to the packages.

    Attributes:
        requirements: Arguments of pip's install.
        removed: Packages that are removed before.
        downloadMb, diskMb: About how much it takes.
    """

    requirements: tuple[str, ...]
    removed: tuple[str, ...] = ()
    downloadMb: int = 0
    diskMb: int = 0


def planInstall(report: Report, package: str) -> Plan:
    """Install a build of ONNX Runtime and what else is missing; others, which share its folder, are removed first.

    A build that does not work is removed too, for pip would take it for installed.
    """
    build = BUILDS[package]
    removed = [name for name in builds(report) if name != package or needsRepair(report)]
    isOldDriver = package == "onnxruntime-gpu" and 0 < nvidiaDriver(report) < _CUDA_13_DRIVER
    requirement = f"{build.requirement},{_CUDA_12_RELEASES}" if isOldDriver else build.requirement
    others = (*lacking(report), *(name for name in _RECOMMENDED if not report["packages"][name]))
    return Plan((requirement, *others), tuple(removed), build.downloadMb, build.diskMb)


def planTorch(report: Report) -> Plan:
    """Install PyTorch as it fits this computer, and what reads checkpoints; no requirements where all is there."""
    missing = tuple(name for name in _TORCH_COMPANIONS if not report["packages"][name])
    if "version" in report["runtimes"]["torch"]:
        return Plan(missing, downloadMb=20, diskMb=60)
    index = f"{_TORCH_INDEX}/cu128" if nvidiaDriver(report) else f"{_TORCH_INDEX}/cpu"
    removed = ("torch", "torchvision") if report["packages"]["torch"] else ()
    size = (3000, 6000) if nvidiaDriver(report) else (300, 1000)
    return Plan(("torch>=2.6", "torchvision", *missing, "--extra-index-url", index), removed, *size)


def buildUnavailableReason(report: Report, package: str) -> str:
    """A sentence where a build cannot work on this computer; empty where it can."""
    machine, system = report["machine"]["architecture"], report["machine"]["system"]
    if package == "onnxruntime-openvino" and not (system.startswith("Linux") and machine in _X86):
        return "Its packages hold OpenVINO itself for Linux on Intel and AMD processors only."
    if package != "onnxruntime-gpu":
        return ""
    if system.startswith("Darwin"):
        return "There are no NVIDIA GPUs in Macs."
    driver = nvidiaDriver(report)
    if not driver:
        return "It needs an NVIDIA GPU with a working driver, and none was found."
    if driver < _CUDA_12_DRIVER:
        return f"It needs NVIDIA driver {_CUDA_12_DRIVER} or newer, but {driver} is installed. Update the driver first."
    return ""


def bestBuild(report: Report) -> str:
    """The package to offer: the one that is installed, else the fastest that works here."""
    installed = [name for name in builds(report) if name in BUILDS]
    preferred = ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime")
    works = [package for package in preferred if not buildUnavailableReason(report, package)]
    return installed[0] if len(installed) == 1 else works[0]


def installUnavailableReason(report: Report, plan: Plan) -> str:
    """A sentence where a plan is bound to fail, before anything is removed; empty where it is not."""
    if chosenPython():
        return f"Install {' '.join(plan.requirements)} with the pip of the Python chosen under Runtime and device."
    place = report["site_packages"]
    if not place["writable"]:
        return "The folder of packages cannot be written. Install Slicer into a folder of your own."
    if place["free_disk_gb"] < plan.diskMb / 1000:
        return f"It takes about {_size(plan.diskMb)} of the disk. Free some space first."
    return ""


def consent(plan: Plan, folder: str) -> str:
    """The question to the user before anything is changed."""
    parts = [f"To be installed: {' '.join(plan.requirements)}, and what they need."]
    if plan.removed:
        parts.append(f"To be removed first: {', '.join(plan.removed)}.")
    parts.append(f"About {_size(plan.downloadMb)} to download, {_size(plan.diskMb)} on the disk, in:\n{folder}")
    return "\n\n".join(parts)


def install(plan: Plan) -> None:
    """Change the packages of Slicer's Python; Slicer shows how far it is, and pip's messages.

    Raises:
        OutputError: pip failed.
    """
    try:
        if plan.removed:
            slicer.util.pip_uninstall(list(plan.removed))
        slicer.util.pip_install(["--only-binary=:all:", *plan.requirements])
    except (subprocess.CalledProcessError, RuntimeError) as error:
        raise OutputError(
            f"pip could not install {_named(plan.requirements)}. Slicer's log has its messages; check the internet "
            "connection and the space on the disk, and press Install again."
        ) from error


def _named(requirements: Sequence[str]) -> str:
    return ", ".join(name for name in requirements if not name.startswith(("-", "http")))


def _size(megabytes: int) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes} MB"
