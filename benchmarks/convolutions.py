"""What the 3D convolutions of single samples gain from oneDNN's kernels, in float32 and one thread.

A step without optimizer and a prediction, of each network of demonstration size that sees crops or windows and of the
DynUNet beside it, against the same network with PyTorch's choice of kernels. Processor seconds, both in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from VFMTransferLib.encoders import FAMILIES
from VFMTransferLib.encoders.base import ModelSpec, family_of
from VFMTransferLib.layers.convolutions import FastConv3d
from VFMTransferLib.tasks import TASKS

from .measure import Measurement

_REPEATS = 3


def measure() -> Iterator[Measurement]:
    """Each network of ProFound's, then its baseline."""
    torch.set_num_threads(1)
    for task in TASKS.values():
        spec = FAMILIES["profound"].network_for(task, "demonstration")
        for one in (spec, FAMILIES["dynunet"].matched_baseline(spec)):
            network, plain = _network(one), _network(one)
            for module in plain.modules():
                if isinstance(module, FastConv3d):
                    module.__class__ = nn.Conv3d
            x = torch.randn(1, len(one.preprocess.sequences), *one.preprocess.patch)
            for name, run in (("step", _step), ("prediction", _predict)):
                rounds = [(run(network, x), run(plain, x)) for _ in range(1 + _REPEATS)][1:]
                fast, slow = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
                ratios = [one_fast / one_slow for one_fast, one_slow in rounds]
                spread = min(ratios), max(ratios)
                yield Measurement(f"{name} of {one.title}", fast, "PyTorch's choice", slow, spread=spread)


def _network(spec: ModelSpec) -> nn.Module:
    torch.manual_seed(0)
    return family_of(spec).build_for_training(spec)


def _step(network: nn.Module, x: Tensor) -> float:
    network.train()
    if any(isinstance(module, nn.BatchNorm1d) for module in network.modules()):
        network.eval()  # which takes no batch of one
    start = time.process_time()
    output = network(x)
    outputs = output if isinstance(output, (list, tuple)) else [output]
    torch.stack([each.square().mean() for each in outputs]).sum().backward()
    return time.process_time() - start


def _predict(network: nn.Module, x: Tensor) -> float:
    network.eval()
    start = time.process_time()
    with torch.inference_mode():
        network(x)
    return time.process_time() - start
