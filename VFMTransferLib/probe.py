"""What a runtime can use on this machine, tried in a child process: a broken driver can end a process.

    python -m VFMTransferLib.probe onnx|torch

prints one JSON line: version, and device → reason why not (empty where it works).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .installed import without_folders

_TIMEOUT_S = 60
# y = x + x, for one float: the smallest graph that makes a provider start (ONNX opset 17).
_GRAPH = "CAgSADo5Cg4KAXgKAXgSAXkiA0FkZBIFcHJvYmVaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAR"


def probe(runtime: str) -> dict[str, Any]:
    """Ask a child process what a runtime can use here.

    Args:
        runtime: `onnx` or `torch`.

    Returns:
        `version`, `devices` (name → reason why not, empty where it works) and for ONNX Runtime `providers`; or
        `error`, a sentence, where the runtime itself cannot be loaded.
    """
    command = [sys.executable, "-m", f"{__package__}.probe", runtime]
    package_parent = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired:
        return {"error": f"loading it took more than {_TIMEOUT_S} s."}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
    return {"error": f"{without_folders(last[0])[:200]}."}


def _probe_onnx() -> dict[str, Any]:
    import onnxruntime

    from .onnx_runtime import PROVIDERS, why_not_device

    devices = {}
    for device, provider in PROVIDERS.items():
        devices[device] = why_not_device(device) or _why_not_started(device, provider.name)
    return {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "devices": devices,
    }


def _why_not_started(device: str, provider: str) -> str:
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

    from .torch_runtime import why_not_device

    return {
        "version": torch.__version__,
        "cuda_version": torch.version.cuda,
        "devices": {device: why_not_device(device) for device in ("cuda", "mps", "cpu")},
    }


if __name__ == "__main__":
    print(json.dumps({"onnx": _probe_onnx, "torch": _probe_torch}[sys.argv[1]]()))
