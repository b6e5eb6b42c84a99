"""What this machine has, what would run where, and why not.

What a runtime can use is tried in a child process, since a broken driver can end a process:

    python -m VFMTransferLib.inference.doctor onnx|torch

prints one JSON line: version, and device → reason why not (empty where it works).
"""

from __future__ import annotations

import base64
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..core import __version__
from ..core.machine import (
    describe_machine,
    describe_site_packages,
    free_disk_gb,
    is_half_installed,
    version_of,
    without_folders,
    without_home,
)

_PACKAGES = (
    "numpy",
    "scipy",
    "SimpleITK",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "torch",
    "safetensors",
    "onnx",
    "monai",
    "rich",
    "pillow",
    "pydicom",
    "jinja2",
    "nibabel",
    "pynrrd",
    "psutil",
)
_MODULES = {"onnx": "onnxruntime", "torch": "torch"}
_RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}
# CoreML is left out here: it is the default for networks of slices only.
_DEVICE_ORDER = {"onnx": ("cuda", "openvino", "cpu"), "torch": ("cuda", "mps", "cpu")}

_TIMEOUT_S = 60
# y = x + x, for one float: the smallest graph that makes a provider start (ONNX opset 17).
_GRAPH = "CAgSADo5Cg4KAXgKAXgSAXkiA0FkZBIFcHJvYmVaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAR"


def inspect() -> dict[str, Any]:
    """Inspect this machine; nothing is changed, and nothing is asked over the network.

    Returns:
        What there is, fit for JSON: `vfm_transfer`, `python`, `machine`, `site_packages` (where pip puts packages),
        `packages` (name → version or None), `half_installed` (modules without a whole package), `runtimes` (for
        `onnx` and `torch`: version, devices with the reason why not, or an error), `models` (folder, empty where no
        home is known, free disk, names), `default` (runtime and device where none is named) and `problems` (sentences
        on what to do).
        No path holds the user's name.
    """
    packages = {name: version_of(name) for name in _PACKAGES}
    halves = [module for module in _MODULES.values() if is_half_installed(module, packages)]
    runtimes = {runtime: _inspect_runtime(runtime, packages, halves) for runtime in _RUNTIMES}
    models = _inspect_models()
    machine = describe_machine()
    # What runs a network where the user names nothing, as `runtimes.open_session` chooses it.
    choices = (
        {"runtime": runtime, "device": device}
        for runtime, order in _DEVICE_ORDER.items()
        for device in order
        if runtimes[runtime].get("devices", {}).get(device) == ""
    )
    return {
        "vfm_transfer": __version__,
        "python": platform.python_version(),
        "machine": machine,
        "site_packages": describe_site_packages(),
        "packages": packages,
        "half_installed": halves,
        "runtimes": runtimes,
        "models": models,
        "default": next(choices, None),
        "problems": [
            *(f"{module} is half installed: remove what is left of it, and install it again." for module in halves),
            *_problems(packages, machine, runtimes, models),
        ],
    }


def describe(report: dict[str, Any]) -> str:
    """The answer of `inspect` as text for a terminal."""
    machine, models = report["machine"], report["models"]
    lines = [
        f"VFM Transfer {report['vfm_transfer']}, Python {report['python']}",
        f"  {machine['system']} ({machine['architecture']}), {machine['cpu']}",
        f"  {machine['usable_cores']} of {machine['cores']} cores, {machine['memory_gb']} GB memory",
        *(f"  NVIDIA GPU: {gpu}" for gpu in machine["nvidia_gpus"]),
        "",
        "Packages",
        "  " + ", ".join(f"{name} {version}" for name, version in report["packages"].items() if version),
    ]
    for runtime, title in _RUNTIMES.items():
        found = report["runtimes"][runtime]
        lines += ["", f"{title}: {found['error']}" if "error" in found else f"{title} {found['version']}"]
        for device, reason in found.get("devices", {}).items():
            lines.append(f"  {device:9s} {f'no: {reason}' if reason else 'yes'}")
    default = report["default"]
    if default:
        lines += [
            "",
            f"Networks run with {_RUNTIMES[default['runtime']]} on {default['device']} unless you name another.",
        ]
    lines += [
        "",
        f"Networks ({models['folder']}, {models['free_disk_gb']} GB free)" if models["folder"] else "Networks",
        f"  shipped: {', '.join(models['shipped']) or 'none'}",
        f"  yours:   {', '.join(models['own']) or 'none'}",
        "",
    ]
    problems = report["problems"]
    lines += ["To fix", *(f"  - {problem}" for problem in problems)] if problems else ["Nothing to fix."]
    return "\n".join(lines)


def clash(packages: dict[str, str | None]) -> str:
    """What to do where several builds of ONNX Runtime lie over each other; empty where not."""
    installed = [name for name, version in packages.items() if name.startswith("onnxruntime") and version]
    if len(installed) < 2:
        return ""
    keep = next(name for name in ("onnxruntime-gpu", *installed) if name in installed)
    return (
        f"{', '.join(installed)} exclude each other: they share one folder, and the last one installed wins. Keep one, "
        f"for example: python -m pip uninstall -y {' '.join(installed)} && python -m pip install {keep}"
    )


def _inspect_runtime(runtime: str, packages: dict[str, str | None], halves: list[str]) -> dict[str, Any]:
    module = _MODULES[runtime]
    if module in halves:
        return {"error": f"half installed: {module} and its record do not belong together. Install it again."}
    if not any(version for name, version in packages.items() if name.partition("-")[0] == module):
        wanted = "onnxruntime" if runtime == "onnx" else '"vfm-transfer[torch]"'
        return {"error": f"not installed; run: python -m pip install {wanted}"}
    return probe(runtime)


def _inspect_models() -> dict[str, Any]:
    try:
        from ..bundles.catalog import broken_bundles, list_bundles, shipped_folder, user_folder
    except ModuleNotFoundError as error:  # a bare Python lacks even numpy
        reason = f"the package {error.name} is not installed. Run: python -m pip install vfm-transfer"
        return {"folder": "", "free_disk_gb": 0.0, "shipped": [], "own": [], "broken": {"any network": reason}}
    shipped, folder = shipped_folder(), user_folder()
    bundles = list_bundles()
    return {
        "folder": "" if folder is None else without_home(folder),
        "free_disk_gb": 0.0 if folder is None else free_disk_gb(folder),
        "shipped": [bundle.name for bundle in bundles if bundle.folder.parent == shipped],
        "own": [bundle.name for bundle in bundles if bundle.folder.parent != shipped],
        "broken": {path.name: reason for path, reason in broken_bundles().items()},
    }


def _problems(
    packages: dict[str, str | None], machine: dict[str, Any], runtimes: dict[str, Any], models: dict[str, Any]
) -> list[str]:
    problems = [clash(packages)]
    reasons = [runtime.get("devices", {}).get("cuda", runtime.get("error")) for runtime in runtimes.values()]
    if machine["nvidia_gpus"] and all(reasons):
        problems.append(f"There is an NVIDIA GPU, but no runtime uses it. {reasons[0]}")
    if all("error" in runtime for runtime in runtimes.values()):
        problems.append("No runtime works, so no network can run. Run: python -m pip install onnxruntime")
    problems += [f"Bundle '{name}' cannot be used: {reason}" for name, reason in models["broken"].items()]
    return [problem for problem in problems if problem]


def probe(runtime: str) -> dict[str, Any]:
    """Ask a child process what a runtime can use here.

    Args:
        runtime: `onnx` or `torch`.

    Returns:
        `version`, `devices` (name → reason why not, empty where it works) and for ONNX Runtime `providers`; or
        `error`, a sentence, where the runtime itself cannot be loaded.
    """
    try:
        done = _ask(runtime)
    except subprocess.TimeoutExpired:
        return {"error": f"loading it took more than {_TIMEOUT_S} s."}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    return {"error": f"{_last_words(done)}."}


def _ask(runtime: str) -> subprocess.CompletedProcess:
    """Run this file in a child process."""
    command = [sys.executable, "-P", "-m", f"{__package__}.doctor", runtime]
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": path},
    )


def _last_words(done: subprocess.CompletedProcess) -> str:
    """Why a child process failed: a signal's name, or the last line that it wrote."""
    if done.returncode < 0:
        return f"the process was ended ({signal.strsignal(-done.returncode)})"
    last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
    return without_folders(last[0])[:200]


def _probe_onnx() -> dict[str, Any]:
    import onnxruntime

    from .onnx_runtime import PROVIDERS, unavailable_reason

    devices = {}
    for device, provider in PROVIDERS.items():
        devices[device] = unavailable_reason(device) or _start_failure(device, provider.name)
    return {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "devices": devices,
    }


def _start_failure(device: str, provider: str) -> str:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only; the reason is returned
    if device in ("cuda", "tensorrt"):
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(base64.b64decode(_GRAPH), options, providers=[provider])
        (output,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # ONNX Runtime's own classes share no public parent
        return f"{provider} did not start: {str(error).strip().splitlines()[0][:200]}"
    if session.get_providers()[0] != provider:
        return f"{provider} did not start: no such device, or its driver or libraries are missing."
    return "" if output == 2.0 else f"{provider} computes wrongly: 1 + 1 gave {output}. Install it again."


def _probe_torch() -> dict[str, Any]:
    import torch

    from .torch_runtime import unavailable_reason

    return {
        "version": torch.__version__,
        "cuda_version": torch.version.cuda,
        "devices": {device: unavailable_reason(device) for device in ("cuda", "mps", "cpu")},
    }


if __name__ == "__main__":
    print(json.dumps(_probe_onnx() if sys.argv[1] == "onnx" else _probe_torch()))
