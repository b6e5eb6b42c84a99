"""The published sizes at their published input, random weights: one thread against two, head against encoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from VFMTransferLib.encoders import build_network, published_models

from .measure import Measurement, median_s

INPUT_SHAPE = (1, 3, 64, 224, 224)
NAMES = {"encoder": "ProFound encoder", "upernet": "ProFound UPerNet"}


@torch.inference_mode()
def measure() -> Iterator[Measurement]:
    """ProFound's encoder and UPerNet at 64x224x224."""
    network = build_network(published_models()["profound-upernet-lesion"]).eval()
    x = torch.randn(INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    parts = {"encoder": network.encoder, "upernet": network}
    before = torch.get_num_threads()
    seconds: dict[tuple[str, int], float] = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for part, module in parts.items():
                seconds[part, threads] = median_s(lambda: module(x), repeats=2)  # noqa: B023
    finally:
        torch.set_num_threads(before)
    for part, name in NAMES.items():
        yield Measurement(f"{name}, two threads", seconds[part, 2], "one thread", seconds[part, 1])
    for threads in (1, 2):
        one = seconds["encoder", threads]
        yield Measurement(
            f"ProFound UPerNet, {threads} thread(s)", seconds["upernet", threads], "its encoder alone", one
        )
