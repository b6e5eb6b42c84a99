"""What `doctor` found on this computer, in sentences and choices for the panel; and the text of a fault report.

A fault report holds no name of the patient, the user or the computer's folders.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from tempfile import gettempdir
from typing import Any

import slicer

from VFMTransferLib import __file__ as _LIBRARY
from VFMTransferLib.core.files import home_folder

from ..logic import temporaryFolder

_JOB_FOLDER = re.compile(r"VFMTransfer-[A-Za-z0-9_]{8,}")


def detailsOf(facts: Mapping[str, str], log: Sequence[str], error: str) -> str:
    """A text to send.

    Args:
        facts: What comes first: versions, networks, runtime.
        log: Its lines so far, without names.
        error: Details of what failed, without names; empty if nothing did.
    """
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += ["", "Log:", *log]
    if error:
        lines += ["", "Details:", error]
    return withoutNames("\n".join(lines))


def namesIn(nodes: Mapping[str, slicer.vtkMRMLTransformableNode]) -> dict[str, str]:
    """What may name a patient in nodes, in their segments and in the transforms above them → what to write instead."""
    names: dict[str | None, str] = {}
    for node in nodes.values():
        if node.IsA("vtkMRMLSegmentationNode"):
            segmentation = node.GetSegmentation()
            names |= {segmentation.GetSegment(one).GetName(): "<segment>" for one in segmentation.GetSegmentIDs()}
        while (node := node.GetParentTransformNode()) is not None:
            names[node.GetName()] = "<transform>"
    names |= {node.GetName(): f"<{role}>" for role, node in nodes.items()}
    return {name: role for name, role in names.items() if name and name.strip()}


def withoutNames(text: str, names: Mapping[str, str] | None = None) -> str:
    """The text without names of volumes and folders.

    Args:
        text: Of the log or an error.
        names: What else must not be written → what to write instead.
    """
    folders = {
        str(Path(_LIBRARY).resolve().parents[1]): "<module>",
        gettempdir(): "<temporary>",
        temporaryFolder(): "<temporary>",
        sys.prefix: "<python>",
        str(home_folder() or ""): "~",
    }
    for path in sorted(folders, key=len, reverse=True):
        if len(path) > 1:  # the home folder of a server may be the root
            text = _spellingsOf(path).sub(folders[path], text)
    text = _JOB_FOLDER.sub("<job>", text)
    for name in sorted(names or {}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text)
    return text


def _spellingsOf(folder: str) -> re.Pattern[str]:
    """Finds a folder however it is written: Windows takes either slash and ignores case, and a repr doubles slashes."""
    parts = [re.escape(part) for part in re.split(r"[\\/]+", folder)]
    return re.compile(r"[\\/]+".join(parts), re.IGNORECASE if PureWindowsPath(folder).drive else 0)


Report = dict[str, Any]

_REQUIRED = ("numpy", "scipy", "SimpleITK", "pydicom", "pillow", "jinja2", "nibabel", "pynrrd")
RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}
_DEVICES = {
    "cuda": "NVIDIA GPU",
    "tensorrt": "NVIDIA GPU, TensorRT",
    "openvino": "OpenVINO",
    "coreml": "Core ML",
    "mps": "Apple GPU",
    "cpu": "CPU",
}
_GPUS = ("cuda", "tensorrt", "coreml", "mps")
# Doctor's sentences are for a terminal too; the panel has buttons instead.
_COMMAND = re.compile(r"[.;]? (?:Run|run): .*$", re.DOTALL)


def isReady(report: Report) -> bool:
    """Whether some runtime can run a network."""
    return report["default"] is not None and not lacking(report)


def lacking(report: Report) -> list[str]:
    """Packages that every run requires and this Python does not have. Slicer's own lacks Jinja2, nibabel and pynrrd."""
    return [name for name in _REQUIRED if not report["packages"][name]]


def builds(report: Report) -> list[str]:
    """The packages of ONNX Runtime that are installed; more than one overlap."""
    return [name for name, version in report["packages"].items() if name.startswith("onnxruntime") and version]


def needsRepair(report: Report) -> str:
    """A sentence about what is broken in ONNX Runtime; empty where nothing is."""
    installed = builds(report)
    if len(installed) > 1:
        return f"{', '.join(installed)} overlap, so that none works reliably. Press Install."
    onnx = report["runtimes"]["onnx"]
    reason = onnx.get("error") or onnx["devices"].get("cpu")
    return f"{installed[0]} does not work: {plain(reason)} Press Install." if installed and reason else ""


def gpuUnavailableReason(report: Report) -> str:
    """One sentence on why networks do not run on a GPU here; empty where they can."""
    if any(_works(report, runtime, device) for runtime in RUNTIMES for device in _GPUS):
        return ""
    if not report["machine"]["nvidia_gpus"]:
        return "Networks run on the CPU: no NVIDIA GPU with a working driver was found."
    gpu = report["machine"]["nvidia_gpus"][0].partition(",")[0]
    if "onnxruntime-gpu" not in builds(report):
        return f"{gpu} is not used: install the ONNX Runtime for NVIDIA GPUs under Setup."
    onnx = report["runtimes"]["onnx"]
    return f"{gpu} is not used: {plain(onnx.get('error') or onnx['devices']['cuda'])}"


def devices(report: Report, runtime: str = "auto") -> dict[str, str]:
    """The devices that work here, by the name that a run takes → what to call them.

    Args:
        report: What doctor found.
        runtime: `onnx`, `torch`, or `auto` for those of both.
    """
    asked = [runtime] if runtime in RUNTIMES else list(RUNTIMES)
    found: dict[str, str] = {}
    for device, title in _DEVICES.items():
        if any(_works(report, one, device) for one in asked):
            found |= _numbered(report, device, title)
    return found


def nvidiaDriver(report: Report) -> int:
    """The first number of the NVIDIA driver's version; 0 where there is none."""
    gpus = report["machine"]["nvidia_gpus"]
    version = gpus[0].split(",")[1].strip() if gpus and "," in gpus[0] else ""
    return int(version.partition(".")[0]) if version.partition(".")[0].isdigit() else 0


def statusLines(report: Report) -> list[str]:
    """What the panel shows of this computer, most important first, each line short enough for a narrow panel."""
    missing, default, place = lacking(report), report["default"], report["site_packages"]
    if default is not None and not missing:
        version = report["runtimes"][default["runtime"]]["version"]
        device = devices(report, default["runtime"]).get(default["device"], default["device"])
        ready = f"Ready: {RUNTIMES[default['runtime']]} {version} on {device}."
    else:
        ready = f"To install: {', '.join(missing or ['ONNX Runtime'])}. Press Install."
    torch = report["runtimes"]["torch"]
    if "version" in torch:
        pytorch = f"PyTorch {torch['version']}."
    elif report["packages"]["torch"]:
        pytorch = f"PyTorch does not work: {plain(torch['error'])}"
    else:
        pytorch = "PyTorch: not installed; only importing checkpoints needs it."
    python = f"Python {report['python']}, {place['free_disk_gb']:.0f} GB free."
    return [line for line in (ready, needsRepair(report), gpuUnavailableReason(report), pytorch, python) if line]


def plain(sentence: str) -> str:
    """A sentence of doctor's without the command line at its end."""
    text = _COMMAND.sub("", sentence).strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _works(report: Report, runtime: str, device: str) -> bool:
    return report["runtimes"][runtime].get("devices", {}).get(device) == ""


def _numbered(report: Report, device: str, title: str) -> dict[str, str]:
    """One entry for each NVIDIA GPU, with its name; for other devices one."""
    gpus = report["machine"]["nvidia_gpus"]
    if device not in ("cuda", "tensorrt") or not gpus:
        return {device: title}
    suffix = title.removeprefix(_DEVICES["cuda"])
    names = [gpu.partition(",")[0] + suffix for gpu in gpus]
    if len(names) == 1:
        return {device: names[0]}
    return {f"{device}:{index}": f"{index}: {name}" for index, name in enumerate(names)}


def reportText(report: Report, describe: Callable[[Report], str], versions: dict[str, str]) -> str:
    """The report for whoever helps: without folders, for they may bear names.

    Args:
        report: What doctor found.
        describe: `doctor.describe`.
        versions: Further programs → their versions.
    """
    models = {**report["models"], "folder": report["models"]["folder"] and "the user's folder"}
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    return withoutNames("\n".join((programs, describe({**report, "models": models}))))
