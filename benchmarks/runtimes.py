"""ONNX Runtime against PyTorch: the same network, the same input, one thread and two."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch

from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.inference.runtimes import open_session

from .measure import Measurement, median_s

THREADS = (1, 2)


def measure() -> Iterator[Measurement]:
    """The shipped anatomy network on one window."""
    bundle, _ = default_pair("anatomy-segmentation")
    grid = bundle.spec.preprocess
    window = np.random.default_rng(0).standard_normal((1, len(grid.sequences), *grid.patch)).astype(np.float32)
    before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    try:
        for threads in THREADS:
            os.environ["OMP_NUM_THREADS"] = str(threads)
            torch.set_num_threads(threads)
            sessions = {runtime: open_session(bundle, runtime, "cpu") for runtime in ("onnx", "torch")}
            seconds = {name: median_s(lambda: session.run(window)) for name, session in sessions.items()}  # noqa: B023
            name = f"ONNX Runtime, one window, {threads} thread(s)"
            yield Measurement(name, seconds["onnx"], "PyTorch", seconds["torch"])
    finally:
        _restore(*before)


def _restore(variable: str | None, threads: int) -> None:
    """The process's threads as they were."""
    torch.set_num_threads(threads)
    if variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = variable
