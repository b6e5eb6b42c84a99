"""What this machine has, what would run where, and why not."""

from __future__ import annotations

import platform
from typing import Any

from ..core import __version__
from ..core.machine import (
    describe_machine,
    describe_site_packages,
    free_disk_gb,
    is_half_installed,
    version_of,
    without_home,
)
from .probe import probe

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


def inspect() -> dict[str, Any]:
    """Inspect this machine; nothing is changed, and nothing is asked over the network.

    Returns:
        What there is, fit for JSON: `vfm_transfer`, `python`, `machine`, `site_packages` (where pip puts packages),
        `packages` (name → version or None), `half_installed` (modules without a whole package), `runtimes` (for
        `onnx` and `torch`: version, devices with the reason why not, or an error), `models` (folder, free disk,
        names), `default` (runtime and device where none is named) and `problems` (sentences on what to do).
        No path holds the user's name.
    """
    packages = {name: version_of(name) for name in _PACKAGES}
    halves = [module for module in _MODULES.values() if is_half_installed(module, packages)]
    runtimes = {runtime: _inspect_runtime(runtime, packages, halves) for runtime in _RUNTIMES}
    models = _inspect_models()
    machine = describe_machine()
    return {
        "vfm_transfer": __version__,
        "python": platform.python_version(),
        "machine": machine,
        "site_packages": describe_site_packages(),
        "packages": packages,
        "half_installed": halves,
        "runtimes": runtimes,
        "models": models,
        "default": _default(runtimes),
        "problems": _half_installed(halves) + _problems(packages, machine, runtimes, models),
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
        lines += ["", *_runtime_lines(title, report["runtimes"][runtime])]
    default = report["default"]
    if default:
        lines += [
            "",
            f"Networks run with {_RUNTIMES[default['runtime']]} on {default['device']} unless you name another.",
        ]
    lines += [
        "",
        f"Networks ({models['folder']}, {models['free_disk_gb']} GB free)",
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
        wanted = "onnxruntime" if runtime == "onnx" else "'vfm-transfer[torch]'"
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
        "folder": without_home(folder),
        "free_disk_gb": free_disk_gb(folder),
        "shipped": [bundle.name for bundle in bundles if bundle.folder.parent == shipped],
        "own": [bundle.name for bundle in bundles if bundle.folder.parent != shipped],
        "broken": {path.name: reason for path, reason in broken_bundles().items()},
    }


def _default(runtimes: dict[str, Any]) -> dict[str, str] | None:
    """What runs a network where the user names nothing, as `runtimes.open_session` chooses it."""
    for runtime, order in _DEVICE_ORDER.items():
        for device in order:
            if runtimes[runtime].get("devices", {}).get(device) == "":
                return {"runtime": runtime, "device": device}
    return None


def _half_installed(modules: list[str]) -> list[str]:
    return [f"{module} is half installed: remove what is left of it, and install it again." for module in modules]


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


def _runtime_lines(title: str, runtime: dict[str, Any]) -> list[str]:
    if "error" in runtime:
        return [f"{title}: {runtime['error']}"]
    lines = [f"{title} {runtime['version']}"]
    for device, reason in runtime["devices"].items():
        lines.append(f"  {device:9s} {f'no: {reason}' if reason else 'yes'}")
    return lines
