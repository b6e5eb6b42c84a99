"""What this machine has, what would run where, and why not.

What a runtime can use is tried in a child process, since a broken driver can end a process:

    python -m VFMTransferLib.inference.doctor onnx|torch

prints one JSON line: version, and device → reason why not (empty where it works).

    python -m VFMTransferLib.inference.doctor bfloat16 cpu|cuda

takes a training step in that precision: on some processors it ends a process.
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
from ..core.errors import BundleError, RuntimeUnavailableError
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
    "psutil",
)
_MODULES = {"onnx": "onnxruntime", "torch": "torch"}
_RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}
# CoreML is left out here: it is the default for networks of slices only.
_DEVICE_ORDER = {"onnx": ("cuda", "openvino", "cpu"), "torch": ("cuda", "mps", "cpu")}

_MAX_GRADIENT_ERROR = 0.1  # of a gradient in bfloat16, as a part of that in float32; found: .01
# PyTorch and a training step take their time on a busy machine, where a refusal would end a study.
_TIMEOUTS_S = {"onnx": 60, "torch": 60, "bfloat16": 300}
# y = x + x, for one float: the smallest graph that makes a provider start (ONNX opset 17).
_GRAPH = "CAgSADo5Cg4KAXgKAXgSAXkiA0FkZBIFcHJvYmVaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAR"


def inspect() -> dict[str, Any]:
    """Inspect this machine; nothing is changed, and nothing is asked over the network.

    Returns:
        What there is, fit for JSON: `vfm_transfer`, `python`, `machine`, `site_packages` (where pip puts packages),
        `packages` (name → version or None), `half_installed` (modules without a whole package), `runtimes` (for
        `onnx` and `torch`: version, devices with the reason why not, or an error), `models` (folder, empty where no
        home is known, free disk, names), `default` (runtime and device where none is named), `problems` (sentences on
        what to do) and `advice` (on what would be faster).
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
        "advice": _advice(packages, machine),
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
    return "\n".join([*lines, *(f"  {sentence}" for sentence in report["advice"])])


def benchmark() -> list[dict[str, Any]]:
    """Time one window of each task's shipped network on each device; `auto` takes the fastest from now on.

    Returns:
        For each network `bundle`, `task` and `seconds` (device → median of three); no device that does not start.
    """
    import onnxruntime

    from ..bundles.catalog import default_pair
    from ..tasks import TASKS
    from .measured import measure_devices
    from .onnx_runtime import AUTO_ORDER, open_onnx

    version = f"onnxruntime {onnxruntime.__version__}"
    rows = []
    for task in TASKS:
        try:
            bundle, _ = default_pair(task)
        except BundleError:
            continue
        seconds = measure_devices(bundle, AUTO_ORDER, lambda device: open_onnx(bundle, device, "auto", ()).run, version)  # noqa: B023
        rows.append({"bundle": bundle.name, "task": task, "seconds": seconds})
    return rows


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


def _advice(packages: dict[str, str | None], machine: dict[str, Any]) -> list[str]:
    """What would make networks faster here."""
    takes_openvino = machine["system"].startswith("Linux") and machine["architecture"] in ("x86_64", "AMD64")
    if not packages["onnxruntime"] or machine["nvidia_gpus"] or not takes_openvino:
        return []
    return [
        "On most processors of Intel and AMD networks run faster with OpenVINO (docs/performance.md): python -m pip "
        "uninstall -y onnxruntime && python -m pip install onnxruntime-openvino, then vfm-transfer doctor --benchmark."
    ]


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
        return {"error": f"loading it took more than {_TIMEOUTS_S[runtime]} s."}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    return {"error": f"{_last_words(done)}."}


def require_bfloat16(device: str) -> str:
    """Take a small training step in bfloat16 in a child process.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        A sentence that it works.

    Raises:
        RuntimeUnavailableError: It does not; the message states what happened.
    """
    reason = why_no_bfloat16(device)
    if reason:
        raise RuntimeUnavailableError(
            f"Precision bfloat16 must work on this machine's {device}, but a training step in a child process failed: "
            f"{reason}. Choose --precision float32."
        )
    return f"Precision bfloat16 works on this machine's {device}: a child process has taken a training step in it."


def why_no_bfloat16(device: str) -> str:
    """Why a child process could take no training step in bfloat16 on `cpu` or `cuda`; empty where it could."""
    try:
        done = _ask("bfloat16", device)
    except subprocess.TimeoutExpired:
        return f"it took more than {_TIMEOUTS_S['bfloat16']} s"
    return "" if done.returncode == 0 else _last_words(done)


def _ask(*question: str) -> subprocess.CompletedProcess:
    """Run this file in a child process."""
    command = [sys.executable, "-P", "-m", f"{__package__}.doctor", *question]
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_TIMEOUTS_S[question[0]],
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


def _probe_bfloat16() -> dict[str, Any]:
    """One step of a network that holds the kinds of layers of both families, beside the same step in float32.

    Raises:
        ArithmeticError: A gradient is no number, or another one than in float32.
    """
    import torch
    from torch import nn

    from ..layers.convolutions import accelerate

    device = torch.device(sys.argv[2])
    torch.manual_seed(0)
    depthwise, mixed = nn.Conv3d(8, 8, 7, padding=3, groups=8), nn.Conv3d(8, 8, 3, padding=1)
    shallow = nn.Sequential(nn.AvgPool3d((4, 1, 1)), nn.Conv3d(8, 8, 3, padding=1))  # where kernels are deeper
    layers = depthwise, mixed, shallow, nn.GELU(), nn.Flatten(2), nn.LayerNorm(128), nn.Linear(128, 16)
    network, image = accelerate(nn.Sequential(*layers)).to(device), torch.randn(2, 8, 8, 8, 8, device=device)

    def gradients(in_bfloat16: bool) -> list[torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            output = network(image)  # (2, 8, 16)
            output = nn.functional.scaled_dot_product_attention(*output.tensor_split(1) * 3)
        return list(torch.autograd.grad(output.float().square().mean(), list(network.parameters())))

    for found, truth in zip(gradients(True), gradients(False), strict=True):
        if not bool(found.isfinite().all()):
            raise ArithmeticError("its gradient is no number")
        if (found - truth).norm() > _MAX_GRADIENT_ERROR * truth.norm():
            raise ArithmeticError("its gradient is another one than in float32")
    return {"version": torch.__version__}


if __name__ == "__main__":
    _QUESTIONS = {"onnx": _probe_onnx, "torch": _probe_torch, "bfloat16": _probe_bfloat16}
    print(json.dumps(_QUESTIONS[sys.argv[1]]()))
