"""What doctor finds on computers of several kinds."""

import copy

A4000 = "NVIDIA RTX A4000, 580.65.06, 16376 MiB"
NO_CUDA = "onnxruntime 1.32.0 is built without CUDAExecutionProvider. Run: python -m pip uninstall -y onnxruntime"
REPORT = {
    "vfm_transfer": "0.1.0",
    "python": "3.12.10",
    "machine": {
        "system": "Linux 6.8",
        "architecture": "x86_64",
        "cpu": "A CPU",
        "cores": 8,
        "usable_cores": 8,
        "memory_gb": 32.0,
        "nvidia_gpus": [],
    },
    "site_packages": {"folder": "~/Slicer/site-packages", "path_length": 40, "writable": True, "free_disk_gb": 20.0},
    "packages": {
        "numpy": "2.4.6",
        "scipy": "1.17.1",
        "SimpleITK": "2.5.5",
        "pillow": "12.2.0",
        "pydicom": "3.0.2",
        "jinja2": "3.1.6",
        "nibabel": "5.4.2",
        "pynrrd": "1.1.3",
        "psutil": "7.2.1",
        "onnxruntime": "1.32.0",
        "onnxruntime-gpu": None,
        "onnxruntime-openvino": None,
        "onnxruntime-directml": None,
        "torch": None,
        "safetensors": None,
        "onnx": None,
    },
    "half_installed": [],
    "runtimes": {
        "onnx": {"version": "1.32.0", "devices": {"cuda": NO_CUDA, "openvino": "No.", "cpu": ""}},
        "torch": {"error": "not installed; run: python -m pip install 'vfm-transfer[torch]'"},
    },
    "models": {"folder": "/home/doe/models", "free_disk_gb": 20.0, "shipped": ["a"], "own": [], "broken": {}},
    "default": {"runtime": "onnx", "device": "cpu"},
    "problems": [],
}
NOTHING = {"error": "not installed; run: python -m pip install onnxruntime"}


def a_report(packages=(), gpus=(), onnx=None, **others) -> dict:
    """What doctor finds, with these builds of ONNX Runtime and these GPUs."""
    report = copy.deepcopy(REPORT)
    report["machine"]["nvidia_gpus"] = list(gpus)
    report["packages"] |= {
        name: "1.32.0" if name in packages else None for name in report["packages"] if "runt" in name
    }
    report["runtimes"]["onnx"] = onnx or (report["runtimes"]["onnx"] if packages else NOTHING)
    if "error" in report["runtimes"]["onnx"]:
        report["default"] = None
    return report | others


def with_devices(**reasons: str) -> dict:
    return {"version": "1.31.1", "devices": {"cuda": "No.", "cpu": "", **reasons}}
