"""What a runtime can use on this machine, tried in a child process: a broken driver can end a process.

    python -m VFMTransferLib.inference.probe onnx|torch

prints one JSON line: version, and device → reason why not (empty where it works).

    python -m VFMTransferLib.inference.probe bfloat16 cpu|cuda

takes a training step in that precision: on some processors it ends a process.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..core.errors import RuntimeUnavailableError
from ..core.machine import without_folders

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
    try:
        done = _ask(runtime)
    except subprocess.TimeoutExpired:
        return {"error": f"loading it took more than {_TIMEOUT_S} s."}
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
    try:
        done = _ask("bfloat16", device)
        reason = "" if done.returncode == 0 else _last_words(done)
    except subprocess.TimeoutExpired:
        reason = f"it took more than {_TIMEOUT_S} s"
    if reason:
        raise RuntimeUnavailableError(
            f"Precision bfloat16 must work on this machine's {device}, but a training step in a child process failed: "
            f"{reason}. Choose --precision float32."
        )
    return f"Precision bfloat16 works on this machine's {device}: a child process has taken a training step in it."


def _ask(*question: str) -> subprocess.CompletedProcess:
    """Run this file in a child process."""
    command = [sys.executable, "-m", f"{__package__}.probe", *question]
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, env={**os.environ, "PYTHONPATH": path}
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
    """One step of a network that holds the kinds of layers of both families.

    Raises:
        ArithmeticError: The result is no number.
    """
    import torch
    from torch import nn

    from ..encoders.layers import accelerate

    device = torch.device(sys.argv[2])
    depthwise, mixed = nn.Conv3d(8, 8, 7, padding=3, groups=8), nn.Conv3d(8, 8, 3, padding=1)
    network = nn.Sequential(depthwise, mixed, nn.GELU(), nn.Flatten(2), nn.LayerNorm(512), nn.Linear(512, 16))
    accelerate(network).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        output = network(torch.ones(2, 8, 8, 8, 8, device=device))  # (2, 8, 16)
        output = nn.functional.scaled_dot_product_attention(*output.tensor_split(1) * 3)
    output.float().square().mean().backward()
    gradients = (parameter.grad for parameter in network.parameters())
    if not all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients):
        raise ArithmeticError("its gradient is no number")
    return {"version": torch.__version__}


if __name__ == "__main__":
    _QUESTIONS = {"onnx": _probe_onnx, "torch": _probe_torch, "bfloat16": _probe_bfloat16}
    print(json.dumps(_QUESTIONS[sys.argv[1]]()))
