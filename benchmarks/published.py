"""The published networks at full size, random weights, one thread: ours against the architecture as its authors run it.

Times are of the processor, interleaved in one run, medians with the lowest and highest ratio; memory is the peak of a
process of its own that loads the network and runs it twice. `VFM_BENCH_SIZE` names another input (D, H, W),
`VFM_BENCH_NETWORKS` some of the networks, `VFM_BENCH_PRECISIONS` those of OpenVINO: bf16 takes minutes on a processor
that emulates it. At the published input, 64x224x224, each runs once, in its own process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.onnx_export import example_inputs, export_onnx
from VFMTransferLib.encoders import build_network, find_family, published_models
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.encoders.provicnet.network import ProViCNetFusion
from VFMTransferLib.inference.runtimes import open_session
from VFMTransferLib.layers.blocks import GRN, NORM_EPS, ConvModule, resize
from VFMTransferLib.layers.convolutions import Doubled, JoinedConv3d, JoinedConvModule
from VFMTransferLib.layers.decoders import ResidualBlock

from .measure import Measurement, peak_mib

NETWORKS = ("profound-upernet-lesion", "profound-unetr-lesion", "profound-encoder", "provicnet-t2w", "provicnet-fusion")
SIZE = os.environ.get("VFM_BENCH_SIZE", "32x96x96")
PUBLISHED_SIZE = "64x224x224"
PRECISIONS = os.environ.get("VFM_BENCH_PRECISIONS", "fp32,bf16").split(",")
REPEATS = 3
PLAIN = "plain PyTorch"
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


class PlainResidualBlock(nn.Module):
    """What `ResidualBlock` computes, as UNETR states it: maps are doubled and joined once, then convolved."""

    def __init__(self, ours: ResidualBlock) -> None:
        super().__init__()
        self.block = ours
        for part in (ours.conv1, ours.conv2, ours.conv3):
            joined = cast(JoinedConv3d, part[0])
            plain = nn.Conv3d(
                joined.in_channels, joined.out_channels, joined.kernel_size, padding=joined.padding, bias=False
            )
            plain.load_state_dict(joined.state_dict())
            part[0] = plain

    def forward(self, *maps: Tensor | Doubled) -> Tensor:
        """See `ResidualBlock.forward`."""
        formed = [F.conv_transpose3d(m.x, m.weight, stride=2) if isinstance(m, Doubled) else m for m in maps]
        return self.block(torch.cat(formed, dim=1) if len(formed) > 1 else formed[0])


class PlainGRN(GRN):
    """What `GRN` computes, with the norm over all axes at once as its authors state it."""

    def forward(self, x: Tensor) -> Tensor:
        """See `GRN.forward`."""
        response = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
        return self.gamma * (x * (response / (response.mean(dim=-1, keepdim=True) + NORM_EPS))) + self.beta + x


class AsAuthors(nn.Module):
    """A network in PyTorch as its authors run it.

    For ProViCNet's fusion they encode each sequence twice, for the fused map and for the sequence's own, which they
    save too (`ProViCNet_Inference` of `ProViCNet/util_functions/inference.py`, pimed/ProViCNet at 1b016ac, MIT). Ours
    gives the fused map alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, JoinedConvModule):
                    setattr(module, name, _ignoring_region(PlainJoinedConvModule(child)))
                elif isinstance(child, ResidualBlock):
                    setattr(module, name, PlainResidualBlock(child))
                elif isinstance(child, GRN):
                    plain = PlainGRN(child.gamma.numel())
                    plain.load_state_dict(child.state_dict())
                    setattr(module, name, plain)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Its logits."""
        if isinstance(self.network, ProViCNetFusion):
            *windows, positions = inputs
            for sequence, window in zip((self.network.t2w, self.network.adc, self.network.dwi), windows, strict=True):
                sequence(window, positions)
        return self.network(*inputs)


def _ignoring_region(module: nn.Module) -> nn.Module:
    plain = module.forward
    module.forward = lambda *maps, region=None: plain(*maps)  # type: ignore[method-assign]
    return module


def published_specs() -> dict[str, ModelSpec]:
    """The published networks, and ProFound's encoder alone, by name."""
    encoder = find_family("profound").pretraining_network("published")
    assert encoder is not None
    return {**published_models(), encoder.name: encoder}


def measure() -> Iterator[Measurement]:
    """Each network on ONNX Runtime's own processor kernels and, where this build has it, on OpenVINO."""
    models = published_specs()
    wanted = os.environ.get("VFM_BENCH_NETWORKS", ",".join(NETWORKS)).split(",")
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        for name in wanted:
            network = randomized(build_network(models[name])).eval()
            bundle = export_onnx(
                write_bundle(Bundle(Path(folder) / name, name, name, "1.0.0", models[name]), network.state_dict())
            )
            if SIZE != PUBLISHED_SIZE:
                yield from _network(bundle, network, _size())
            del network
            plain_s, plain_mib = _alone(bundle)
            devices = {"ONNX Runtime": "cpu", **({"OpenVINO fp32": "openvino"} if _has_openvino() else {})}
            for how, device in devices.items():
                ours_s, ours_mib = _alone(bundle, device)
                if SIZE == PUBLISHED_SIZE:
                    yield Measurement(f"{name} {SIZE}, {how}, one run", ours_s, PLAIN, plain_s)
                yield Measurement(f"{name} {SIZE}, {how}, peak memory", ours_mib, PLAIN, plain_mib, "MiB")


def _has_openvino() -> bool:
    return "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()


def _alone(bundle: Bundle, device: str | None = None) -> tuple[float, float]:
    """Processor seconds of one run, and the peak memory in MiB of a process that runs it twice and does nothing else.

    On a device of ONNX Runtime it runs without PyTorch, as predictions do; without one in plain PyTorch.
    """
    command = [sys.executable, "-m", "benchmarks.published", str(bundle.folder), SIZE]
    if device is not None:
        inputs = bundle.folder.with_suffix(".npz")
        np.savez(inputs, *(x.numpy() for x in example_inputs(bundle.spec, _size())))
        command = [sys.executable, "-m", "benchmarks.alone", str(bundle.folder), str(inputs), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mib = json.loads(done.stdout.splitlines()[-1])
    return seconds, mib


def _size() -> tuple[int, ...]:
    return tuple(map(int, SIZE.split("x")))


def main() -> None:
    """Two runs in plain PyTorch, the first of which is timed: a bundle's folder and the size."""
    from VFMTransferLib.bundles.bundle import read_bundle
    from VFMTransferLib.bundles.weights import load_network

    bundle, size = read_bundle(sys.argv[1]), tuple(map(int, sys.argv[2].split("x")))
    torch.set_num_threads(1)
    inputs, network = example_inputs(bundle.spec, size), AsAuthors(load_network(bundle)).eval()
    with torch.inference_mode():
        start = time.process_time()
        network(*inputs)
        seconds = time.process_time() - start
        network(*inputs)
    print(json.dumps([seconds, peak_mib()]))


def _network(bundle: Bundle, network: nn.Module, size: tuple[int, ...]) -> Iterator[Measurement]:
    name = bundle.name
    inputs = example_inputs(bundle.spec, size)
    arrays = [x.numpy() for x in inputs]
    plain = AsAuthors(network).eval()
    runs: dict[str, Callable[[], object]] = {PLAIN: lambda: plain(*inputs)}
    cpu = open_session(bundle, "onnx", "cpu")
    runs["ONNX Runtime"] = lambda: cpu.run(*arrays)
    start = [int(n * (1 - _BOX_SHARE) / 2) for n in size]
    box = np.array([start, [a + int(n * _BOX_SHARE) for a, n in zip(start, size, strict=True)]], np.int64)
    if cpu.takes_box:
        runs["ONNX Runtime, an eighth"] = lambda: cpu.run(*arrays, box=box)
    if _has_openvino():
        from VFMTransferLib.inference.onnx_runtime import open_onnx

        for precision in PRECISIONS:
            session = open_onnx(bundle, "openvino", precision, ())
            runs[f"OpenVINO {precision}"] = lambda session=session: session.run(*arrays)  # type: ignore[misc]
            if session.takes_box:
                runs[f"OpenVINO {precision}, an eighth"] = lambda session=session: session.run(*arrays, box=box)  # type: ignore[misc]
    taken = _interleaved(runs)
    seconds = {how: statistics.median(values) for how, values in taken.items()}
    for how in list(runs)[1:]:
        ratios = [own / other for own, other in zip(taken[how], taken[PLAIN], strict=True)]
        spread = (min(ratios), max(ratios))
        yield Measurement(f"{name} {SIZE}, {how}", seconds[how], PLAIN, seconds[PLAIN], spread=spread)


@torch.inference_mode()
def _interleaved(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Processor seconds of each, in turns, so that what else runs on the machine meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:  # the first fills the caches
                taken[name].append(time.process_time() - start)
    return taken


def randomized(network: nn.Module) -> nn.Module:
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


if __name__ == "__main__":
    main()
