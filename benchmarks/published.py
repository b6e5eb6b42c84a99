"""The published networks at full size, random weights, one thread: ours against the architecture as its authors run it.

Times are of the processor, interleaved in one run, medians. `VFM_BENCH_SIZE` names another input (D, H, W): 64x224x224
is the published one, and takes some minutes a network.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.onnx_export import example_inputs, export_onnx
from VFMTransferLib.encoders import build_network, find_family, published_models
from VFMTransferLib.encoders.layers import ConvModule, JoinedConvModule, resize
from VFMTransferLib.inference.runtimes import open_session

from .measure import Measurement

NETWORKS = ("profound-upernet-lesion", "profound-unetr-lesion", "profound-encoder", "provicnet-t2w", "provicnet-fusion")
SIZE = os.environ.get("VFM_BENCH_SIZE", "32x96x96")
REPEATS = 3
_STD = 0.03
_BOX_SHARE = 0.5  # of each axis: an eighth of the window


class PlainJoinedConvModule(nn.Module):
    """What `JoinedConvModule` computes, as UPerNet states it: resize, join, convolve."""

    def __init__(self, ours: JoinedConvModule) -> None:
        super().__init__()
        self.plain = ConvModule(sum(ours.channels), ours.conv.out_channels, 3)
        self.plain.load_state_dict(ours.state_dict())

    def forward(self, first: Tensor, *coarser: Tensor) -> Tensor:
        """See `JoinedConvModule.forward`."""
        return self.plain(torch.cat([first, *(resize(x, first.shape[2:]) for x in coarser)], dim=1))


class _Plain(nn.Module):
    """A network in PyTorch as its authors run it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, JoinedConvModule):
                    setattr(module, name, _ignoring_region(PlainJoinedConvModule(child)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Its logits."""
        return self.network(*inputs)


def _ignoring_region(module: nn.Module) -> nn.Module:
    plain = module.forward
    module.forward = lambda *maps, region=None: plain(*maps)  # type: ignore[method-assign]
    return module


def measure() -> Iterator[Measurement]:
    """Each network on ONNX Runtime's own processor kernels and, where this build has it, on OpenVINO."""
    models = dict(published_models())
    models["profound-encoder"] = find_family("profound").pretraining_network("published")
    size = tuple(map(int, SIZE.split("x")))
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        for name in NETWORKS:
            if name in models:
                yield from _network(name, models[name], Path(folder), size)


def _network(name: str, spec: object, folder: Path, size: tuple[int, ...]) -> Iterator[Measurement]:
    network = _random(build_network(spec)).eval()  # type: ignore[arg-type]
    bundle = write_bundle(Bundle(folder / name, name, name, "1.0.0", spec), network.state_dict())  # type: ignore[arg-type]
    bundle = export_onnx(bundle)
    inputs = example_inputs(bundle.spec, size)
    arrays = [x.numpy() for x in inputs]
    plain = _Plain(network).eval()
    runs: dict[str, Callable[[], object]] = {"plain PyTorch": lambda: plain(*inputs)}
    cpu = open_session(bundle, "onnx", "cpu")
    runs["ONNX Runtime"] = lambda: cpu.run(*arrays)
    start = [int(n * (1 - _BOX_SHARE) / 2) for n in size]
    box = np.array([start, [a + int(n * _BOX_SHARE) for a, n in zip(start, size, strict=True)]], np.int64)
    if cpu.takes_box:
        runs["ONNX Runtime, an eighth"] = lambda: cpu.run(*arrays, box=box)
    if "OpenVINOExecutionProvider" in onnxruntime.get_available_providers():
        from VFMTransferLib.inference.onnx_runtime import open_onnx

        for precision in ("fp32", "bf16"):
            session = open_onnx(bundle, "openvino", precision, ())
            runs[f"OpenVINO {precision}"] = lambda session=session: session.run(*arrays)  # type: ignore[misc]
            if session.takes_box:
                runs[f"OpenVINO {precision}, an eighth"] = lambda session=session: session.run(*arrays, box=box)  # type: ignore[misc]
    seconds = _interleaved(runs)
    for how in list(runs)[1:]:
        yield Measurement(f"{name} {SIZE}, {how}", seconds[how], "plain PyTorch", seconds["plain PyTorch"])


@torch.inference_mode()
def _interleaved(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median processor seconds of each, in turns, so that what else runs on the machine meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:  # the first fills the caches
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _random(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim > 1:
                tensor.copy_(_STD * torch.randn(tensor.shape, generator=generator))
    return network


@contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[1])
        os.environ.pop("OMP_NUM_THREADS") if before[0] is None else os.environ.update(OMP_NUM_THREADS=before[0])
