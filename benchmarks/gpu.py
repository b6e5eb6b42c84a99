"""The published networks on a GPU, ours beside the architecture in PyTorch as its authors run it.

Wall-clock seconds of one window, arrays in the computer's memory in and out, devices in turns, medians. ONNX Runtime on
CUDA and TensorRT (fp32, fp16, bf16; its engine is compiled before the clock starts, and kept), PyTorch in fp32 and by
autocast. What this machine lacks is left out; `VFM_BENCH_DEVICE=cpu` runs all of it on the processor, to see that it
works. The fusion's authors encode each sequence twice, and so do the rows of plain PyTorch. Was not run on a GPU: none
was at hand.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.onnx_export import example_inputs, export_onnx
from VFMTransferLib.core.errors import RuntimeUnavailableError
from VFMTransferLib.encoders import build_network
from VFMTransferLib.inference.onnx_runtime import PROVIDERS, open_onnx
from VFMTransferLib.inference.runtimes import open_session

from .measure import Measurement, median_s
from .published import NETWORKS, PLAIN, AsAuthors, published_specs, randomized

DEVICE = os.environ.get("VFM_BENCH_DEVICE", "cuda")
SIZE = os.environ.get("VFM_BENCH_SIZE", "64x224x224")
REPEATS = 5
_ONNX = {"cuda": (("cuda", "fp32"), ("tensorrt", "fp32"), ("tensorrt", "fp16"), ("tensorrt", "bf16"))}
_TORCH = {"cuda": ("fp32", "fp16", "bf16"), "cpu": ("fp32", "bf16")}


def measure() -> Iterator[Measurement]:
    """Each published network; nothing where PyTorch finds no such device."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("  No NVIDIA GPU with a working driver was found.")
        return
    specs, size = published_specs(), tuple(map(int, SIZE.split("x")))
    with tempfile.TemporaryDirectory() as folder:
        for name in os.environ.get("VFM_BENCH_NETWORKS", ",".join(NETWORKS)).split(","):
            network = randomized(build_network(specs[name])).eval()
            bundle = write_bundle(Bundle(Path(folder) / name, name, name, "1.0.0", specs[name]), network.state_dict())
            yield from _network(export_onnx(bundle), network, size)


def _network(bundle: Bundle, network: torch.nn.Module, size: tuple[int, ...]) -> Iterator[Measurement]:
    inputs = example_inputs(bundle.spec, size)
    arrays = [x.numpy() for x in inputs]
    place, plain = torch.device(DEVICE), AsAuthors(network).to(DEVICE).eval()

    @torch.inference_mode()
    def upstream() -> object:
        return plain(*(x.to(place) for x in inputs)).cpu()  # the copy back waits for the device

    runs: dict[str, Callable[[], object]] = {}
    for device, precision in _ONNX.get(DEVICE, (("cpu", "fp32"),)):
        try:
            session = open_onnx(bundle, device, precision, ())
        except RuntimeUnavailableError as error:
            print(f"  {PROVIDERS[device].name} was left out: {error}")
            continue
        runs[f"ONNX Runtime, {device}, {precision}"] = lambda session=session: session.run(*arrays)  # type: ignore[misc]
    for precision in _TORCH[DEVICE]:
        own = open_session(bundle, "torch", DEVICE, "fp32") if precision == "fp32" else None
        if own is not None:
            runs[f"PyTorch, ours, {precision}"] = lambda own=own: own.run(*arrays)  # type: ignore[misc]
        else:
            runs[f"{PLAIN}, autocast {precision}"] = _autocast(upstream, precision)
    plain_s = median_s(upstream, REPEATS)
    for how, run in runs.items():
        yield Measurement(f"{bundle.name} {SIZE}, {how}", median_s(run, REPEATS), PLAIN, plain_s)


def _autocast(run: Callable[[], object], precision: str) -> Callable[[], object]:
    def within() -> object:
        with torch.autocast(DEVICE, torch.float16 if precision == "fp16" else torch.bfloat16):
            return run()

    return within
